//! One account as this replica sees it: its lease, what is reserved against it, and what the store last said.

mod sizes;
mod speed;

use std::sync::Arc;
use std::time::Duration;

use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::Id;
use crate::domain::ledger::Sharing;
use crate::domain::ledger::escrow::{Exchange, Grant};
use crate::domain::ledger::exchange;
use crate::domain::ledger::minute::Minute;
use crate::domain::money::Units;
use crate::domain::period::Window;
use crate::domain::time::{Mono, Now};

use self::speed::Speed;

pub use self::sizes::crumbs;

/// Position of an account in the ledger's table.
pub type AccountIndex = u32;
/// Position of a budget in the ledger's index.
pub type BudgetIndex = u32;

/// Position in the ledger's list of who opened its leases; 0 is the ledger's own holder.
pub type OpenerIndex = u16;

/// How far a holder's clock may drift from the store's, in parts per million.
const DRIFT_PPM: u32 = 200;
/// Subtracted from every lease, for what measuring costs.
const LEASE_MARGIN: Duration = Duration::from_millis(200);
/// What the store said last is taken as true for at least this long; a flood of refused requests costs it nothing in between.
const KNOWN_MIN: Duration = Duration::from_millis(250);
/// And at most for this much longer, spread over the accounts so that they do not ask in step.
const KNOWN_SPREAD_MS: u32 = 750;
/// Whoever asked others in vain asks again after so long at the latest: what a large settlement frees elsewhere is told to nobody.
const IN_VAIN_MAX: Duration = Duration::from_secs(6);
/// A replica whose clock runs fast must not use a slot again, or let another use it, before a true minute is over.
const SLOT_GUARD: Duration = Duration::from_millis(60);
/// How many requests weigh as much in the typical amount as all before them.
const TYPICAL_OVER: i64 = 8;
/// What an account is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It decides.
    Live,
    /// Its window has passed, or its budget's schedule changed: it only takes what its open reservations settle.
    Retired,
    /// Its budget was deleted: nothing is reported any more.
    Dead,
}

/// Where the account's lease stands in the exchange protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchanging {
    /// Nothing to tell.
    Idle,
    /// On the list for the next batch.
    Queued,
    /// In the batch under way.
    Sent,
    /// In the batch under way, and there is more to tell after it.
    SentAndQueued,
    /// Likewise, and the budget was changed meanwhile: what the answer grants was lent under rules that no longer hold.
    Overtaken,
}

/// Totals of a lease; all are cumulative and never fall. See `domain::ledger::escrow::Lease` for the store's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalLease {
    /// Which lease of the one that opened it; unique among all that the ledger ever opened.
    pub epoch: u32,
    /// Number of the last exchange that was sent; 0 before the first.
    pub seq: u32,
    /// Lent by the store.
    pub granted: Units,
    /// Settled.
    pub consumed: Units,
    /// Handed back.
    pub returned: Units,
    /// Settled beyond what was lent.
    pub overrun: Units,
}

