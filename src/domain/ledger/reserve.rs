//! Reserve: check every gate, then charge every gate. And what ends a reservation without use.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::budget::{Dimension, WhenUnavailable};
use crate::domain::decision::{Admission, Decision, Refusal, RefusalCode};
use crate::domain::estimate::{Estimate, Priced};
use crate::domain::ids::ReservationId;
use crate::domain::ledger::gates::{Gate, Gates, Judgement};
use crate::domain::ledger::recall::Recall;
use crate::domain::ledger::{
    Hold, Ledger, RESERVATIONS_MAX, Reservation, Sharing, UNSENT_MAX, WAITERS_MAX,
};
use crate::domain::money::Units;
use crate::domain::subject::Subject;
use crate::domain::time::Now;

/// Names a request that waits for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// The ledger's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is decided.
    Decided(Decision),
    /// A lease is used up and the store may have more. The answer comes with [`Ledger::take_decided`], or when the caller's
    /// patience ends with [`Ledger::give_up`].
    Starved(WaiterId),
}

/// A request that waits for the store.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) subject: Arc<Subject>,
    pub(super) estimate: Estimate,
    /// What to set aside under.
    pub(super) reservation: ReservationId,
}

/// What all gates together say.
struct Judged {
    gates: Gates,
    /// Places of gates that refuse.
    short: SmallVec<[usize; 4]>,
    /// Places of gates that must ask the store.
    lacking: SmallVec<[usize; 4]>,
    shadow_refusals: u32,
}

impl Ledger {
    /// Decides on a request. An admission sets its estimate aside under `reservation`.
    pub fn reserve(
        &mut self,
        subject: Arc<Subject>,
        estimate: Estimate,
        reservation: ReservationId,
        now: Now,
    ) -> Verdict {
        let waiter = Waiter { id: WaiterId(self.next_waiter), subject, estimate, reservation };
        if let Some(decision) = self.decide(&waiter, now) {
            return Verdict::Decided(decision);
        }
        if self.waiters.len() >= WAITERS_MAX {
            return Verdict::Decided(Decision::Undecided { budget: None });
        }
        self.next_waiter = self.next_waiter.saturating_add(1);
        let id = waiter.id;
        self.waiters.push_back(waiter);
        Verdict::Starved(id)
    }

    /// Ends a request's wait: the store did not answer in time, so each budget's own rule holds. `None` when the request
    /// does not wait any more.
    pub fn give_up(&mut self, id: WaiterId, now: Now) -> Option<Decision> {
        let at = self.waiters.iter().position(|waiter| waiter.id == id)?;
        let waiter = self.waiters.remove(at)?;
        if !self.recalls.is_empty()
            && let Some(gates) = self.gates(&waiter.subject, waiter.estimate.amounts, now)
        {
            self.end_recalls(&gates, now);
        }
        if let Some(decision) = self.decide(&waiter, now) {
            return Some(decision);
        }
        Some(self.decide_blind(&waiter, now))
    }

    /// Forgets a request that nobody waits for any more.
    pub fn abandon(&mut self, id: WaiterId) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    /// Decides again on all that wait, first come first served.
    pub(super) fn retry_waiters(&mut self, now: Now) {
        for waiter in std::mem::take(&mut self.waiters) {
            match self.decide(&waiter, now) {
                Some(decision) => self.decided.push((waiter.id, decision)),
                None => self.waiters.push_back(waiter),
            }
        }
    }

    /// Gives back what a request had set aside; its slots of the rolling minute stay taken.
    pub fn release(&mut self, id: ReservationId, now: Now) -> Option<Reservation> {
        let reservation = self.reservations.remove(&id)?;
        for hold in &reservation.holds {
            self.end_hold(*hold);
        }
        self.give_leftovers(&reservation, now);
        Some(reservation)
    }

