-- A database of schema version 1 as that agent left it: three items of TELEMETRY, two of them frozen.
-- One row per fact about this database: store_id.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- Sequence numbers below next_sequence were given out, even where no block is left.
CREATE TABLE lane (lane INTEGER PRIMARY KEY, next_sequence INTEGER NOT NULL);
-- What is not delivered yet, as ranges. A range with frozen_at is a batch: it is sent as it is,
-- under one id, until the endpoint has it. last is NULL in the range that grows with the lane.
CREATE TABLE pending (id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER, frozen_at REAL);
-- Items the endpoint will never take, one row each.
CREATE TABLE dead_letter (id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL,
    sequence INTEGER NOT NULL, set_aside_at REAL NOT NULL, reason TEXT NOT NULL, item BLOB NOT NULL);
CREATE TABLE privacy_audit (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL,
    action TEXT NOT NULL, details TEXT NOT NULL, prev_hash TEXT NOT NULL, record_hash TEXT NOT NULL);
CREATE TABLE block_critical (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL,
    time_max REAL NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE block_anomaly (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL,
    time_max REAL NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE block_telemetry (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL,
    time_max REAL NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE block_logs (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL,
    time_max REAL NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE block_local (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL,
    time_max REAL NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL);
INSERT INTO meta VALUES ('store_id', '0123456789abcdef');
-- zstd of "1\n2\n3\n" with its checksum.
INSERT INTO block_telemetry VALUES (1, 3, 1.0, 1.0, 6, x'28b52ffd0448310000310a320a330abb08a178');
INSERT INTO pending (lane, first, last, frozen_at) VALUES (3, 1, 2, 1700000000.0);
INSERT INTO pending (lane, first, last, frozen_at) VALUES (3, 3, NULL, NULL);
PRAGMA user_version = 1;
