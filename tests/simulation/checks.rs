//! What must hold after every step: the ledgers' own books, and the truth against what the store counts.

use std::collections::BTreeMap;

use bursar::domain::budget::{Budget, Dimension, WhenUnavailable};
use bursar::domain::credits;
use bursar::domain::decision::Decision;
use bursar::domain::ids::{HolderId, ReservationId};
use bursar::domain::ledger::Ledger;
use bursar::domain::ledger::account::{AccountIndex, LocalAccount, Standing};
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::money::Units;
use bursar::domain::time::Now;

use super::plan::{MS, SECOND, room_of};
use super::replica::Replica;
use super::room::{Overruns, Room};
use super::store::Fault;
use super::truth::Held;
use super::world::{Place, World, budget_of};

impl World {
    /// I6: what is reserved is what open reservations hold, and none of it lacks cover.
    pub(crate) fn check_ledger(&self, place: Place) -> Result<(), Fault> {
        let ledger = &self.room(place).ledger;
        let mut held: BTreeMap<AccountIndex, (Units, u32)> = BTreeMap::new();
        for (_, reservation) in ledger.reservations() {
            for hold in &reservation.holds {
                let (sum, count) = held.entry(hold.account).or_default();
                *sum = sum.plus(hold.amount);
                *count += 1;
            }
        }
        for (index, account) in ledger.accounts() {
            let (reserved, holds) = held.remove(&index).unwrap_or_default();
            let is_minute = account.dimension == Dimension::Requests;
            let reserved = if is_minute { Units::ZERO } else { reserved };
            if account.reserved != reserved || account.holds != holds {
                return Err(format!("I6: {reserved:?} in {holds} holds, not {account:?}"));
            }
            if account.available() < Units::ZERO && self.is_covered(ledger, account) {
                return Err(format!("I6: more set aside than lent: {account:?}"));
            }
        }
        match held.first_key_value() {
            Some((index, _)) => Err(format!("I6: a reservation holds of {index}, which is free")),
            None => Ok(()),
        }
    }

    /// Shadow budgets have no leases, and deleted ones no books.
    fn is_covered(&self, ledger: &Ledger, account: &LocalAccount) -> bool {
        let budget = ledger.accounts().find(|(_, other)| std::ptr::eq(*other, account));
        let key = budget.and_then(|(place, _)| ledger.key(place));
        let was_shadow = |key: &AccountKey| self.was_shadow(key);
        account.standing != Standing::Dead
            && account.dimension != Dimension::Requests
            && key.is_some_and(|key| !was_shadow(&key))
    }

    /// Whether it may hold what no lease covers, or was deleted.
    fn was_shadow(&self, key: &AccountKey) -> bool {
        let is_there =
            key.budget == credits::BUDGET || self.store.budgets.contains_key(&budget_of(key));
        !is_there || self.store.shadows.contains(&budget_of(key))
    }

    /// Only a budget in force refuses, and only one that says so lets a request go for want of the store's word.
    pub(crate) fn check_refusal(&self, place: Place, decision: &Decision) -> Result<(), Fault> {
        let ledger = &self.room(place).ledger;
        let budget = match decision {
            Decision::Allow(_) => None,
            Decision::Deny(refusal) => refusal.gate.as_ref().map(|gate| gate.budget),
            Decision::Undecided { budget } => *budget,
        };
        match budget.and_then(|id| ledger.budget(id)) {
            Some(budget) if budget.shadow => Err(format!("a shadow decides: {budget:?}")),
            Some(budget) if !budget.is_active => Err(format!("not in force: {budget:?}")),
            Some(Budget { when_unavailable: WhenUnavailable::Allow, .. })
                if matches!(decision, Decision::Undecided { .. }) =>
            {
                Err(format!("undecided, and {budget:?} allows"))
            }
            _ => Ok(()),
        }
    }

