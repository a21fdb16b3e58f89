-- The number of the newest run.
ALTER TABLE executions ADD COLUMN run INTEGER NOT NULL DEFAULT 0;

-- Where an execution is in the index of texts: as fids are ordered. It has 63 bits of their 96, the time and the first of
-- the others, so that two rarely have the same. SQLite reads hexadecimal digits as a number only in JSON.
ALTER TABLE executions ADD COLUMN place INTEGER GENERATED ALWAYS AS (
    ((('0x' || hex(substr(fid, 1, 4))) ->> '$') << 31) | ((('0x' || hex(substr(fid, 5, 4))) ->> '$') >> 1)
) VIRTUAL;
CREATE INDEX executions_place ON executions (place);

CREATE INDEX executions_uid ON executions (uid);
CREATE INDEX executions_phase ON executions (phase, fid);
CREATE INDEX executions_entry_point ON executions (entry_point, fid);

-- Which places have a text with these three characters. Texts are in small letters already. The triggers keep it, whichever
-- release writes.
CREATE VIRTUAL TABLE executions_search USING fts5 (
    text, content = '', contentless_delete = 1, detail = 'none', tokenize = 'trigram case_sensitive 1'
);
CREATE TRIGGER executions_search_insert AFTER INSERT ON executions BEGIN
    DELETE FROM executions_search WHERE rowid = new.place;
    INSERT INTO executions_search (rowid, text)
        SELECT place, group_concat(search, char(10)) FROM executions WHERE place = new.place GROUP BY place;
END;
CREATE TRIGGER executions_search_update AFTER UPDATE OF search ON executions WHEN new.search <> old.search BEGIN
    DELETE FROM executions_search WHERE rowid = new.place;
    INSERT INTO executions_search (rowid, text)
        SELECT place, group_concat(search, char(10)) FROM executions WHERE place = new.place GROUP BY place;
END;
CREATE TRIGGER executions_search_delete AFTER DELETE ON executions BEGIN
    DELETE FROM executions_search WHERE rowid = old.place;
    INSERT INTO executions_search (rowid, text)
        SELECT place, group_concat(search, char(10)) FROM executions WHERE place = old.place GROUP BY place;
END;
INSERT INTO executions_search (rowid, text)
    SELECT place, group_concat(search, char(10)) FROM executions GROUP BY place;

CREATE TABLE runs (
    -- Of its AgentJob: a run may be known before its execution is.
    namespace TEXT NOT NULL,
    job_uid TEXT NOT NULL,
    number INTEGER NOT NULL,
    -- The object's resourceVersion.
    version INTEGER NOT NULL,
    -- When it was first written.
    seen INTEGER NOT NULL,
    -- Whether it has ended.
    ended INTEGER NOT NULL,
    -- How many events it has, if that is known.
    events INTEGER,
    object TEXT NOT NULL,
    PRIMARY KEY (namespace, job_uid, number)
) WITHOUT ROWID;
