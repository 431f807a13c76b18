//! Accounts and leases: many rows in one statement, by way of JSON arrays, because a batch has hundreds of them and
//! each statement is a turn of SQLite's thread.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{FromRow, SqliteConnection};

use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::HolderId;
use crate::domain::ledger::escrow::{Account, AccountKey, Lease};
use crate::store::StoreError;
use crate::store::posting::LeaseKey;
use crate::store::rows::{AccountKeyRow, AccountRow, LeaseRow, state_name};

const LOAD_ACCOUNTS: &str = "SELECT asked.key AS place, spent, base, leased, forfeited, overdraft, holders, recalls
         FROM json_each(?1) AS asked CROSS JOIN account
         WHERE workspace = asked.value ->> 0 AND budget = asked.value ->> 1 AND generation = asked.value ->> 2
           AND dimension = asked.value ->> 3 AND target = asked.value ->> 4 AND window_label = asked.value ->> 5";
const LOAD_LEASES: &str =
    "SELECT asked.key AS place, seq, granted, consumed, returned, overrun, state, expires_at_ms
         FROM json_each(?1) AS asked CROSS JOIN lease
         WHERE workspace = asked.value ->> '$[0][0]' AND budget = asked.value ->> '$[0][1]'
           AND generation = asked.value ->> '$[0][2]' AND dimension = asked.value ->> '$[0][3]'
           AND target = asked.value ->> '$[0][4]' AND window_label = asked.value ->> '$[0][5]'
           AND holder = asked.value ->> 1 AND epoch = asked.value ->> 2";
/// Row by row, because SQLite would look a list of such long keys up by their first two columns only.
const DELETE_LEASE: &str = "DELETE FROM lease
         WHERE workspace = ?1 AND budget = ?2 AND generation = ?3 AND dimension = ?4 AND target = ?5
           AND window_label = ?6 AND holder = ?7 AND epoch = ?8";

/// What every batch and every sweep runs.
#[cfg(test)]
pub(super) const HOT: [&str; 3] = [LOAD_ACCOUNTS, LOAD_LEASES, DELETE_LEASE];

/// A row that was found, with the place of its key in the array of those that were asked for.
#[derive(FromRow)]
struct Found<T> {
    place: i64,
    #[sqlx(flatten)]
    row: T,
}

#[derive(FromRow)]
struct KeyedAccountRow {
    #[sqlx(flatten)]
    key: AccountKeyRow,
    #[sqlx(flatten)]
    account: AccountRow,
}

/// Fills in the accounts that exist.
pub(super) async fn load_accounts<K: Borrow<AccountKey>>(
    db: &mut SqliteConnection,
    accounts: &mut BTreeMap<K, Option<Account>>,
) -> Result<(), StoreError> {
    let keys: Value = accounts.keys().map(|key| account_key_json(key.borrow())).collect();
    let found: Vec<Found<AccountRow>> =
        sqlx::query_as(LOAD_ACCOUNTS).bind(keys.to_string()).fetch_all(db).await?;
    let mut places: Vec<_> = accounts.values_mut().collect();
    for found in found {
        if let Some(place) =
            usize::try_from(found.place).ok().and_then(|place| places.get_mut(place))
        {
            **place = Some(found.row.into());
        }
    }
    Ok(())
}

