-- The workspace leads every primary key, and no statement joins two workspaces: the same keys shard by workspace on a
-- larger database. There are no sequences and no foreign keys: the audit trail outlives its budgets.
-- Money is in nano-USD, instants are in milliseconds since 1970, ids of ours are ULIDs: as text they sort by time. Text
-- sorts by its bytes, as it does everywhere else in Bursar.

CREATE TABLE budget (
  workspace            TEXT COLLATE "C" NOT NULL,
  id                   TEXT COLLATE "C" NOT NULL,
  -- Grows when the schedule changes: accounts of two generations are different accounts.
  generation           BIGINT  NOT NULL,
  scope_kind           TEXT    NOT NULL,
  -- '*' stands for every target without a budget of its own.
  target               TEXT COLLATE "C" NOT NULL,
  cost_limit           BIGINT  CHECK (cost_limit >= 0),
  tokens_limit         BIGINT  CHECK (tokens_limit >= 0),
  requests_per_minute  BIGINT  CHECK (requests_per_minute >= 0),
  period               TEXT,
  zone                 TEXT,
  week_start           TEXT,
  is_active            BOOLEAN NOT NULL,
  expires_at_ms        BIGINT,
  shadow               BOOLEAN NOT NULL,
  when_unavailable     TEXT    NOT NULL,
  -- The amount of 'allow_up_to', otherwise null.
  unavailable_cost     BIGINT,
  name                 TEXT,
  created_at_ms        BIGINT  NOT NULL,
  updated_at_ms        BIGINT  NOT NULL,
  -- How often the budget's counters were started anew.
  resets               BIGINT  NOT NULL,
  PRIMARY KEY (workspace, id)
);

-- Two budgets for one scope would be a contradiction that nobody sees.
CREATE UNIQUE INDEX budget_scope ON budget (workspace, scope_kind, target);
-- Listings are newest first.
CREATE INDEX budget_listing ON budget (workspace, updated_at_ms, id);

CREATE TABLE account (
  workspace    TEXT COLLATE "C" NOT NULL,
  budget       TEXT COLLATE "C" NOT NULL,
  generation   BIGINT NOT NULL,
  dimension    TEXT COLLATE "C" NOT NULL,
  target       TEXT COLLATE "C" NOT NULL,
  -- The window's label; empty for one-time budgets and for requests.
  window_label TEXT COLLATE "C" NOT NULL,
  -- May be negative: a correction can give back what an earlier window was charged.
  spent        BIGINT NOT NULL DEFAULT 0,
  base         BIGINT NOT NULL DEFAULT 0,
  -- These cannot be negative. The checks stay on in production: a broken total must stop the batch that breaks it.
  leased       BIGINT NOT NULL DEFAULT 0 CHECK (leased >= 0),
  forfeited    BIGINT NOT NULL DEFAULT 0 CHECK (forfeited >= 0),
  overdraft    BIGINT NOT NULL DEFAULT 0 CHECK (overdraft >= 0),
  holders      BIGINT NOT NULL DEFAULT 0 CHECK (holders >= 0),
  -- How often a holder needed what others had idle, and when it last did.
  recalls      BIGINT NOT NULL DEFAULT 0,
  recalled_at_ms BIGINT,
  PRIMARY KEY (workspace, budget, generation, dimension, target, window_label)
) WITH (fillfactor = 70); -- Room to update a row where it lies.

-- What replicas ask for every second.
CREATE INDEX account_recalled ON account (recalled_at_ms) WHERE recalled_at_ms IS NOT NULL;

-- A lease is written only by who has locked its account.
CREATE TABLE lease (
  workspace     TEXT COLLATE "C" NOT NULL,
  budget        TEXT COLLATE "C" NOT NULL,
  generation    BIGINT NOT NULL,
  dimension     TEXT COLLATE "C" NOT NULL,
  target        TEXT COLLATE "C" NOT NULL,
  window_label  TEXT COLLATE "C" NOT NULL,
  -- The one that opened it, whoever speaks for it now.
  holder        TEXT COLLATE "C" NOT NULL,
  epoch         BIGINT NOT NULL,
  seq           BIGINT NOT NULL,
  granted       BIGINT NOT NULL,
  consumed      BIGINT NOT NULL,
  returned      BIGINT NOT NULL,
  overrun       BIGINT NOT NULL,
  state         TEXT   NOT NULL,
  expires_at_ms BIGINT NOT NULL,
  -- When to look at it: never later than it expires. A renewal moves it only now and then, because it is in an index,
  -- and a row of which no indexed column changes is rewritten where it lies.
  look_at_ms    BIGINT NOT NULL,
  PRIMARY KEY (workspace, budget, generation, dimension, target, window_label, holder, epoch),
  -- More can neither be used nor handed back than was lent.
  CHECK (granted - consumed - returned >= 0)
) WITH (fillfactor = 70);

