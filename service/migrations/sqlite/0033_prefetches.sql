-- Prefetches, as people see them. What does them is a job.

CREATE TABLE prefetches (
    id INTEGER PRIMARY KEY,
    -- What it is called outside.
    name TEXT NOT NULL UNIQUE,
    cache TEXT NOT NULL,
    why TEXT NOT NULL CHECK (why IN ('hand', 'event', 'schedule')),
    -- Who asked for it by hand.
    owner TEXT,
    -- For what it was asked otherwise; the name in lower case.
    repository_key TEXT,
    git_ref TEXT,
    commit_sha TEXT,
    -- Base names of store paths, separated by spaces; empty where manifests say them.
    paths TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'complete', 'incomplete', 'failed', 'superseded')),
    requested_at INTEGER NOT NULL,
    ended_at INTEGER,
    -- How far it is: paths of the closure, those that were not here, those of them that are now, bytes of NARs.
    closure INTEGER NOT NULL DEFAULT 0,
    wanted INTEGER NOT NULL DEFAULT 0,
    published INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    -- How many paths no upstream has, and some of them.
    lacking INTEGER NOT NULL DEFAULT 0,
    lacking_paths TEXT NOT NULL DEFAULT '',
    -- Why it failed the last time.
    error TEXT
);

CREATE INDEX prefetches_by_age ON prefetches (requested_at);
CREATE INDEX prefetches_under_way ON prefetches (owner) WHERE ended_at IS NULL;
CREATE INDEX prefetches_by_ref ON prefetches (repository_key, git_ref) WHERE repository_key IS NOT NULL;
