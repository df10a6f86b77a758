-- What the last sweep found of each budget, for those who open pushes: of a cache, or ('') of all.
CREATE TABLE budgets (
    cache        TEXT PRIMARY KEY,
    -- The bytes of frames and recipes.
    used         INTEGER NOT NULL,
    -- Of these, what never goes for want of room.
    held         INTEGER NOT NULL,
    measured_at  INTEGER NOT NULL
) STRICT;
