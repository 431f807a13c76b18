//! One batch in one call of `bursar_commit`, which the migrations make.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};

use super::errors::Failure;
use super::tables::KeyColumns;
use crate::domain::credits::Entry;
use crate::domain::ids::{HolderId, Id};
use crate::domain::ledger::escrow::{AccountKey, Draw, Exchange, Grant, Then};
use crate::domain::money::Units;
use crate::domain::settlement::{Charge, Road, Settlement};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::store::posting;
use crate::store::rows::road_name;
use crate::store::{Batch, StoreError};

const COMMIT: &str =
    "SELECT * FROM bursar_commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
       $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)";

/// What `bursar_commit` raises when a lease is lost.
const LEASE_LOST: &str = "BU001";
/// What it raises when the sender was taken over.
const TAKEN_OVER: &str = "BU002";

#[derive(FromRow)]
struct GrantRow {
    o_granted: i64,
    o_limit: i64,
    o_spent: i64,
    o_forfeited: i64,
    o_free: i64,
    o_holders: i64,
    o_recalls: i64,
    o_ttl_ms: i64,
}

impl From<GrantRow> for Grant {
    fn from(row: GrantRow) -> Self {
        Self {
            granted: Units::new(row.o_granted),
            limit: Units::new(row.o_limit),
            spent: Units::new(row.o_spent),
            forfeited: Units::new(row.o_forfeited),
            free: Units::new(row.o_free),
            holders: u32::try_from(row.o_holders).unwrap_or(u32::MAX),
            recalls: u32::try_from(row.o_recalls).unwrap_or(u32::MAX),
            ttl: Duration::from_millis(u64::try_from(row.o_ttl_ms).unwrap_or(0)),
        }
    }
}

/// Applies a batch. `is_prepared` keeps the prepared statement for the next. `now` is the store's clock, unless it has its own.
pub(super) async fn apply(
    db: &mut PgConnection,
    batch: &Batch,
    ttl: Duration,
    now: Option<Wall>,
    is_prepared: bool,
) -> Result<Vec<Grant>, Failure> {
    let call = Call::of(batch);
    let keys: KeyColumns<'_> = call.accounts.iter().copied().collect();
    let settlements = call.settlements_json();
    let of_exchanges = |of: &dyn Fn(&Exchange) -> Units| {
        batch.exchanges.iter().map(|exchange| of(exchange).get()).collect::<Vec<_>>()
    };
    let of_draws = |of: fn(Draw) -> Units| {
        batch.exchanges.iter().map(|x| x.draw.map(|draw| of(draw).get())).collect::<Vec<_>>()
    };
    let grants = sqlx::query_as(COMMIT)
        .persistent(is_prepared)
        .bind(batch.workspace.as_str())
        .bind(batch.holder.to_string())
        .bind(keys.budget)
        .bind(keys.generation)
        .bind(keys.dimension)
        .bind(keys.target)
        .bind(keys.window)
        .bind(call.holders.iter().map(|(opener, _)| opener.to_string()).collect::<Vec<_>>())
        .bind(call.holders.iter().map(|(_, sender)| sender.to_string()).collect::<Vec<_>>())
        .bind(call.leases.iter().map(|of| call.account_place(of.account)).collect::<Vec<_>>())
        .bind(call.leases.iter().map(|of| call.holders_place(of.holders)).collect::<Vec<_>>())
        .bind(call.leases.iter().map(|of| i64::from(of.epoch)).collect::<Vec<_>>())
        .bind(batch.exchanges.iter().map(|x| call.lease_place(x)).collect::<Vec<_>>())
        .bind(batch.exchanges.iter().map(|x| i64::from(x.seq)).collect::<Vec<_>>())
        .bind(of_exchanges(&|x| x.consumed))
        .bind(of_exchanges(&|x| x.returned))
        .bind(of_exchanges(&|x| x.overrun))
        .bind(of_draws(|draw| draw.need_min))
        .bind(of_draws(|draw| draw.need))
        .bind(of_draws(|draw| draw.want))
        .bind(batch.exchanges.iter().map(|x| x.then == Then::Close).collect::<Vec<_>>())
        .bind(call.charges.iter().map(|charge| charge.0).collect::<Vec<_>>())
        .bind(
            call.charges
                .iter()
                .map(|charge| call.account_place(&charge.1.account))
                .collect::<Vec<_>>(),
        )
        .bind(call.charges.iter().map(|charge| charge.1.amount.get()).collect::<Vec<_>>())
        .bind(settlements.settlements)
        .bind(settlements.events)
        .bind(settlements.entries)
        .bind(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
        .bind(now.map(Wall::as_ms))
        // Outside of a transaction the commit comes after the last row: all must be read.
        .fetch_all(db)
        .await;
    match grants {
        Ok(grants) => Ok(grants.into_iter().map(|row: GrantRow| row.into()).collect()),
        Err(error) => Err(call.failure(error)),
    }
}

/// Who opened leases, and who sends exchanges on them.
type Holders = (HolderId, HolderId);

/// A lease, and who speaks for it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LeaseOf<'a> {
    account: &'a AccountKey,
    holders: Holders,
    epoch: u32,
}

impl<'a> LeaseOf<'a> {
    fn named_by(exchange: &'a Exchange) -> Self {
        let holders = (exchange.opener(), exchange.holder);
        Self { account: &exchange.account, holders, epoch: exchange.epoch }
    }
}

/// The rows that a batch names, in the order in which they are locked.
struct Call<'a> {
    accounts: Vec<&'a AccountKey>,
    holders: Vec<Holders>,
    leases: Vec<LeaseOf<'a>>,
    /// The first settlement of each id.
    settlements: Vec<&'a Settlement>,
    /// Charges that no lease carries, with the places of their settlements.
    charges: Vec<(i32, &'a Charge)>,
}

