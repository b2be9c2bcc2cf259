-- The ids of requests to run and to flush are remembered as those of events, and each stands for an entry.

CREATE TABLE instance_ids (
    uid    BLOB    NOT NULL,
    use    INTEGER NOT NULL CHECK (use IN (1, 2)),   -- an event; a request to run or to flush
    id     TEXT    NOT NULL,
    place  INTEGER NOT NULL,                         -- counts those of one use
    number INTEGER NOT NULL,                         -- of the entry that it stands for, or of the open batch to be
    events INTEGER NOT NULL,                         -- of a flush: how many its batch holds
    digest BLOB    NOT NULL,                         -- of an event: tells it from another one
    PRIMARY KEY (uid, use, id)
) STRICT, WITHOUT ROWID;
-- The oldest first: whether they may be forgotten.
CREATE UNIQUE INDEX instance_ids_place ON instance_ids (uid, use, place, number);

-- Of a debounce the number was that of the event: it stands for no entry that waits.
INSERT INTO instance_ids (uid, use, id, place, number, events, digest)
    SELECT e.uid, 1, e.event_id, e.number, iif(i.kind = 3, e.number, 0), 0, e.digest
    FROM instance_event_ids AS e JOIN instances AS i ON i.uid = e.uid;

DROP TRIGGER instances_deleted;
DROP TABLE instance_event_ids;
CREATE TRIGGER instances_deleted AFTER DELETE ON instances BEGIN
    DELETE FROM instance_states WHERE uid = old.uid;
    DELETE FROM instance_entries WHERE uid = old.uid;
    DELETE FROM instance_ids WHERE uid = old.uid;
END;
