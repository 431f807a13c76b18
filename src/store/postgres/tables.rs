//! Accounts and leases: many rows in one statement, by way of arrays.

use std::collections::BTreeMap;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{FromRow, PgConnection, Postgres};

use super::errors::Failure;
use super::turn::{query, query_as};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::HolderId;
use crate::domain::ledger::escrow::{Account, AccountKey, Lease};
use crate::store::StoreError;
use crate::store::rows::{AccountKeyRow, AccountRow, KeyedLeaseRow, state_name};

/// Leases by their keys.
pub(super) type Leases = BTreeMap<(AccountKey, HolderId, u32), Lease>;

/// Accounts by their keys.
pub(super) type Accounts = BTreeMap<AccountKey, Account>;

/// What becomes of an account that another transaction has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Wait for it.
    Wait,
    /// Leave it out.
    Skip,
}

/// The keys of accounts, a column each.
#[derive(Debug, Default)]
pub(super) struct KeyColumns<'a> {
    pub(super) workspace: Vec<&'a str>,
    pub(super) budget: Vec<String>,
    pub(super) generation: Vec<i64>,
    pub(super) dimension: Vec<&'a str>,
    pub(super) target: Vec<&'a str>,
    pub(super) window: Vec<&'a str>,
}

impl<'a> FromIterator<&'a AccountKey> for KeyColumns<'a> {
    fn from_iter<I: IntoIterator<Item = &'a AccountKey>>(keys: I) -> Self {
        let mut columns = Self::default();
        for key in keys {
            columns.workspace.push(key.workspace.as_str());
            columns.budget.push(key.budget.to_string());
            columns.generation.push(key.generation.into());
            columns.dimension.push(key.dimension.as_str());
            columns.target.push(key.target.as_str());
            columns.window.push(&key.window);
        }
        columns
    }
}

impl<'a> KeyColumns<'a> {
    /// Binds the six columns.
    fn bound(self, query: Query<'a, Postgres, PgArguments>) -> Query<'a, Postgres, PgArguments> {
        query
            .bind(self.workspace)
            .bind(self.budget)
            .bind(self.generation)
            .bind(self.dimension)
            .bind(self.target)
            .bind(self.window)
    }
}

#[derive(FromRow)]
struct KeyedAccountRow {
    #[sqlx(flatten)]
    key: AccountKeyRow,
    #[sqlx(flatten)]
    account: AccountRow,
}

impl TryFrom<KeyedAccountRow> for (AccountKey, Account) {
    type Error = StoreError;

    fn try_from(row: KeyedAccountRow) -> Result<Self, StoreError> {
        Ok((row.key.try_into()?, row.account.into()))
    }
}

macro_rules! lock_accounts {
    ($busy:literal) => {
        concat!(
            "SELECT t.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[])
               WITH ORDINALITY AS k(workspace, budget, generation, dimension, target, window_label, n)
             JOIN account t ON t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
               AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
             ORDER BY k.n FOR NO KEY UPDATE OF t",
            $busy
        )
    };
}

/// Locks the accounts that exist, in the order of their keys, and gives them as they are then. Their leases belong to
/// the caller until the transaction ends.
pub(super) async fn lock_accounts<'a>(
    db: &mut PgConnection,
    keys: impl Iterator<Item = &'a AccountKey>,
    busy: Busy,
) -> Result<Accounts, Failure> {
    let statement = match busy {
        Busy::Wait => lock_accounts!(""),
        Busy::Skip => lock_accounts!(" SKIP LOCKED"),
    };
    let mut keys: Vec<_> = keys.collect();
    keys.sort();
    keys.dedup();
    let found = keys.into_iter().collect::<KeyColumns<'_>>().bound(query(statement));
    accounts(found.fetch_all(db).await?.iter())
}

/// The budget's accounts of its generation in the window with this label, and those that count its requests.
pub(super) async fn current_accounts(
    db: &mut PgConnection,
    budget: &Budget,
    label: &str,
) -> Result<Accounts, Failure> {
    let rows = query(
        "SELECT * FROM account WHERE workspace = $1 AND budget = $2
           AND (generation = $3 AND window_label = $4 OR dimension = $5)",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(i64::from(budget.generation))
    .bind(label)
    .bind(Dimension::Requests.as_str())
    .fetch_all(db)
    .await?;
    accounts(rows.iter())
}

fn accounts<'a>(
    rows: impl Iterator<Item = &'a sqlx::postgres::PgRow>,
) -> Result<Accounts, Failure> {
    rows.map(|row| Ok(KeyedAccountRow::from_row(row)?.try_into()?)).collect()
}

