-- Operations, their inputs, their event logs and their journals.
--
-- Times are microseconds since the Unix epoch. Uids are UUIDv7 in 16 bytes: every table is clustered by them, because
-- random keys cost more than half of the write throughput.

CREATE TABLE boots (
    epoch   INTEGER PRIMARY KEY,          -- counts the starts of the server on this file
    started INTEGER NOT NULL,
    stopped INTEGER,                      -- NULL: this server is alive, or died without a word
    apart   INTEGER NOT NULL DEFAULT 0 CHECK (apart IN (0, 1))  -- suspects of a crash are being run apart
) STRICT;

CREATE TABLE operations (
    uid               BLOB    NOT NULL PRIMARY KEY CHECK (length(uid) = 16),
    id                TEXT    NOT NULL,   -- public id: from the template, else the uid's text
    type              TEXT    NOT NULL,
    state             INTEGER NOT NULL CHECK (state BETWEEN 1 AND 6),
    revision          INTEGER NOT NULL CHECK (revision >= 1),
    sequence          INTEGER NOT NULL CHECK (sequence >= 1),
    first_sequence    INTEGER NOT NULL CHECK (first_sequence BETWEEN 1 AND sequence),
    progress_sequence INTEGER CHECK (progress_sequence BETWEEN 1 AND sequence),
    attempt           INTEGER NOT NULL CHECK (attempt >= 0),
    crashes           INTEGER NOT NULL CHECK (crashes >= 0),
    under_way         INTEGER NOT NULL CHECK (under_way IN (0, 1)),  -- an attempt runs: a crash now counts against it
    begun             INTEGER,            -- when the latest attempt began
    created           INTEGER NOT NULL,
    updated           INTEGER NOT NULL CHECK (updated >= created),
    started           INTEGER CHECK (started >= created),
    ended             INTEGER CHECK (ended >= created),
    deadline          INTEGER,
    cancel_requested  INTEGER,
    cancel_reason     TEXT    NOT NULL,
    labels            TEXT    NOT NULL,   -- JSON object of strings, keys sorted
    owner             TEXT    NOT NULL,
    request_id        TEXT    NOT NULL,   -- '': none
    parent            TEXT    NOT NULL,   -- name of the operation whose handler started it; '': none
    CHECK ((ended IS NOT NULL) = (state >= 4)),
    CHECK ((attempt = 0) = (started IS NULL)),
    CHECK ((attempt = 0) = (begun IS NULL)),
    CHECK (state <> 1 OR attempt = 0),
    CHECK (state NOT IN (2, 3, 4) OR attempt >= 1),
    CHECK (state <> 3 OR cancel_requested IS NOT NULL),
    CHECK (under_way = 0 OR state IN (2, 3))
) STRICT, WITHOUT ROWID;

-- What start-up recovers: without it, a start would read every operation ever kept.
CREATE INDEX operations_live ON operations (uid) WHERE ended IS NULL;

-- Apart from the operation, because SQLite writes a whole row anew whenever one column changes.
CREATE TABLE inputs (
    uid  BLOB NOT NULL PRIMARY KEY REFERENCES operations (uid) ON DELETE CASCADE,
    body BLOB NOT NULL                    -- the input message, serialized
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    uid      BLOB    NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    type     INTEGER NOT NULL,
    body     BLOB    NOT NULL,            -- longshore.v1.OperationEvent, the bytes that every watcher gets
    PRIMARY KEY (uid, sequence)
) STRICT, WITHOUT ROWID;

-- Which operation a template name means now.
CREATE TABLE names (
    id     TEXT NOT NULL PRIMARY KEY,
    uid    BLOB NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    digest BLOB NOT NULL                  -- of the input and the labels that it was started with
) STRICT, WITHOUT ROWID;
CREATE INDEX names_uid ON names (uid);

-- Idempotency keys live and die with their operation.
CREATE TABLE requests (
    owner      TEXT NOT NULL,
    type       TEXT NOT NULL,
    request_id TEXT NOT NULL,
    uid        BLOB NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    digest     BLOB NOT NULL,
    PRIMARY KEY (owner, type, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_uid ON requests (uid);

-- What durable awaits of a handler have recorded: a re-run gets these outcomes instead of doing the work again.
CREATE TABLE journal (
    uid        BLOB    NOT NULL REFERENCES operations (uid) ON DELETE CASCADE,
    kind       TEXT    NOT NULL,          -- step, sleep, child
    name       TEXT    NOT NULL,
    occurrence INTEGER NOT NULL CHECK (occurrence >= 0),
    attempt    INTEGER NOT NULL CHECK (attempt >= 1),
    recorded   INTEGER NOT NULL,
    digest     BLOB    NOT NULL,          -- of what was asked
    asked      TEXT    NOT NULL,          -- what was asked, for people, cut short
    codec      TEXT    NOT NULL,
    outcome    BLOB    NOT NULL,
    PRIMARY KEY (uid, kind, name, occurrence)
) STRICT, WITHOUT ROWID;
