//! A store for tests of the ledger: synchronous, one transaction after the other, the shared lease arithmetic and nothing
//! else. It keeps every lease that was ever opened, so that the invariants can be checked against all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::Outgoing;
use crate::domain::ledger::escrow::{
    self, Account, AccountKey, Due, Exchange, Grant, Lease, LeaseState,
};
use crate::domain::money::Units;
use crate::domain::settlement::{Road, Settlement};
use crate::domain::time::Wall;

/// Time to live of all leases.
pub(in crate::domain::ledger) const TTL: Duration = Duration::from_secs(10);

type LeaseKey = (AccountKey, HolderId, u32);

/// The tables.
#[derive(Debug, Clone, Default)]
pub(in crate::domain::ledger) struct TestStore {
    pub(in crate::domain::ledger) budgets: BTreeMap<BudgetId, Budget>,
    pub(in crate::domain::ledger) accounts: BTreeMap<AccountKey, Account>,
    pub(in crate::domain::ledger) leases: BTreeMap<LeaseKey, Lease>,
    /// What reached an account without a lease.
    direct: BTreeMap<AccountKey, Units>,
    recorded: BTreeSet<Id>,
    /// The most that was ever allowed on an account.
    limits_max: BTreeMap<AccountKey, Units>,
}

impl TestStore {
    /// One transaction: all of it, or the name of the lease that is lost and nothing.
    pub(in crate::domain::ledger) fn commit(
        &mut self,
        batch: &Outgoing,
        now: Wall,
    ) -> Result<Vec<Grant>, AccountKey> {
        let mut next = self.clone();
        for settlement in &batch.settlements {
            if next.recorded.insert(settlement.id.clone()) {
                next.post(settlement);
            }
        }
        let keys: Vec<_> = batch.exchanges.iter().map(|exchange| &exchange.account).collect();
        assert!(keys.is_sorted(), "accounts are locked in one order: {keys:?}");
        let mut grants = Vec::new();
        for exchange in &batch.exchanges {
            grants.push(next.exchange(exchange, now).ok_or_else(|| exchange.account.clone())?);
        }
        *self = next;
        Ok(grants)
    }

    fn post(&mut self, settlement: &Settlement) {
        for charge in settlement.charges.iter().filter(|charge| charge.road == Road::Direct) {
            let Some(limit) = self.limit(&charge.account) else { continue };
            let most = self.limits_max.entry(charge.account.clone()).or_default();
            *most = limit.max(*most);
            let account = self.accounts.entry(charge.account.clone()).or_default();
            escrow::charge(account, charge.amount, limit);
            let direct = self.direct.entry(charge.account.clone()).or_default();
            *direct = direct.plus(charge.amount);
        }
    }

    fn exchange(&mut self, exchange: &Exchange, now: Wall) -> Option<Grant> {
        let Some(limit) = self.limit(&exchange.account) else {
            return Some(escrow::gone(exchange, TTL));
        };
        let most = self.limits_max.entry(exchange.account.clone()).or_default();
        *most = limit.max(*most);
        let account = self.accounts.entry(exchange.account.clone()).or_default();
        let key = (exchange.account.clone(), exchange.opener(), exchange.epoch);
        let mut lease = self.leases.get(&key).copied();
        let grant = escrow::exchange(account, &mut lease, exchange, limit, TTL, now).ok()?;
        self.leases.insert(key, lease?);
        Some(grant)
    }

    /// `None` when the budget is gone; nothing when the dimension or the generation is.
    fn limit(&self, key: &AccountKey) -> Option<Units> {
        let budget = self.budgets.get(&key.budget)?;
        let is_current = budget.generation_of(key.dimension) == key.generation;
        let limit = budget.limits.of(key.dimension).filter(|_| is_current);
        Some(limit.unwrap_or_default())
    }

    pub(in crate::domain::ledger) fn is_recorded(&self, settlement: &Id) -> bool {
        self.recorded.contains(settlement)
    }

    pub(in crate::domain::ledger) fn delete(&mut self, budget: BudgetId) {
        self.budgets.remove(&budget);
        self.accounts.retain(|key, _| key.budget != budget);
        self.leases.retain(|(key, ..), _| key.budget != budget);
        self.direct.retain(|key, _| key.budget != budget);
    }

    pub(in crate::domain::ledger) fn reset(&mut self, budget: BudgetId) {
        let Self { accounts, leases, .. } = self;
        let starts_anew =
            |key: &AccountKey| key.budget == budget && key.dimension != Dimension::Requests;
        for (key, account) in accounts.iter_mut().filter(|(key, _)| starts_anew(key)) {
            for ((of, ..), lease) in leases.iter_mut() {
                if of == key {
                    escrow::write_off(account, lease);
                }
            }
            escrow::reset(account);
        }
    }

    /// What the passing of time asks for.
    pub(in crate::domain::ledger) fn sweep(&mut self, now: Wall) {
        for ((key, ..), lease) in &mut self.leases {
            let account = self.accounts.entry(key.clone()).or_default();
            match escrow::due(key.dimension, lease, now) {
                Some(Due::Expire) => escrow::run_out(key.dimension, account, lease, now),
                Some(Due::FreeSlots) => escrow::free_slots(account, lease),
                Some(Due::Forget) | None => {}
            }
        }
    }

    /// Closes a budget's leases behind their holder's back, as if what they had outstanding had been spent.
    pub(in crate::domain::ledger) fn forget_leases(&mut self, budget: BudgetId) {
        for ((key, ..), lease) in &mut self.leases {
            if key.budget == budget {
                let account = self.accounts.entry(key.clone()).or_default();
                escrow::expire(account, lease);
                escrow::write_off(account, lease);
            }
        }
    }

    /// What a restarted process takes over.
    pub(in crate::domain::ledger) fn open_leases(&self) -> Vec<(AccountKey, HolderId, u32, Lease)> {
        let open = self.leases.iter().filter(|(_, lease)| lease.state != LeaseState::Closed);
        open.map(|((key, opener, epoch), lease)| (key.clone(), *opener, *epoch, *lease)).collect()
    }

    /// How many leases are live.
    pub(in crate::domain::ledger) fn live_leases(&self) -> usize {
        self.leases.values().filter(|lease| lease.state == LeaseState::Active).count()
    }

    /// Settled by a budget's accounts in one dimension, since the last reset.
    pub(in crate::domain::ledger) fn spent(&self, budget: BudgetId, dimension: Dimension) -> Units {
        let of = |key: &AccountKey| key.budget == budget && key.dimension == dimension;
        let accounts = self.accounts.iter().filter(|(key, _)| of(key));
        accounts.fold(Units::ZERO, |sum, (_, account)| sum.plus(account.spent.minus(account.base)))
    }

    /// I1 to I3, I5 and I4: nothing is lent beyond the limit.
    pub(in crate::domain::ledger) fn check(&self) {
        for (key, account) in &self.accounts {
            let leases: Vec<_> =
                self.leases.iter().filter(|((of, ..), _)| of == key).map(|(_, l)| *l).collect();
            let direct = self.direct.get(key).copied().unwrap_or_default();
            if let Err(fault) = escrow::check_invariants(account, &leases, direct) {
                panic!("{key:?}: {fault}");
            }
            let taken = account.spent.minus(account.base).plus(account.leased);
            let most = self.limits_max.get(key).copied().unwrap_or_default();
            assert!(
                taken.plus(account.forfeited) <= most.plus(account.overdraft),
                "I4: {key:?} lent beyond its limit of {most:?}: {account:?}"
            );
        }
    }
}
