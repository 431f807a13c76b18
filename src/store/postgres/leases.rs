//! What befalls leases outside of exchanges: adoption after a restart, the passing of time, a reset, a release. The
//! latter find the leases, lock their accounts, and read them again: whoever has locked an account is the only one who
//! writes its leases.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgConnection;

use super::errors::Failure;
use super::tables::{self, Accounts, Busy, Leases};
use super::turn::{query, query_as, query_scalar};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::escrow::{self, Account, AccountKey, Due, LeaseState};
use crate::domain::money::Units;
use crate::domain::time::Wall;
use crate::store::rows::KeyedLeaseRow;
use crate::store::{AdoptedLease, StoreError};

/// The most leases that one sweep takes, so that it never holds accounts for long. The rest waits for the next.
const SWEEP_LEASES_MAX: i64 = 1000;

pub(super) async fn adopt(
    db: &mut PgConnection,
    from: &[HolderId],
    to: HolderId,
    ttl: Duration,
    given: Option<Wall>,
) -> Result<Vec<AdoptedLease>, Failure> {
    let earlier: Vec<_> = from.iter().map(HolderId::to_string).collect();
    let speaks: bool = query_scalar("SELECT bursar_take_over($1, $2, $3, $4)")
        .bind(&earlier)
        .bind(to.to_string())
        .bind(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
        .bind(given.map(Wall::as_ms))
        .fetch_one(&mut *db)
        .await?;
    if !speaks {
        return Err(StoreError::TakenOver.into());
    }
    // A statement of its own sees all that was applied until the holders were locked.
    let rows: Vec<KeyedLeaseRow> =
        query_as("SELECT * FROM lease WHERE holder || '' = ANY ($1 || $2) AND state <> 'closed'")
            .bind(earlier)
            .bind(to.to_string())
            .fetch_all(db)
            .await?;
    Ok(tables::keyed(rows)?.into_iter().map(AdoptedLease::from).collect())
}

/// Accounts that others are at are left for the next sweep.
pub(super) async fn sweep(db: &mut PgConnection, now: Wall) -> Result<u64, Failure> {
    let found = due(&mut *db, now).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let mut accounts = lock_accounts_of(&mut *db, &found, Busy::Skip).await?;
    let locked = found.keys().filter(|(account, ..)| accounts.contains_key(account));
    let mut leases = tables::load_leases(&mut *db, locked).await?;
    let mut forgotten = Vec::new();
    let mut touched: u64 = 0;
    for (key, lease) in &mut leases {
        let due = escrow::due(key.0.dimension, lease, now);
        touched = touched.saturating_add(due.is_some().into());
        match due {
            Some(Due::Expire) => {
                escrow::run_out(key.0.dimension, account_in(&mut accounts, &key.0)?, lease, now)
            }
            Some(Due::FreeSlots) => escrow::free_slots(account_in(&mut accounts, &key.0)?, lease),
            Some(Due::Forget) => forgotten.push(key.clone()),
            None => {}
        }
    }
    save(&mut *db, &accounts, &leases).await?;
    tables::delete_leases(db, &forgotten).await?;
    Ok(touched)
}

async fn due(db: &mut PgConnection, now: Wall) -> Result<Leases, Failure> {
    let rows: Vec<KeyedLeaseRow> = query_as(
        // Each part repeats the condition of the partial index `lease_due`, or it would not be used.
        "(SELECT * FROM lease WHERE state = 'active' AND state <> 'expired' AND look_at_ms < $1 AND expires_at_ms < $1
            AND NOT EXISTS (SELECT FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= $1) LIMIT $4)
         UNION ALL
         (SELECT * FROM lease WHERE state = 'expired' AND dimension = 'requests' AND look_at_ms < $2 AND expires_at_ms < $2
            AND NOT EXISTS (SELECT FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= $2) LIMIT $4)
         UNION ALL
         (SELECT * FROM lease WHERE state = 'closed' AND state <> 'expired' AND look_at_ms < $3 AND expires_at_ms < $3
            AND NOT EXISTS (SELECT FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= $3) LIMIT $4)
         LIMIT $4",
    )
    .bind(now.minus(escrow::GRACE).as_ms())
    .bind(now.minus(escrow::GRACE.saturating_add(escrow::ROLLING_MINUTE)).as_ms())
    .bind(now.minus(escrow::CLOSED_KEPT).as_ms())
    .bind(SWEEP_LEASES_MAX)
    .fetch_all(db)
    .await?;
    Ok(tables::keyed(rows)?)
}

