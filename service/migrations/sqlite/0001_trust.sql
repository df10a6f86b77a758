-- Session tokens and tokens for people, as SHA-256.
CREATE TABLE tokens (
    hash         BLOB PRIMARY KEY,
    cache        TEXT NOT NULL,
    -- JSON: a list of permissions.
    permissions  TEXT NOT NULL,
    -- JSON: the verified identity that the token stands for.
    identity     TEXT NOT NULL,
    -- NULL for a session; the name that a person gave otherwise.
    name         TEXT UNIQUE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_expiry ON tokens (expires_at);

-- ID tokens that were exchanged: each can be used once.
CREATE TABLE used_id_tokens (
    issuer      TEXT NOT NULL,
    jti         TEXT NOT NULL,
    -- Until when the token could be used again, leeway included.
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (issuer, jti)
) STRICT, WITHOUT ROWID;
CREATE INDEX used_id_tokens_by_expiry ON used_id_tokens (expires_at);
