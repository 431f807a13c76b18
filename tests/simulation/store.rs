//! The store of the world: the real arithmetic in memory, behind a clock that steps, with the books checked after every change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bursar::domain::budget::{Budget, Dimension};
use bursar::domain::ids::{BudgetId, HolderId};
use bursar::domain::ledger::escrow::{self, AccountKey, GRACE, Grant, Lease, LeaseState};
use bursar::domain::money::Units;
use bursar::domain::time::Wall;
use bursar::store::memory::{MemoryStore, NamedLease};
use bursar::store::{Batch, Store as _, StoreError};
use futures_util::FutureExt;

use super::plan::workspace;
use super::truth::Truth;

/// What must not be, in words.
pub(crate) type Fault = String;

/// The most by which the store's clock may be ahead of time: steps are smaller than the grace of leases.
pub(crate) const AHEAD_MAX_MS: u64 = 1_700;

pub(crate) struct Store {
    pub(crate) memory: MemoryStore,
    /// How far the store's clock is ahead.
    pub(crate) ahead: Duration,
    /// Counts changes of budgets.
    pub(crate) version: u64,
    pub(crate) budgets: BTreeMap<BudgetId, Budget>,
    /// Batches that were applied, by the number that their sender gave them.
    applied: BTreeSet<u64>,
    /// Transactions that were applied.
    pub(crate) commits: u64,
}

/// Runs a method of the store in memory, which never waits.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the store in memory does not wait")
}

