-- What nobody is told but this server: page tokens are sealed with it, and outlive the server that made them.
CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO secrets (name, value) VALUES ('pages', randomblob(32));
