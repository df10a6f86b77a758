-- Until when somebody has used up what he may send in a minute, as all replicas together know it. Missed by nobody when
-- the server crashes, and written without waiting for its disk.
CREATE UNLOGGED TABLE paces (
    -- A digest of the limit and of whom it bounds.
    key         BYTEA PRIMARY KEY,
    -- In microseconds since 1970.
    used_until  BIGINT NOT NULL
);
CREATE INDEX paces_by_used_until ON paces (used_until);
