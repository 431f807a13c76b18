//! The store of the world: the real arithmetic in memory, behind a clock that steps, with the books checked after every change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bursar::domain::budget::{Budget, Dimension};
use bursar::domain::credits;
use bursar::domain::ids::{HolderId, Id};
use bursar::domain::ledger::escrow::{self, AccountKey, GRACE, Grant, Lease, LeaseState};
use bursar::domain::money::Units;
use bursar::domain::period::Schedule;
use bursar::domain::settlement::{Charge, Road};
use bursar::domain::time::Wall;
use bursar::store::memory::{MemoryStore, NamedLease};
use bursar::store::{Batch, Change, FleetStore as _, Store as _, StoreError};
use futures_util::FutureExt;

use super::paid::{Paid, check_balance};
use super::plan::room_of;
use super::truth::Truth;
use super::world::{BudgetName, Changed, budget_of};

/// What must not be, in words.
pub(crate) type Fault = String;

/// The most by which the store's clock may be ahead of time: steps are smaller than the grace of leases.
pub(crate) const AHEAD_MAX_MS: u64 = 1_700;

/// After so many batches all books are looked at, not only those that the batch names.
const LOOK_AT_ALL: u64 = 16;

pub(crate) struct Store {
    pub(crate) memory: MemoryStore,
    /// How far the store's clock is ahead.
    pub(crate) ahead: Duration,
    pub(crate) budgets: BTreeMap<BudgetName, Budget>,
    /// Budgets that were a shadow at some time: what they let pass is in no lease.
    pub(crate) shadows: BTreeSet<BudgetName>,
    /// The credits of each workspace that was ever granted any.
    pub(crate) paid: BTreeMap<Id, Paid>,
    /// The books as whatever last had to do with them left them.
    left: BTreeMap<AccountKey, Books>,
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
            budgets: BTreeMap::new(),
            shadows: BTreeSet::new(),
            paid: BTreeMap::new(),
            left: BTreeMap::new(),
            applied: BTreeSet::new(),
            commits: 0,
        }
    }

    /// The store knows the time by what its callers tell.
    pub(crate) fn tell_time(&mut self, now: Wall) -> Result<(), Fault> {
        self.sweep(now).map(drop)
    }

    /// Sweeps expired leases. Returns how many.
    pub(crate) fn sweep(&mut self, now: Wall) -> Result<u64, Fault> {
        self.check_untouched()?;
        let swept = at_once(self.memory.sweep(now)).map_err(|error| error.to_string())?;
        if swept > 0 {
            self.note(|_| true);
        }
        Ok(swept)
    }

    /// Applies a batch, or gives the account whose lease is lost; none where its sender was taken over.
    pub(crate) fn commit(
        &mut self,
        (number, holder): (u64, HolderId),
        batch: &Batch,
        now: Wall,
        truth: &mut Truth,
    ) -> Result<Result<Vec<Grant>, Option<AccountKey>>, Fault> {
        if !batch.exchanges.is_sorted_by(|a, b| a.account <= b.account) {
            return Err(format!("the exchanges of batch {number} are not in order: {batch:?}"));
        }
        let before = self.touched(batch);
        let twice = self.charged_in_place(batch);
        self.commits += 1;
        let answer = match at_once(self.memory.commit(batch, now)) {
            Ok(grants) => Ok(grants),
            Err(StoreError::LeaseLost(key)) => Err(Some(*key)),
            Err(StoreError::TakenOver) => Err(None),
            Err(error) => return Err(format!("the store failed: {error}")),
        };
        let after = self.touched(batch);
        let is_first = answer.is_ok() && self.applied.insert(number);
        if !is_first && before != after {
            return Err(format!("I8: batch {number} changed {before:?} to {after:?}"));
        }
        if is_first {
            for (key, amount) in twice {
                let sums = truth.accounts.entry(key).or_default();
                sums.direct = sums.direct.minus(amount);
            }
            for entry in &batch.settlements {
                if !truth.is_recorded(&batch.workspace, &entry.id) {
                    truth.recorded(holder, entry);
                }
            }
        }
        let empty = (escrow::Account::default(), Vec::new());
        for (key, now) in &after {
            let before = before.iter().find(|(other, _)| other == key);
            self.check_step(key, before.map_or(&empty, |(_, before)| before), now)?;
            self.check_books(key, now, truth)?;
            if key.budget == credits::BUDGET {
                check_balance(&key.workspace, &now.0, truth)?;
            }
        }
        self.left.extend(after);
        if self.commits.is_multiple_of(LOOK_AT_ALL) {
            self.check_untouched()?;
        }
        Ok(answer)
    }

    /// I15: what is done in one workspace, on one account, leaves all others as they are.
    pub(crate) fn check_untouched(&self) -> Result<(), Fault> {
        let keys = self.memory.account_keys();
        for key in &keys {
            let (is, was) = (self.memory.books(key), self.left.get(key));
            if is.as_ref() != was {
                return Err(format!("I15: nobody had to do with {key:?}: {is:?}, {was:?} before"));
            }
        }
        let are_there = keys.len() == self.left.len();
        are_there.then_some(()).ok_or_else(|| format!("I15: gone: {:?} {keys:?}", self.left.keys()))
    }

    /// Something had to do with these accounts.
    pub(crate) fn note(&mut self, is_meant: impl Fn(&AccountKey) -> bool) {
        self.left.retain(|key, _| !is_meant(key));
        for key in self.memory.account_keys().into_iter().filter(is_meant) {
            self.left.extend(self.memory.books(&key).map(|books| (key, books)));
        }
    }

    fn note_budget(&mut self, name: &BudgetName) {
        self.note(|key| budget_of(key) == *name);
    }

    /// What the leases of a batch report that another replica charged directly, in the place of their holder.
    fn charged_in_place(&self, batch: &Batch) -> Vec<(AccountKey, Units)> {
        let mut twice = Vec::new();
        for entry in &batch.settlements {
            let on_record = at_once(self.memory.settlement(&batch.workspace, &entry.id));
            let Ok(Some(on_record)) = on_record else { continue };
            for charge in entry.charges.iter().filter(|charge| charge.road == Road::Lease) {
                let is_direct =
                    |other: &&Charge| other.account == charge.account && other.road == Road::Direct;
                if on_record.charges.iter().any(|other| is_direct(&other)) {
                    twice.push((charge.account.clone(), charge.amount));
                }
            }
        }
        twice
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
        let budgets = at_once(self.memory.load_budgets()).map_err(|error| error.to_string())?;
        if !budgets.iter().eq(self.budgets.values()) {
            return Err(format!("I15: {budgets:?} on record and not {:?}", self.budgets));
        }
        self.check_untouched()
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
        if key.budget == credits::BUDGET {
            return self.granted(&key.workspace).map_or(Units::ZERO, Units::from);
        }
        let is_current = |b: &&Budget| b.generation_of(key.dimension) == key.generation;
        let budget = self.budgets.get(&budget_of(key)).filter(is_current);
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
            let allowed = self.limit(key).plus(base);
            // What expires of credits is neither spent nor lent, so that what is left covers all that was admitted.
            let before = if key.budget == credits::BUDGET { Units::ZERO } else { sums.ceiling };
            sums.ceiling = before.max(allowed);
        }
    }

    pub(crate) fn create(&mut self, budget: Budget) {
        if at_once(self.memory.create_budget(&budget)).is_ok() {
            self.put(budget);
        }
    }

    pub(crate) fn replace(&mut self, budget: Budget) {
        if let Ok(budget) = at_once(self.memory.replace_budget(&budget, None, None)) {
            self.put(budget);
        }
    }

    fn put(&mut self, budget: Budget) {
        let name = (budget.workspace.clone(), budget.id);
        if budget.shadow {
            self.shadows.insert(name.clone());
        }
        self.note_budget(&name);
        self.budgets.insert(name, budget);
    }

    /// How often anything was changed.
    pub(crate) fn version(&self) -> i64 {
        let changes = at_once(self.memory.changes()).expect("the store in memory counts");
        changes.iter().map(|(_, last)| last.number).sum()
    }

    /// What was changed of each workspace after the change that is known.
    pub(crate) fn changed_since(&self, known: &[Change]) -> Vec<Changed> {
        let changes = at_once(self.memory.changes()).expect("the store in memory counts");
        let is_new =
            |(workspace, last): &(Id, Change)| last.number > known[room_of(workspace)].number;
        let changed = changes.into_iter().filter(is_new).map(|(workspace, version)| {
            let room = room_of(&workspace);
            let page = at_once(self.memory.changed_budgets(&workspace, &known[room], usize::MAX));
            let page = page.expect("the store in memory looks");
            let budgets = page.expect("no change is forgotten so soon").budgets;
            Changed { room, version, budgets, credits: self.credits_in_force(&workspace) }
        });
        changed.collect()
    }

    /// Gives a budget another calendar: its window starts with what is on record in it.
    pub(crate) fn reschedule(
        &mut self,
        mut budget: Budget,
        schedule: Schedule,
        now: Wall,
        truth: &mut Truth,
    ) -> Result<(), Fault> {
        let window = schedule.window_at(now);
        budget.limits.schedule = Some(schedule);
        let replaced = at_once(self.memory.replace_budget(&budget, None, Some(&window)));
        let budget = replaced.map_err(|error| error.to_string())?;
        let name = (budget.workspace.clone(), budget.id);
        let due = truth.on_record_in(&name, &window);
        let is_new = |key: &AccountKey| {
            budget_of(key) == name
                && key.dimension != Dimension::Requests
                && key.generation == budget.generation
        };
        let mut begun = BTreeMap::new();
        for key in self.memory.account_keys().into_iter().filter(is_new) {
            let spent = self.memory.books(&key).map_or(Units::ZERO, |(account, _)| account.spent);
            begun.insert((key.dimension, key.target.clone()), spent);
            truth.seeded(key, spent);
        }
        if begun != due {
            return Err(format!("{budget:?} begins with {begun:?} and not {due:?}"));
        }
        self.put(budget);
        Ok(())
    }

    pub(crate) fn delete(&mut self, name: &BudgetName) {
        if at_once(self.memory.delete_budget(&name.0, name.1)).is_ok() {
            self.budgets.remove(name);
            self.note_budget(name);
        }
    }

    /// Starts the counters of a budget anew, in the window that the store's clock is in.
    pub(crate) fn reset(&mut self, name: &BudgetName, now: Wall, truth: &mut Truth) {
        let Some(budget) = self.budgets.get(name).cloned() else { return };
        let schedule = budget.limits.schedule.as_ref();
        let label = schedule.map(|schedule| schedule.window_at(now).label).unwrap_or_default();
        for key in self.memory.account_keys().iter().filter(|key| budget_of(key) == *name) {
            let forfeited = self.memory.books(key).map(|(account, _)| account.forfeited);
            if key.dimension != Dimension::Requests && forfeited > Some(Units::ZERO) {
                truth.accounts.entry(key.clone()).or_default().written_off = true;
            }
        }
        if at_once(self.memory.reset_budget(&budget, &label)).is_ok() {
            self.put(Budget { resets: budget.resets + 1, ..budget });
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