/// A local account.
#[derive(Debug)]
pub struct LocalAccount {
    /// Its budget.
    pub budget: BudgetIndex,
    /// A number that no other account of the ledger ever had.
    pub serial: u32,
    /// The budget's generation when the account was made.
    pub generation: u32,
    /// What it counts.
    pub dimension: Dimension,
    /// What it is good for.
    pub standing: Standing,
    /// Where its lease stands.
    pub exchanging: Exchanging,
    /// Who opened its lease.
    pub opener: OpenerIndex,
    /// Whom it counts.
    pub target: Id,
    /// The window it counts in.
    pub window: Arc<Window>,
    /// Its lease.
    pub lease: LocalLease,
    /// Set aside by open reservations.
    pub reserved: Units,
    /// Number of open reservations that name it.
    pub holds: u32,
    /// Until when the lease may be admitted against.
    pub deadline: Mono,
    /// When a request last asked.
    pub last_used: Mono,
    /// Own consumption by settlements that no batch has taken yet: it is not reported before they are.
    pub unsent: Units,
    /// Own consumption that the store has confirmed.
    reported: Units,
    /// What others settled, by the store's last word: spent − own consumed. May be negative after a reset.
    spent_elsewhere: Units,
    /// Outstanding at expired leases, by the store's last word.
    forfeited: Units,
    /// Free in the pool: by the store's last word, and what this replica took or handed back since.
    free: Units,
    /// What was used since the store last answered: set aside or settled, less what was given back.
    demand: Units,
    /// How fast this replica used it before.
    speed: Speed,
    /// How fast all of them settle.
    fleet: Speed,
    /// What a request sets aside, as a moving mean.
    typical: Units,
    /// Recalls on the account that this replica has heeded.
    recalls: u32,
    /// Near exhaustion among several holders: exactly what is needed is drawn, and what others could use of the rest goes back.
    sips: bool,
    /// Others were asked in vain, and it has been near exhaustion since.
    in_vain: bool,
    /// Others are waited for all the same the next time that something is lacking.
    waits_again: bool,
    /// How long news of this account wait for each other, in milliseconds.
    patience_ms: u16,
    /// What the store said last is no longer taken as true.
    doubted: bool,
    /// Something was handed back that no exchange has told.
    pub has_returned: bool,
    /// When the store last answered.
    told_at: Mono,
    /// A refill is asked for when less is in hand.
    low_water: Units,
    /// Stamps of the rolling minute, for a requests account.
    pub minute: Option<Box<Minute>>,
}

impl LocalAccount {
    /// A new account without a lease.
    pub fn new(
        (place, budget): (BudgetIndex, &Budget),
        dimension: Dimension,
        target: Id,
        window: Arc<Window>,
    ) -> Self {
        Self {
            budget: place,
            serial: 0,
            generation: budget.generation_of(dimension),
            dimension,
            standing: Standing::Live,
            exchanging: Exchanging::Idle,
            opener: 0,
            target,
            window,
            lease: LocalLease::default(),
            reserved: Units::ZERO,
            holds: 0,
            deadline: Mono::default(),
            last_used: Mono::default(),
            unsent: Units::ZERO,
            reported: Units::ZERO,
            spent_elsewhere: Units::ZERO,
            forfeited: Units::ZERO,
            free: Units::ZERO,
            demand: Units::ZERO,
            speed: Speed::default(),
            fleet: Speed::default(),
            typical: Units::ZERO,
            recalls: 0,
            sips: false,
            in_vain: false,
            waits_again: false,
            patience_ms: 0,
            doubted: false,
            has_returned: false,
            told_at: Mono::default(),
            low_water: Units::ZERO,
            minute: (dimension == Dimension::Requests).then(Box::default),
        }
    }

    /// Lent and neither settled, handed back nor set aside.
    pub fn available(&self) -> Units {
        self.lease
            .granted
            .minus(self.lease.returned)
            .minus(self.lease.consumed)
            .minus(self.reserved)
    }

    /// Whether the lease may be admitted against.
    pub fn is_leased(&self, now: Now) -> bool {
        self.lease.seq > 0 && now.mono < self.deadline
    }

    /// Whether what the store said last still counts.
    pub fn is_known(&self, now: Now) -> bool {
        self.was_told() && !self.doubted && now.mono < self.told_at.plus(self.known_for())
    }

    /// How long what the store said counts.
    pub fn known_for(&self) -> Duration {
        let spread =
            self.serial.wrapping_mul(2_654_435_761).checked_rem(KNOWN_SPREAD_MS).unwrap_or(0);
        let mut known = KNOWN_MIN.saturating_add(Duration::from_millis(u64::from(spread)));
        if self.in_vain {
            // All are in need, and each would ask in vain again.
            let again = self.patience().saturating_mul(2).min(IN_VAIN_MAX);
            known = known.max(again);
        }
        known
    }

    /// Limit minus spent and forfeited: what settlements have left of the window.
    pub fn left(&self, limit: Units) -> Units {
        limit.minus(self.spent_elsewhere).minus(self.lease.consumed).minus(self.forfeited)
    }

    /// Slots lent of the rolling minute.
    pub fn quota(&self) -> Units {
        self.lease.granted.minus(self.lease.returned)
    }

