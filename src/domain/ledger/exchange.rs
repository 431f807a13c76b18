//! The replica's side of the lease protocol: what the next batch says, and what its answer changes.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::budget::Dimension;
use crate::domain::credits;
use crate::domain::ledger::account::{
    AccountIndex, Exchanging, LocalAccount, LocalLease, Standing,
};
use crate::domain::ledger::escrow::{self, AccountKey, Draw, Exchange, Grant, Then};
use crate::domain::ledger::{Ledger, Sharing, Unsent};
use crate::domain::money::Units;
use crate::domain::settlement::Settlement;
use crate::domain::time::{Mono, Now};

/// Exchanges in one batch at the most, which bounds a transaction; what is left goes into the next.
const EXCHANGES_MAX: usize = 2_000;
/// How often [`Ledger::tend_leases`] is called.
pub const TICK: Duration = Duration::from_millis(250);
/// So many replicas may each send what nobody waits for once a tick: a fleet sends some eight such batches a second, until it is so
/// large that each sends one within [`patience`] whatever the others do.
const HOLDERS_PER_TICK: u32 = 2;
/// A refill covers at least so much use, and at most so much: what is lent to one is not there for others.
const REFILL_MIN: Duration = Duration::from_secs(2);
const REFILL_MAX: Duration = Duration::from_secs(12);
/// Settlements that wait for each other, and that go into one batch, at the most. However many a store has missed, each batch is
/// one that it takes in time.
const SETTLEMENTS_MAX: usize = 500;
/// Accounts looked at in one search for idle leases: about a millisecond's work.
const SWEEP_PLACES: AccountIndex = 16_384;

/// A batch for the store. Settlements come first in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Entries to record.
    pub settlements: Vec<Settlement>,
    /// Leases to report on, in the order of their account keys.
    pub exchanges: Vec<Exchange>,
}

/// An exchange that was sent and not answered.
#[derive(Debug)]
pub(super) struct Sent {
    at: AccountIndex,
    /// What it said.
    exchange: Exchange,
    /// When it first went out: a lease is counted from then, however often it had to be sent.
    sent_at: Mono,
}

/// What the next batch is made of.
#[derive(Debug)]
pub(super) struct Parts {
    settlements: Vec<Settlement>,
    /// Exchanges that go out again, unchanged: an earlier attempt may have been applied before its answer was lost.
    again: Vec<Sent>,
    /// Accounts that have something to tell.
    telling: Vec<AccountIndex>,
}

/// How an answer fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was taken in.
    Yes,
    /// No batch was waiting for it, or it has another length: it was ignored.
    Stray,
}

impl Ledger {
    /// Whether [`Ledger::next_batch`] may give one. What nobody waits for waits for more of its kind, until the second call of
    /// [`Ledger::tend_leases`] at the earliest: a transaction for each settlement would cost far more than the settlement.
    #[must_use]
    pub fn has_batch(&self) -> bool {
        let is_due =
            self.is_pressing || self.failed.is_some() || self.outbox.len() >= SETTLEMENTS_MAX;
        self.pending.is_none() && is_due && self.has_more()
    }

