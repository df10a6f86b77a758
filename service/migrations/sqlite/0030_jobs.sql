-- What is to be done after whoever asked for it was answered.

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    -- JSON
    work TEXT NOT NULL,
    -- What it is about to do: of one key, one job waits at most.
    key TEXT NOT NULL,
    -- What it is about: of one subject, a newer job makes the older ones pointless.
    subject TEXT,
    -- Higher goes first.
    priority INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'cancelled', 'failed')),
    attempts INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    -- Whose it is, and until when unless that one says more.
    worker BLOB,
    lease_ends_at INTEGER,
    -- Why it failed the last time.
    error TEXT
);

CREATE UNIQUE INDEX jobs_waiting ON jobs (key) WHERE state = 'waiting';
CREATE INDEX jobs_by_state ON jobs (state, due_at);
CREATE INDEX jobs_by_key ON jobs (key);
CREATE INDEX jobs_by_subject ON jobs (subject) WHERE subject IS NOT NULL;
