-- What is kept of instances that nothing is left to do for, and for how long already: for the sweeper.

-- Since when it is quiet: terminated, or a debounce that has collected nothing and waits for nothing. NULL: it lives.
ALTER TABLE instances ADD COLUMN quiet INTEGER GENERATED ALWAYS AS (
    CASE WHEN status = 4
           OR (kind = 2 AND status <> 2 AND batch_events = 0 AND waiting = 0 AND dead = 0 AND under_way = 0)
         THEN updated END
) VIRTUAL;
CREATE INDEX instances_quiet ON instances (kind, definition, quiet) WHERE quiet IS NOT NULL;

-- Of a dead letter: when it became one, and whose.
ALTER TABLE instance_entries ADD COLUMN buried INTEGER;
ALTER TABLE instance_entries ADD COLUMN definition TEXT;
UPDATE instance_entries
   SET (buried, definition) = (SELECT updated, definition FROM instances AS i WHERE i.uid = instance_entries.uid)
 WHERE error IS NOT NULL;
CREATE INDEX instance_entries_buried ON instance_entries (definition, buried) WHERE buried IS NOT NULL;
