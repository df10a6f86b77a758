-- A move to another database, as both of them note it.
CREATE TABLE moves (
    -- The same in both.
    id     BLOB PRIMARY KEY,
    -- In the one: 'leaving', then 'left', from when on nothing is written there any more. In the other: 'arriving', until
    -- the rows have left; nobody may use them before.
    state  TEXT NOT NULL CHECK (state IN ('leaving', 'left', 'arriving')),
    -- Where the other one is.
    place  TEXT NOT NULL,
    at     INTEGER NOT NULL
) STRICT;
