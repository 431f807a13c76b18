-- The workspace leads every primary key, and no statement joins two workspaces: the same keys shard by workspace on a
-- larger database. There are no foreign keys: the audit trail outlives its budgets.
-- Money is in nano-USD, instants are in milliseconds since 1970, ids of ours are ULIDs: as text they sort by time.

CREATE TABLE budget (
  workspace            TEXT    NOT NULL,
  id                   TEXT    NOT NULL,
  -- Grows when the schedule changes: accounts of two generations are different accounts.
  generation           INTEGER NOT NULL,
  scope_kind           TEXT    NOT NULL,
  -- '*' stands for every target without a budget of its own.
  target               TEXT    NOT NULL,
  cost_limit           INTEGER CHECK (cost_limit >= 0),
  tokens_limit         INTEGER CHECK (tokens_limit >= 0),
  requests_per_minute  INTEGER CHECK (requests_per_minute >= 0),
  period               TEXT,
  zone                 TEXT,
  week_start           TEXT,
  is_active            INTEGER NOT NULL,
  expires_at_ms        INTEGER,
  shadow               INTEGER NOT NULL,
  when_unavailable     TEXT    NOT NULL,
  -- The amount of 'allow_up_to', otherwise null.
  unavailable_cost     INTEGER,
  name                 TEXT,
  created_at_ms        INTEGER NOT NULL,
  updated_at_ms        INTEGER NOT NULL,
  PRIMARY KEY (workspace, id)
) STRICT, WITHOUT ROWID;

-- Two budgets for one scope would be a contradiction that nobody sees.
CREATE UNIQUE INDEX budget_scope ON budget (workspace, scope_kind, target);
-- Listings are newest first.
CREATE INDEX budget_listing ON budget (workspace, updated_at_ms, id);

CREATE TABLE account (
  workspace  TEXT    NOT NULL,
  budget     TEXT    NOT NULL,
  generation INTEGER NOT NULL,
  dimension  TEXT    NOT NULL,
  target     TEXT    NOT NULL,
  -- The window's label; empty for one-time budgets and for requests.
  window_label TEXT NOT NULL,
  -- May be negative: a correction can give back what an earlier window was charged.
  spent      INTEGER NOT NULL,
  base       INTEGER NOT NULL,
  -- These cannot be negative. The checks stay on in production: a broken total must stop the batch that breaks it.
  leased     INTEGER NOT NULL CHECK (leased >= 0),
  forfeited  INTEGER NOT NULL CHECK (forfeited >= 0),
  overdraft  INTEGER NOT NULL CHECK (overdraft >= 0),
  holders    INTEGER NOT NULL CHECK (holders >= 0),
  PRIMARY KEY (workspace, budget, generation, dimension, target, window_label)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease (
  workspace     TEXT    NOT NULL,
  budget        TEXT    NOT NULL,
  generation    INTEGER NOT NULL,
  dimension     TEXT    NOT NULL,
  target        TEXT    NOT NULL,
  window_label  TEXT    NOT NULL,
  -- The one that opened it, whoever speaks for it now.
  holder        TEXT    NOT NULL,
  epoch         INTEGER NOT NULL,
  seq           INTEGER NOT NULL,
  granted       INTEGER NOT NULL,
  consumed      INTEGER NOT NULL,
  returned      INTEGER NOT NULL,
  overrun       INTEGER NOT NULL,
  state         TEXT    NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  PRIMARY KEY (workspace, budget, generation, dimension, target, window_label, holder, epoch),
  -- More can neither be used nor handed back than was lent.
  CHECK (granted - consumed - returned >= 0)
) STRICT, WITHOUT ROWID;

-- What the sweep looks for. Expired leases on money and tokens wait for their holders, not for time, and would only
-- be in the way.
CREATE INDEX lease_due ON lease (state, expires_at_ms) WHERE state <> 'expired' OR dimension = 'requests';
-- What a restarted replica looks for.
CREATE INDEX lease_holder ON lease (holder);

-- Holders that a restarted process took over. What they still send is refused. There is a row for each restart, until a day
-- has passed and the holder has no lease left.
CREATE TABLE takeover (
  holder          TEXT    NOT NULL PRIMARY KEY,
  -- Who speaks for its leases.
  successor       TEXT    NOT NULL,
  -- None of its leases expires before that.
  spared_until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The audit trail: one row for each report, never changed and never deleted. It has a rowid, because the order of
-- recording is the order in which the settlements of a reservation are read.
CREATE TABLE settlement (
  workspace    TEXT    NOT NULL,
  id           TEXT    NOT NULL,
  project      TEXT,
  identity     TEXT,
  api_key      TEXT,
  provider     TEXT,
  subject_model TEXT,
  reservation  TEXT,
  certainty    TEXT    NOT NULL,
  cost         INTEGER NOT NULL,
  tokens       INTEGER NOT NULL,
  -- Null where token counts were not reported.
  input        INTEGER,
  cached       INTEGER,
  cache_write  INTEGER,
  -- The part of cache_write that is kept for an hour.
  cache_write_1h INTEGER,
  output       INTEGER,
  reasoning    INTEGER,
  -- The model that was priced, which may differ from the one that was asked for.
  model        TEXT,
  rates        TEXT,
  at_ms        INTEGER NOT NULL,
  PRIMARY KEY (workspace, id)
) STRICT;

CREATE INDEX settlement_reservation ON settlement (workspace, reservation) WHERE reservation IS NOT NULL;

-- What each account was charged by a settlement.
CREATE TABLE usage_event (
  workspace     TEXT    NOT NULL,
  settlement_id TEXT    NOT NULL,
  budget        TEXT    NOT NULL,
  generation    INTEGER NOT NULL,
  dimension     TEXT    NOT NULL,
  target        TEXT    NOT NULL,
  window_label  TEXT    NOT NULL,
  -- Negative where a correction gives back.
  amount        INTEGER NOT NULL,
  kind          TEXT    NOT NULL,
  at_ms         INTEGER NOT NULL,
  road          TEXT    NOT NULL,
  PRIMARY KEY (workspace, settlement_id, budget, generation, dimension, target, window_label)
) STRICT, WITHOUT ROWID;

-- A budget whose schedule changed starts its new window from the events inside it.
CREATE INDEX usage_event_seed ON usage_event (workspace, budget, dimension, at_ms);

CREATE TABLE api_key (
  workspace     TEXT    NOT NULL,
  id            TEXT    NOT NULL,
  project       TEXT,
  name          TEXT    NOT NULL,
  -- SHA-256 of the secret, which is kept nowhere.
  hash          BLOB    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (workspace, id)
) STRICT, WITHOUT ROWID;

-- A secret is looked up before its workspace is known.
CREATE UNIQUE INDEX api_key_hash ON api_key (hash);

-- One row that is written to find out whether the database can be written.
CREATE TABLE heartbeat (
  id    INTEGER PRIMARY KEY CHECK (id = 1),
  beats INTEGER NOT NULL
) STRICT;

INSERT INTO heartbeat (id, beats) VALUES (1, 0);
