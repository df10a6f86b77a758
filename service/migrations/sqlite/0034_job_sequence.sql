-- Of one subject, a job makes pointless those with a lower number alone: an event may come after a later one.
ALTER TABLE jobs ADD COLUMN sequence INTEGER;