    /// Undoes a reservation whose answer never left: its slots of the rolling minute come back as well.
    pub fn withdraw(&mut self, id: ReservationId, now: Now) {
        let Some(reservation) = self.release(id, now) else { return };
        for hold in &reservation.holds {
            let Some(account) = self.accounts.get_mut(hold.account) else { continue };
            let limit = self.budgets.get(account.budget).and_then(|b| b.limits.requests_per_minute);
            let sharing = self.terms.sharing;
            account.give_slot_back(reservation.made_at.mono, limit.unwrap_or(0), sharing);
        }
    }

    /// Near exhaustion, gives what a reservation no longer needs back to the pool, unless somebody waits for it here.
    pub(super) fn give_leftovers(&mut self, reservation: &Reservation, now: Now) {
        if self.terms.sharing == Sharing::Alone || !self.waiters.is_empty() {
            return;
        }
        for hold in &reservation.holds {
            let Some(account) = self.accounts.get_mut(hold.account) else { continue };
            if account.give_leftovers(now) > Units::ZERO {
                self.press(hold.account);
            }
        }
    }

    /// Ends one hold without use, and what was only kept for it.
    pub(super) fn end_hold(&mut self, hold: Hold) {
        let Some(account) = self.accounts.get_mut(hold.account) else { return };
        let amount = if account.minute.is_some() { Units::ZERO } else { hold.amount };
        account.unhold(amount);
        self.forget_if_done(hold.account);
    }

    /// `None` when the store must be asked first.
    fn decide(&mut self, waiter: &Waiter, now: Now) -> Option<Decision> {
        let Some(judged) = self.judge(waiter, now) else {
            return Some(Decision::Undecided { budget: None });
        };
        if let Some(refusal) = self.unpriced(&judged.gates, waiter.estimate.priced, now) {
            return Some(Decision::Deny(refusal));
        }
        if let Some(refusal) = self.refusal(&judged.gates, &judged.short, now) {
            self.let_go(&judged.gates, now);
            return Some(Decision::Deny(refusal));
        }
        if !judged.lacking.is_empty() {
            return None;
        }
        Some(Decision::Allow(self.admit(waiter, &judged, now)))
    }

    /// Decides without the store: a gate that lacks a lease does what its budget says.
    fn decide_blind(&mut self, waiter: &Waiter, now: Now) -> Decision {
        let Some(judged) = self.judge(waiter, now) else {
            return Decision::Undecided { budget: None };
        };
        let lacking = || judged.lacking.iter().filter_map(|at| judged.gates.get(*at));
        if let Some(gate) = lacking().find(|gate| !self.may_go_blind(gate)) {
            return Decision::Undecided { budget: Some(gate.id) };
        }
        // After this point the request is admitted.
        for gate in lacking() {
            self.go_blind(gate);
        }
        Decision::Allow(Admission { unavailable: true, ..self.admit(waiter, &judged, now) })
    }

    /// Asks every gate. `None` when there is no room for another account, reservation or settlement.
    fn judge(&mut self, waiter: &Waiter, now: Now) -> Option<Judged> {
        if self.reservations.len() >= RESERVATIONS_MAX || self.outbox.len() >= UNSENT_MAX {
            return None;
        }
        let gates = self.gates(&waiter.subject, waiter.estimate.amounts, now)?;
        let mut judged =
            Judged { gates, short: SmallVec::new(), lacking: SmallVec::new(), shadow_refusals: 0 };
        for at in 0..judged.gates.len() {
            self.judge_gate(at, &mut judged, now);
        }
        Some(judged)
    }

    fn judge_gate(&mut self, at: usize, judged: &mut Judged, now: Now) {
        let Some(gate) = judged.gates.get(at).copied() else { return };
        let Some(account) = self.accounts.get_mut(gate.account) else { return };
        account.last_used = now.mono;
        if gate.shadow {
            let refused = gate.would_refuse(account, now);
            judged.shadow_refusals = judged.shadow_refusals.saturating_add(u32::from(refused));
            // What others settled is worth asking for; whose slots others use is not told by leases.
            if !account.is_known(now) && account.minute.is_none() {
                self.enqueue(gate.account);
            }
            return;
        }
        let recall = match self.terms.sharing {
            // There is nobody to ask.
            Sharing::Alone => Some(Recall::Failed(now.mono)),
            Sharing::Fleet => {
                self.recalls.get(&gate.account).copied().filter(|recall| recall.stands(now))
            }
        };
        match gate.judge(account, recall, now) {
            Judgement::Pass => {}
            Judgement::Short => judged.short.push(at),
            Judgement::Wait => judged.lacking.push(at),
            Judgement::Lack => {
                judged.lacking.push(at);
                self.press(gate.account);
            }
        }
    }

