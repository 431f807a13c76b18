//! One ledger, one store and one clock, with the invariants that hold between them after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::store::{TTL, TestStore};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::decision::Decision;
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::ledger::account::{LocalAccount, Standing};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::escrow::Grant;
use crate::domain::ledger::{
    Actual, Applied, Ledger, NamedHold, OnTimeout, Outgoing, RestoredReservation, Sharing, Stamp,
    Terms, Verdict, WaiterId,
};
use crate::domain::money::Units;
use crate::domain::settlement::{Road, Settlement};
use crate::domain::subject::Subject;
use crate::domain::time::{Mono, Now, Wall};

/// More exchanges than any one change may take to come to rest.
const ROUNDS_MAX: usize = 20;

/// The world.
pub(in crate::domain::ledger) struct World {
    pub(in crate::domain::ledger) ledger: Ledger,
    pub(in crate::domain::ledger) store: TestStore,
    pub(in crate::domain::ledger) now: Now,
    terms: Terms,
    holder: u128,
    /// The batch under way, and its answer if the store has applied it.
    under_way: Option<(Outgoing, Option<Vec<Grant>>)>,
    /// What a journal would have: reservations that no recorded settlement ends, and stamps.
    journal: BTreeMap<ReservationId, RestoredReservation>,
    stamps: Vec<(Option<ReservationId>, Stamp)>,
    settlements: Vec<Settlement>,
    /// Whether a lease was lost. What its last exchange said may then be counted twice.
    pub(in crate::domain::ledger) has_lost_lease: bool,
    /// Admitted without a lease, or reserved under a shadow budget: there is no cover for it.
    pub(in crate::domain::ledger) has_uncovered: bool,
}