impl Store {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            memory: MemoryStore::new(ttl),
            ahead: Duration::ZERO,
            version: 0,
            budgets: BTreeMap::new(),
            applied: BTreeSet::new(),
            commits: 0,
        }
    }

    /// Applies a batch, or gives the account whose lease is lost.
    pub(crate) fn commit(
        &mut self,
        (number, holder): (u64, HolderId),
        batch: &Batch,
        now: Wall,
        truth: &mut Truth,
    ) -> Result<Result<Vec<Grant>, AccountKey>, Fault> {
        if !batch.exchanges.is_sorted_by(|a, b| a.account <= b.account) {
            return Err(format!("the exchanges of batch {number} are not in order: {batch:?}"));
        }
        let before = self.touched(batch);
        self.commits += 1;
        let answer = match at_once(self.memory.commit(batch, now)) {
            Ok(grants) => Ok(grants),
            Err(StoreError::LeaseLost(key)) => Err(*key),
            Err(error) => return Err(format!("the store failed: {error}")),
        };
        let after = self.touched(batch);
        let is_first = answer.is_ok() && self.applied.insert(number);
        if !is_first && before != after {
            return Err(format!("I8: batch {number} changed {before:?} to {after:?}"));
        }
        if is_first {
            for entry in &batch.settlements {
                if !truth.is_recorded(&entry.id) {
                    truth.recorded(holder, entry);
                }
            }
        }
        let empty = (escrow::Account::default(), Vec::new());
        for (key, now) in &after {
            let before = before.iter().find(|(other, _)| other == key);
            self.check_step(key, before.map_or(&empty, |(_, before)| before), now)?;
            self.check_books(key, now, truth)?;
        }
        Ok(answer)
    }

    /// The accounts and leases that a batch names.
    fn touched(&self, batch: &Batch) -> Vec<(AccountKey, Books)> {
        let exchanged = batch.exchanges.iter().map(|exchange| &exchange.account);
        let charges = batch.settlements.iter().flat_map(|entry| entry.charges.iter());
        let keys: BTreeSet<_> = exchanged.chain(charges.map(|charge| &charge.account)).collect();
        let books = |key: &AccountKey| Some((key.clone(), self.memory.books(key)?));
        keys.into_iter().filter_map(books).collect()
    }

    /// I4 and I5: what one transaction may change.
    fn check_step(&self, key: &AccountKey, before: &Books, after: &Books) -> Result<(), Fault> {
        let old: BTreeMap<_, _> = before.1.iter().map(|(h, e, lease)| ((*h, *e), *lease)).collect();
        let mut granted = Units::ZERO;
        for (holder, epoch, lease) in &after.1 {
            let was = old.get(&(*holder, *epoch)).copied().unwrap_or_default();
            granted = granted.plus(lease.granted.minus(was.granted));
            if !grows(&was, lease) {
                return Err(format!("I5: {key:?} went from {was:?} to {lease:?}"));
            }
        }
        let lent_before =
            before.1.iter().filter(|(.., lease)| lease.state == LeaseState::Active).count();
        if after.0.recalls > before.0.recalls && lent_before == 0 {
            return Err(format!("{key:?} was recalled while nobody had any of it: {after:?}"));
        }
        let lent = granted.minus(after.0.overdraft.minus(before.0.overdraft));
        let free = after.0.free(self.limit(key));
        if lent > Units::ZERO && free < Units::ZERO {
            return Err(format!("I4: {lent:?} lent of {key:?}, which leaves {free:?}: {after:?}"));
        }
        Ok(())
    }

    /// I1, I2, I3 and I5 for one account.
    fn check_books(&self, key: &AccountKey, books: &Books, truth: &Truth) -> Result<(), Fault> {
        let direct = truth.accounts.get(key).map_or(Units::ZERO, |sums| sums.direct);
        let leases: Vec<Lease> = books.1.iter().map(|(_, _, lease)| *lease).collect();
        let is_open = |lease: &&Lease| {
            lease.state == LeaseState::Closed && lease.outstanding() != Units::ZERO
        };
        if let Some(lease) = leases.iter().find(is_open) {
            return Err(format!("{key:?}: closed, and not all of it is accounted for: {lease:?}"));
        }
        escrow::check_invariants(&books.0, &leases, direct)
            .map_err(|fault| format!("{key:?}: {fault}"))
    }

    /// The same for all accounts, after something that may have touched any.
    pub(crate) fn check_all(&self, truth: &Truth) -> Result<(), Fault> {
        for key in self.memory.account_keys() {
            if let Some(books) = self.memory.books(&key) {
                self.check_books(&key, &books, truth)?;
            }
        }
        Ok(())
    }

    /// I9: whether a holder may admit against this lease.
    pub(crate) fn check_lease(
        &self,
        key: &AccountKey,
        holder: HolderId,
        epoch: u32,
        now: Wall,
    ) -> Result<(), Fault> {
        match self.memory.lease(key, holder, epoch) {
            Some(lease)
                if lease.state == LeaseState::Active && now <= lease.expires_at.plus(GRACE) =>
            {
                Ok(())
            }
            lease => Err(format!("I9: admitted at {now:?} against {key:?} {epoch}: {lease:?}")),
        }
    }

    /// The limit of an account as the store applies it.
    pub(crate) fn limit(&self, key: &AccountKey) -> Units {
        let budget = self.budgets.get(&key.budget).filter(|b| b.generation == key.generation);
        budget.and_then(|budget| budget.limits.of(key.dimension)).unwrap_or(Units::ZERO)
    }

    /// Keeps in mind how much was ever allowed.
    pub(crate) fn raise_ceilings(&self, truth: &mut Truth) {
        self.raise_ceilings_of(&self.memory.account_keys(), truth);
    }

    /// The same for some accounts.
    pub(crate) fn raise_ceilings_of(&self, keys: &[AccountKey], truth: &mut Truth) {
        for key in keys {
            let base = self.memory.books(key).map_or(Units::ZERO, |(account, _)| account.base);
            let sums = truth.accounts.entry(key.clone()).or_default();
            sums.ceiling = sums.ceiling.max(self.limit(key).plus(base));
        }
    }

    pub(crate) fn create(&mut self, budget: Budget) {
        if at_once(self.memory.create_budget(&budget)).is_ok() {
            self.budgets.insert(budget.id, budget);
            self.version += 1;
        }
    }

    pub(crate) fn replace(&mut self, budget: Budget) {
        if let Ok(budget) = at_once(self.memory.replace_budget(&budget, None, None)) {
            self.budgets.insert(budget.id, budget);
            self.version += 1;
        }
    }

    pub(crate) fn delete(&mut self, id: BudgetId) {
        if at_once(self.memory.delete_budget(&workspace(), id)).is_ok() {
            self.budgets.remove(&id);
            self.version += 1;
        }
    }

    /// Starts the counters of a budget anew, in the window that the store's clock is in.
    pub(crate) fn reset(&mut self, id: BudgetId, now: Wall, truth: &mut Truth) {
        let Some(budget) = self.budgets.get(&id).cloned() else { return };
        let schedule = budget.limits.schedule.as_ref();
        let label = schedule.map(|schedule| schedule.window_at(now).label).unwrap_or_default();
        for key in self.memory.account_keys().iter().filter(|key| key.budget == id) {
            let forfeited = self.memory.books(key).map(|(account, _)| account.forfeited);
            if key.dimension != Dimension::Requests && forfeited > Some(Units::ZERO) {
                truth.accounts.entry(key.clone()).or_default().written_off = true;
            }
        }
        if at_once(self.memory.reset_budget(&budget, &label)).is_ok() {
            self.budgets.insert(id, Budget { resets: budget.resets + 1, ..budget });
            self.version += 1;
        }
    }
}

type Books = (escrow::Account, Vec<NamedLease>);

/// I5: totals never fall, and a closed lease stays closed.
fn grows(was: &Lease, is: &Lease) -> bool {
    was.seq <= is.seq
        && was.granted <= is.granted
        && was.consumed <= is.consumed
        && was.returned <= is.returned
        && was.overrun <= is.overrun
        && (was.state != LeaseState::Closed || is.state == LeaseState::Closed)
}