-- What the sweep looks for. Expired leases on money and tokens wait for their holders, not for time, and would only
-- be in the way.
CREATE INDEX lease_due ON lease (state, look_at_ms) WHERE state <> 'expired' OR dimension = 'requests';
-- What a restarted replica looks for. By an expression, so that it is used where it is asked for and nowhere else: a
-- planner that has not seen a holder yet takes it for one of few leases, and would look each of its leases up among all.
CREATE INDEX lease_holder ON lease ((holder || ''));

-- Holders that a restarted process took over. What they still send is refused. There is a row for each restart, until a day
-- has passed and the holder has no lease left.
CREATE TABLE takeover (
  holder          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  -- Who speaks for its leases.
  successor       TEXT COLLATE "C" NOT NULL,
  -- None of its leases expires before that.
  spared_until_ms BIGINT NOT NULL
);

-- The audit trail: one row for each report, never changed and never deleted.
CREATE TABLE settlement (
  workspace    TEXT COLLATE "C" NOT NULL,
  id           TEXT COLLATE "C" NOT NULL,
  -- The order of recording among the settlements of one reservation, in which they are read.
  ordinal      BIGINT NOT NULL,
  project      TEXT,
  identity     TEXT,
  api_key      TEXT,
  provider     TEXT,
  subject_model TEXT,
  reservation  TEXT COLLATE "C",
  certainty    TEXT   NOT NULL,
  cost         BIGINT NOT NULL,
  tokens       BIGINT NOT NULL,
  -- Null where token counts were not reported.
  input        BIGINT,
  cached       BIGINT,
  cache_write  BIGINT,
  -- The part of cache_write that is kept for an hour.
  cache_write_1h BIGINT,
  output       BIGINT,
  reasoning    BIGINT,
  -- The model that was priced, which may differ from the one that was asked for.
  model        TEXT,
  rates        TEXT,
  at_ms        BIGINT NOT NULL,
  PRIMARY KEY (workspace, id)
);

CREATE INDEX settlement_reservation ON settlement (workspace, reservation, ordinal) WHERE reservation IS NOT NULL;

-- What each account was charged by a settlement.
CREATE TABLE usage_event (
  workspace     TEXT COLLATE "C" NOT NULL,
  settlement_id TEXT COLLATE "C" NOT NULL,
  budget        TEXT COLLATE "C" NOT NULL,
  generation    BIGINT NOT NULL,
  dimension     TEXT COLLATE "C" NOT NULL,
  target        TEXT COLLATE "C" NOT NULL,
  window_label  TEXT COLLATE "C" NOT NULL,
  -- Negative where a correction gives back.
  amount        BIGINT NOT NULL,
  kind          TEXT   NOT NULL,
  at_ms         BIGINT NOT NULL,
  road          TEXT   NOT NULL,
  PRIMARY KEY (workspace, settlement_id, budget, generation, dimension, target, window_label)
);

-- A budget whose schedule changed starts its new window from the events inside it.
CREATE INDEX usage_event_seed ON usage_event (workspace, budget, dimension, at_ms);

CREATE TABLE api_key (
  workspace     TEXT COLLATE "C" NOT NULL,
  id            TEXT COLLATE "C" NOT NULL,
  project       TEXT,
  name          TEXT   NOT NULL,
  -- SHA-256 of the secret, which is kept nowhere.
  hash          BYTEA  NOT NULL,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (workspace, id)
);

-- A secret is looked up before its workspace is known.
CREATE UNIQUE INDEX api_key_hash ON api_key (hash);

-- Prepaid credits. What is spent of them is an account like any other, of the budget with the id zero.
CREATE TABLE credit (
  workspace TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  -- Granted in all, less what expired: the limit of the account.
  granted   BIGINT NOT NULL
);

CREATE TABLE credit_grant (
  workspace     TEXT COLLATE "C" NOT NULL,
  id            TEXT COLLATE "C" NOT NULL,
  amount        BIGINT NOT NULL CHECK (amount > 0),
  priority      BIGINT NOT NULL,
  expires_at_ms BIGINT,
  reason        TEXT   NOT NULL,
  created_at_ms BIGINT NOT NULL,
  -- Not drawn when the grants were last changed.
  unspent       BIGINT NOT NULL CHECK (unspent BETWEEN 0 AND amount),
  PRIMARY KEY (workspace, id)
);

