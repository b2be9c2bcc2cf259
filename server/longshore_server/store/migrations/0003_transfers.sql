-- The bytes of operations: what callers send, and what they fetch. The bytes themselves are in files and stores.

-- How many uploads and downloads an operation has: most have none, and then nobody looks for them.
ALTER TABLE operations ADD COLUMN transfers INTEGER NOT NULL DEFAULT 0 CHECK (transfers >= 0);

CREATE TABLE uploads (
    uid              BLOB    NOT NULL PRIMARY KEY REFERENCES operations (uid) ON DELETE CASCADE,
    store            TEXT    NOT NULL,
    key              TEXT    NOT NULL,
    content_type     TEXT    NOT NULL,
    metadata         TEXT    NOT NULL,       -- JSON object of strings
    max_bytes        INTEGER NOT NULL CHECK (max_bytes >= 0),   -- 0: no bound is declared
    expiry           INTEGER NOT NULL CHECK (expiry > 0),       -- how long it may go without a byte
    require_checksum INTEGER NOT NULL CHECK (require_checksum IN (0, 1)),
    refuse_existing  INTEGER NOT NULL CHECK (refuse_existing IN (0, 1)),
    drop_mismatch    INTEGER NOT NULL CHECK (drop_mismatch IN (0, 1)),
    owned            INTEGER NOT NULL CHECK (owned IN (0, 1)),  -- the object is deleted with the operation
    state            INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),
    parts            TEXT    NOT NULL,       -- JSON array: how many bytes of each part are durable
    expires          INTEGER CHECK ((expires IS NULL) = (state <> 1)),
    total            INTEGER CHECK (total >= 0),
    sha256           BLOB    NOT NULL,       -- empty before the commit
    crc32c           INTEGER NOT NULL,
    reason           TEXT    NOT NULL,       -- why it failed
    progress         BLOB    NOT NULL,       -- how far putting it in its place has come, in the store's own terms
    ended            INTEGER,
    CHECK ((state IN (3, 4)) = (ended IS NOT NULL)),
    CHECK (state NOT IN (2, 3) OR (total IS NOT NULL AND length(sha256) = 32)),
    CHECK ((state = 4) = (reason <> ''))
) STRICT, WITHOUT ROWID;
-- What start-up goes on with, and what is due.
CREATE INDEX uploads_open ON uploads (expires, uid) WHERE state <= 2;
-- Which of the uploads to one key came last.
CREATE INDEX uploads_key ON uploads (store, key, ended) WHERE state = 3;

CREATE TABLE downloads (
    uid          BLOB    NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    number       INTEGER NOT NULL CHECK (number >= 1),
    store        TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    filename     TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    size         INTEGER CHECK (size >= 0),  -- NULL: the object was not there yet
    sha256       BLOB    NOT NULL,
    crc32c       INTEGER,
    url          TEXT    NOT NULL,
    expires      INTEGER NOT NULL,
    max_uses     INTEGER NOT NULL CHECK (max_uses >= 0),
    revoked      INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    PRIMARY KEY (uid, number)
) STRICT, WITHOUT ROWID;

-- Only where uses are counted.
CREATE TABLE download_uses (
    uid    BLOB    NOT NULL,
    number INTEGER NOT NULL,
    use_id TEXT    NOT NULL,
    PRIMARY KEY (uid, number, use_id),
    FOREIGN KEY (uid, number) REFERENCES downloads (uid, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Objects whose operation is gone: deleted from their stores once this is durable, and then here.
CREATE TABLE garbage (
    id     INTEGER PRIMARY KEY,
    store  TEXT NOT NULL,
    key    TEXT NOT NULL,
    sha256 BLOB NOT NULL                     -- of the object that is meant: another that has taken the key stays
) STRICT;
CREATE TRIGGER uploads_deleted AFTER DELETE ON uploads WHEN old.owned = 1 AND old.state = 3 AND NOT EXISTS (
    SELECT 1 FROM uploads AS u WHERE u.store = old.store AND u.key = old.key AND u.state = 3 AND u.ended >= old.ended
) BEGIN
    INSERT INTO garbage (store, key, sha256) VALUES (old.store, old.key, old.sha256);
END;
