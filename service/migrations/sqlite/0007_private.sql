-- Which chunks a cache has: public caches share namespace 0, a private one has that of its number alone. A row stays
-- when its cache leaves the configuration, so that no number is ever another cache's.
CREATE TABLE cache_namespaces (
    cache   TEXT PRIMARY KEY,
    number  INTEGER NOT NULL UNIQUE CHECK (number > 0),
    public  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Where whoever pushes may not read the cache, which is private, and is told nothing of what is there: how many paths
-- the push stages, which is all that its commit tells.
ALTER TABLE pushes ADD COLUMN blind INTEGER;

-- The chunks that such a push has sent itself: of the others it knows nothing. The sweep after its end takes them.
CREATE TABLE sent_chunks (
    push   INTEGER NOT NULL REFERENCES pushes (id) ON DELETE CASCADE,
    chunk  INTEGER NOT NULL REFERENCES chunks (id) ON DELETE CASCADE,
    PRIMARY KEY (push, chunk)
) STRICT, WITHOUT ROWID;
CREATE INDEX sent_chunks_by_chunk ON sent_chunks (chunk);
