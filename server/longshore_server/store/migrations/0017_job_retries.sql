-- Retries of jobs: from which entry of the journal on, and by which request.

-- In which order one process has recorded what an attempt asked for.
ALTER TABLE journal ADD COLUMN position INTEGER NOT NULL DEFAULT 0;

CREATE TABLE job_retries (
    uid        BLOB NOT NULL PRIMARY KEY REFERENCES jobs (uid) ON DELETE CASCADE,
    request_id TEXT NOT NULL                  -- of the latest retry that had one
) STRICT, WITHOUT ROWID;