    /// Whether there is something to tell beyond the batch under way.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty() || !self.outbox.is_empty() || self.failed.is_some()
    }

    /// Entries that no batch under way carries.
    pub fn unsent(&self) -> impl Iterator<Item = &Settlement> {
        let queued = self.outbox.iter().map(|unsent| &unsent.settlement);
        queued.chain(self.failed.iter().flat_map(|parts| &parts.settlements))
    }

    /// Whether a batch was sent and not answered.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.pending.is_some()
    }

    /// How many batches are to be answered, at the most, until all that there is to tell now is told.
    #[must_use]
    pub fn batches_left(&self) -> usize {
        let settlements = self.outbox.len().div_ceil(SETTLEMENTS_MAX);
        let news = settlements.max(self.queue.len().div_ceil(EXCHANGES_MAX));
        let earlier = [self.pending.is_some(), self.failed.is_some()];
        news.saturating_add(earlier.into_iter().filter(|is_left| *is_left).count())
    }

    /// Takes the next batch. There is none while one is under way: send that again, unchanged, until it is answered.
    /// When there is none, whoever waited may have been decided on.
    pub fn next_batch(&mut self, now: Now) -> Option<Outgoing> {
        while self.has_batch() {
            let (settlements, sent) = self.gather(now);
            if settlements.is_empty() && sent.is_empty() {
                continue;
            }
            let exchanges = sent.iter().map(|sent| sent.exchange.clone()).collect();
            self.pending = Some(sent);
            return Some(Outgoing { settlements, exchanges });
        }
        // What somebody waits for came free meanwhile, so that there is nothing to ask for.
        self.retry_waiters(now);
        None
    }

    /// What there is to tell, in the order of the account keys. May turn out to be nothing.
    fn gather(&mut self, now: Now) -> (Vec<Settlement>, Vec<Sent>) {
        let Parts { settlements, again: mut sent, telling: mut sending } =
            self.failed.take().unwrap_or_else(|| self.news());
        sending.sort_unstable();
        sending.dedup();
        let draws = self.draws(&sending, now);
        for (at, draw) in sending.into_iter().zip(draws) {
            match self.exchange(at, draw, now) {
                Some(exchange) => sent.push(exchange),
                None => self.forget_recall(at),
            }
        }
        sent.sort_unstable_by(|a, b| a.exchange.account.cmp(&b.exchange.account));
        (settlements, sent)
    }

    /// What no batch has taken yet.
    fn news(&mut self) -> Parts {
        let (settlements, mut telling) = self.take_settlements();
        if !telling.is_empty() {
            self.queue.retain(|at| telling.binary_search(at).is_err());
        }
        let rest = self.queue.len().min(EXCHANGES_MAX);
        telling.extend(self.queue.drain(..rest));
        self.lingered = 0;
        self.is_pressing &= self.has_more();
        Parts { settlements, again: Vec::new(), telling }
    }

    /// The settlements of one batch, and the accounts that they charge, in order. Entries and the totals that include them travel
    /// together: what later entries charged is not in the totals yet.
    fn take_settlements(&mut self) -> (Vec<Settlement>, Vec<AccountIndex>) {
        let some = self.outbox.len().min(SETTLEMENTS_MAX);
        let mut settlements = Vec::with_capacity(some);
        let mut charged = Vec::new();
        for Unsent { settlement, booked } in self.outbox.drain(..some) {
            settlements.push(settlement);
            for (at, serial, amount) in booked {
                let account = self.accounts.get_mut(at).filter(|account| account.serial == serial);
                if let Some(account) = account {
                    account.unsent = account.unsent.minus(amount);
                    charged.push(at);
                }
            }
        }
        charged.sort_unstable();
        charged.dedup();
        (settlements, charged)
    }

    /// Takes in the answer to the batch under way: one grant for each exchange, in its order. Decides on whoever waited.
    pub fn apply(&mut self, grants: &[Grant], now: Now) -> Applied {
        let Some(pending) = self.pending.take() else { return Applied::Stray };
        if pending.len() != grants.len() {
            self.pending = Some(pending);
            return Applied::Stray;
        }
        if let Some(most) = grants.iter().map(|grant| grant.holders).max() {
            self.holders = most;
        }
        for (sent, grant) in pending.iter().zip(grants) {
            self.take_grant(sent, grant, now);
        }
        self.retry_waiters(now);
        Applied::Yes
    }

    /// The store does not know a lease of the batch under way and applied nothing of it. The lease is followed by a new one
    /// that carries what was not reported, as overrun: it is counted, never hidden. The rest of the batch goes out again.
    pub fn lease_lost(&mut self, key: &AccountKey, settlements: Vec<Settlement>) {
        let Some(pending) = self.pending.take() else { return };
        let (lost, others): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|sent| sent.exchange.account == *key);
        let lost: Vec<_> = lost.into_iter().map(|sent| sent.at).collect();
        for account in &lost {
            self.recalls.remove(account);
            let Some(account) = self.accounts.get_mut(*account) else { continue };
            account.exchanging = Exchanging::Queued;
            account.begin_again(account.reported());
        }
        // Its next lease goes along, because the entries are in its totals; whatever is newer waits.
        self.failed = Some(Parts { settlements, again: others, telling: lost });
    }

    /// Puts an account on the list for the next batch.
    pub(super) fn enqueue(&mut self, at: AccountIndex) {
        let Some(account) = self.accounts.get_mut(at) else { return };
        match account.exchanging {
            Exchanging::Queued | Exchanging::SentAndQueued | Exchanging::Overtaken => {}
            Exchanging::Idle => {
                account.exchanging = Exchanging::Queued;
                self.queue.push(at);
            }
            Exchanging::Sent => account.exchanging = Exchanging::SentAndQueued,
        }
    }

    /// Looks at some more accounts: leases in use are renewed before they expire, those without use are closed. Called each
    /// [`TICK`].
    pub fn tend_leases(&mut self, now: Now) {
        self.linger();
        if !self.restored.is_empty() {
            self.restored = HashMap::new();
        }
        let places = self.accounts.places();
        let end = self.swept_to.saturating_add(SWEEP_PLACES).min(places);
        for at in self.swept_to..end {
            let Some(account) = self.accounts.get_mut(at) else { continue };
            let idle = account.is_idle(self.terms.lease_ttl, now);
            let shared = self.terms.sharing == Sharing::Fleet;
            if idle && account.has_no_lease() {
                self.vacate(at);
            } else if idle || (shared && account.give_idle_slots(now) > Units::ZERO) {
                self.enqueue(at);
            } else if account.is_in_use(now) && account.wants_renewal(self.terms.lease_ttl, now) {
                self.press(at);
            }
        }
        self.swept_to = if end >= places { 0 } else { end };
    }

    /// Time has passed that the clock did not count: no lease is admitted against before it is renewed.
    pub fn lapse_leases(&mut self) {
        for at in 0..self.accounts.places() {
            if let Some(account) = self.accounts.get_mut(at) {
                account.deadline = Mono::default();
                account.doubt();
            }
        }
    }

    /// What nobody waits for has waited once more, and goes out when it did so often enough.
    fn linger(&mut self) {
        if !self.has_more() || self.pending.is_some() {
            return;
        }
        let ticks = self.patience().as_millis().checked_div(TICK.as_millis()).unwrap_or(0);
        self.is_pressing |= u128::from(self.lingered) >= ticks;
        self.lingered = self.lingered.saturating_add(1);
    }

    /// How long news wait here for others that nobody waits for.
    fn patience(&self) -> Duration {
        patience(self.holders, escrow::lasts(self.terms.lease_ttl, self.holders))
    }

    /// What a refill covers: what is used until the next news.
    fn horizon(&self) -> Duration {
        self.patience().clamp(REFILL_MIN, REFILL_MAX)
    }

    /// Hands everything back that no reservation holds, and asks for the leases to be closed.
    pub fn close_leases(&mut self) {
        for at in 0..self.accounts.places() {
            if let Some(account) = self.accounts.get_mut(at) {
                account.last_used = Mono::default();
                self.press(at);
            }
        }
    }

    /// Lets go of an account that only waited for its last reservation.
    pub(super) fn forget_if_done(&mut self, at: AccountIndex) {
        match self.accounts.get(at).map(|account| (account.standing, account.holds)) {
            Some((Standing::Dead, 0)) => self.vacate(at),
            Some((Standing::Retired, 0)) => self.enqueue(at),
            _ => {}
        }
    }

    /// Frees the place of an account, unless something still refers to it.
    fn vacate(&mut self, at: AccountIndex) {
        self.blind.remove(&at);
        self.recalls.remove(&at);
        self.accounts.vacate(at);
    }

    /// What each of these accounts should draw: what waiting requests lack, or a refill ahead of need.
    fn draws(&mut self, accounts: &[AccountIndex], now: Now) -> Vec<Option<Draw>> {
        let mut needs: Vec<(Units, Units)> =
            vec![(Units::ZERO, Units::new(i64::MAX)); accounts.len()];
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in &waiters {
            let Some(gates) = self.gates(&waiter.subject, waiter.estimate.amounts, now) else {
                continue;
            };
            for gate in gates.iter().filter(|gate| !gate.shadow) {
                let slot =
                    accounts.binary_search(&gate.account).ok().and_then(|at| needs.get_mut(at));
                if let Some((sum, least)) = slot {
                    *sum = sum.plus(gate.need());
                    *least = (*least).min(gate.need());
                }
            }
        }
        self.waiters = waiters;
        let with_needs = accounts.iter().zip(needs);
        with_needs.map(|(at, (sum, least))| self.draw(*at, sum, least, now)).collect()
    }

    fn draw(&mut self, at: AccountIndex, sum: Units, least: Units, now: Now) -> Option<Draw> {
        let horizon = self.horizon();
        let Self { accounts, budgets, terms, .. } = self;
        let account = accounts.get_mut(at)?;
        let budget = budgets.get(account.budget)?;
        if budget.shadow || account.standing != Standing::Live {
            return None;
        }
        if account.dimension == Dimension::Requests && terms.sharing == Sharing::Alone {
            let missing = budget.limits.of(Dimension::Requests)?.minus(account.quota());
            let in_use = sum > Units::ZERO || account.holds > 0;
            return (in_use && missing > Units::ZERO).then_some(Draw {
                need_min: Units::ONE,
                need: Units::ONE,
                want: missing,
            });
        }
        let limit = budget.limits.of(account.dimension)?;
        // By the gate's own measure: whoever waits for an answer must have asked.
        let waits = sum > Units::ZERO && account.usable(limit, now) < sum;
        // A lease that nobody uses any more is about to be closed, not refilled.
        let is_unused = now.mono.since(account.last_used) > terms.lease_ttl;
        if !waits && (is_unused || !account.wants_refill(terms, horizon, now)) {
            return None;
        }
        if !waits {
            let want = account.want(Units::ONE, limit, horizon, now);
            return Some(Draw { need_min: Units::ZERO, need: Units::ONE, want });
        }
        account.pool_crumbs(now);
        let in_hand = account.in_hand(now);
        let need = sum.minus(in_hand).max(Units::ONE);
        let need_min = least.minus(in_hand).max(Units::ONE).min(need);
        Some(Draw { need_min, need, want: account.want(need, limit, horizon, now) })
    }

    /// One exchange; `None` for an account that has nothing to say.
    fn exchange(&mut self, at: AccountIndex, draw: Option<Draw>, now: Now) -> Option<Sent> {
        let key = self.key(at);
        let ttl = self.terms.lease_ttl;
        let shadow = self.accounts.get(at).and_then(|account| self.budgets.get(account.budget));
        let shadow = shadow.is_some_and(|budget| budget.shadow);
        let local = self.accounts.get_mut(at)?;
        let then = local.then(draw, ttl, now);
        let mute = local.has_no_lease() && draw.is_none() && !shadow;
        let told = then == Then::Renew && draw.is_none() && local.has_told_all(ttl, now);
        let Some(account) = key.filter(|_| !mute && !told) else {
            local.exchanging = Exchanging::Idle;
            if then == Then::Close || local.standing == Standing::Dead {
                self.vacate(at);
            }
            return None;
        };
        if local.lease.seq == 0 {
            self.last_epoch = self.last_epoch.saturating_add(1);
            local.lease.epoch = self.last_epoch;
        }
        if then == Then::Close {
            // Nothing is admitted against a lease that is on its way back, and nothing is covered by it.
            local.deadline = Mono::default();
            local.hand_back(Units::MAX, now);
        }
        local.lease.seq = local.lease.seq.saturating_add(1);
        local.exchanging = Exchanging::Sent;
        local.has_returned = false;
        let LocalLease { epoch, seq, consumed, returned, overrun, .. } = local.lease;
        let consumed = consumed.minus(local.unsent);
        let (holder, opener) = (self.holder, self.openers.get(usize::from(local.opener)).copied());
        let exchange = Exchange {
            account,
            holder,
            opened_by: opener.filter(|opener| *opener != holder),
            epoch,
            seq,
            consumed,
            returned,
            overrun,
            draw,
            then,
        };
        Some(Sent { at, exchange, sent_at: now.mono })
    }

    fn take_grant(&mut self, sent: &Sent, grant: &Grant, now: Now) {
        let Sent { at, exchange: sent, sent_at } = sent;
        let at = *at;
        self.blind.remove(&at);
        let Some(account) = self.accounts.get_mut(at) else { return };
        let exchanging = std::mem::replace(&mut account.exchanging, Exchanging::Idle);
        let had = account.lease.granted;
        account.take_grant(grant, sent, *sent_at, now);
        let lent = account.lease.granted.minus(had);
        // Asked by name: the place of a budget that was deleted meanwhile may be that of the credits now.
        let is_of_credits = sent.account.budget == credits::BUDGET;
        if exchanging != Exchanging::Overtaken
            && is_of_credits
            && self.budgets.learn_credits(grant.limit)
        {
            // Who had not enough to give then may have it now.
            self.recalls.remove(&at);
        }
        // What was drawn just now is for those who wait here, and if the pool had something, nobody lacks it any more.
        let keeps = sent.draw.is_some_and(Draw::is_waited_for) || lent > Units::ZERO;
        let most = if keeps { Units::ZERO } else { Units::MAX };
        let recalled = account.heed(grant.recalls, most, Units::ZERO, now) > Units::ZERO;
        let closed = sent.then == Then::Close;
        if closed {
            account.begin_again(sent.consumed);
        }
        let overtaken = exchanging == Exchanging::Overtaken;
        let mut again = overtaken || recalled || exchanging == Exchanging::SentAndQueued;
        self.is_pressing |= recalled;
        // Where more is lent or spent than the limit allows, nobody is to admit against what is left of it.
        let in_the_red = Units::ZERO.minus(account.free()).or_zero();
        let excess = if overtaken { Units::MAX } else { in_the_red };
        if account.hand_back(excess, now) > Units::ZERO || overtaken {
            account.doubt();
            again = true;
        }
        let (standing, free_of_holds) = (account.standing, account.holds == 0);
        let gone = standing == Standing::Dead || (closed && account.has_no_lease() && !again);
        self.note_draw(at, sent, lent, now);
        if gone && free_of_holds {
            self.vacate(at);
        } else if again || closed || (standing == Standing::Retired && free_of_holds) {
            self.enqueue(at);
        }
    }
}

