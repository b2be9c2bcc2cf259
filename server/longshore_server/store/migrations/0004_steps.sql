-- Steps: how long they took, and which of them another operation has done.

-- When its function was called for the first time in the attempt that recorded it; NULL: no step, or older than this.
ALTER TABLE journal ADD COLUMN started INTEGER;
-- Recorded by the operation that this one repeats.
ALTER TABLE journal ADD COLUMN kept INTEGER NOT NULL DEFAULT 0 CHECK (kept IN (0, 1));
