//! The store of the world: the real arithmetic in memory, behind a clock that steps, with the books checked after every change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bursar::domain::budget::{Budget, Dimension};
use bursar::domain::credits::{self, Added, CreditGrant, InForce};
use bursar::domain::ids::{BudgetId, HolderId, Id};
use bursar::domain::ledger::escrow::{self, AccountKey, GRACE, Grant, Lease, LeaseState};
use bursar::domain::money::{NanoUsd, Units};
use bursar::domain::period::Schedule;
use bursar::domain::settlement::{Charge, Road};
use bursar::domain::time::Wall;
use bursar::store::memory::{MemoryStore, NamedLease};
use bursar::store::{Batch, CreditStore as _, Store as _, StoreError};
use futures_util::FutureExt;

use super::plan::workspace;
use super::truth::Truth;

/// What must not be, in words.
pub(crate) type Fault = String;

/// The most by which the store's clock may be ahead of time: steps are smaller than the grace of leases.
pub(crate) const AHEAD_MAX_MS: u64 = 1_700;

/// More than any two clocks here are apart.
const CLOCKS_APART: Duration = Duration::from_secs(4);

pub(crate) struct Store {
    pub(crate) memory: MemoryStore,
    /// How far the store's clock is ahead.
    pub(crate) ahead: Duration,
    /// Counts changes of budgets.
    pub(crate) version: u64,
    pub(crate) budgets: BTreeMap<BudgetId, Budget>,
    /// Budgets that were a shadow at some time: what they let pass is in no lease.
    pub(crate) shadows: BTreeSet<BudgetId>,
    /// What is granted of credits and not expired; `None` before the first grant.
    pub(crate) granted: Option<NanoUsd>,
    /// All grants that were ever added.
    grants: BTreeMap<Id, CreditGrant>,
    /// Σ of what was lent of credits when some of them were over.
    kept: Units,
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
            shadows: BTreeSet::new(),
            granted: None,
            grants: BTreeMap::new(),
            kept: Units::ZERO,
            applied: BTreeSet::new(),
            commits: 0,
        }
    }

    /// The store knows the time by what its callers tell.
    pub(crate) fn tell_time(&self, now: Wall) {
        at_once(self.memory.sweep(now)).expect("the store in memory sweeps");
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
            if key.budget == credits::BUDGET {
                self.check_balance(&now.0, truth)?;
            }
        }
        Ok(answer)
    }

    /// What the leases of a batch report that another replica charged directly, in the place of their holder.
    fn charged_in_place(&self, batch: &Batch) -> Vec<(AccountKey, Units)> {
        let mut twice = Vec::new();
        for entry in &batch.settlements {
            let on_record = at_once(self.memory.settlement(&workspace(), &entry.id));
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
        if key.budget == credits::BUDGET {
            return self.granted.map_or(Units::ZERO, Units::from);
        }
        let is_current = |b: &&Budget| b.generation_of(key.dimension) == key.generation;
        let budget = self.budgets.get(&key.budget).filter(is_current);
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
        if budget.shadow {
            self.shadows.insert(budget.id);
        }
        self.budgets.insert(budget.id, budget);
        self.version += 1;
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
        let due = truth.on_record_in(budget.id, &window);
        let is_new = |key: &AccountKey| {
            key.budget == budget.id
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

    /// Adds a grant of credits, at the time of some replica.
    pub(crate) fn grant(
        &mut self,
        grant: &CreditGrant,
        at: Wall,
        now: Wall,
        truth: &Truth,
    ) -> Result<Added, Fault> {
        let added = at_once(self.memory.add_credit(&workspace(), grant, at));
        let added = added.map_err(|error| error.to_string())?;
        match &added {
            Added::New(in_force) => {
                self.grants.insert(grant.id.clone(), grant.clone());
                self.take_in_force(*in_force);
            }
            Added::Before(before) if self.grants.get(&grant.id) == Some(before) => {}
            Added::Expired if grant.expires_at.is_some_and(|end| end <= at) => {}
            _ => return Err(format!("{grant:?} came to {added:?}")),
        }
        self.check_credits(now, truth)?;
        Ok(added)
    }

    /// Takes out what is over of the credits by the clock of some replica.
    pub(crate) fn expire_credits(
        &mut self,
        at: Wall,
        now: Wall,
        truth: &Truth,
    ) -> Result<Option<InForce>, Fault> {
        let account = self.memory.books(&credits::account(&workspace()));
        let before = self.credits_in_force();
        let in_force = at_once(self.memory.expire_credits(&workspace(), at));
        let in_force = in_force.map_err(|error| error.to_string())?;
        if let Some(in_force) = in_force {
            if before.is_some_and(|before| before.next_expiry.is_some_and(|end| end <= at)) {
                // What is lent just then counts as drawn, and stays when it is handed back.
                let held = account.map(|(account, _)| account.leased.plus(account.forfeited));
                self.kept = self.kept.plus(held.unwrap_or_default());
            }
            self.take_in_force(in_force);
            self.check_credits(now, truth)?;
        }
        Ok(in_force)
    }

    fn take_in_force(&mut self, in_force: InForce) {
        if self.granted.replace(in_force.granted) != Some(in_force.granted) {
            self.version += 1;
        }
    }

    /// What a replica that starts is told of the credits.
    pub(crate) fn credits_in_force(&self) -> Option<InForce> {
        let all = at_once(self.memory.load_credits()).ok()?;
        all.into_iter().find(|(of, _)| *of == workspace()).map(|(_, in_force)| in_force)
    }

    /// The balance is what was granted and has not expired, less what is on record.
    fn check_balance(&self, account: &escrow::Account, truth: &Truth) -> Result<(), Fault> {
        let recorded =
            truth.accounts.get(&credits::account(&workspace())).map(|sums| sums.recorded);
        if account.spent == recorded.unwrap_or_default() {
            return Ok(());
        }
        Err(format!("the credits: {account:?}, and {recorded:?} on record"))
    }

    /// Each grant counts once, until it is over, and the balance is the sum of the entries.
    pub(crate) fn check_credits(&self, now: Wall, truth: &Truth) -> Result<(), Fault> {
        let Some(granted) = self.granted else { return Ok(()) };
        let holdings = at_once(self.memory.credits(&workspace())).ok().flatten();
        let holdings = holdings.ok_or("the credits are gone")?;
        let (first, last) = (Wall::from_ms(0), Wall::from_ms(i64::MAX));
        let statement = at_once(self.memory.credit_statement(&workspace(), first, last));
        let statement = statement.map_err(|error| error.to_string())?;
        let sum = |is_meant: &dyn Fn(&CreditGrant) -> bool| {
            let meant = self.grants.values().filter(|grant| is_meant(grant));
            meant.fold(NanoUsd::ZERO, |sum, grant| sum.plus(grant.amount))
        };
        let later = now.plus(CLOCKS_APART);
        let left = sum(&|grant| grant.expires_at.is_none_or(|end| end > later));
        let (balance, all) = (holdings.balance(), sum(&|_| true));
        let closing = statement.closing();
        let (entered, expired) = (statement.granted, statement.expired);
        let is_even = holdings.credits.granted == granted
            && balance == closing
            && entered == all
            && entered.plus(expired) == granted
            && granted >= left;
        if !is_even {
            return Err(format!(
                "the credits are not even: {all:?} paid, {entered:?} and {expired:?} entered, {granted:?} in force and \
                 {left:?} not over, {balance:?} left, which is {closing:?} by the entries"
            ));
        }
        self.check_balance(&holdings.account, truth)
    }

    /// At rest nothing is left of grants that are over but what was lent then, and what was given back afterwards.
    pub(crate) fn check_expired(&self, now: Wall, truth: &Truth) -> Result<(), Fault> {
        self.check_credits(now, truth)?;
        let Some(granted) = self.granted else { return Ok(()) };
        let key = credits::account(&workspace());
        let account = self.memory.books(&key).map(|(account, _)| account).unwrap_or_default();
        let good = self.grants.values().filter(|grant| grant.expires_at.is_none_or(|at| at > now));
        let good = good.fold(NanoUsd::ZERO, |sum, grant| sum.plus(grant.amount));
        let refunded = truth.accounts.get(&key).map_or(Units::ZERO, |sums| sums.refunded);
        let left = Units::from(credits::balance(granted, &account));
        if left > Units::from(good).plus(self.kept).plus(refunded) {
            return Err(format!(
                "{left:?} left of credits, of which {good:?} are good: {account:?}"
            ));
        }
        Ok(())
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
