-- Whether its runner was lost, so that it has not told how many events it has.
ALTER TABLE runs ADD COLUMN cut INTEGER NOT NULL DEFAULT 0;
-- When it was noticed that the run has ended, if all of its events were not there then.
ALTER TABLE runs ADD COLUMN noticed INTEGER;
-- How many of its events are lost, -1 if that is not known, and NULL as long as some may come.
ALTER TABLE runs ADD COLUMN lost INTEGER;
-- Those that have ended before are left as they are.
UPDATE runs SET lost = 0 WHERE ended <> 0;
CREATE INDEX runs_unsettled ON runs (noticed) WHERE ended <> 0 AND lost IS NULL;
