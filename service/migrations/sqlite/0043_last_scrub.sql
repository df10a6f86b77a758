-- When a round of the scrub was over last, also while the next is under way.
ALTER TABLE scrub ADD COLUMN last_finished_at INTEGER;
UPDATE scrub SET last_finished_at = finished_at;
