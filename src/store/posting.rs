//! What one batch does to the rows that it names. Pure, so that every adapter applies the same rule: it loads the rows,
//! lets the batch be posted, and saves them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::budget::{Dimension, Limits};
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::escrow::{self, Account, AccountKey, Exchange, Grant, Lease};
use crate::domain::money::{NanoUsd, Units};
use crate::domain::settlement::{Charge, Road, Settlement};
use crate::domain::time::Wall;
use crate::store::{Batch, StoreError};

/// What a budget allows at the moment.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    /// The budget's generation.
    pub(super) generation: u32,
    /// Its limits.
    pub(super) limits: Limits,
}

impl Allowance {
    /// Of prepaid credits.
    pub(super) fn of_credits(granted: NanoUsd) -> Self {
        Self { generation: 0, limits: Limits { cost: Some(granted), ..Limits::default() } }
    }

    /// The limit of one of the budget's accounts. Nothing more is lent of a dimension that is no longer limited or of an
    /// earlier generation, whose window has gone on under another account. A rolling minute has no generations.
    fn limit(&self, account: &AccountKey) -> Units {
        let has_generations = account.dimension != Dimension::Requests;
        if has_generations && self.generation != account.generation {
            return Units::ZERO;
        }
        self.limits.of(account.dimension).unwrap_or(Units::ZERO)
    }
}

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LeaseKey<'a> {
    pub(super) account: &'a AccountKey,
    pub(super) holder: HolderId,
    pub(super) epoch: u32,
}

impl<'a> LeaseKey<'a> {
    pub(super) fn of(exchange: &'a Exchange) -> Self {
        Self { account: &exchange.account, holder: exchange.opener(), epoch: exchange.epoch }
    }
}

/// The rows that a batch names, in key order, so that a store that locks rows locks them in one order. `None` is a row
/// that does not exist.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// Only budgets that exist.
    pub(super) budgets: BTreeMap<BudgetId, Allowance>,
    pub(super) accounts: BTreeMap<&'a AccountKey, Option<Account>>,
    pub(super) leases: BTreeMap<LeaseKey<'a>, Option<Lease>>,
    /// Who took over the holders that the batch names.
    pub(super) successors: BTreeMap<HolderId, Option<HolderId>>,
    /// Ids of the batch's settlements that are on record.
    pub(super) on_record: BTreeSet<&'a Id>,
    /// What leases report of settlements that are on record, where others charged the account directly in the holder's place.
    pub(super) charged_already: BTreeMap<&'a AccountKey, Units>,
}

impl<'a> Rows<'a> {
    /// The rows that a batch names, none of which is loaded yet.
    pub(super) fn named_by(batch: &'a Batch) -> Self {
        let exchanged = batch.exchanges.iter().map(|exchange| &exchange.account);
        let charged =
            batch.settlements.iter().flat_map(directly_charged).map(|charge| &charge.account);
        Self {
            budgets: BTreeMap::new(),
            accounts: exchanged.chain(charged).map(|account| (account, None)).collect(),
            leases: batch.exchanges.iter().map(|exchange| (LeaseKey::of(exchange), None)).collect(),
            successors: batch
                .exchanges
                .iter()
                .flat_map(holders)
                .chain([batch.holder])
                .map(|named| (named, None))
                .collect(),
            on_record: BTreeSet::new(),
            charged_already: BTreeMap::new(),
        }
    }

    /// Notes what the batch reports by leases though it is charged already. `is_direct` tells whether the entry with this id that is
    /// on record charges an account directly.
    pub(super) fn note_charged(
        &mut self,
        batch: &'a Batch,
        is_direct: impl Fn(&Id, &AccountKey) -> bool,
    ) {
        let mut seen = BTreeSet::new();
        let on_record = batch.settlements.iter().filter(|entry| self.on_record.contains(&entry.id));
        for entry in on_record.filter(|entry| seen.insert(&entry.id)) {
            let by_lease = entry.charges.iter().filter(|charge| charge.road == Road::Lease);
            for charge in by_lease.filter(|charge| is_direct(&entry.id, &charge.account)) {
                let sum = self.charged_already.entry(&charge.account).or_default();
                *sum = sum.plus(charge.amount);
            }
        }
    }
}