    /// Refuses a model without a price where money is counted.
    fn unpriced(&mut self, gates: &Gates, priced: Priced, now: Now) -> Option<Refusal> {
        if priced != Priced::No
            || !gates.iter().any(|g| g.dimension == Dimension::Cost && !g.shadow)
        {
            return None;
        }
        let standing = self.standing(gates, now);
        Some(Refusal { code: RefusalCode::ModelNotPriced, gate: None, retry_after: None, standing })
    }

    /// Charges all gates, which have passed.
    fn admit(&mut self, waiter: &Waiter, judged: &Judged, now: Now) -> Admission {
        let mut holds = SmallVec::new();
        for gate in &judged.gates {
            holds.push(Hold { account: gate.account, amount: gate.asked });
            self.charge_gate(gate, now);
        }
        let reservation = Reservation {
            subject: Arc::clone(&waiter.subject),
            estimate: waiter.estimate.amounts,
            lesson: waiter.estimate.lesson,
            made_at: now,
            holds,
        };
        self.keep(waiter.reservation, reservation);
        Admission {
            reservation: Some(waiter.reservation),
            standing: self.standing(&judged.gates, now),
            unavailable: false,
            shadow_refusals: judged.shadow_refusals,
        }
    }

    /// Opens a reservation.
    pub(super) fn keep(&mut self, id: ReservationId, reservation: Reservation) {
        let deadline = reservation.made_at.mono.plus(self.terms.reservation_timeout);
        // Always the last place, but for reservations that come back after a restart in no particular order.
        let place = self.timeouts.partition_point(|(other, _)| *other <= deadline);
        self.timeouts.insert(place, (deadline, id));
        self.reservations.insert(id, reservation);
        // Settled reservations leave their entry behind; the list is cleared of them when they are the most of it.
        if self.timeouts.len() > self.reservations.len().saturating_mul(2).saturating_add(1024) {
            let Self { timeouts, reservations, .. } = self;
            timeouts.retain(|(_, id)| reservations.contains_key(id));
        }
    }

    /// Charges one gate, and asks for a refill or a renewal ahead of need.
    fn charge_gate(&mut self, gate: &Gate, now: Now) {
        let terms = self.terms;
        let Some(account) = self.accounts.get_mut(gate.account) else { return };
        let limit = u32::try_from(gate.limit.get()).unwrap_or(u32::MAX);
        account.take_slot(now.mono, limit, terms.sharing);
        let amount = if account.minute.is_some() { Units::ZERO } else { gate.asked };
        account.hold(amount, now);
        if gate.shadow {
            return;
        }
        if account.is_low(&terms, now) || account.wants_renewal(terms.lease_ttl, now) {
            self.press(gate.account);
        }
    }

    /// Whether a gate without a lease may be passed: its budget says so, and its allowance is not used up.
    fn may_go_blind(&self, gate: &Gate) -> bool {
        match gate.when_unavailable {
            WhenUnavailable::Deny => false,
            WhenUnavailable::Allow => true,
            WhenUnavailable::AllowUpTo(most) => {
                let spent = self.blind.get(&gate.account).copied().unwrap_or_default();
                gate.dimension != Dimension::Cost || spent.plus(gate.need()) <= Units::from(most)
            }
        }
    }

    /// Admits at a gate without a lease. What is admitted is overdraft, reported when the store is back.
    fn go_blind(&mut self, gate: &Gate) {
        let Some(account) = self.accounts.get_mut(gate.account) else { return };
        if account.minute.is_none() {
            account.extend(gate.asked.minus(account.available().or_zero()).or_zero());
        }
        let spent = self.blind.entry(gate.account).or_default();
        *spent = spent.plus(gate.need());
    }
}
