-- Dead letters, of which one debounce may have very many, lie apart from what waits: under the negatives of their numbers.

DROP TRIGGER instances_deleted;
ALTER TABLE instance_entries RENAME TO instance_entries_of_all;
CREATE TABLE instance_entries (
    uid        BLOB    NOT NULL,
    number     INTEGER NOT NULL,
    type       INTEGER NOT NULL,
    accepted   INTEGER NOT NULL,
    events     INTEGER NOT NULL,               -- of a batch: how many it holds,
    started    INTEGER NOT NULL,               -- when the first of them came,
    cause      INTEGER NOT NULL,               -- and why it was sealed
    buried     INTEGER,                        -- of a dead letter: when it became one,
    definition TEXT,                           -- whose,
    error      BLOB,                           -- and why: google.rpc.Status
    codec      TEXT    NOT NULL,               -- '': it carries nothing
    body       BLOB    NOT NULL,
    PRIMARY KEY (uid, number),
    CHECK (number <> 0 AND (number < 0) = (error IS NOT NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO instance_entries (uid, number, type, accepted, events, started, cause, buried, definition, error, codec, body)
    SELECT uid, iif(error IS NULL, number, -number), type, accepted, events, started, cause, buried, definition, error,
           codec, body
    FROM instance_entries_of_all;
DROP TABLE instance_entries_of_all;
CREATE INDEX instance_entries_buried ON instance_entries (definition, buried) WHERE buried IS NOT NULL;

-- Dead letters up to this number that are nobody's any more. Transactions that follow delete them.
CREATE TABLE instance_letters_left (
    uid    BLOB    NOT NULL PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER instances_deleted AFTER DELETE ON instances BEGIN
    DELETE FROM instance_states WHERE uid = old.uid;
    DELETE FROM instance_entries WHERE uid = old.uid AND number > 0;
END;