    /// Lent to other replicas, by the store's last word.
    pub fn lent_elsewhere(&self, limit: Units) -> Units {
        let own = self.lease.granted.minus(self.lease.returned).minus(self.lease.consumed);
        self.left(limit).minus(own).minus(self.free).or_zero()
    }

    /// Lent and not in use: no reservation or slot of the rolling minute stands for it.
    pub fn in_hand(&mut self, now: Now) -> Units {
        let quota = self.quota();
        match &mut self.minute {
            None => self.available(),
            Some(minute) => quota.minus(Units::new(i64::from(minute.used(now.mono)))),
        }
    }

    /// What may be admitted against: a pool in the red is made good first, and a lowered limit of requests holds at once, whatever
    /// the lease still says.
    pub fn usable(&mut self, limit: Units, now: Now) -> Units {
        let red = self.free.min(Units::ZERO);
        let in_hand = self.in_hand(now);
        match self.minute {
            None => in_hand.plus(red),
            Some(_) => in_hand.plus(red.min(limit.minus(self.quota()))),
        }
    }

    /// Free in the pool, as far as is known. Negative after an overdraft or a lowered limit.
    pub fn free(&self) -> Units {
        self.free
    }

    /// Whether the store ever answered for this account.
    pub fn was_told(&self) -> bool {
        self.told_at > Mono::default()
    }

    /// Sets an amount aside.
    pub fn hold(&mut self, amount: Units, now: Now) {
        self.reserved = self.reserved.plus(amount);
        self.holds = self.holds.saturating_add(1);
        let counted = amount.max(Units::ONE);
        self.demand = self.demand.plus(counted);
        let before = if self.typical == Units::ZERO { counted } else { self.typical };
        let step = counted.minus(before).get().checked_div(TYPICAL_OVER).unwrap_or(0);
        self.typical = before.plus(Units::new(step));
        self.last_used = now.mono;
    }

    /// Ends a hold without using it.
    pub fn unhold(&mut self, amount: Units) {
        self.reserved = self.reserved.minus(amount);
        self.demand = self.demand.minus(amount);
        self.holds = self.holds.saturating_sub(1);
        if self.lease.seq == 0 {
            // No store has heard of this cover, so what is not used of it need not be lent.
            self.extend(Units::ZERO.minus(self.available().or_zero()));
        }
    }

    /// Books actual use. What the lease has in hand covers it first; the rest is overrun, which raises the grant so that it
    /// does not eat the cover of other reservations. A shadow account has no lease: all that it consumes is overrun. What no number
    /// holds together with what was counted before is left out. Returns what was booked.
    pub fn consume(&mut self, amount: Units) -> Units {
        let LocalLease { consumed, returned, .. } = self.lease;
        let amount = amount.min(Units::MAX.minus(consumed).minus(returned).minus(self.reserved));
        self.extend(amount.minus(self.available().or_zero()).or_zero());
        self.lease.consumed = consumed.plus(amount);
        self.demand = self.demand.plus(amount);
        amount
    }

    /// Raises the grant beyond what the store lent. It is reported, and counted there as overdraft.
    pub fn extend(&mut self, amount: Units) {
        self.lease.granted = self.lease.granted.plus(amount);
        self.lease.overrun = self.lease.overrun.plus(amount);
        self.free = self.free.minus(amount);
    }

    /// Hands back what nobody holds, at most this much; a slot is held for a minute after its use. It counts from now on,
    /// whether or not the store hears of it at once. Returns how much it was.
    pub fn hand_back(&mut self, most: Units, now: Now) -> Units {
        let amount = self.in_hand(now).or_zero().min(most);
        self.lease.returned = self.lease.returned.plus(amount);
        self.has_returned |= amount > Units::ZERO;
        self.free = self.free.plus(amount);
        amount
    }

    /// Takes a slot of the rolling minute.
    pub fn take_slot(&mut self, at: Mono, limit: u32, sharing: Sharing) {
        if let Some(minute) = &mut self.minute {
            minute.take(at.plus(sharing.slot_guard()), limit);
        }
    }

