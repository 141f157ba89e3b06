-- The embedded queue, version 1. All times are Unix milliseconds. Owner: crates/queue/src/sqlite.

-- What waits or is being worked on. A claim is a lease: `holder` says whose, and `due` is then its
-- end; a row whose holder is set and whose due has passed belonged to somebody who died.
CREATE TABLE jobs (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    queue       TEXT    NOT NULL,           -- 'ask' or 'post.<bot>'
    due         INTEGER NOT NULL,           -- not before; while held: end of the lease
    holder      TEXT,                       -- who claims it
    claims      INTEGER NOT NULL DEFAULT 0, -- how often it was claimed: fences late settlements
    attempts    INTEGER NOT NULL DEFAULT 0, -- failed tries
    deaths      INTEGER NOT NULL DEFAULT 0, -- returns without a settlement
    id          TEXT    NOT NULL,           -- event id
    bot         TEXT    NOT NULL,
    event_type  TEXT    NOT NULL,
    room_id     INTEGER,
    message_id  TEXT,
    received_at INTEGER NOT NULL,
    put_back_at INTEGER,
    replay      INTEGER NOT NULL DEFAULT 0,
    body        BLOB    NOT NULL            -- the webhook's bytes, or a reply's JSON
) STRICT;
CREATE INDEX jobs_due ON jobs (queue, due);

-- Who alone may claim from a reply queue, until when.
CREATE TABLE consumers (
    queue   TEXT    PRIMARY KEY,
    holder  TEXT    NOT NULL,
    expires INTEGER NOT NULL,
    tenure  INTEGER NOT NULL
) STRICT;

-- What was given up.
CREATE TABLE dead (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    queue       TEXT    NOT NULL,           -- where it goes when somebody retries it
    step        TEXT    NOT NULL,
    cause       TEXT    NOT NULL,
    error       TEXT    NOT NULL,
    buried_at   INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    id          TEXT    NOT NULL,
    bot         TEXT    NOT NULL,
    event_type  TEXT    NOT NULL,
    room_id     INTEGER,
    message_id  TEXT,
    received_at INTEGER NOT NULL,
    put_back_at INTEGER,
    replay      INTEGER NOT NULL DEFAULT 0,
    body        BLOB    NOT NULL
) STRICT;

-- Every event as it came.
CREATE TABLE archive (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    bot         TEXT    NOT NULL,
    event_type  TEXT    NOT NULL,
    room_id     INTEGER,
    message_id  TEXT,
    received_at INTEGER NOT NULL,
    put_back_at INTEGER,
    replay      INTEGER NOT NULL DEFAULT 0,
    body        BLOB    NOT NULL
) STRICT;
CREATE INDEX archive_received ON archive (received_at);

-- What became of each event: an outcome's JSON, or a mark.
CREATE TABLE outcomes (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    id      TEXT,                           -- event id; null for a mark
    mark    TEXT,
    outcome TEXT
) STRICT;
CREATE INDEX outcomes_at ON outcomes (at);
CREATE INDEX outcomes_id ON outcomes (id);