-- Most grants are used up or over, and only the others are ever drawn from.
CREATE INDEX credit_grant_open ON credit_grant (workspace) WHERE unspent > 0;

-- One row for each change of a balance, never changed and never deleted: their sum is the balance.
CREATE TABLE credit_entry (
  workspace TEXT COLLATE "C" NOT NULL,
  kind      TEXT COLLATE "C" NOT NULL,
  -- Of the grant or the settlement that it comes from.
  id        TEXT COLLATE "C" NOT NULL,
  -- What the balance grew by; negative where money went.
  amount    BIGINT NOT NULL,
  reason    TEXT   NOT NULL,
  project   TEXT COLLATE "C",
  api_key   TEXT COLLATE "C",
  model     TEXT COLLATE "C",
  -- When it was recorded, so that the past of a balance does not change.
  at_ms     BIGINT NOT NULL,
  PRIMARY KEY (workspace, kind, id)
);

-- Pages run by time; a balance of the past is a sum over this index alone.
CREATE INDEX credit_entry_time ON credit_entry (workspace, at_ms, kind, id) INCLUDE (amount);

CREATE TABLE credit_alert (
  workspace  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  threshold  BIGINT NOT NULL,
  url        TEXT   NOT NULL,
  -- Notices are signed with it, so that it is kept as it is.
  secret     TEXT   NOT NULL,
  watch      TEXT   NOT NULL,
  -- These are of 'telling', otherwise null.
  crossed_balance BIGINT,
  crossed_at_ms   BIGINT,
  attempts        BIGINT,
  due_at_ms       BIGINT
);

-- What replicas tell each other. One row for each workspace whose budgets, credits or keys were ever changed; who
-- changes them locks it first.
CREATE TABLE change (
  workspace     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  count         BIGINT NOT NULL,
  changed_at_ms BIGINT NOT NULL
);

-- What tells a change from another of the same number, which a database that was set back comes to again. A row goes a day after
-- another change followed.
CREATE TABLE change_mark (
  workspace      TEXT COLLATE "C" NOT NULL,
  count          BIGINT NOT NULL,
  mark           TEXT COLLATE "C" NOT NULL,
  followed_at_ms BIGINT,
  PRIMARY KEY (workspace, count)
);

CREATE INDEX change_mark_followed ON change_mark (followed_at_ms) WHERE followed_at_ms IS NOT NULL;

CREATE INDEX change_time ON change (changed_at_ms);

-- Which of those changes was the last of each budget, so that replicas read no more than what changed since they last did.
CREATE TABLE budget_change (
  workspace     TEXT COLLATE "C" NOT NULL,
  budget        TEXT COLLATE "C" NOT NULL,
  count         BIGINT NOT NULL,
  -- Of a budget that is gone; its row goes a day later.
  deleted_at_ms BIGINT,
  PRIMARY KEY (workspace, budget)
);

CREATE INDEX budget_change_count ON budget_change (workspace, count);
CREATE INDEX budget_change_deleted ON budget_change (deleted_at_ms) WHERE deleted_at_ms IS NOT NULL;

-- Usage that reached a replica which does not hold the reservation.
CREATE TABLE handoff (
  workspace     TEXT COLLATE "C" NOT NULL,
  reservation   TEXT COLLATE "C" NOT NULL,
  settlement_id TEXT COLLATE "C" NOT NULL,
  -- The first part of the reservation: who is to settle it.
  holder        TEXT COLLATE "C" NOT NULL,
  -- In the engine's words; empty once it is settled.
  report        BYTEA   NOT NULL,
  is_settled    BOOLEAN NOT NULL,
  -- When it was written, or last given to a replica that is not its holder.
  since_ms      BIGINT  NOT NULL,
  -- When it was last given so.
  given_ms      BIGINT,
  PRIMARY KEY (workspace, reservation, settlement_id)
);

CREATE INDEX handoff_holder ON handoff (holder) WHERE NOT is_settled;
CREATE INDEX handoff_since ON handoff (is_settled, since_ms);

-- One row that is written to find out whether the database can be written.
CREATE TABLE heartbeat (
  id    BIGINT PRIMARY KEY CHECK (id = 1),
  beats BIGINT NOT NULL
) WITH (fillfactor = 10);

INSERT INTO heartbeat (id, beats) VALUES (1, 0);