impl World {
    pub(in crate::domain::ledger) fn new(on_timeout: OnTimeout) -> Self {
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout,
            lease_ttl: TTL,
            sharing: Sharing::Alone,
        };
        Self {
            ledger: Ledger::new(workspace(), HolderId(1), terms),
            store: TestStore::default(),
            now: Now { wall: wall("2026-11-22T10:00"), mono: Mono::from_ns(1_000_000_000_000) },
            terms,
            holder: 1,
            under_way: None,
            journal: BTreeMap::new(),
            stamps: Vec::new(),
            settlements: Vec::new(),
            has_lost_lease: false,
            has_uncovered: false,
        }
    }

    pub(in crate::domain::ledger) fn tick(&mut self, by: Duration) {
        self.now = Now { wall: self.now.wall.plus(by), mono: self.now.mono.plus(by) };
    }

    pub(in crate::domain::ledger) fn put(&mut self, budget: Budget) {
        self.store.budgets.insert(budget.id, budget.clone());
        self.ledger.put_budget(budget, self.now);
        self.journal_decided();
    }

    pub(in crate::domain::ledger) fn delete(&mut self, id: BudgetId) {
        self.store.delete(id);
        self.ledger.remove_budget(id, self.now);
        self.journal_decided();
        for settlement in &mut self.settlements {
            let others = settlement.charges.iter().filter(|charge| charge.account.budget != id);
            settlement.charges = others.cloned().collect();
        }
    }

    pub(in crate::domain::ledger) fn reserve(
        &mut self,
        subject: &Arc<Subject>,
        estimate: Estimate,
        id: ReservationId,
    ) -> Verdict {
        let verdict = self.ledger.reserve(Arc::clone(subject), estimate, id, self.now);
        if let Verdict::Decided(decision) = &verdict {
            self.journal_decision(decision);
        }
        verdict
    }

    pub(in crate::domain::ledger) fn give_up(&mut self, id: WaiterId) -> Option<Decision> {
        let decision = self.ledger.give_up(id, self.now)?;
        self.journal_decision(&decision);
        Some(decision)
    }

    pub(in crate::domain::ledger) fn settle(
        &mut self,
        id: ReservationId,
        actual: Actual,
    ) -> Option<Settlement> {
        let settlement = self.ledger.settle(id, actual, self.now)?;
        self.settlements.push(settlement.clone());
        Some(settlement)
    }

    pub(in crate::domain::ledger) fn record(&mut self, settlement: Settlement) {
        self.settlements.push(settlement);
    }

    pub(in crate::domain::ledger) fn release(&mut self, id: ReservationId) -> bool {
        self.journal.remove(&id);
        self.ledger.release(id, self.now).is_some()
    }

    pub(in crate::domain::ledger) fn withdraw(&mut self, id: ReservationId) {
        self.journal.remove(&id);
        self.stamps.retain(|(of, _)| *of != Some(id));
        self.ledger.withdraw(id, self.now);
    }

    pub(in crate::domain::ledger) fn end_overdue(&mut self) -> Vec<ReservationId> {
        let ended = self.ledger.end_overdue(self.now);
        for settlement in self.ledger.unsent() {
            if !self.settlements.iter().any(|known| known.id == settlement.id) {
                self.settlements.push(settlement.clone());
            }
        }
        if self.terms.on_timeout == OnTimeout::Release {
            self.journal.retain(|id, _| !ended.contains(id));
        }
        ended
    }

    /// Takes the next batch and lets the store apply it. `false` when there is nothing to send.
    pub(in crate::domain::ledger) fn send(&mut self) -> bool {
        if let Some((batch, _)) = &self.under_way {
            let replay = self.store.commit(batch, self.now.wall);
            return self.after_commit(replay);
        }
        self.ledger.hurry();
        let Some(batch) = self.ledger.next_batch(self.now) else { return false };
        assert!(
            !(batch.settlements.is_empty() && batch.exchanges.is_empty()),
            "a batch says something"
        );
        let answer = self.store.commit(&batch, self.now.wall);
        self.under_way = Some((batch, None));
        self.after_commit(answer)
    }

    fn after_commit(&mut self, answer: Result<Vec<Grant>, AccountKey>) -> bool {
        match answer {
            Ok(grants) => {
                if let Some((_, under_way)) = &mut self.under_way {
                    *under_way = Some(grants);
                }
            }
            Err(key) => {
                self.has_lost_lease = true;
                let (batch, _) = self.under_way.take().unwrap();
                self.ledger.lease_lost(&key, batch.settlements);
            }
        }
        true
    }

    /// Brings the store's answer.
    pub(in crate::domain::ledger) fn answer(&mut self) {
        let Some((batch, Some(grants))) = self.under_way.take() else { return };
        assert_eq!(self.ledger.apply(&grants, self.now), Applied::Yes);
        for settlement in batch.settlements {
            if let Some(id) = settlement.reservation {
                self.journal.remove(&id);
            }
        }
        self.journal_decided();
    }

    fn journal_decided(&mut self) {
        for (_, decision) in self.ledger.decided.clone() {
            self.journal_decision(&decision);
        }
    }

    /// Brings the answer that is under way, if need be by sending its batch again.
    pub(in crate::domain::ledger) fn heal(&mut self) {
        if self.under_way.is_some() {
            self.send();
        }
        self.answer();
    }

    /// Exchanges until nothing is left to say.
    pub(in crate::domain::ledger) fn pump(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.send() {
                return;
            }
            self.answer();
        }
        panic!("the exchanges do not come to rest: {:?}", self.ledger.next_batch(self.now));
    }

    /// A crash and a new start: everything in memory is gone but what the journal and the store have.
    pub(in crate::domain::ledger) fn restart(&mut self) {
        self.holder += 1;
        let holder = HolderId(self.holder);
        self.under_way = None;
        let store = &self.store;
        self.settlements.retain(|settlement| store.is_recorded(&settlement.id));
        let settled: Vec<_> = self.settlements.iter().filter_map(|s| s.reservation).collect();
        self.ledger = Ledger::new(workspace(), holder, self.terms);
        for budget in self.store.budgets.values() {
            self.ledger.put_budget(budget.clone(), self.now);
        }
        for (key, opener, epoch, lease) in self.store.open_leases() {
            self.ledger.restore_lease(&key, (opener, epoch), &lease, self.now);
        }
        for reservation in self.journal.values().filter(|r| !settled.contains(&r.id)) {
            self.ledger.restore_reservation(reservation.clone(), self.now);
        }
        for (_, stamp) in &self.stamps {
            self.ledger.restore_stamp(stamp, self.now);
        }
    }

    fn journal_decision(&mut self, decision: &Decision) {
        let Decision::Allow(admission) = decision else { return };
        let Some(id) = admission.reservation else { return };
        let Some(reservation) = self.ledger.reservation(id) else { return };
        let mut holds = Vec::new();
        for hold in &reservation.holds {
            let account = self.ledger.key(hold.account).unwrap();
            if account.dimension == Dimension::Requests {
                let stamp = Stamp { account: account.clone(), at: self.now.mono };
                self.stamps.push((Some(id), stamp));
            }
            holds.push(NamedHold { account, amount: hold.amount });
        }
        let restored = RestoredReservation {
            id,
            subject: Arc::clone(&reservation.subject),
            estimate: reservation.estimate,
            made_at: reservation.made_at,
            holds,
        };
        self.journal.insert(id, restored);
    }

    /// Everything that must hold after any step.
    pub(in crate::domain::ledger) fn check(&self) {
        self.store.check();
        let mut held: BTreeMap<u32, (Units, u32)> = BTreeMap::new();
        for (_, reservation) in self.ledger.reservations() {
            for hold in &reservation.holds {
                let (sum, count) = held.entry(hold.account).or_default();
                *sum = sum.plus(hold.amount);
                *count += 1;
            }
        }
        for at in 0..self.ledger.accounts.places() {
            let Some(account) = self.ledger.accounts.get(at) else {
                assert!(!held.contains_key(&at), "a reservation names a place that is free");
                continue;
            };
            let (reserved, holds) = held.get(&at).copied().unwrap_or_default();
            assert_eq!(account.holds, holds, "holds of {:?}", self.ledger.key(at));
            if account.dimension == Dimension::Requests {
                assert_eq!(account.reserved, Units::ZERO);
                assert_eq!(account.lease.consumed, Units::ZERO);
            } else {
                assert_eq!(account.reserved, reserved, "reserved of {:?}", self.ledger.key(at));
                self.check_cover(at, account);
            }
        }
    }

    /// I6 and I13 for one account.
    fn check_cover(&self, at: u32, account: &LocalAccount) {
        let Some(key) = self.ledger.key(at).filter(|_| account.standing != Standing::Dead) else {
            return;
        };
        let Some(budget) = self.store.budgets.get(&key.budget) else { return };
        let covered = !budget.shadow && !self.has_uncovered;
        if covered {
            assert!(account.available() >= Units::ZERO, "I6: {key:?} {account:?}");
        }
        let mut true_use = self.consumed(&key);
        if covered {
            true_use = true_use.plus(account.reserved);
        }
        let stored = self.store.accounts.get(&key).copied().unwrap_or_default();
        let holder = HolderId(self.holder);
        let lease = self.store.leases.get(&(key.clone(), holder, account.lease.epoch));
        let said = lease.map_or(Units::ZERO, |lease| lease.overrun);
        let counted = stored.spent.plus(stored.leased).plus(stored.forfeited);
        let counted = counted.plus(account.lease.overrun.minus(said));
        assert!(
            true_use <= counted,
            "I13: {true_use:?} used of {key:?} and only {counted:?} counted: {stored:?} {account:?}"
        );
    }

    /// What was really used of an account: all that leases carry, and what else the store has recorded.
    pub(in crate::domain::ledger) fn consumed(&self, key: &AccountKey) -> Units {
        let mut sum = Units::ZERO;
        for settlement in &self.settlements {
            let is_recorded = self.store.is_recorded(&settlement.id);
            for charge in settlement.charges.iter().filter(|charge| charge.account == *key) {
                if charge.road == Road::Lease || is_recorded {
                    sum = sum.plus(charge.amount);
                }
            }
        }
        sum
    }
}

/// The one workspace.
pub(in crate::domain::ledger) fn workspace() -> Id {
    id("acme")
}

pub(in crate::domain::ledger) fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

/// Reads `2026-11-22T10:00`, UTC.
pub(in crate::domain::ledger) fn wall(text: &str) -> Wall {
    let instant: jiff::Timestamp = format!("{text}:00Z").parse().unwrap();
    Wall::from_ms(instant.as_millisecond())
}
