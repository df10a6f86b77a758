-- Where a look through a webhook's deliveries ended before it had seen all: the cursor from which the next one goes on,
-- and up to which second no delivery will be missing then.
ALTER TABLE watched_hooks ADD COLUMN unread_from TEXT;
ALTER TABLE watched_hooks ADD COLUMN settled_then INTEGER;
