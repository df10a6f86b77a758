-- The keys by which replicas sign, and when one of them last said so: all of a cache's must have one in common.
CREATE TABLE cache_keys (
    cache    TEXT NOT NULL,
    key      TEXT NOT NULL,
    seen_at  INTEGER NOT NULL,
    PRIMARY KEY (cache, key)
) STRICT, WITHOUT ROWID;
