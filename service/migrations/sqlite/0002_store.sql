-- Objects: immutable files in storage that hold frames or recipes. The row is committed before the
-- first byte is written, so that nothing in storage is unknown.
CREATE TABLE objects (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,
    state       TEXT NOT NULL CHECK (state IN ('writing', 'stored')),
    -- The push that writes it.
    push        INTEGER,
    size        INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL
) STRICT;

-- Chunks, and where their frames lie. Public caches share namespace 0.
CREATE TABLE chunks (
    id            INTEGER PRIMARY KEY,
    namespace     INTEGER NOT NULL,
    name          BLOB NOT NULL,
    object        INTEGER NOT NULL REFERENCES objects (id),
    frame_offset  INTEGER NOT NULL,
    frame_len     INTEGER NOT NULL,
    content_len   INTEGER NOT NULL,
    -- Little-endian pairs of u32: offset in the content, offset in the frame. NULL: no holes.
    holes         BLOB,
    -- When a sweep wanted it: from then on it counts as missing.
    condemned_at  INTEGER,
    UNIQUE (namespace, name)
) STRICT;
CREATE INDEX chunks_by_object ON chunks (object);

-- NARs that were read back and verified. While `complete` is 0 its chunks are still being written.
CREATE TABLE nars (
    id             INTEGER PRIMARY KEY,
    namespace      INTEGER NOT NULL,
    hash           BLOB NOT NULL,
    size           INTEGER NOT NULL,
    -- The digest of the .nar.zst as it is served, and its length.
    encoding       BLOB NOT NULL,
    file_size      INTEGER NOT NULL,
    -- The object that holds its recipe, for a lost database.
    recipe_object  INTEGER NOT NULL REFERENCES objects (id),
    complete       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX nars_by_hash ON nars (namespace, hash) WHERE complete = 1;
CREATE INDEX nars_by_recipe_object ON nars (recipe_object);

-- Recipes.
CREATE TABLE nar_chunks (
    nar       INTEGER NOT NULL REFERENCES nars (id),
    position  INTEGER NOT NULL,
    chunk     INTEGER NOT NULL REFERENCES chunks (id),
    -- The hashes that fill the chunk's holes, 20 bytes each. NULL: no holes.
    hashes    BLOB,
    PRIMARY KEY (nar, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX nar_chunks_by_chunk ON nar_chunks (chunk);

CREATE TABLE pushes (
    id            INTEGER PRIMARY KEY,
    name          BLOB NOT NULL UNIQUE,
    cache         TEXT NOT NULL,
    -- The identity that it belongs to; to any other it does not exist.
    owner         TEXT NOT NULL,
    -- JSON: the verified claims.
    provenance    TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('open', 'committed')),
    opened_at     INTEGER NOT NULL,
    -- The last request; an open push that has long been silent is abandoned.
    active_at     INTEGER NOT NULL,
    committed_at  INTEGER
) STRICT;

-- Paths. Visible once their push is committed, unless another push brought the same path before.
CREATE TABLE paths (
    id          INTEGER PRIMARY KEY,
    cache       TEXT NOT NULL,
    hash        BLOB NOT NULL,
    name        TEXT NOT NULL,
    push        INTEGER NOT NULL REFERENCES pushes (id),
    nar_hash    BLOB NOT NULL,
    nar_size    INTEGER NOT NULL,
    -- NULL until the NAR is verified.
    nar         INTEGER REFERENCES nars (id),
    -- Base names, blanks between them.
    refs        TEXT NOT NULL,
    deriver     TEXT,
    ca          TEXT,
    -- What others signed, blanks between them.
    signatures  TEXT NOT NULL,
    -- 1: another push brought this path first.
    hidden      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cache, hash, push)
) STRICT;
CREATE INDEX paths_by_push ON paths (push, nar_hash);
CREATE INDEX paths_by_nar ON paths (nar);

-- What a push was told is present: it stays until the push ends.
CREATE TABLE leases (
    push  INTEGER NOT NULL REFERENCES pushes (id),
    path  INTEGER NOT NULL REFERENCES paths (id),
    PRIMARY KEY (push, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_path ON leases (path);

-- What a push wants to be kept.
CREATE TABLE push_roots (
    push  INTEGER NOT NULL REFERENCES pushes (id),
    hash  BLOB NOT NULL,
    PRIMARY KEY (push, hash)
) STRICT, WITHOUT ROWID;

-- Paths that were pushed with another content than the cache has.
CREATE TABLE divergences (
    push    INTEGER NOT NULL REFERENCES pushes (id),
    hash    BLOB NOT NULL,
    name    TEXT NOT NULL,
    kept    BLOB NOT NULL,
    pushed  BLOB NOT NULL,
    PRIMARY KEY (push, hash)
) STRICT, WITHOUT ROWID;

-- Paths that an upstream was seen to have.
CREATE TABLE upstream_paths (
    upstream  TEXT NOT NULL,
    hash      BLOB NOT NULL,
    seen_at   INTEGER NOT NULL,
    PRIMARY KEY (upstream, hash)
) STRICT, WITHOUT ROWID;
