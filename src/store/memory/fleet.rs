//! What replicas on one memory store tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, broadcast};

use super::{MemoryStore, Tables, expires_at};
use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::{self, AccountKey, LeaseState};
use crate::domain::money::Units;
use crate::domain::time::Wall;
use crate::store::{
    CHANGES_KEPT, Change, ChangedBudgets, FleetStore, HANDOFFS_MAX, Handoff, News, StoreError,
    Told, UNTAKEN_AFTER,
};

/// Words that a replica may be behind before it is told that it missed some.
const WORDS_MAX: usize = 256;

/// All that was said.
#[derive(Debug)]
pub(super) struct Words {
    /// The latest instant that a caller named.
    now: Wall,
    said: broadcast::Sender<Told>,
    changes: BTreeMap<Id, i64>,
    /// The marks of all changes, by their numbers, and when each was followed by another.
    marks: BTreeMap<(Id, i64), (String, Option<Wall>)>,
    last_mark: u64,
    /// The number of the last change of each budget.
    budgets: BTreeMap<(Id, BudgetId), i64>,
    recalled: BTreeSet<AccountKey>,
    handoffs: BTreeMap<(Id, ReservationId, Id), Kept>,
}

/// A handoff with what became of it.
#[derive(Debug)]
struct Kept {
    handoff: Handoff,
    /// When it was written, or last given to a replica that is not its holder.
    since: Wall,
    /// When it was last given so.
    given: Option<Wall>,
    is_settled: bool,
}

/// One replica's place among the words.
pub(super) struct Ear(Mutex<broadcast::Receiver<Told>>, broadcast::Sender<Told>);

impl Default for Words {
    fn default() -> Self {
        Self {
            now: Wall::default(),
            said: broadcast::Sender::new(WORDS_MAX),
            changes: BTreeMap::new(),
            marks: BTreeMap::new(),
            last_mark: 0,
            budgets: BTreeMap::new(),
            recalled: BTreeSet::new(),
            handoffs: BTreeMap::new(),
        }
    }
}

impl Words {
    pub(super) fn ear(&self) -> Ear {
        Ear(Mutex::new(self.said.subscribe()), self.said.clone())
    }

    pub(super) fn is_now(&mut self, now: Wall) {
        self.now = self.now.max(now);
    }

    pub(super) fn changed(&mut self, workspace: &Id) -> i64 {
        let count = self.changes.entry(workspace.clone()).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        if let Some((_, followed_at)) = self.marks.get_mut(&(workspace.clone(), count - 1)) {
            *followed_at = Some(self.now);
        }
        self.last_mark = self.last_mark.saturating_add(1);
        self.marks.insert((workspace.clone(), count), (self.last_mark.to_string(), None));
        self.say(Told::Changed(workspace.clone()));
        count
    }

    pub(super) fn changed_budget(&mut self, workspace: &Id, id: BudgetId) {
        let count = self.changed(workspace);
        self.budgets.insert((workspace.clone(), id), count);
    }

    /// The change of this number, with its mark as long as it is kept.
    fn change(&self, workspace: &Id, number: i64) -> Change {
        let is_kept = |followed_at: &Option<Wall>| {
            followed_at.is_none_or(|at| at.plus(CHANGES_KEPT) >= self.now)
        };
        let kept = self.marks.get(&(workspace.clone(), number)).filter(|(_, at)| is_kept(at));
        Change { number, mark: kept.map(|(mark, _)| mark.clone()) }
    }

    fn last_changes(&self) -> Vec<(Id, Change)> {
        let last = self.changes.iter();
        last.map(|(id, count)| (id.clone(), self.change(id, *count))).collect()
    }

    pub(super) fn recalled(&mut self, account: &AccountKey, recalls: u32) {
        self.recalled.insert(account.clone());
        self.say(Told::Recalled(account.clone(), recalls));
    }

    fn say(&self, word: Told) {
        // It fails when nobody listens, which is nobody's loss.
        let _ = self.said.send(word);
    }
}

