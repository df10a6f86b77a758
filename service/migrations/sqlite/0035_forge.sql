-- What GitHub says of runs, releases and deliveries.

-- How the run ended, as far as a delivery said so, and which attempt at it that was.
ALTER TABLE runs ADD COLUMN conclusion TEXT;
ALTER TABLE runs ADD COLUMN concluded_attempt INTEGER;

-- Tags of which a release was published: runs of theirs that end later are pinned too.
CREATE TABLE released_tags (
    -- In lower case, for comparing.
    repository_key  TEXT NOT NULL,
    tag             TEXT NOT NULL,
    released_at     INTEGER NOT NULL,
    PRIMARY KEY (repository_key, tag)
);

-- Webhooks whose deliveries were looked through, and up to which second none is missing.
CREATE TABLE watched_hooks (
    hook           TEXT PRIMARY KEY,
    settled_until  INTEGER NOT NULL
);

-- Deliveries that the forge was asked for again.
CREATE TABLE missed_deliveries (
    hook      TEXT NOT NULL,
    guid      TEXT NOT NULL,
    asked_at  INTEGER NOT NULL,
    times     INTEGER NOT NULL,
    PRIMARY KEY (hook, guid)
);
CREATE INDEX missed_deliveries_by_age ON missed_deliveries (asked_at);