/// JSON arrays; none where they would be empty.
struct Recorded {
    settlements: Option<String>,
    events: Option<String>,
    entries: Option<String>,
}

impl<'a> Call<'a> {
    fn of(batch: &'a Batch) -> Self {
        let mut ids = BTreeSet::new();
        let settlements: Vec<_> =
            batch.settlements.iter().filter(|settlement| ids.insert(&settlement.id)).collect();
        let charges: Vec<_> = (1..)
            .zip(&settlements)
            .flat_map(|(place, settlement)| {
                settlement.charges.iter().map(move |charge| (place, charge))
            })
            .filter(|(_, charge)| charge.road == Road::Direct)
            .collect();
        let exchanged = batch.exchanges.iter().map(|exchange| &exchange.account);
        let charged = charges.iter().map(|(_, charge)| &charge.account);
        let accounts: BTreeSet<_> = exchanged.chain(charged).collect();
        let leases: BTreeSet<_> = batch.exchanges.iter().map(LeaseOf::named_by).collect();
        let holders: BTreeSet<_> = leases.iter().map(|lease| lease.holders).collect();
        Self {
            accounts: accounts.into_iter().collect(),
            holders: holders.into_iter().collect(),
            leases: leases.into_iter().collect(),
            settlements,
            charges,
        }
    }

    fn account_place(&self, account: &AccountKey) -> i32 {
        place(self.accounts.binary_search(&account))
    }

    fn holders_place(&self, holders: Holders) -> i32 {
        place(self.holders.binary_search(&holders))
    }

    fn lease_place(&self, exchange: &Exchange) -> i32 {
        place(self.leases.binary_search(&LeaseOf::named_by(exchange)))
    }

    fn settlements_json(&self) -> Recorded {
        let places = || (1_i32..).zip(&self.settlements);
        // The store stamps entries with its own clock.
        let entry = |settlement: &Settlement| Entry::of_settlement(settlement, Wall::default());
        let entries = places().filter_map(|(n, settlement)| Some((n, entry(settlement)?)));
        Recorded {
            settlements: array(places().map(|(n, settlement)| settlement_json(n, settlement))),
            events: array(places().flat_map(|(n, settlement)| events_json(n, settlement))),
            entries: array(entries.map(|(n, entry)| entry_json(n, &entry))),
        }
    }

    fn failure(&self, error: sqlx::Error) -> Failure {
        let raised = error
            .as_database_error()
            .and_then(|refusal| refusal.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
        if raised.is_some_and(|refusal| refusal.code() == TAKEN_OVER) {
            return StoreError::TakenOver.into();
        }
        let lost = raised
            .filter(|refusal| refusal.code() == LEASE_LOST)
            .and_then(|refusal| refusal.detail()?.parse::<usize>().ok()?.checked_sub(1))
            .and_then(|place| self.accounts.get(place));
        match lost {
            Some(account) => StoreError::LeaseLost(Box::new((*account).clone())).into(),
            None => error.into(),
        }
    }
}

/// Places are counted from one. Every key that is asked for was put there.
fn place(found: Result<usize, usize>) -> i32 {
    found.map_or(0, |place| i32::try_from(place).unwrap_or(0).saturating_add(1))
}

fn array(values: impl Iterator<Item = Value>) -> Option<String> {
    let values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| Value::Array(values).to_string())
}

fn text(id: &Option<Id>) -> Option<&str> {
    id.as_ref().map(Id::as_str)
}

fn settlement_json(place: i32, settlement: &Settlement) -> Value {
    let count = |of: fn(Usage) -> u64| {
        settlement.usage.map(|usage| i64::try_from(of(usage)).unwrap_or(i64::MAX))
    };
    json!({
        "n": place,
        "id": settlement.id.as_str(),
        "project": text(&settlement.subject.project),
        "identity": text(&settlement.subject.identity),
        "api_key": text(&settlement.subject.api_key),
        "provider": text(&settlement.subject.provider),
        "subject_model": text(&settlement.subject.model),
        "reservation": settlement.reservation.map(|reservation| reservation.to_string()),
        "certainty": settlement.certainty.as_str(),
        "cost": settlement.amounts.cost.get(),
        "tokens": settlement.amounts.tokens.get(),
        "input": count(|usage| usage.input),
        "cached": count(|usage| usage.cached),
        "cache_write": count(|usage| usage.cache_write),
        "cache_write_1h": count(|usage| usage.cache_write_1h),
        "output": count(|usage| usage.output),
        "reasoning": count(|usage| usage.reasoning),
        "model": text(&settlement.model),
        "rates": settlement.rates.as_deref(),
        "at_ms": settlement.at.as_ms(),
    })
}

fn events_json(place: i32, settlement: &Settlement) -> impl Iterator<Item = Value> {
    posting::charges_on_record(settlement).map(move |(account, amount, road)| {
        json!({
            "n": place,
            "settlement_id": settlement.id.as_str(),
            "budget": account.budget.to_string(),
            "generation": account.generation,
            "dimension": account.dimension.as_str(),
            "target": account.target.as_str(),
            "window_label": &*account.window,
            "amount": amount.get(),
            "kind": settlement.certainty.as_str(),
            "at_ms": settlement.at.as_ms(),
            "road": road_name(road),
        })
    })
}

fn entry_json(place: i32, entry: &Entry) -> Value {
    json!({
        "n": place,
        "kind": entry.id.kind.as_str(),
        "id": entry.id.of.as_str(),
        "amount": entry.amount.get(),
        "reason": entry.reason.as_str(),
        "project": text(&entry.spender.project),
        "api_key": text(&entry.spender.api_key),
        "model": text(&entry.spender.model),
    })
}
