-- The long columns come last: a list reads none of them.
CREATE TABLE executions (
    fid BLOB NOT NULL PRIMARY KEY,
    cluster TEXT NOT NULL,
    namespace TEXT NOT NULL,
    namespace_uid TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    owner TEXT NOT NULL,
    entry_point TEXT NOT NULL,
    mode TEXT NOT NULL,
    phase TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    error TEXT NOT NULL,
    created INTEGER NOT NULL,
    started INTEGER,
    finished INTEGER,
    -- When the AgentJob was found to be gone.
    deleted INTEGER,
    -- The earlier of the two.
    ended INTEGER,
    -- The object's resourceVersion.
    version INTEGER NOT NULL,
    -- Deleted from the archive: what is left keeps a late write from bringing it back.
    hidden INTEGER NOT NULL DEFAULT 0,
    last_row INTEGER NOT NULL DEFAULT 0,
    -- Of its events, while there are any.
    bytes INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    search TEXT NOT NULL,
    object TEXT NOT NULL
);
CREATE INDEX executions_namespace ON executions (namespace, fid);
CREATE INDEX executions_owner ON executions (owner, fid);
CREATE INDEX executions_ended ON executions (ended) WHERE ended IS NOT NULL;
CREATE INDEX executions_live ON executions (fid) WHERE deleted IS NULL;

CREATE TABLE sources (
    fid BLOB NOT NULL,
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (fid, run)
) WITHOUT ROWID;

CREATE TABLE events (
    fid BLOB NOT NULL,
    row INTEGER NOT NULL,
    run INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    ts REAL NOT NULL,
    kind INTEGER NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (fid, row)
) WITHOUT ROWID;
