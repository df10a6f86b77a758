-- Where a look through a webhook's deliveries ended before it had seen all: the cursor from which the next one goes on,
-- and up to which second no delivery will be missing then.
ALTER TABLE watched_hooks ADD COLUMN unread_from TEXT;
ALTER TABLE watched_hooks ADD COLUMN settled_then INTEGER;

-- Of which sequence the latest job of a subject was: an event may come after a later one, whose job is done by then.
CREATE TABLE job_sequences (
    subject   TEXT PRIMARY KEY,
    sequence  INTEGER NOT NULL,
    noted_at  INTEGER NOT NULL
);
CREATE INDEX job_sequences_by_age ON job_sequences (noted_at);
ALTER TABLE jobs DROP COLUMN sequence;

-- The job that does it, as long as there is one: a prefetch does not outlive its job.
ALTER TABLE prefetches ADD COLUMN job INTEGER REFERENCES jobs (id) ON DELETE SET NULL;
CREATE INDEX prefetches_by_job ON prefetches (job) WHERE job IS NOT NULL;
UPDATE prefetches SET job = (SELECT id FROM jobs WHERE key = 'prefetch ' || prefetches.name) WHERE ended_at IS NULL;
