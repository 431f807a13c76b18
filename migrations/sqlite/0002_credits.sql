-- Prepaid credits. What is spent of them is an account like any other, of the budget with the id zero.

CREATE TABLE credit (
  workspace TEXT    NOT NULL PRIMARY KEY,
  -- Granted in all, less what expired: the limit of the account.
  granted   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credit_grant (
  workspace     TEXT    NOT NULL,
  id            TEXT    NOT NULL,
  amount        INTEGER NOT NULL CHECK (amount > 0),
  priority      INTEGER NOT NULL,
  expires_at_ms INTEGER,
  reason        TEXT    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  -- Not drawn when the grants were last changed.
  unspent       INTEGER NOT NULL CHECK (unspent BETWEEN 0 AND amount),
  PRIMARY KEY (workspace, id)
) STRICT, WITHOUT ROWID;

-- Most grants are used up or over, and only the others are ever drawn from.
CREATE INDEX credit_grant_open ON credit_grant (workspace) WHERE unspent > 0;

-- One row for each change of a balance, never changed and never deleted: their sum is the balance.
CREATE TABLE credit_entry (
  workspace TEXT    NOT NULL,
  kind      TEXT    NOT NULL,
  -- Of the grant or the settlement that it comes from.
  id        TEXT    NOT NULL,
  -- What the balance grew by; negative where money went.
  amount    INTEGER NOT NULL,
  reason    TEXT    NOT NULL,
  project   TEXT,
  api_key   TEXT,
  model     TEXT,
  -- When it was recorded, so that the past of a balance does not change.
  at_ms     INTEGER NOT NULL,
  PRIMARY KEY (workspace, kind, id)
) STRICT, WITHOUT ROWID;

-- Pages run by time; a balance of the past is a sum over this index alone.
CREATE INDEX credit_entry_time ON credit_entry (workspace, at_ms, kind, id, amount);

CREATE TABLE credit_alert (
  workspace  TEXT    NOT NULL PRIMARY KEY,
  threshold  INTEGER NOT NULL,
  url        TEXT    NOT NULL,
  -- Notices are signed with it, so that it is kept as it is.
  secret     TEXT    NOT NULL,
  watch      TEXT    NOT NULL,
  -- These are of 'telling', otherwise null.
  crossed_balance INTEGER,
  crossed_at_ms   INTEGER,
  attempts        INTEGER,
  due_at_ms       INTEGER
) STRICT, WITHOUT ROWID;
