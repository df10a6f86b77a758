-- Commits whose jobs pushed something, and what was reported of them to the forge.
CREATE TABLE reports (
    id             INTEGER PRIMARY KEY,
    issuer         TEXT NOT NULL,
    repository_id  TEXT NOT NULL,
    sha            TEXT NOT NULL,
    -- As it was called when one of its jobs pushed last.
    repository     TEXT NOT NULL,
    git_ref        TEXT NOT NULL,
    -- The check run, and what was written into it last, as a digest.
    check_run_id   INTEGER,
    written        TEXT,
    noted_at       INTEGER NOT NULL,
    UNIQUE (issuer, repository_id, sha)
);
CREATE INDEX reports_by_age ON reports (noted_at);

-- Their runs, by the caches that they pushed to.
CREATE TABLE report_runs (
    report    INTEGER NOT NULL REFERENCES reports (id) ON DELETE CASCADE,
    cache     TEXT NOT NULL,
    run_id    TEXT NOT NULL,
    PRIMARY KEY (report, cache, run_id)
);

CREATE INDEX prefetches_by_commit ON prefetches (repository_key, commit_sha) WHERE commit_sha IS NOT NULL;