    /// What was admitted just now without cover, in the truth and within what each budget allows.
    pub(crate) fn note_blind(&mut self, place: Place, before: &Overruns) -> Result<(), Fault> {
        let holder = self.replicas[place.at].holder;
        let after = self.room(place).overruns();
        for (index, overrun) in after {
            let grown = overrun.minus(before.get(&index).copied().unwrap_or_default());
            if grown <= Units::ZERO {
                continue;
            }
            let Room { ledger, blind, .. } = self.room_mut(place);
            let Some(key) = ledger.key(index) else { continue };
            let serial = ledger.serial(index).unwrap_or_default();
            let sum = blind.entry((index, serial)).or_default();
            *sum = sum.plus(grown);
            let sum = *sum;
            self.truth.went_blind(holder, &key, grown);
            let budget = self.room(place).ledger.budget(key.budget);
            let allowed = budget.map_or(WhenUnavailable::Deny, |budget| budget.when_unavailable);
            let is_allowed = match allowed {
                WhenUnavailable::Deny => false,
                WhenUnavailable::AllowUpTo(most) if key.dimension == Dimension::Cost => {
                    sum <= Units::from(most) || self.relaxed.contains(&budget_of(&key))
                }
                WhenUnavailable::AllowUpTo(_) | WhenUnavailable::Allow => true,
            };
            if !is_allowed {
                return Err(format!("{place:?} admits {sum:?} of {key:?} blindly: {allowed:?}"));
            }
        }
        Ok(())
    }

    /// Whether requests may have passed without the store, or may pass now.
    pub(crate) fn was_lenient(&self, key: &AccountKey) -> bool {
        let is_lenient = |budget: &Budget| budget.when_unavailable != WhenUnavailable::Deny;
        self.relaxed.contains(&budget_of(key))
            || self.store.budgets.get(&budget_of(key)).is_some_and(is_lenient)
    }

    /// A limit of requests that a replica knows holds at once for what it admits itself.
    pub(crate) fn check_own_minute(
        &mut self,
        Place { at, room }: Place,
        holds: &[Held],
    ) -> Result<(), Fault> {
        let now = self.now;
        let Replica { rooms, minutes, .. } = &mut self.replicas[at];
        let counted = |held: &&Held| held.key.dimension == Dimension::Requests && !held.is_blind;
        for Held { key, .. } in holds.iter().filter(counted) {
            let Some(budget) = rooms[room].ledger.budget(key.budget).filter(|b| !b.shadow) else {
                continue;
            };
            let limit = u64::from(budget.limits.requests_per_minute.unwrap_or(0));
            let minute = minutes.entry(key.clone()).or_default();
            minute.push_back(now);
            while minute.front().is_some_and(|at| at + 60 * SECOND - 30 * MS <= now) {
                minute.pop_front();
            }
            let own = u64::try_from(minute.len()).unwrap_or(u64::MAX);
            if own > limit && !self.plan.is_alone {
                return Err(format!("I10: r{at} alone admits {own} of {limit} a minute: {key:?}"));
            }
        }
        Ok(())
    }

    /// I9: a holder admits against leases only that the store still counts for it.
    pub(crate) fn check_admission(
        &self,
        place: Place,
        id: ReservationId,
        is_blind: bool,
    ) -> Result<(), Fault> {
        let now = self.clocks(place.at);
        let room = self.room(place);
        let Some(reservation) = room.ledger.reservation(id) else { return Ok(()) };
        for hold in &reservation.holds {
            let Some(key) = room.ledger.key(hold.account) else { continue };
            let known = room.ledger.budget(key.budget);
            let passed = is_blind && room.is_lenient(&key);
            if passed || self.was_shadow(&key) || known.is_none_or(|budget| budget.shadow) {
                continue;
            }
            let mut accounts = room.ledger.accounts();
            let Some((_, account)) = accounts.find(|(index, _)| *index == hold.account) else {
                continue;
            };
            check_red(account, known, now)?;
            let epoch = account.lease.epoch;
            let own = self.replicas[place.at].holder;
            let opener = room.ledger.opener(hold.account).unwrap_or(own);
            self.store.check_lease(&key, opener, epoch, self.store_wall())?;
        }
        Ok(())
    }

    /// I7 and I10: what was admitted fits into what was allowed, counted by nobody but the world.
    pub(crate) fn check_limits(&mut self, keys: &[AccountKey], at: usize) -> Result<(), Fault> {
        self.store.raise_ceilings_of(keys, &mut self.truth);
        for key in keys {
            if self.was_shadow(key) {
                continue;
            }
            if key.dimension == Dimension::Requests {
                self.check_minute(key, at)?;
            } else if let Some(sums) = self.truth.accounts.get(key)
                && sums.floor > sums.ceiling.minus(sums.seeded).or_zero().plus(sums.blind)
            {
                return Err(format!("I7: {key:?} admitted beyond its limit: {sums:?}"));
            }
        }
        self.check_covers(keys.iter())
    }