/// Posts a batch: changes the rows and gives the settlements to record and the grants, both in the batch's order.
pub(super) fn post<'a>(
    batch: &'a Batch,
    rows: &mut Rows<'a>,
    ttl: Duration,
    now: Wall,
) -> Result<(Vec<&'a Settlement>, Vec<Grant>), StoreError> {
    if rows.successor(batch.holder).is_some() {
        return Err(StoreError::TakenOver);
    }
    let fresh: Vec<_> = batch
        .settlements
        .iter()
        .filter(|settlement| rows.on_record.insert(&settlement.id))
        .collect();
    for charge in fresh.iter().copied().flat_map(directly_charged) {
        rows.charge(charge);
    }
    let grants = batch.exchanges.iter().map(|exchange| rows.exchange(exchange, ttl, now));
    Ok((fresh, grants.collect::<Result<_, _>>()?))
}

impl<'a> Rows<'a> {
    /// An account of a budget that is gone is not made again; its charge stays in the audit trail.
    fn charge(&mut self, charge: &'a Charge) {
        let Some(allowance) = self.budgets.get(&charge.account.budget) else { return };
        let account = self.accounts.entry(&charge.account).or_default().get_or_insert_default();
        escrow::charge(account, charge.amount, allowance.limit(&charge.account));
    }

    fn exchange(
        &mut self,
        exchange: &'a Exchange,
        ttl: Duration,
        now: Wall,
    ) -> Result<Grant, StoreError> {
        let Some(allowance) = self.budgets.get(&exchange.account.budget) else {
            return Ok(escrow::gone(exchange, ttl));
        };
        let lost = || StoreError::LeaseLost(Box::new(exchange.account.clone()));
        if !self.speaks(exchange) {
            return Err(lost());
        }
        let limit = allowance.limit(&exchange.account);
        let account = self.accounts.entry(&exchange.account).or_default().get_or_insert_default();
        let lease = self.leases.entry(LeaseKey::of(exchange)).or_default();
        if lease.is_none_or(|lease| lease.seq != exchange.seq) {
            // It is what this exchange adds to the account, and counts once.
            let twice = self.charged_already.remove(&exchange.account).unwrap_or_default();
            account.spent = account.spent.minus(twice);
        }
        escrow::exchange(account, lease, exchange, limit, ttl, now).map_err(|escrow::Lost| lost())
    }

    /// Whether the sender was not taken over itself, and speaks for the one that opened the lease.
    fn speaks(&self, exchange: &Exchange) -> bool {
        let speaks = |holder| self.successor(holder).unwrap_or(holder) == exchange.holder;
        holders(exchange).into_iter().all(speaks)
    }

    fn successor(&self, holder: HolderId) -> Option<HolderId> {
        self.successors.get(&holder).copied().flatten()
    }
}

/// Who sends an exchange, and who opened the lease.
fn holders(exchange: &Exchange) -> [HolderId; 2] {
    [exchange.holder, exchange.opener()]
}

/// What is on record of a settlement's charges: one for each account, in the order of the accounts, with the sum of its amounts and the
/// road of its first.
pub(super) fn charges_on_record(
    settlement: &Settlement,
) -> impl Iterator<Item = (&AccountKey, Units, Road)> {
    let mut charges: BTreeMap<&AccountKey, (Units, Road)> = BTreeMap::new();
    for charge in settlement.charges.iter() {
        let sum = charges.entry(&charge.account).or_insert((Units::ZERO, charge.road));
        sum.0 = sum.0.plus(charge.amount);
    }
    charges.into_iter().map(|(account, (amount, road))| (account, amount, road))
}

/// The charges of a settlement that no lease carries.
fn directly_charged(settlement: &Settlement) -> impl Iterator<Item = &Charge> {
    settlement.charges.iter().filter(|charge| charge.road == Road::Direct)
}
