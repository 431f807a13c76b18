//! What befalls leases outside of exchanges: adoption after a restart, the passing of time, a reset.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sqlx::SqliteConnection;

use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::escrow::{self, Account, AccountKey, Due, Lease};
use crate::domain::money::Units;
use crate::domain::time::Wall;
use crate::store::rows::KeyedLeaseRow;
use crate::store::sqlite::tables;
use crate::store::{AdoptedLease, StoreError};

/// The most leases that one sweep takes, so that it never holds the file for long. The rest waits for the next.
const SWEEP_LEASES_MAX: i64 = 1000;

/// Each part repeats the condition of the partial index `lease_due`, or SQLite would not use it.
pub(super) const DUE: &str = "SELECT * FROM lease WHERE state = 'active' AND state <> 'expired' AND expires_at_ms < ?1
           AND NOT EXISTS (SELECT 1 FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= ?1)
         UNION ALL
         SELECT * FROM lease WHERE state = 'expired' AND dimension = 'requests' AND expires_at_ms < ?2
           AND NOT EXISTS (SELECT 1 FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= ?2)
         UNION ALL
         SELECT * FROM lease WHERE state = 'closed' AND state <> 'expired' AND expires_at_ms < ?3
           AND NOT EXISTS (SELECT 1 FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= ?3)
         LIMIT ?4";

type Leases = BTreeMap<(AccountKey, HolderId, u32), Lease>;
type Accounts = BTreeMap<AccountKey, Option<Account>>;

pub(super) async fn adopt(
    db: &mut SqliteConnection,
    from: &[HolderId],
    to: HolderId,
    ttl: Duration,
    now: Wall,
) -> Result<Vec<AdoptedLease>, StoreError> {
    let is_over: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM takeover WHERE holder = ?1)")
            .bind(to.to_string())
            .fetch_one(&mut *db)
            .await?;
    if is_over {
        return Err(StoreError::TakenOver);
    }
    let others = from.iter().filter(|holder| **holder != to);
    let others: Value = others.map(HolderId::to_string).collect();
    sqlx::query(
        "INSERT INTO takeover (holder, successor, spared_until_ms)
         SELECT value, ?2, ?3 FROM json_each(?1) WHERE true
         ON CONFLICT DO UPDATE SET successor = excluded.successor, spared_until_ms = excluded.spared_until_ms",
    )
    .bind(others.to_string())
    .bind(to.to_string())
    .bind(now.plus(ttl).as_ms())
    .execute(&mut *db)
    .await?;
    let all: Value = from.iter().chain([&to]).map(HolderId::to_string).collect();
    let rows: Vec<KeyedLeaseRow> = sqlx::query_as(
        "SELECT * FROM lease WHERE holder IN (SELECT value FROM json_each(?1)) AND state <> 'closed'",
    )
    .bind(all.to_string())
    .fetch_all(db)
    .await?;
    Ok(keyed(rows)?.into_iter().map(AdoptedLease::from).collect())
}

pub(super) async fn sweep(db: &mut SqliteConnection, now: Wall) -> Result<u64, StoreError> {
    let rows: Vec<KeyedLeaseRow> = sqlx::query_as(DUE)
        .bind(now.minus(escrow::GRACE).as_ms())
        .bind(now.minus(escrow::GRACE.saturating_add(escrow::ROLLING_MINUTE)).as_ms())
        .bind(now.minus(escrow::CLOSED_KEPT).as_ms())
        .bind(SWEEP_LEASES_MAX)
        .fetch_all(&mut *db)
        .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut leases = keyed(rows)?;
    let mut accounts = accounts_of(&mut *db, &leases).await?;
    let mut forgotten = Vec::new();
    for (key, lease) in &mut leases {
        match escrow::due(key.0.dimension, lease, now) {
            Some(Due::Expire) => {
                escrow::run_out(key.0.dimension, account_in(&mut accounts, &key.0)?, lease, now)
            }
            Some(Due::FreeSlots) => escrow::free_slots(account_in(&mut accounts, &key.0)?, lease),
            Some(Due::Forget) => forgotten.push(key.clone()),
            None => {}
        }
    }
    save(&mut *db, &accounts, &leases).await?;
    for key in &forgotten {
        tables::delete_lease(&mut *db, key).await?;
    }
    Ok(u64::try_from(leases.len()).unwrap_or(u64::MAX))
}

