-- Until when somebody has used up what he may send in a minute, as several processes together know it: empty here, where
-- there is one.
CREATE TABLE paces (
    -- A digest of the limit and of whom it bounds.
    key         BLOB PRIMARY KEY,
    -- In microseconds since 1970.
    used_until  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX paces_by_used_until ON paces (used_until);
