-- What is found to be damaged, and what is written beside the objects for a lost database.

-- When a path was taken from its readers, since its NAR cannot be read as it was verified. It is hidden from then on.
ALTER TABLE paths ADD COLUMN withdrawn_at INTEGER;
CREATE INDEX paths_withdrawn ON paths (withdrawn_at) WHERE withdrawn_at IS NOT NULL;

-- When its frame was found unreadable. It has lost its name then, so that nobody finds it, and the next push that needs
-- the chunk brings it again; the row goes with the recipes that name it.
ALTER TABLE chunks ADD COLUMN damaged_at INTEGER;

-- The object that tells what the push published.
ALTER TABLE pushes ADD COLUMN record INTEGER REFERENCES objects (id);
CREATE INDEX pushes_by_record ON pushes (record) WHERE record IS NOT NULL;

-- Verifications that are asked for, under way, and done.
CREATE TABLE verifications (
    id           INTEGER PRIMARY KEY,
    asked_at     INTEGER NOT NULL,
    -- JSON: of what.
    scope        TEXT NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER,
    -- Bytes that are read, and that are to be.
    done         INTEGER NOT NULL DEFAULT 0,
    total        INTEGER NOT NULL DEFAULT 0,
    -- JSON: what was found.
    report       TEXT
) STRICT;

-- How far the scrub has come: one row.
CREATE TABLE scrub (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    -- When this round began.
    began_at     INTEGER NOT NULL,
    -- What is being looked at, and the last row that was.
    stage        TEXT NOT NULL,
    position     INTEGER NOT NULL,
    -- When the last round was over.
    finished_at  INTEGER
) STRICT;
