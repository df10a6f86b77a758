-- Manifests are of a repository that an issuer vouches for by its number, and say whether everybody may see it. Of those
-- that are here neither is known: they go, and the next jobs report theirs.

DROP TABLE manifests;

CREATE TABLE manifests (
    id INTEGER PRIMARY KEY,
    cache TEXT NOT NULL,
    -- The job's verified identity, which a later report of the same job shares.
    owner TEXT NOT NULL,
    -- Who vouches for the job.
    issuer TEXT NOT NULL,
    repository TEXT NOT NULL,
    -- In lower case, for comparing.
    repository_key TEXT NOT NULL,
    repository_id INTEGER NOT NULL,
    -- Whether everybody may see the repository.
    public INTEGER NOT NULL,
    git_ref TEXT NOT NULL,
    commit_sha TEXT NOT NULL,
    workflow TEXT NOT NULL,
    run_id INTEGER NOT NULL,
    run_attempt INTEGER NOT NULL,
    check_run_id INTEGER,
    system TEXT NOT NULL,
    -- Base names of store paths, separated by spaces.
    built TEXT NOT NULL,
    substituted TEXT NOT NULL,
    reported_at INTEGER NOT NULL,
    -- How the run ended, once a delivery says so.
    conclusion TEXT,
    UNIQUE (cache, owner)
);

CREATE INDEX manifests_by_name ON manifests (repository_key, git_ref);
CREATE INDEX manifests_by_line ON manifests (cache, issuer, repository_id, git_ref, workflow, run_id);
CREATE INDEX manifests_by_age ON manifests (reported_at);
