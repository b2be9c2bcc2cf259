-- How many bytes all events up to this one have had, so that a difference says how many are kept.
ALTER TABLE outbox ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
-- Read from here: in the row it comes after a body that may be large.
CREATE INDEX outbox_total ON outbox (total);
