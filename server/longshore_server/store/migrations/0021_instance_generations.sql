-- Ids are those of one generation of an instance: who begins another one need not wait until they are deleted.

DROP TRIGGER instances_deleted;
DROP INDEX instance_ids_place;
ALTER TABLE instance_ids RENAME TO instance_ids_of_all;
CREATE TABLE instance_ids (
    uid        BLOB    NOT NULL,
    generation INTEGER NOT NULL,
    use        INTEGER NOT NULL CHECK (use IN (1, 2)),   -- an event; a request to run or to flush
    id         TEXT    NOT NULL,
    place      INTEGER NOT NULL,                         -- counts those of one use
    number     INTEGER NOT NULL,                         -- of the entry that it stands for, or of the open batch to be
    events     INTEGER NOT NULL,                         -- of a flush: how many its batch holds
    digest     BLOB    NOT NULL,                         -- of an event: tells it from another one
    PRIMARY KEY (uid, generation, use, id)
) STRICT, WITHOUT ROWID;
-- The oldest first: whether they may be forgotten.
CREATE UNIQUE INDEX instance_ids_place ON instance_ids (uid, generation, use, place, number);
INSERT INTO instance_ids (uid, generation, use, id, place, number, events, digest)
    SELECT e.uid, i.generation, e.use, e.id, e.place, e.number, e.events, e.digest
    FROM instance_ids_of_all AS e JOIN instances AS i ON i.uid = e.uid;
DROP TABLE instance_ids_of_all;

-- Generations that are over, also with their instances, of which ids are left. Transactions that follow delete them.
CREATE TABLE instance_leftovers (
    uid        BLOB    NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (uid, generation)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER instances_deleted AFTER DELETE ON instances BEGIN
    DELETE FROM instance_states WHERE uid = old.uid;
    DELETE FROM instance_entries WHERE uid = old.uid;
END;
