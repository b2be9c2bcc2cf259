-- What operators look jobs up by, and what became of the attempts before the latest one.

-- What lists are driven by, besides the indexes of 0008. Each ends with the uid, so that it gives jobs in the order of
-- their creation; all but the first leave out what most jobs do not have.
CREATE INDEX jobs_queue ON jobs (queue, uid);
CREATE INDEX jobs_keyed ON jobs (queue, key, uid) WHERE key <> '';
CREATE INDEX jobs_operation ON jobs (operation, uid) WHERE operation IS NOT NULL;
CREATE INDEX jobs_reason ON jobs (reason, uid) WHERE reason <> '';

-- Written where another attempt is to follow: what the last one came to is in the job itself.
CREATE TABLE job_attempts (
    uid     BLOB    NOT NULL REFERENCES jobs (uid) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    begun   INTEGER NOT NULL,
    ended   INTEGER NOT NULL,
    outcome INTEGER NOT NULL CHECK (outcome BETWEEN 3 AND 7),
    error   BLOB    NOT NULL,                             -- google.rpc.Status, serialized; empty: none
    problem TEXT    NOT NULL,                             -- what its code raised, for operators
    PRIMARY KEY (uid, attempt)
) STRICT, WITHOUT ROWID;
