-- What the end or the cancel of a job, or the cancel of an operation, brings with it and one transaction had no room for.

CREATE TABLE job_sequels (
    number INTEGER PRIMARY KEY,
    uid    BLOB    NOT NULL CHECK (length(uid) = 16),
    reach  INTEGER NOT NULL CHECK (reach IN (0, 1)),      -- 0: end what is attached to it; 1: cancel what it has created
    reason TEXT    NOT NULL,                              -- why it is cancelled
    after  BLOB    NOT NULL                               -- of those that it has created, which was the last one
) STRICT;
CREATE INDEX job_sequels_uid ON job_sequels (uid);
-- What a job that is run again ends with no more.
CREATE INDEX attachments_target ON attachments (target);
