-- Jobs: private durable work behind operations, in queues.

CREATE TABLE queues (
    name      TEXT    NOT NULL PRIMARY KEY,
    slots     INTEGER NOT NULL CHECK (slots >= 1),               -- how many jobs of one key may be active
    retention INTEGER CHECK (retention > 0),                     -- of ended jobs; NULL: they are kept for ever
    interval  INTEGER NOT NULL CHECK (interval >= 0),            -- between two claims at the queue's rate; 0: no rate
    burst     INTEGER NOT NULL CHECK (burst >= interval),        -- the time whose claims may come at once
    allowed   INTEGER NOT NULL,                                  -- when the next claim is due at an even rate (GCRA)
    paused    INTEGER NOT NULL CHECK (paused IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    uid              BLOB    NOT NULL PRIMARY KEY CHECK (length(uid) = 16),
    queue            TEXT    NOT NULL,
    state            INTEGER NOT NULL CHECK (state BETWEEN 1 AND 11),
    stand            INTEGER NOT NULL CHECK (stand BETWEEN 0 AND 3),  -- what a queued one waits for
    revision         INTEGER NOT NULL CHECK (revision >= 1),
    attempt          INTEGER NOT NULL CHECK (attempt >= 0),      -- the fence: counts on for ever
    failures         INTEGER NOT NULL CHECK (failures >= 0),
    claims           INTEGER NOT NULL CHECK (claims >= 0),       -- attempts that began since one came to an outcome
    priority         INTEGER NOT NULL,
    key              TEXT    NOT NULL,                           -- '': none
    due              INTEGER,                                    -- when a delayed one becomes ready
    deadline         INTEGER,
    created          INTEGER NOT NULL,
    updated          INTEGER NOT NULL CHECK (updated >= created),
    started          INTEGER,                                    -- when the first attempt began
    begun            INTEGER,                                    -- when the latest one did
    ended            INTEGER,
    lease            INTEGER,                                    -- when the attempt is taken away unless it is heard of
    parent           BLOB,                                       -- the operation or the job whose handler created it
    operation        BLOB,                                       -- behind which it works
    detached         INTEGER NOT NULL CHECK (detached IN (0, 1)),    -- the end of its parent does not reach it
    deferred         INTEGER NOT NULL CHECK (deferred IN (0, 1)),    -- it ends with the job that it has attached
    attached         INTEGER NOT NULL CHECK (attached >= 0),     -- how many operations and jobs end with it
    cancel_requested INTEGER,
    cancel_reason    TEXT    NOT NULL,
    reason           TEXT    NOT NULL,                           -- of the error that it ended with
    trace            TEXT    NOT NULL,
    expires          INTEGER CHECK (expires IS NULL OR ended IS NOT NULL),
    CHECK ((ended IS NOT NULL) = (state >= 5)),
    CHECK ((state = 1) = (stand >= 1)),
    CHECK ((stand = 3) = (due IS NOT NULL)),
    CHECK (state NOT IN (2, 3, 4, 5) OR attempt >= 1),
    CHECK (state <> 3 OR cancel_requested IS NOT NULL),
    CHECK (lease IS NULL OR state IN (2, 3)),
    CHECK (deferred = 0 OR state <> 1),
    CHECK (stand <> 2 OR key <> '')
) STRICT, WITHOUT ROWID;

-- Partial all of them: a job pays only for what it has.
CREATE INDEX jobs_live ON jobs (queue, state, uid) WHERE ended IS NULL;
-- The next one to claim; what waits for its key or its time is not in the way.
CREATE INDEX jobs_ready ON jobs (queue, priority DESC, uid) WHERE stand = 1;
CREATE INDEX jobs_key ON jobs (queue, key, stand, priority DESC, uid) WHERE key <> '' AND ended IS NULL;
CREATE INDEX jobs_due ON jobs (due) WHERE due IS NOT NULL;
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND ended IS NULL;
CREATE INDEX jobs_expiry ON jobs (expires) WHERE expires IS NOT NULL;
CREATE INDEX jobs_parent ON jobs (parent) WHERE parent IS NOT NULL AND ended IS NULL;
-- Those that came to no good end, dead letters among them.
CREATE INDEX jobs_unsuccessful ON jobs (state, queue, uid) WHERE state > 5;

-- Apart from the job, because SQLite writes a whole row anew whenever one column changes.
CREATE TABLE job_bodies (
    uid   BLOB    NOT NULL REFERENCES jobs (uid) ON DELETE CASCADE,
    part  INTEGER NOT NULL CHECK (part BETWEEN 1 AND 5),  -- payload, progress, result, error, problem
    codec TEXT    NOT NULL,
    body  BLOB    NOT NULL,
    PRIMARY KEY (uid, part)
) STRICT, WITHOUT ROWID;

-- What ends with a job.
CREATE TABLE attachments (
    uid      BLOB    NOT NULL REFERENCES jobs (uid) ON DELETE CASCADE,
    target   BLOB    NOT NULL,
    kind     INTEGER NOT NULL CHECK (kind IN (1, 2)),     -- operation, job
    progress TEXT    NOT NULL,                            -- how progress goes on to it; '': not at all
    PRIMARY KEY (uid, target)
) STRICT, WITHOUT ROWID;

-- Idempotency keys.
CREATE TABLE job_requests (
    queue      TEXT NOT NULL,
    request_id TEXT NOT NULL,
    uid        BLOB NOT NULL REFERENCES jobs (uid) ON DELETE CASCADE,
    digest     BLOB NOT NULL,                             -- of the payload
    expires    INTEGER,                                   -- NULL: with the job
    PRIMARY KEY (queue, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_requests_uid ON job_requests (uid);

CREATE TRIGGER job_journal_deleted AFTER DELETE ON jobs WHEN old.attempt > 0 BEGIN
    DELETE FROM journal WHERE uid = old.uid;
END;
