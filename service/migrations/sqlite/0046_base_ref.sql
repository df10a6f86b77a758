-- The branch that a commit's pull request is to go to, as a whole ref.
ALTER TABLE reports ADD COLUMN base_ref TEXT;