/// Forgets holders that were taken over long ago and have no lease left.
pub(super) async fn forget_takeovers(
    db: &mut SqliteConnection,
    now: Wall,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM takeover WHERE spared_until_ms < ?1
           AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.holder = takeover.holder)",
    )
    .bind(now.minus(escrow::CLOSED_KEPT).as_ms())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn reset(
    db: &mut SqliteConnection,
    budget: &Budget,
    label: &str,
) -> Result<(), StoreError> {
    let generation: Option<i64> = sqlx::query_scalar(
        "UPDATE budget SET resets = resets + 1 WHERE workspace = ?1 AND id = ?2 RETURNING generation",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .fetch_optional(&mut *db)
    .await?;
    if generation.ok_or(StoreError::NotFound)? != i64::from(budget.generation) {
        return Err(StoreError::Changed);
    }
    let rows: Vec<KeyedLeaseRow> = sqlx::query_as(
        "SELECT * FROM lease WHERE workspace = ?1 AND budget = ?2 AND generation = ?3 AND window_label = ?4
           AND dimension <> 'requests' AND state = 'expired'",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(budget.generation)
    .bind(label)
    .fetch_all(&mut *db)
    .await?;
    let mut leases = keyed(rows)?;
    let current = tables::current_accounts(&mut *db, budget, label).await?;
    // A rolling minute is not reset: its slots are free when the minute is over, and not before.
    let counted = current.into_iter().filter(|(key, _)| key.dimension != Dimension::Requests);
    let mut accounts: Accounts = counted.map(|(key, account)| (key, Some(account))).collect();
    for (key, lease) in &mut leases {
        escrow::write_off(account_in(&mut accounts, &key.0)?, lease);
    }
    accounts.values_mut().flatten().for_each(escrow::reset);
    save(db, &accounts, &leases).await
}

/// Closes expired leases that ran out before an instant, and gives what they had outstanding.
pub(super) async fn release(
    db: &mut SqliteConnection,
    workspace: &Id,
    budget: BudgetId,
    before: Wall,
) -> Result<Vec<(AccountKey, Units)>, StoreError> {
    let rows: Vec<KeyedLeaseRow> = sqlx::query_as(
        "SELECT * FROM lease WHERE workspace = ?1 AND budget = ?2 AND dimension <> 'requests'
           AND state = 'expired' AND expires_at_ms < ?3
           AND NOT EXISTS (SELECT 1 FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= ?3)",
    )
    .bind(workspace.as_str())
    .bind(budget.to_string())
    .bind(before.as_ms())
    .fetch_all(&mut *db)
    .await?;
    let mut leases = keyed(rows)?;
    let mut accounts = accounts_of(&mut *db, &leases).await?;
    let mut released: BTreeMap<AccountKey, Units> = BTreeMap::new();
    for ((key, ..), lease) in &mut leases {
        let sum = released.entry(key.clone()).or_default();
        *sum = sum.plus(lease.outstanding());
        escrow::free_slots(account_in(&mut accounts, key)?, lease);
    }
    save(db, &accounts, &leases).await?;
    Ok(released.into_iter().collect())
}

fn keyed(rows: Vec<KeyedLeaseRow>) -> Result<Leases, StoreError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

async fn accounts_of(db: &mut SqliteConnection, leases: &Leases) -> Result<Accounts, StoreError> {
    let mut accounts: Accounts =
        leases.keys().map(|(account, ..)| (account.clone(), None)).collect();
    tables::load_accounts(db, &mut accounts).await?;
    Ok(accounts)
}

fn account_in<'a>(
    accounts: &'a mut Accounts,
    key: &AccountKey,
) -> Result<&'a mut Account, StoreError> {
    let account = accounts.get_mut(key).and_then(Option::as_mut);
    account.ok_or_else(|| {
        StoreError::Corrupt(format!("there is a lease on {key:?}, which does not exist"))
    })
}

async fn save(
    db: &mut SqliteConnection,
    accounts: &Accounts,
    leases: &Leases,
) -> Result<(), StoreError> {
    let changed = accounts.iter().filter_map(|(key, account)| Some((key, account.as_ref()?)));
    tables::save_accounts(&mut *db, changed).await?;
    let leases =
        leases.iter().map(|((account, holder, epoch), lease)| (account, *holder, *epoch, lease));
    tables::save_leases(db, leases).await
}
