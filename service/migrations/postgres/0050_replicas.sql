-- The keys by which replicas sign, and when one of them last said so: all of a cache's must have one in common.
CREATE TABLE cache_keys (
    cache    TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    seen_at  BIGINT NOT NULL,
    PRIMARY KEY (cache, key)
);
