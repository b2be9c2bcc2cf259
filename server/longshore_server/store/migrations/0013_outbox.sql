-- What has happened to jobs and instances, for sinks outside: written with the change that it tells of.

CREATE TABLE outbox (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,           -- their order; no number is given twice
    id         BLOB    NOT NULL CHECK (length(id) = 16),    -- UUIDv7: what receivers tell two deliveries of one by
    time       INTEGER NOT NULL,
    type       TEXT    NOT NULL,                            -- job.started, ...
    subject    TEXT    NOT NULL,                            -- full name of the job or the instance
    definition TEXT    NOT NULL,                            -- its definition, or its queue
    data       TEXT    NOT NULL,                            -- JSON object
    codec      TEXT    NOT NULL,                            -- of the input, state or result; '': no sink asks for them
    body       BLOB    NOT NULL
) STRICT;

CREATE TABLE sinks (
    name      TEXT    NOT NULL PRIMARY KEY,
    delivered INTEGER NOT NULL CHECK (delivered >= 0),      -- the latest event that it has, or will not get
    dropped   INTEGER NOT NULL CHECK (dropped >= 0)         -- how many it did not get, because it was too far behind
) STRICT, WITHOUT ROWID;