/// Writes accounts that are there and locked.
pub(super) async fn save_accounts(
    db: &mut PgConnection,
    accounts: &Accounts,
) -> Result<(), Failure> {
    let column = |of: fn(&Account) -> i64| accounts.values().map(of).collect::<Vec<_>>();
    let statement = query(
        "UPDATE account t SET spent = k.spent, base = k.base, leased = k.leased, forfeited = k.forfeited,
           overdraft = k.overdraft, holders = k.holders, recalls = k.recalls
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[])
              AS k(workspace, budget, generation, dimension, target, window_label, spent, base, leased, forfeited,
                   overdraft, holders, recalls)
         WHERE t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
           AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label",
    );
    accounts
        .keys()
        .collect::<KeyColumns<'_>>()
        .bound(statement)
        .bind(column(|account| account.spent.get()))
        .bind(column(|account| account.base.get()))
        .bind(column(|account| account.leased.get()))
        .bind(column(|account| account.forfeited.get()))
        .bind(column(|account| account.overdraft.get()))
        .bind(column(|account| account.holders.into()))
        .bind(column(|account| account.recalls.into()))
        .execute(db)
        .await?;
    Ok(())
}

/// Those of these leases that are there.
pub(super) async fn load_leases(
    db: &mut PgConnection,
    keys: impl Iterator<Item = &(AccountKey, HolderId, u32)> + Clone,
) -> Result<Leases, Failure> {
    let statement = query(
        "SELECT t.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::bigint[]) AS k(workspace, budget, generation, dimension, target, window_label, holder, epoch)
         JOIN lease t ON t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
           AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
           AND t.holder = k.holder AND t.epoch = k.epoch",
    );
    let rows = with_lease_keys(statement, keys).fetch_all(db).await?;
    rows.iter().map(|row| Ok(KeyedLeaseRow::from_row(row)?.try_into()?)).collect()
}

/// Writes leases, new and old, of accounts that are locked.
pub(super) async fn save_leases(db: &mut PgConnection, leases: &Leases) -> Result<(), Failure> {
    let column = |of: fn(&Lease) -> i64| leases.values().map(of).collect::<Vec<_>>();
    let statement = query(
        "INSERT INTO lease (workspace, budget, generation, dimension, target, window_label, holder, epoch,
           seq, granted, consumed, returned, overrun, expires_at_ms, state, look_at_ms)
         SELECT *, expires_at_ms FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
           $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
           $15::text[])
           AS k(workspace, budget, generation, dimension, target, window_label, holder, epoch, seq, granted, consumed,
                returned, overrun, expires_at_ms, state)
         ON CONFLICT (workspace, budget, generation, dimension, target, window_label, holder, epoch) DO UPDATE
           SET seq = excluded.seq, granted = excluded.granted, consumed = excluded.consumed,
             returned = excluded.returned, overrun = excluded.overrun, state = excluded.state,
             expires_at_ms = excluded.expires_at_ms, look_at_ms = excluded.look_at_ms",
    );
    with_lease_keys(statement, leases.keys())
        .bind(column(|lease| lease.seq.into()))
        .bind(column(|lease| lease.granted.get()))
        .bind(column(|lease| lease.consumed.get()))
        .bind(column(|lease| lease.returned.get()))
        .bind(column(|lease| lease.overrun.get()))
        .bind(column(|lease| lease.expires_at.as_ms()))
        .bind(leases.values().map(|lease| state_name(lease.state)).collect::<Vec<_>>())
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes leases of accounts that are locked.
pub(super) async fn delete_leases(
    db: &mut PgConnection,
    keys: &[(AccountKey, HolderId, u32)],
) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let statement = query(
        "DELETE FROM lease t USING unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],
           $7::text[], $8::bigint[]) AS k(workspace, budget, generation, dimension, target, window_label, holder, epoch)
         WHERE t.workspace = k.workspace AND t.budget = k.budget AND t.generation = k.generation
           AND t.dimension = k.dimension AND t.target = k.target AND t.window_label = k.window_label
           AND t.holder = k.holder AND t.epoch = k.epoch",
    );
    with_lease_keys(statement, keys.iter()).execute(db).await?;
    Ok(())
}

/// Rows of leases by their keys.
pub(super) fn keyed(rows: Vec<KeyedLeaseRow>) -> Result<Leases, StoreError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

fn with_lease_keys<'a>(
    query: Query<'a, Postgres, PgArguments>,
    keys: impl Iterator<Item = &'a (AccountKey, HolderId, u32)> + Clone,
) -> Query<'a, Postgres, PgArguments> {
    keys.clone()
        .map(|(account, ..)| account)
        .collect::<KeyColumns<'_>>()
        .bound(query)
        .bind(keys.clone().map(|(_, holder, _)| holder.to_string()).collect::<Vec<_>>())
        .bind(keys.map(|(.., epoch)| i64::from(*epoch)).collect::<Vec<_>>())
}

/// Leases of these holders, in any state.
pub(super) async fn leases_of(
    db: &mut PgConnection,
    holders: Vec<String>,
) -> Result<Leases, Failure> {
    let rows: Vec<KeyedLeaseRow> = query_as("SELECT * FROM lease WHERE holder || '' = ANY ($1)")
        .bind(holders)
        .fetch_all(db)
        .await?;
    Ok(keyed(rows)?)
}
