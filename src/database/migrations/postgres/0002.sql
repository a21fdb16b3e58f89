-- The number of the newest run.
ALTER TABLE executions ADD COLUMN run BIGINT NOT NULL DEFAULT 0;

CREATE INDEX executions_uid ON executions (uid);
CREATE INDEX executions_phase ON executions (phase, fid);
CREATE INDEX executions_entry_point ON executions (entry_point, fid);

CREATE TABLE runs (
    -- Of its AgentJob: a run may be known before its execution is.
    namespace TEXT NOT NULL,
    job_uid TEXT NOT NULL,
    number BIGINT NOT NULL,
    -- The object's resourceVersion.
    version BIGINT NOT NULL,
    -- When it was first written.
    seen BIGINT NOT NULL,
    -- Whether it has ended.
    ended BIGINT NOT NULL,
    -- How many events it has, if that is known.
    events BIGINT,
    object TEXT NOT NULL,
    PRIMARY KEY (namespace, job_uid, number)
);
