-- What the whole contract needs: signals, deferral, retries, stops, retention, stored contracts, the caller's rights.

-- The descriptors that operations were started under: a later server checks that it still understands them.
CREATE TABLE contracts (
    id          INTEGER PRIMARY KEY,
    type        TEXT NOT NULL,
    digest      BLOB NOT NULL,
    descriptors BLOB NOT NULL,            -- FileDescriptorSet, serialized
    UNIQUE (type, digest)
) STRICT;

ALTER TABLE operations ADD COLUMN capabilities TEXT NOT NULL DEFAULT '[]';      -- of the caller: JSON array of strings
ALTER TABLE operations ADD COLUMN contract INTEGER REFERENCES contracts (id);
ALTER TABLE operations ADD COLUMN retried_from TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN trace TEXT NOT NULL DEFAULT '';               -- W3C traceparent of the caller
ALTER TABLE operations ADD COLUMN failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0);
ALTER TABLE operations ADD COLUMN next_attempt INTEGER;                         -- when a failed attempt is made again
ALTER TABLE operations ADD COLUMN deferred INTEGER NOT NULL DEFAULT 0 CHECK (deferred IN (0, 1));
ALTER TABLE operations ADD COLUMN stop_requested INTEGER;
ALTER TABLE operations ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0 CHECK (stopped IN (0, 1));
ALTER TABLE operations ADD COLUMN signals INTEGER NOT NULL DEFAULT 0 CHECK (signals >= 0);   -- how many were accepted
ALTER TABLE operations ADD COLUMN pending INTEGER NOT NULL DEFAULT 0 CHECK (pending BETWEEN 0 AND signals);
ALTER TABLE operations ADD COLUMN reason TEXT NOT NULL DEFAULT '';              -- of the error it ended with
ALTER TABLE operations ADD COLUMN expires INTEGER CHECK (expires IS NULL OR ended IS NOT NULL);

-- The sweeper's way to what is due.
CREATE INDEX operations_expiry ON operations (expires) WHERE expires IS NOT NULL;

CREATE TABLE signals (
    uid      BLOB    NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    number   INTEGER NOT NULL CHECK (number >= 1),   -- order of acceptance
    name     TEXT    NOT NULL,
    id       TEXT    NOT NULL,                       -- idempotency key
    payload  BLOB    NOT NULL,                       -- google.protobuf.Any, serialized
    sender   TEXT    NOT NULL,
    accepted INTEGER NOT NULL,
    consumed INTEGER,                                -- NULL: it waits
    PRIMARY KEY (uid, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX signals_id ON signals (uid, id);

-- What lists are driven by. Each ends with the uid, so that it gives operations in the order of their acceptance; all but
-- the first leave out what most operations are, so that these pay nothing for them.
CREATE INDEX operations_contract ON operations (contract, uid);
CREATE INDEX operations_unsuccessful ON operations (state, uid) WHERE state >= 5;
CREATE INDEX operations_reason ON operations (reason, uid) WHERE reason <> '';
CREATE INDEX operations_owner ON operations (owner, uid) WHERE owner <> 'local';
CREATE INDEX operations_parent ON operations (parent, uid) WHERE parent <> '';

-- The labels of operations once more, by what they are searched for; those without labels have no rows here.
CREATE TABLE labels (
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    uid   BLOB NOT NULL,
    PRIMARY KEY (key, value, uid)
) STRICT, WITHOUT ROWID;
-- A foreign key would need an index by the uid, and that would cost every label a second entry.
CREATE TRIGGER labels_deleted AFTER DELETE ON operations WHEN old.labels <> '{}' BEGIN
    DELETE FROM labels WHERE uid = old.uid AND (key, value) IN (SELECT key, value FROM json_each(old.labels));
END;