/// Writes accounts, new and old.
pub(super) async fn save_accounts(
    db: &mut SqliteConnection,
    accounts: impl Iterator<Item = (&AccountKey, &Account)>,
) -> Result<(), StoreError> {
    let rows: Value = accounts
        .map(|(key, account)| {
            json!([
                account_key_json(key),
                account.spent.get(),
                account.base.get(),
                account.leased.get(),
                account.forfeited.get(),
                account.overdraft.get(),
                account.holders,
                account.recalls,
            ])
        })
        .collect();
    sqlx::query(
        "INSERT INTO account (workspace, budget, generation, dimension, target, window_label,
           spent, base, leased, forfeited, overdraft, holders, recalls)
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]',
           value ->> '$[0][4]', value ->> '$[0][5]',
           value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
         FROM json_each(?1) WHERE true
         ON CONFLICT DO UPDATE SET spent = excluded.spent, base = excluded.base, leased = excluded.leased,
           forfeited = excluded.forfeited, overdraft = excluded.overdraft, holders = excluded.holders,
           recalls = excluded.recalls",
    )
    .bind(rows.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// The budget's accounts of its generation in the window with this label, and those that count its requests.
pub(super) async fn current_accounts(
    db: &mut SqliteConnection,
    budget: &Budget,
    label: &str,
) -> Result<Vec<(AccountKey, Account)>, StoreError> {
    let rows: Vec<KeyedAccountRow> = sqlx::query_as(
        "SELECT * FROM account WHERE workspace = ?1 AND budget = ?2
           AND (generation = ?3 AND window_label = ?4 OR dimension = ?5)",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(budget.generation)
    .bind(label)
    .bind(Dimension::Requests.as_str())
    .fetch_all(db)
    .await?;
    let accounts: BTreeMap<AccountKey, Account> = rows
        .into_iter()
        .map(|row| Ok((row.key.try_into()?, row.account.into())))
        .collect::<Result<_, StoreError>>()?;
    Ok(accounts.into_iter().collect())
}

/// Fills in the leases that exist.
pub(super) async fn load_leases(
    db: &mut SqliteConnection,
    leases: &mut BTreeMap<LeaseKey<'_>, Option<Lease>>,
) -> Result<(), StoreError> {
    let keys: Value =
        leases.keys().map(|key| lease_key_json(key.account, key.holder, key.epoch)).collect();
    let found: Vec<Found<LeaseRow>> =
        sqlx::query_as(LOAD_LEASES).bind(keys.to_string()).fetch_all(db).await?;
    let mut places: Vec<_> = leases.values_mut().collect();
    for found in found {
        if let Some(place) =
            usize::try_from(found.place).ok().and_then(|place| places.get_mut(place))
        {
            **place = Some(found.row.try_into()?);
        }
    }
    Ok(())
}

/// Writes leases, new and old.
pub(super) async fn save_leases(
    db: &mut SqliteConnection,
    leases: impl Iterator<Item = (&AccountKey, HolderId, u32, &Lease)>,
) -> Result<(), StoreError> {
    let rows: Value = leases
        .map(|(account, holder, epoch, lease)| {
            json!([
                account_key_json(account),
                holder.to_string(),
                epoch,
                lease.seq,
                lease.granted.get(),
                lease.consumed.get(),
                lease.returned.get(),
                lease.overrun.get(),
                state_name(lease.state),
                lease.expires_at.as_ms(),
            ])
        })
        .collect();
    sqlx::query(
        "INSERT INTO lease (workspace, budget, generation, dimension, target, window_label, holder, epoch,
           seq, granted, consumed, returned, overrun, state, expires_at_ms)
         SELECT value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]',
           value ->> '$[0][4]', value ->> '$[0][5]', value ->> 1, value ->> 2,
           value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9
         FROM json_each(?1) WHERE true
         ON CONFLICT DO UPDATE SET seq = excluded.seq, granted = excluded.granted, consumed = excluded.consumed,
           returned = excluded.returned, overrun = excluded.overrun, state = excluded.state,
           expires_at_ms = excluded.expires_at_ms",
    )
    .bind(rows.to_string())
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes one lease.
pub(super) async fn delete_lease(
    db: &mut SqliteConnection,
    (account, holder, epoch): &(AccountKey, HolderId, u32),
) -> Result<(), StoreError> {
    sqlx::query(DELETE_LEASE)
        .bind(account.workspace.as_str())
        .bind(account.budget.to_string())
        .bind(account.generation)
        .bind(account.dimension.as_str())
        .bind(account.target.as_str())
        .bind(&*account.window)
        .bind(holder.to_string())
        .bind(*epoch)
        .execute(db)
        .await?;
    Ok(())
}

fn lease_key_json(account: &AccountKey, holder: HolderId, epoch: u32) -> Value {
    json!([account_key_json(account), holder.to_string(), epoch])
}

/// The key columns of an account as the first six elements of a JSON row.
pub(super) fn account_key_json(key: &AccountKey) -> Value {
    json!([
        key.workspace.as_str(),
        key.budget.to_string(),
        key.generation,
        key.dimension.as_str(),
        key.target.as_str(),
        &*key.window,
    ])
}
