-- Open pushes are counted, those that were silent for long left out.
CREATE INDEX pushes_open ON pushes (active_at) WHERE state = 'open';

-- Who was granted what, who was refused, what came and what went.
CREATE TABLE audit (
    id             INTEGER PRIMARY KEY,
    time           INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    cache          TEXT,
    -- Who, as far as that is known. Names and numbers as the issuer says them.
    issuer         TEXT,
    repository     TEXT,
    repository_id  TEXT,
    ref            TEXT,
    event          TEXT,
    run            TEXT,
    attempt        TEXT,
    actor          TEXT,
    -- A few digits of the token's hash.
    token          TEXT,
    address        TEXT,
    -- JSON: the whole event.
    details        TEXT NOT NULL,
    -- What refusals of one kind, of one identity, within one hour have in common: they share a row. NULL: never.
    same           BLOB UNIQUE,
    -- How often it happened, and when the last time.
    times          INTEGER NOT NULL DEFAULT 1,
    last_time      INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (time);
CREATE INDEX audit_by_repository ON audit (lower(repository), id);
