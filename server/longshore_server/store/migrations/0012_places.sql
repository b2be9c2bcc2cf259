-- Where stores keep their objects, by the mark that each such place bears: by its absence a disk is missed that is away.
CREATE TABLE places (
    store TEXT NOT NULL PRIMARY KEY,
    mark  TEXT NOT NULL CHECK (length(mark) = 32)
) STRICT, WITHOUT ROWID;
