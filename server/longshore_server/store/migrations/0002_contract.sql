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
