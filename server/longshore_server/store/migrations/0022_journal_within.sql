-- The step in whose function an entry was recorded: a retry from that step records it anew.

ALTER TABLE journal ADD COLUMN within TEXT NOT NULL DEFAULT '';