/// Forgets holders that were taken over long ago and have no lease left.
pub(super) async fn forget_takeovers(db: &mut PgConnection, now: Wall) -> Result<(), Failure> {
    query(
        "DELETE FROM takeover t WHERE spared_until_ms < $1
           AND NOT EXISTS (SELECT FROM lease l WHERE l.holder || '' = t.holder)",
    )
    .bind(now.minus(escrow::CLOSED_KEPT).as_ms())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn reset(
    db: &mut PgConnection,
    budget: &Budget,
    label: &str,
) -> Result<(), Failure> {
    let generation: Option<i64> = query_scalar(
        "UPDATE budget SET resets = resets + 1 WHERE workspace = $1 AND id = $2 RETURNING generation",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .fetch_optional(&mut *db)
    .await?;
    if generation.ok_or(StoreError::NotFound)? != i64::from(budget.generation) {
        return Err(StoreError::Changed.into());
    }
    let current = tables::current_accounts(&mut *db, budget, label).await?;
    // A rolling minute is not reset: its slots are free when the minute is over, and not before.
    let counted = current.keys().filter(|key| key.dimension != Dimension::Requests);
    let mut accounts = tables::lock_accounts(&mut *db, counted, Busy::Wait).await?;
    let mut leases =
        expired(&mut *db, &budget.workspace, budget.id, Wall::from_ms(i64::MAX)).await?;
    leases.retain(|(key, ..), _| accounts.contains_key(key));
    for (key, lease) in &mut leases {
        escrow::write_off(account_in(&mut accounts, &key.0)?, lease);
    }
    accounts.values_mut().for_each(escrow::reset);
    save(db, &accounts, &leases).await
}

/// Closes expired leases that ran out before an instant, and gives what they had outstanding.
pub(super) async fn release(
    db: &mut PgConnection,
    workspace: &Id,
    budget: BudgetId,
    before: Wall,
) -> Result<Vec<(AccountKey, Units)>, Failure> {
    let found = expired(&mut *db, workspace, budget, before).await?;
    let mut accounts = lock_accounts_of(&mut *db, &found, Busy::Wait).await?;
    // Meanwhile one may have spoken, or been taken over.
    let mut leases = expired(&mut *db, workspace, budget, before).await?;
    leases.retain(|(key, ..), _| accounts.contains_key(key));
    let mut released: BTreeMap<AccountKey, Units> = BTreeMap::new();
    for ((key, ..), lease) in &mut leases {
        let sum = released.entry(key.clone()).or_default();
        *sum = sum.plus(lease.outstanding());
        escrow::free_slots(account_in(&mut accounts, key)?, lease);
    }
    save(db, &accounts, &leases).await?;
    Ok(released.into_iter().collect())
}

/// What a holder, and those that the same process spoke for, have forfeited on some accounts. The accounts are locked.
pub(super) struct Forfeits {
    accounts: Accounts,
    leases: Leases,
}

/// Finds it. `None` while one of the leases is active.
pub(super) async fn forfeits(
    db: &mut PgConnection,
    holder: HolderId,
    against: &[(AccountKey, Units)],
) -> Result<Option<Forfeits>, Failure> {
    let keys = against.iter().map(|(account, _)| account);
    let accounts = tables::lock_accounts(&mut *db, keys, Busy::Wait).await?;
    let family = family(&mut *db, holder).await?;
    let mut leases = tables::leases_of(db, family).await?;
    leases.retain(|(key, ..), _| accounts.contains_key(key));
    if leases.values().any(|lease| lease.state == LeaseState::Active) {
        return Ok(None);
    }
    leases.retain(|_, lease| lease.state == LeaseState::Expired);
    Ok(Some(Forfeits { accounts, leases }))
}

/// Takes amounts out of what was forfeited, as far as there is any.
pub(super) async fn take_back(
    db: &mut PgConnection,
    from: Forfeits,
    against: &[(AccountKey, Units)],
) -> Result<(), Failure> {
    let Forfeits { mut accounts, mut leases } = from;
    for (account, amount) in against {
        let mut left = *amount;
        for ((key, ..), lease) in &mut leases {
            if key == account {
                left = left.minus(escrow::take_back(account_in(&mut accounts, key)?, lease, left));
            }
        }
    }
    save(db, &accounts, &leases).await
}

/// All names of the process that a holder was, or is by now: what it admitted may be covered by leases of those that it took over, and
/// the other way round.
async fn family(db: &mut PgConnection, holder: HolderId) -> Result<Vec<String>, Failure> {
    let family = query_scalar(
        "WITH last AS (SELECT COALESCE((SELECT successor FROM takeover WHERE holder = $1), $1) AS holder)
         SELECT holder FROM last UNION SELECT t.holder FROM takeover t, last WHERE t.successor = last.holder",
    );
    Ok(family.bind(holder.to_string()).fetch_all(db).await?)
}

/// Expired leases of a budget on money and tokens that ran out before an instant.
async fn expired(
    db: &mut PgConnection,
    workspace: &Id,
    budget: BudgetId,
    before: Wall,
) -> Result<Leases, Failure> {
    let rows: Vec<KeyedLeaseRow> = query_as(
        "SELECT * FROM lease WHERE workspace = $1 AND budget = $2 AND dimension <> 'requests'
           AND state = 'expired' AND expires_at_ms < $3
           AND NOT EXISTS (SELECT FROM takeover t WHERE t.holder = lease.holder AND t.spared_until_ms >= $3)",
    )
    .bind(workspace.as_str())
    .bind(budget.to_string())
    .bind(before.as_ms())
    .fetch_all(db)
    .await?;
    Ok(tables::keyed(rows)?)
}

async fn lock_accounts_of(
    db: &mut PgConnection,
    leases: &Leases,
    busy: Busy,
) -> Result<Accounts, Failure> {
    tables::lock_accounts(db, leases.keys().map(|(account, ..)| account), busy).await
}

fn account_in<'a>(
    accounts: &'a mut Accounts,
    key: &AccountKey,
) -> Result<&'a mut Account, StoreError> {
    accounts.get_mut(key).ok_or_else(|| {
        StoreError::Corrupt(format!("there is a lease on {key:?}, which does not exist"))
    })
}

async fn save(db: &mut PgConnection, accounts: &Accounts, leases: &Leases) -> Result<(), Failure> {
    tables::save_accounts(&mut *db, accounts).await?;
    tables::save_leases(db, leases).await
}
