-- What the handlers of instances have logged is kept as it is of operations and jobs.

-- Of an instance, which run has logged it; '': an operation or a job.
ALTER TABLE logs ADD COLUMN run TEXT NOT NULL DEFAULT '';

CREATE TRIGGER instance_logs_deleted AFTER DELETE ON instances BEGIN
    DELETE FROM logbooks WHERE uid = old.uid;
END;
