-- How many jobs of a key there are, by what they stand for. One that ends with another holds no place.

DROP INDEX jobs_key;
CREATE INDEX jobs_key ON jobs (queue, key, stand, priority DESC, uid)
    WHERE key <> '' AND ended IS NULL AND deferred = 0;
-- The oldest one that waits.
CREATE INDEX jobs_waiting ON jobs (queue, key, uid) WHERE key <> '' AND stand >= 1;

-- Counted, because there may be very many, and each one that is created asks.
CREATE TABLE job_keys (
    queue TEXT    NOT NULL,
    key   TEXT    NOT NULL CHECK (key <> ''),
    stand INTEGER NOT NULL CHECK (stand BETWEEN 0 AND 3),
    jobs  INTEGER NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (queue, key, stand)
) STRICT, WITHOUT ROWID;
INSERT INTO job_keys (queue, key, stand, jobs)
    SELECT queue, key, stand, count(*) FROM jobs WHERE key <> '' AND ended IS NULL AND deferred = 0
    GROUP BY queue, key, stand;
