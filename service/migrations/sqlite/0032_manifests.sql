-- What jobs wanted: what they built and what they substituted.

CREATE TABLE manifests (
    id INTEGER PRIMARY KEY,
    cache TEXT NOT NULL,
    -- The job's verified identity, which a later report of the same job shares.
    owner TEXT NOT NULL,
    repository TEXT NOT NULL,
    -- In lower case, for comparing.
    repository_key TEXT NOT NULL,
    repository_id INTEGER NOT NULL,
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

CREATE INDEX manifests_by_ref ON manifests (repository_key, git_ref, workflow, run_id);
CREATE INDEX manifests_by_age ON manifests (reported_at);
