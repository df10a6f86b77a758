-- What is done again and again keeps its row, and so the hands that it had: those of prefetches.
UPDATE jobs SET priority = 20 WHERE kind = 'tidy';
UPDATE jobs SET priority = 15 WHERE kind IN ('ask-for-missed', 'report');
