-- Pull requests' own caches. What such a cache brings has the namespace -id, which no other has, and goes with it.
CREATE TABLE isolated_caches (
    -- Never used again, so that nothing of one that went can be taken for another's.
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL UNIQUE,
    parent         TEXT NOT NULL,
    -- Numbers of repositories mean something at one issuer alone.
    issuer         TEXT NOT NULL,
    repository_id  INTEGER NOT NULL,
    -- Its signing keys are derived from this and its parent's, so that no secret lies here.
    salt           BLOB NOT NULL,
    created_at     INTEGER NOT NULL,
    -- When a job was last given a session for it.
    used_at        INTEGER NOT NULL,
    -- What was written to storage for it, and how many rows of paths were staged in it.
    bytes          INTEGER NOT NULL DEFAULT 0,
    paths          INTEGER NOT NULL DEFAULT 0,
    -- From then on it is not served any more, and its rows are being removed.
    dropped_at     INTEGER
) STRICT;
CREATE INDEX isolated_caches_by_repository ON isolated_caches (issuer, repository_id);
CREATE INDEX isolated_caches_by_use ON isolated_caches (used_at);

-- For the one look by namespace alone: when such a cache goes.
CREATE INDEX nars_isolated ON nars (namespace) WHERE namespace < 0;
