-- What the store held and what was read, over time. A row stands for the whole store (no cache, no repository), a cache,
-- or what jobs of one repository brought to a cache.
CREATE TABLE samples (
    -- The span's first second. It may be one of some minutes, of an hour or of a day: older ones are longer.
    taken_at       INTEGER NOT NULL,
    span           INTEGER NOT NULL,
    -- '' for all caches. 'main~' for all pull requests' caches of main.
    cache          TEXT NOT NULL,
    -- '' for all repositories, '-' for what people brought.
    repository     TEXT NOT NULL,
    -- As it was when it was looked at last within the span.
    paths          INTEGER NOT NULL,
    closures       INTEGER NOT NULL,
    nars           INTEGER NOT NULL,
    raw_bytes      INTEGER NOT NULL,
    packed_bytes   INTEGER NOT NULL,
    -- Known of the whole store, and of a cache that shares chunks with no other.
    chunks         INTEGER,
    objects        INTEGER,
    stored_bytes   INTEGER,
    shared_bytes   INTEGER,
    runs           INTEGER NOT NULL,
    pins           INTEGER NOT NULL,
    leases         INTEGER NOT NULL,
    recent_pushes  INTEGER NOT NULL,
    recent_reads   INTEGER NOT NULL,
    -- Within the span.
    hits           INTEGER NOT NULL,
    misses         INTEGER NOT NULL,
    reads          INTEGER NOT NULL,
    bytes_served   INTEGER NOT NULL,
    PRIMARY KEY (cache, repository, taken_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_by_span ON samples (span, taken_at);

-- How many chunks a namespace has, and the bytes of their frames: nobody can count millions every few minutes. Kept by
-- triggers, so that no statement that writes chunks can forget it.
CREATE TABLE chunk_totals (
    namespace  INTEGER PRIMARY KEY,
    chunks     INTEGER NOT NULL,
    bytes      INTEGER NOT NULL
) STRICT;
INSERT INTO chunk_totals (namespace, chunks, bytes)
    SELECT namespace, count(*), sum(frame_len) FROM chunks GROUP BY namespace;
CREATE TRIGGER chunks_added AFTER INSERT ON chunks BEGIN
    INSERT INTO chunk_totals (namespace, chunks, bytes) VALUES (new.namespace, 1, new.frame_len)
    ON CONFLICT (namespace) DO UPDATE SET chunks = chunks + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER chunks_removed AFTER DELETE ON chunks BEGIN
    UPDATE chunk_totals SET chunks = chunks - 1, bytes = bytes - old.frame_len WHERE namespace = old.namespace;
END;
CREATE TRIGGER chunks_changed AFTER UPDATE OF frame_len ON chunks BEGIN
    UPDATE chunk_totals SET bytes = bytes - old.frame_len + new.frame_len WHERE namespace = new.namespace;
END;

-- All that is asked of every path for a sample, without reading their rows.
CREATE INDEX paths_measured ON paths (push, hidden, nar, nar_size);
