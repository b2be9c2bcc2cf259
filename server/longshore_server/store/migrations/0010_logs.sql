-- What code has logged, and how its steps have failed: for operators, of operations and jobs alike, by their uids.

-- One for each owner that has logged anything.
CREATE TABLE logbooks (
    uid     BLOB    NOT NULL PRIMARY KEY,   -- of the operation or the job
    lines   INTEGER NOT NULL CHECK (lines >= 1),                     -- how many there were: the number of the latest
    dropped INTEGER NOT NULL CHECK (dropped BETWEEN 0 AND lines),    -- how many of the oldest are gone
    size    INTEGER NOT NULL CHECK (size >= 0),                      -- bytes of those that are kept
    oldest  INTEGER,                                                 -- time of the first that is kept
    CHECK ((oldest IS NULL) = (dropped = lines))
) STRICT, WITHOUT ROWID;
-- The sweeper's way to what is due.
CREATE INDEX logbooks_oldest ON logbooks (oldest) WHERE oldest IS NOT NULL;

CREATE TABLE logs (
    uid     BLOB    NOT NULL REFERENCES logbooks (uid) ON DELETE CASCADE,
    number  INTEGER NOT NULL CHECK (number >= 1),
    time    INTEGER NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    level   INTEGER NOT NULL CHECK (level BETWEEN 1 AND 3),          -- longshore.v1.LogLine.Level
    step    TEXT    NOT NULL,               -- whose function logged it; '': none
    message TEXT    NOT NULL,
    data    TEXT    NOT NULL,               -- JSON object
    PRIMARY KEY (uid, number)
) STRICT, WITHOUT ROWID;

-- Steps that have failed, also those that then succeeded; the journal has no trace of that.
CREATE TABLE step_failures (
    uid     BLOB    NOT NULL,               -- of the operation or the job
    name    TEXT    NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    started INTEGER NOT NULL,               -- when its function was called first in this attempt
    ended   INTEGER NOT NULL CHECK (ended >= started),  -- when it failed last
    tries   INTEGER NOT NULL CHECK (tries >= 1),        -- how often it has failed
    error   TEXT    NOT NULL,               -- of the last time, cut short
    PRIMARY KEY (uid, name, attempt)
) STRICT, WITHOUT ROWID;

-- In place of foreign keys, which can name only one table.
CREATE TRIGGER logs_deleted AFTER DELETE ON operations BEGIN
    DELETE FROM logbooks WHERE uid = old.uid;
    DELETE FROM step_failures WHERE uid = old.uid;
END;
CREATE TRIGGER job_logs_deleted AFTER DELETE ON jobs WHEN old.attempt > 0 BEGIN
    DELETE FROM logbooks WHERE uid = old.uid;
    DELETE FROM step_failures WHERE uid = old.uid;
END;
