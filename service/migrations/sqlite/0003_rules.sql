-- What a grant says beside its permissions.
ALTER TABLE tokens ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
-- JSON: the pull request whose own cache the token is for; `cache` is then that cache's parent.
ALTER TABLE tokens ADD COLUMN isolated TEXT;

-- What the names in trust rules stood for when they were first trusted.
CREATE TABLE bound_names (
    cache                TEXT NOT NULL,
    issuer               TEXT NOT NULL,
    kind                 TEXT NOT NULL CHECK (kind IN ('repository', 'owner')),
    -- In lower case, as names are compared without it.
    name                 TEXT NOT NULL,
    -- NULL for an owner.
    repository_id        INTEGER,
    owner_id             INTEGER NOT NULL,
    source               TEXT NOT NULL CHECK (source IN ('token', 'api', 'confirmed')),
    bound_at             INTEGER NOT NULL,
    -- When the name was first seen to stand for something else, and for what. From then on it is trusted for nothing.
    suspended_at         INTEGER,
    found_repository_id  INTEGER,
    found_owner_id       INTEGER,
    PRIMARY KEY (cache, issuer, kind, name)
) STRICT, WITHOUT ROWID;
