-- Durable instances: recurring, debounce, task. Each runs one handler at a time.

CREATE TABLE instances (
    uid           BLOB    NOT NULL PRIMARY KEY CHECK (length(uid) = 16),
    kind          INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 3),     -- recurring, debounce, task
    definition    TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    owner         TEXT    NOT NULL,          -- who began this generation
    generation    INTEGER NOT NULL CHECK (generation >= 1),
    status        INTEGER NOT NULL CHECK (status BETWEEN 1 AND 4),   -- ACTIVE, PAUSED, FAILED, TERMINATED
    revision      INTEGER NOT NULL CHECK (revision >= 1),
    version       INTEGER NOT NULL CHECK (version >= 0),             -- counts the changes of the state
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL CHECK (updated >= created),
    accepted      INTEGER NOT NULL CHECK (accepted >= 0),            -- number of the latest entry
    waiting       INTEGER NOT NULL CHECK (waiting >= 0),             -- entries that no handler has come to an end with
    dead          INTEGER NOT NULL CHECK (dead >= 0),                -- batches that were given up, and are kept
    events        INTEGER NOT NULL CHECK (events >= 0),
    runs          INTEGER NOT NULL CHECK (runs >= 0),
    batch_events  INTEGER NOT NULL CHECK (batch_events >= 0),        -- of a debounce's open batch; 0: there is none
    batch_started INTEGER NOT NULL,
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    crashes       INTEGER NOT NULL CHECK (crashes >= 0),
    fence         INTEGER NOT NULL CHECK (fence >= 0),               -- counts the handlers that have begun
    under_way     INTEGER NOT NULL CHECK (under_way IN (0, 1)),
    begun         INTEGER,                   -- when the first attempt at the work began
    work_entry    INTEGER,                   -- what is being done, or will be again: an entry,
    work_timer    TEXT,                      -- or a timer that has fired
    planned       INTEGER,                   -- for when that was due
    retry_at      INTEGER,
    timers        TEXT    NOT NULL,          -- JSON object: when each fires, by name
    due           INTEGER,                   -- when a handler is to begin; NULL: nothing is to be done
    reason        TEXT    NOT NULL,          -- why it was terminated
    error         BLOB,                      -- google.rpc.Status of the latest failure
    CHECK (due IS NULL OR (status = 1 AND under_way = 0)),
    CHECK (under_way = 0 OR status IN (1, 2)),
    CHECK (under_way = 0 OR work_entry IS NOT NULL OR work_timer IS NOT NULL),
    CHECK (work_entry IS NULL OR work_timer IS NULL),
    CHECK (status <> 3 OR error IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX instances_name ON instances (kind, definition, id);
CREATE INDEX instances_definition ON instances (kind, definition);  -- and by uid, which every index ends with
-- What is due next is one look, however many wait.
CREATE INDEX instances_due ON instances (due) WHERE due IS NOT NULL;
CREATE INDEX instances_under_way ON instances (uid) WHERE under_way = 1;

-- Apart from the instance, because SQLite writes a whole row anew whenever one column changes.
CREATE TABLE instance_states (
    uid   BLOB NOT NULL PRIMARY KEY,
    codec TEXT NOT NULL,
    body  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- What is accepted and not done yet, in order: starts, triggers, events of tasks, sealed batches.
CREATE TABLE instance_entries (
    uid      BLOB    NOT NULL,
    number   INTEGER NOT NULL CHECK (number >= 1),
    type     INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    codec    TEXT    NOT NULL,               -- '': it carries nothing
    body     BLOB    NOT NULL,
    events   INTEGER NOT NULL,               -- of a batch: how many it holds,
    started  INTEGER NOT NULL,               -- when the first of them came,
    cause    INTEGER NOT NULL,               -- and why it was sealed
    error    BLOB,                           -- google.rpc.Status; not NULL: it is a dead letter
    PRIMARY KEY (uid, number)
) STRICT, WITHOUT ROWID;

-- The latest ids of events, so that one sent twice counts once.
CREATE TABLE instance_event_ids (
    uid      BLOB    NOT NULL,
    event_id TEXT    NOT NULL,
    number   INTEGER NOT NULL,               -- of the entry, or of the event in a debounce
    digest   BLOB    NOT NULL,
    PRIMARY KEY (uid, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX instance_event_ids_number ON instance_event_ids (uid, number);

CREATE TRIGGER instances_deleted AFTER DELETE ON instances BEGIN
    DELETE FROM instance_states WHERE uid = old.uid;
    DELETE FROM instance_entries WHERE uid = old.uid;
    DELETE FROM instance_event_ids WHERE uid = old.uid;
END;