    /// Gives back the slot that was taken at `at`: its request never left.
    pub fn give_slot_back(&mut self, at: Mono, limit: u32, sharing: Sharing) {
        if let Some(minute) = &mut self.minute {
            minute.give_back(at.plus(sharing.slot_guard()), limit);
        }
    }

    /// Whether two thirds of the lease have passed.
    pub fn wants_renewal(&self, ttl: Duration, now: Now) -> bool {
        let third = ttl.checked_div(3).unwrap_or(ttl);
        self.lease.seq > 0 && now.mono.plus(third) >= self.deadline
    }

    /// Takes the store's answer to the exchange that carried `sent` and was first sent at `sent_at`.
    pub fn take_grant(&mut self, grant: &Grant, sent: &Exchange, sent_at: Mono, now: Now) {
        let overrun_since = self.lease.overrun.minus(sent.overrun);
        let returned_since = self.lease.returned.minus(sent.returned);
        self.measure(grant, now);
        self.lease.granted = grant.granted.plus(overrun_since);
        self.reported = sent.consumed;
        self.spent_elsewhere = grant.spent.minus(sent.consumed);
        self.forfeited = grant.forfeited;
        self.free = grant.free.minus(overrun_since).plus(returned_since);
        self.demand = Units::ZERO;
        self.told_at = now.mono;
        self.doubted = false;
        self.set_low_water(now);
        self.deadline = sent_at.plus(good_for(grant.ttl));
        let holders = i64::from(grant.holders);
        let last_mile =
            self.typical.max(Units::ONE).get().saturating_mul(holders).saturating_mul(2);
        self.sips = holders > 1 && grant.free.get() < last_mile;
        self.in_vain &= self.sips;
        let patience = exchange::patience(grant.holders, grant.ttl).as_millis();
        self.patience_ms = u16::try_from(patience).unwrap_or(u16::MAX);
    }

    /// How fast it is used, here and by all.
    fn measure(&mut self, grant: &Grant, now: Now) {
        if !self.was_told() {
            return;
        }
        let since = now.mono.since(self.told_at);
        let settled = grant.spent.minus(self.spent_elsewhere).minus(self.reported);
        self.speed = self.speed.after(self.demand, since, self.typical);
        self.fleet = self.fleet.after(settled, since, self.typical);
    }

    /// How long news of this account wait for each other.
    fn patience(&self) -> Duration {
        Duration::from_millis(u64::from(self.patience_ms))
    }

    /// Takes the lease's totals as the store's own.
    pub fn confirm_reported(&mut self) {
        self.reported = self.lease.consumed;
    }

    /// Own consumption that the store has confirmed.
    pub fn reported(&self) -> Units {
        self.reported
    }

    /// The lease has ended, with `reported` booked under it. What was consumed since, and what is still set aside, is carried
    /// into the next lease as overrun: counted, never hidden.
    pub fn begin_again(&mut self, reported: Units) {
        let unreported = self.lease.consumed.minus(reported);
        let carried = unreported.plus(self.reserved);
        self.lease = LocalLease {
            granted: carried,
            consumed: unreported,
            overrun: carried,
            ..LocalLease::default()
        };
        self.opener = 0;
        self.spent_elsewhere = self.spent_elsewhere.plus(reported);
        self.free = self.free.minus(carried);
        self.reported = Units::ZERO;
        self.deadline = Mono::default();
    }

    /// Forgets what the store said, so that the next request asks it.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }
}

impl Sharing {
    /// How much longer than a minute a slot stays taken.
    fn slot_guard(self) -> Duration {
        match self {
            Self::Alone => Duration::ZERO,
            Self::Fleet => SLOT_GUARD,
        }
    }
}

/// How long a lease of this time to live is admitted against: less than the store keeps it, whatever the clocks do.
fn good_for(ttl: Duration) -> Duration {
    let drift = ttl.checked_div(1_000_000).unwrap_or_default().saturating_mul(DRIFT_PPM);
    ttl.saturating_sub(drift).saturating_sub(LEASE_MARGIN)
}