impl Clone for Ear {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.1.subscribe()), self.1.clone())
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ear")
    }
}

fn place(handoff: &Handoff) -> (Id, ReservationId, Id) {
    (handoff.workspace.clone(), handoff.reservation, handoff.settlement.clone())
}

#[async_trait]
impl FleetStore for MemoryStore {
    /// All that was ever written: there is little of it, and the clocks of callers may differ.
    async fn news(&self, holders: &[HolderId], since: Wall) -> Result<News, StoreError> {
        let tables = self.tables();
        let words = &tables.words;
        let recalled = words.recalled.iter().filter(|account| tables.is_held(account, holders));
        let waiting = words
            .handoffs
            .values()
            .filter(|kept| !kept.is_settled && holders.contains(&kept.handoff.reservation.holder));
        Ok(News {
            upto: since,
            changed: words.last_changes(),
            recalled: recalled
                .map(|key| (key.clone(), tables.accounts.get(key).map_or(0, |a| a.recalls)))
                .collect(),
            handed_over: waiting.map(|kept| kept.handoff.clone()).collect(),
        })
    }

    async fn changes(&self) -> Result<Vec<(Id, Change)>, StoreError> {
        Ok(self.tables().words.last_changes())
    }

    async fn changed_budgets(
        &self,
        workspace: &Id,
        after: &Change,
        limit: usize,
    ) -> Result<Option<ChangedBudgets>, StoreError> {
        let tables = self.tables();
        if after.mark.is_some() && tables.words.change(workspace, after.number) != *after {
            return Ok(None);
        }
        let all = tables.words.budgets.iter();
        let later = all.filter(|((of, _), count)| of == workspace && **count > after.number);
        let mut later: Vec<_> = later.map(|(place, count)| (*count, place)).collect();
        later.sort_unstable();
        let has_more = later.len() > limit;
        later.truncate(limit);
        let number = later.last().map_or(after.number, |(count, _)| *count);
        let upto = tables.words.change(workspace, number);
        let on_record = |place: &(Id, BudgetId)| (place.1, tables.budgets.get(place).cloned());
        let budgets = later.into_iter().map(|(_, place)| on_record(place)).collect();
        Ok(Some(ChangedBudgets { budgets, upto, has_more }))
    }

    async fn told(&self) -> Told {
        match self.ear.0.lock().await.recv().await {
            Ok(word) => word,
            Err(RecvError::Lagged(_)) => Told::Missed,
            // The store holds the other end itself.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    async fn hand_over(&self, handoff: &Handoff) -> Result<(), StoreError> {
        handoff.check()?;
        let words = &mut self.tables().words;
        let place = place(handoff);
        if !words.handoffs.contains_key(&place) {
            let kept =
                Kept { handoff: handoff.clone(), since: words.now, given: None, is_settled: false };
            words.handoffs.insert(place, kept);
            words.say(Told::HandedOver(handoff.reservation.holder));
        }
        Ok(())
    }

    async fn handoff_settled(
        &self,
        handoff: &Handoff,
        against: &[(AccountKey, Units)],
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let holder = handoff.reservation.holder;
        if against.iter().any(|(account, _)| tables.is_admitting(account, holder)) {
            return Ok(());
        }
        let kept = tables.words.handoffs.get_mut(&place(handoff));
        let Some(kept) = kept.filter(|kept| !kept.is_settled) else { return Ok(()) };
        kept.is_settled = true;
        for (account, amount) in against {
            tables.take_back(account, holder, *amount);
        }
        Ok(())
    }

    async fn untaken_handoffs(&self, now: Wall) -> Result<Vec<Handoff>, StoreError> {
        let words = &mut self.tables().words;
        words.is_now(now);
        let of = |kept: &Kept| (kept.handoff.workspace.clone(), kept.handoff.reservation);
        let is_old = |at: Wall| at.plus(UNTAKEN_AFTER) < now;
        let all = words.handoffs.values();
        let untaken = all.clone().filter(|kept| !kept.is_settled && is_old(kept.since));
        let mut untaken: BTreeSet<_> = untaken.map(of).collect();
        for kept in all.filter(|kept| kept.given.is_some_and(|at| !is_old(at))) {
            untaken.remove(&of(kept));
        }
        let untaken: BTreeSet<_> = untaken.into_iter().take(HANDOFFS_MAX).collect();
        let is_meant = |kept: &&mut Kept| !kept.is_settled && untaken.contains(&of(kept));
        let given = words.handoffs.values_mut().filter(is_meant).map(|kept| {
            (kept.since, kept.given) = (now, Some(now));
            kept.handoff.clone()
        });
        Ok(given.collect())
    }

    async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        before: Wall,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        let Tables { accounts, leases, takeovers, .. } = &mut *self.tables();
        let mut released: BTreeMap<AccountKey, Units> = BTreeMap::new();
        for ((key, opener, _), lease) in leases {
            let is_meant = key.workspace == *workspace
                && key.budget == budget
                && key.dimension != Dimension::Requests
                && lease.state == LeaseState::Expired
                && expires_at(takeovers, *opener, lease) < before;
            if is_meant {
                let sum = released.entry(key.clone()).or_default();
                *sum = sum.plus(lease.outstanding());
                escrow::free_slots(accounts.entry(key.clone()).or_default(), lease);
            }
        }
        Ok(released.into_iter().collect())
    }
}

