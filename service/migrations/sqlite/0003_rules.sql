-- What a grant says beside its permissions.
ALTER TABLE tokens ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
-- JSON: the pull request whose own cache the token is for; `cache` is then that cache's parent.
ALTER TABLE tokens ADD COLUMN isolated TEXT;
