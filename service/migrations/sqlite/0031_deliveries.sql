-- Webhooks, as they were received.

CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY,
    -- The name that GitHub gave it; the same when it is delivered again.
    guid TEXT NOT NULL,
    -- What it is about, in lower case: owner/name, an owner, or nothing. With the name, since whoever knows one
    -- repository's secret must not be able to take the name of another's delivery.
    about TEXT NOT NULL,
    event TEXT NOT NULL,
    action TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('taken', 'ignored', 'unreadable')),
    received_at INTEGER NOT NULL,
    replayed_at INTEGER,
    -- JSON
    headers TEXT NOT NULL,
    -- The body, unless the event was ignored.
    payload BLOB,
    UNIQUE (guid, about)
);

CREATE INDEX deliveries_by_age ON deliveries (received_at);
