-- Whose NAR stands: by which rank, what was replaced, what upstreams have signed.

-- The rank of the push that brought it.
ALTER TABLE paths ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
-- 1: an admin said that it is to stand, whatever the ranks.
ALTER TABLE paths ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;
-- 1 until the NAR was checked against the content address.
ALTER TABLE paths ADD COLUMN unproven INTEGER NOT NULL DEFAULT 0;
-- When a push of higher rank took its place. Its NAR is served for some time to those who know of it.
ALTER TABLE paths ADD COLUMN replaced_at INTEGER;

-- How many paths no upstream could be asked about.
ALTER TABLE pushes ADD COLUMN unasked INTEGER NOT NULL DEFAULT 0;

-- `kept` is what stood before; what became of it is in `outcome`.
ALTER TABLE divergences ADD COLUMN outcome TEXT NOT NULL DEFAULT 'kept'
    CHECK (outcome IN ('kept', 'replaced', 'ordered', 'refused'));
ALTER TABLE divergences ADD COLUMN noted_at INTEGER NOT NULL DEFAULT 0;
-- Who brought what stood: a push, or an upstream that has signed it.
ALTER TABLE divergences ADD COLUMN kept_push INTEGER REFERENCES pushes (id);
ALTER TABLE divergences ADD COLUMN upstream TEXT;
UPDATE divergences SET
    noted_at = (SELECT u.active_at FROM pushes u WHERE u.id = divergences.push),
    kept_push = (SELECT min(q.push) FROM paths q JOIN pushes u ON u.id = divergences.push
                 WHERE q.cache = u.cache AND q.hash = divergences.hash AND q.nar_hash = divergences.kept);
CREATE INDEX divergences_by_time ON divergences (noted_at);
CREATE INDEX divergences_by_kept_push ON divergences (kept_push);

-- What upstreams have signed. Before, only the path's hash was noted, which says nothing of its contents.
DROP TABLE upstream_paths;
CREATE TABLE upstream_paths (
    upstream   TEXT NOT NULL,
    hash       BLOB NOT NULL,
    name       TEXT NOT NULL,
    nar_hash   BLOB NOT NULL,
    -- The SHA-256 of what the signature signs.
    statement  BLOB NOT NULL,
    seen_at    INTEGER NOT NULL,
    PRIMARY KEY (upstream, hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX upstream_paths_by_age ON upstream_paths (seen_at);
