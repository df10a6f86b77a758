-- 1: the push said that its job built the path itself. Nobody has checked that.
ALTER TABLE paths ADD COLUMN built INTEGER NOT NULL DEFAULT 0;
