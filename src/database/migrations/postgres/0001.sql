CREATE TABLE executions (
    fid BYTEA NOT NULL PRIMARY KEY,
    cluster TEXT NOT NULL,
    namespace TEXT NOT NULL,
    namespace_uid TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    owner TEXT NOT NULL,
    entry_point TEXT NOT NULL,
    mode TEXT NOT NULL,
    phase TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    error TEXT NOT NULL,
    created BIGINT NOT NULL,
    started BIGINT,
    finished BIGINT,
    -- When the AgentJob was found to be gone.
    deleted BIGINT,
    -- The earlier of the two.
    ended BIGINT,
    -- The object's resourceVersion.
    version BIGINT NOT NULL,
    -- Deleted from the archive: what is left keeps a late write from bringing it back.
    hidden BIGINT NOT NULL DEFAULT 0,
    last_row BIGINT NOT NULL DEFAULT 0,
    -- Of its events, while there are any.
    bytes BIGINT NOT NULL DEFAULT 0,
    size BIGINT NOT NULL,
    search TEXT NOT NULL,
    object TEXT NOT NULL
);
CREATE INDEX executions_namespace ON executions (namespace, fid);
CREATE INDEX executions_owner ON executions (owner, fid);
CREATE INDEX executions_ended ON executions (ended) WHERE ended IS NOT NULL;
CREATE INDEX executions_live ON executions (fid) WHERE deleted IS NULL;

CREATE TABLE sources (
    fid BYTEA NOT NULL,
    run BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (fid, run)
);

-- A partition a week, made when its first event comes: a fid begins with its time, so an execution is in one.
CREATE TABLE events (
    fid BYTEA NOT NULL,
    row BIGINT NOT NULL,
    run BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    ts DOUBLE PRECISION NOT NULL,
    kind SMALLINT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (fid, row)
) PARTITION BY RANGE (fid);