/// How long news wait for others that nobody waits for: the longer, the more replicas tell the same store, and always less than
/// their leases last.
pub(super) fn patience(holders: u32, lease_lasts: Duration) -> Duration {
    let fair = TICK.saturating_mul(holders.div_ceil(HOLDERS_PER_TICK).max(1));
    fair.min(lease_lasts.saturating_mul(3).checked_div(5).unwrap_or_default())
}

impl LocalAccount {
    /// A lease without use is closed with its last report: nobody holds anything, and nothing is drawn.
    fn then(&mut self, draw: Option<Draw>, ttl: Duration, now: Now) -> Then {
        let retired = self.standing == Standing::Retired && self.holds == 0;
        let is_last = draw.is_none() && self.unsent == Units::ZERO;
        if is_last && (retired || self.is_idle(ttl, now)) { Then::Close } else { Then::Renew }
    }

    /// Whether it never had a lease, and has nothing to report under one.
    fn has_no_lease(&self) -> bool {
        self.lease.seq == 0 && self.lease.consumed == Units::ZERO && self.holds == 0
    }

    /// Whether requests in flight or in the rolling minute depend on the lease.
    fn is_in_use(&mut self, now: Now) -> bool {
        self.holds > 0 || self.minute.as_mut().is_some_and(|minute| minute.used(now.mono) > 0)
    }

    /// Whether nobody asked for a lease's time to live, and nothing depends on it.
    fn is_idle(&mut self, ttl: Duration, now: Now) -> bool {
        !self.is_in_use(now) && now.mono.since(self.last_used) > ttl
    }

    /// Whether the store knows all that it should.
    fn has_told_all(&self, ttl: Duration, now: Now) -> bool {
        self.lease.consumed == self.reported()
            && !self.has_returned
            && self.is_known(now)
            && !self.wants_renewal(ttl, now)
    }
}
