-- A journal belongs to whatever runs attempts: an operation or a job. So does what its code has logged.

CREATE TABLE journal_of_any (
    uid        BLOB    NOT NULL,          -- of the operation or the job
    kind       TEXT    NOT NULL,          -- step, sleep, child, job, ...
    name       TEXT    NOT NULL,
    occurrence INTEGER NOT NULL CHECK (occurrence >= 0),
    attempt    INTEGER NOT NULL CHECK (attempt >= 1),
    recorded   INTEGER NOT NULL,
    digest     BLOB    NOT NULL,          -- of what was asked
    asked      TEXT    NOT NULL,          -- what was asked, for people, cut short
    codec      TEXT    NOT NULL,
    outcome    BLOB    NOT NULL,
    started    INTEGER,                   -- when a step's function was called first; NULL: no step, or older than this
    kept       INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1)),  -- recorded by the operation that this one repeats
    PRIMARY KEY (uid, kind, name, occurrence)
) STRICT, WITHOUT ROWID;
INSERT INTO journal_of_any (uid, kind, name, occurrence, attempt, recorded, digest, asked, codec, outcome, started, kept)
SELECT uid, kind, name, occurrence, attempt, recorded, digest, asked, codec, outcome, started, kept FROM journal;
DROP TABLE journal;
ALTER TABLE journal_of_any RENAME TO journal;
-- In place of a foreign key, which can name only one table.
CREATE TRIGGER journal_deleted AFTER DELETE ON operations BEGIN
    DELETE FROM journal WHERE uid = old.uid;
END;