    fn check_minute(&mut self, key: &AccountKey, at: usize) -> Result<(), Fault> {
        // A lone replica takes a minute of its own clock for one.
        let minute = if self.plan.is_alone { 60 * SECOND - 12 * MS } else { 60 * SECOND };
        let admitted = self.truth.in_minute(key, minute, self.now);
        let admitted = u64::try_from(admitted).unwrap_or(u64::MAX);
        let allowed = self.rate_allowed(&budget_of(key));
        if admitted > allowed {
            return Err(format!(
                "I10: {admitted} in a minute of {key:?}, {allowed} allowed (r{at})"
            ));
        }
        Ok(())
    }

    /// I13 for some accounts: what was used is counted, or is overrun that its replica has still to report.
    pub(crate) fn check_covers<'a>(
        &self,
        keys: impl Iterator<Item = &'a AccountKey>,
    ) -> Result<(), Fault> {
        keys.filter(|key| !self.was_shadow(key)).try_for_each(|key| self.check_cover(key))
    }

    pub(crate) fn check_all_covers(&self) -> Result<(), Fault> {
        self.check_covers(self.store.memory.account_keys().iter())
    }

    fn check_cover(&self, key: &AccountKey) -> Result<(), Fault> {
        let Some(sums) = self.truth.accounts.get(key) else { return Ok(()) };
        let stored = self.store.memory.books(key).map(|(account, _)| account).unwrap_or_default();
        let counted = stored.spent.plus(stored.leased).plus(stored.forfeited).minus(sums.seeded);
        if sums.used <= counted {
            return Ok(());
        }
        let unreported = self.unreported(key).plus(self.forgotten(key));
        if sums.used <= counted.plus(unreported) {
            return Ok(());
        }
        Err(format!(
            "I13: {key:?}: {sums:?}, {unreported:?} unreported and only {stored:?} counted"
        ))
    }

    /// What was admitted blindly by holders whose memory is lost, or not read again yet.
    fn forgotten(&self, key: &AccountKey) -> Units {
        let is_alive = |holder| {
            self.replicas.iter().any(|replica| replica.holder == holder && replica.is_remembered())
        };
        self.truth.blind_of_others(key, is_alive)
    }

    /// Overrun that the replicas have still to report.
    fn unreported(&self, key: &AccountKey) -> Units {
        let mut sum = Units::ZERO;
        for replica in &self.replicas {
            let ledger = &replica.rooms[room_of(&key.workspace)].ledger;
            for (index, account) in ledger.accounts() {
                if ledger.key(index).as_ref() == Some(key) {
                    sum = sum.plus(self.unsaid(key, replica.holder, account));
                }
            }
        }
        sum
    }

    fn unsaid(&self, key: &AccountKey, holder: HolderId, account: &LocalAccount) -> Units {
        let stored = self.store.memory.lease(key, holder, account.lease.epoch);
        let said = stored.map_or(Units::ZERO, |lease| lease.overrun);
        account.lease.overrun.minus(said).or_zero()
    }
}

/// I14: what was admitted just now is there, though a pool in the red is made good first.
fn check_red(account: &LocalAccount, budget: Option<&Budget>, now: Now) -> Result<(), Fault> {
    let red = account.free().min(Units::ZERO);
    let limit = budget.and_then(|budget| budget.limits.of(account.dimension));
    let left = match (&account.minute, limit) {
        _ if red == Units::ZERO => Units::ZERO,
        (None, _) => account.available().plus(red),
        (Some(minute), Some(limit)) => {
            let used = i64::from(minute.clone().used(now.mono));
            let quota = account.quota();
            quota.minus(Units::new(used)).plus(red.min(limit.minus(quota)))
        }
        (Some(_), None) => Units::ZERO,
    };
    if left >= Units::ZERO {
        return Ok(());
    }
    Err(format!("I14: admitted though the pool is in the red: {account:?}"))
}
