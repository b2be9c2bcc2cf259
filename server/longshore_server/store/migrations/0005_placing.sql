-- Whose turn it is at a key, and whose object is garbage.

-- The order of the commits among those that are on their way to their places; 0: not committed.
ALTER TABLE uploads ADD COLUMN turn INTEGER NOT NULL DEFAULT 0 CHECK (turn >= 0);
CREATE INDEX uploads_turn ON uploads (turn) WHERE state = 2;

-- What uploads of deleted operations may have left in stores: removed there once this is durable, and then here.
DROP INDEX uploads_key;
DROP TRIGGER uploads_deleted;
DROP TABLE garbage;
CREATE TABLE garbage (
    id       INTEGER PRIMARY KEY,
    store    TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    uid      BLOB    NOT NULL,               -- the object that came from another upload, or from none, stays
    owned    INTEGER NOT NULL CHECK (owned IN (0, 1)),  -- the object goes; else only what was under way to it
    progress BLOB    NOT NULL                -- how far putting it in its place had come, in the store's own terms
) STRICT;
CREATE TRIGGER uploads_deleted AFTER DELETE ON uploads
WHEN old.state IN (2, 3) AND (old.owned = 1 OR old.progress <> x'') BEGIN
    INSERT INTO garbage (store, key, uid, owned, progress)
    VALUES (old.store, old.key, old.uid, old.owned, old.progress);
END;
