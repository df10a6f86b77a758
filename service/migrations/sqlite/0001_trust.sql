-- Session tokens and tokens for people, as SHA-256.
CREATE TABLE tokens (
    hash        BLOB PRIMARY KEY,
    cache       TEXT NOT NULL,
    -- JSON: what the token grants, and the verified identity it stands for.
    grants      TEXT NOT NULL,
    -- NULL for a session; the name that a person gave otherwise.
    name        TEXT UNIQUE,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_expiry ON tokens (expires_at);

-- ID tokens that were exchanged: each can be used once.
CREATE TABLE used_id_tokens (
    issuer      TEXT NOT NULL,
    jti         TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (issuer, jti)
) STRICT, WITHOUT ROWID;
CREATE INDEX used_id_tokens_by_expiry ON used_id_tokens (expires_at);
