-- Whether the runner's own last event is stored.
ALTER TABLE sources ADD COLUMN ended BIGINT NOT NULL DEFAULT 0;

-- When the run was seen to have ended.
ALTER TABLE runs ADD COLUMN noticed BIGINT;
-- Whether all of its events are stored, or what had not come was marked as lost. NULL: an older release wrote it as it ended.
ALTER TABLE runs ADD COLUMN settled BIGINT;
CREATE INDEX runs_unsettled ON runs (noticed) WHERE ended <> 0 AND settled = 0;