#[cfg(test)]
impl MemoryStore {
    /// As after a failover to a standby that was behind: the last changes of a workspace have no number.
    pub(crate) fn lose_changes(&self, workspace: &Id, changes: i64) {
        let words = &mut self.tables().words;
        if let Some(count) = words.changes.get_mut(workspace) {
            *count = count.saturating_sub(changes);
            let upto = *count;
            words.marks.retain(|(of, number), _| of != workspace || *number <= upto);
        }
    }

    /// As two days later, when nobody knows any more which budgets were deleted.
    pub(crate) fn forget_deleted(&self) {
        let Tables { words, budgets, .. } = &mut *self.tables();
        words.is_now(words.now.plus(2 * CHANGES_KEPT));
        words.budgets.retain(|place, _| budgets.contains_key(place));
    }
}

impl Tables {
    /// Whether one of these holders has an active lease on the account.
    fn is_held(&self, account: &AccountKey, holders: &[HolderId]) -> bool {
        holders.iter().any(|holder| {
            let epochs = (account.clone(), *holder, 0)..=(account.clone(), *holder, u32::MAX);
            self.leases.range(epochs).any(|(_, lease)| lease.state == LeaseState::Active)
        })
    }

    /// Whether the process that a holder was, or is by now, has an active lease on the account.
    fn is_admitting(&self, account: &AccountKey, holder: HolderId) -> bool {
        let last = |holder| self.takeovers.get(&holder).map_or(holder, |to| to.successor);
        let mut leases = self.leases.range(all_on(account));
        leases.any(|((_, opener, _), lease)| {
            last(*opener) == last(holder) && lease.state == LeaseState::Active
        })
    }

    fn take_back(&mut self, account: &AccountKey, holder: HolderId, mut amount: Units) {
        let Self { accounts, leases, takeovers, .. } = self;
        let Some(totals) = accounts.get_mut(account) else { return };
        let last = |holder| takeovers.get(&holder).map_or(holder, |to| to.successor);
        let theirs = leases
            .range_mut(all_on(account))
            .filter(|((_, opener, _), _)| last(*opener) == last(holder));
        for (_, lease) in theirs {
            amount = amount.minus(escrow::take_back(totals, lease, amount));
        }
    }
}

/// The names of all leases on an account.
fn all_on(account: &AccountKey) -> RangeInclusive<(AccountKey, HolderId, u32)> {
    (account.clone(), HolderId(0), 0)..=(account.clone(), HolderId(u128::MAX), u32::MAX)
}
