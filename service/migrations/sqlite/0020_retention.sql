-- Runs of workflows that pushed: each is the union of its jobs and attempts.
CREATE TABLE runs (
    id             INTEGER PRIMARY KEY,
    cache          TEXT NOT NULL,
    issuer         TEXT NOT NULL,
    repository_id  TEXT NOT NULL,
    -- As it was called when the run pushed last.
    repository     TEXT NOT NULL,
    git_ref        TEXT NOT NULL,
    ref_protected  INTEGER NOT NULL,
    -- The workflow's file.
    workflow       TEXT NOT NULL,
    run_id         TEXT NOT NULL,
    -- When it last committed a push. NULL: not yet.
    pushed_at      INTEGER,
    -- When somebody let go of what it keeps.
    dropped_at     INTEGER,
    UNIQUE (cache, issuer, repository_id, git_ref, workflow, run_id)
) STRICT;

ALTER TABLE pushes ADD COLUMN run INTEGER REFERENCES runs (id);
-- When it had been silent for too long: from then on it is no open push.
ALTER TABLE pushes ADD COLUMN abandoned_at INTEGER;
-- When somebody let go of its roots.
ALTER TABLE pushes ADD COLUMN dropped_at INTEGER;
CREATE INDEX pushes_by_run ON pushes (run) WHERE run IS NOT NULL;
CREATE INDEX pushes_not_ended ON pushes (id) WHERE state = 'open';
CREATE INDEX pushes_abandoned ON pushes (id) WHERE abandoned_at IS NOT NULL;
CREATE INDEX pushes_by_commit ON pushes (cache, committed_at);

-- Since when nothing keeps the path: a sweep takes what an earlier one found so.
ALTER TABLE paths ADD COLUMN dead_since INTEGER;
-- When it was last read, to the hour.
ALTER TABLE paths ADD COLUMN read_at INTEGER;
CREATE INDEX paths_dead ON paths (cache, dead_since) WHERE dead_since IS NOT NULL;
CREATE INDEX paths_read ON paths (cache, read_at) WHERE read_at IS NOT NULL;

-- Paths that were found dead and that something relies on since: a sweep under way must know.
CREATE TABLE claimed_paths (
    path  INTEGER PRIMARY KEY REFERENCES paths (id)
) STRICT;

-- Sweeps that are asked for, under way, and done.
CREATE TABLE sweeps (
    id           INTEGER PRIMARY KEY,
    asked_at     INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER,
    -- The newest push when all that this sweep condemned was condemned: once no push up to that one is open, what it
    -- condemned may go.
    horizon      INTEGER,
    -- JSON: what went.
    report       TEXT
) STRICT;

ALTER TABLE chunks ADD COLUMN condemned_by INTEGER REFERENCES sweeps (id);
CREATE INDEX chunks_condemned ON chunks (condemned_by) WHERE condemned_at IS NOT NULL;

-- Since when nothing lies in the object. Its file goes an hour later, for readers under way, and the row after the file.
ALTER TABLE objects ADD COLUMN doomed_at INTEGER;
CREATE INDEX objects_doomed ON objects (doomed_at) WHERE doomed_at IS NOT NULL;
-- What an object's push uploaded and never used is looked for once, when that push has ended; `push` is NULL after.
CREATE INDEX objects_unsettled ON objects (push) WHERE push IS NOT NULL;

-- Store paths that somebody named to be kept.
CREATE TABLE pins (
    id          INTEGER PRIMARY KEY,
    cache       TEXT NOT NULL,
    name        TEXT NOT NULL,
    hash        BLOB NOT NULL,
    path_name   TEXT NOT NULL,
    pinned_at   INTEGER NOT NULL,
    expires_at  INTEGER,
    -- JSON: the verified identity of who did.
    pinned_by   TEXT NOT NULL
) STRICT;
CREATE INDEX pins_by_name ON pins (cache, name, id);

-- Paths that sweeps took, for a while, so that one can ask why.
CREATE TABLE gone_paths (
    cache       TEXT NOT NULL,
    hash        BLOB NOT NULL,
    name        TEXT NOT NULL,
    -- Who pushed it, when it was last read, since when nothing kept it.
    provenance  TEXT NOT NULL,
    read_at     INTEGER,
    dead_since  INTEGER,
    gone_at     INTEGER NOT NULL,
    PRIMARY KEY (cache, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX gone_paths_by_time ON gone_paths (gone_at);
