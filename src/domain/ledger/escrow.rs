//! The store's side of the lease protocol: accounts, leases, and the arithmetic of one exchange. Pure, so that the
//! memory and the SQLite store run the same rule and the tests can replay it. PostgreSQL runs an exchange by itself, in
//! one round trip: `migrations/postgres/0002_commit.sql` says the same in its language.

#[cfg(test)]
mod properties;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::money::Units;
use crate::domain::time::Wall;

/// Names an account: running totals of one (workspace, budget, generation, dimension, target, window).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The workspace leads every key.
    pub workspace: Id,
    /// The budget.
    pub budget: BudgetId,
    /// The budget's generation.
    pub generation: u32,
    /// What is counted.
    pub dimension: Dimension,
    /// Who is counted: the scope's target, or for a `*` budget the asking one.
    pub target: Id,
    /// The label of the window; empty for one-time budgets and for requests.
    pub window: Arc<str>,
}

/// An account's totals at the store. All in the account's dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Settled by all holders since the account was made.
    pub spent: Units,
    /// What `spent` was at the last reset; what is shown and enforced is `spent − base`.
    pub base: Units,
    /// Lent to live leases: granted − consumed − returned.
    pub leased: Units,
    /// Outstanding at leases that expired; counts as spent until their holders true them up.
    pub forfeited: Units,
    /// What was consumed beyond any grant.
    pub overdraft: Units,
    /// Live leases.
    pub holders: u32,
    /// How often a holder needed what others had idle. Each time all of them hand back what no reservation holds.
    pub recalls: u32,
}

/// The state of a lease at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseState {
    /// Counted in `leased`.
    #[default]
    Active,
    /// Its time ran out: counted in `forfeited`.
    Expired,
    /// Final; nothing outstanding.
    Closed,
}

/// One holder's lease on one account. Totals are cumulative and never fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    /// Number of the last exchange that was applied.
    pub seq: u32,
    /// Lent in all.
    pub granted: Units,
    /// Settled in all.
    pub consumed: Units,
    /// Handed back in all.
    pub returned: Units,
    /// Consumed beyond the grants in all.
    pub overrun: Units,
    /// Where it stands.
    pub state: LeaseState,
    /// When the sweeper may take it, on the store's clock.
    pub expires_at: Wall,
}

/// What a holder asks of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The least that is of use: the smallest waiting request. Zero for a refill that nobody waits for.
    pub need_min: Units,
    /// What all waiting requests lack.
    pub need: Units,
    /// What some seconds of use would take; at least `need`.
    pub want: Units,
}

/// Report, return, draw and renew in one step. Idempotent by `(account, holder, epoch, seq)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// On which account.
    pub account: AccountKey,
    /// Who sends it: the holder whose lease it is by now.
    pub holder: HolderId,
    /// The earlier holder that opened the lease, if `holder` took it over: the lease keeps its name.
    pub opened_by: Option<HolderId>,
    /// Which lease of the one that opened it on this account; a lost lease is followed by the next epoch.
    pub epoch: u32,
    /// One more than the last exchange's. The first opens the lease and, where needed, the account.
    pub seq: u32,
    /// Settled in all under this lease.
    pub consumed: Units,
    /// Handed back in all under this lease.
    pub returned: Units,
    /// Consumed beyond the grants in all under this lease.
    pub overrun: Units,
    /// What to lend; `None` to lend nothing.
    pub draw: Option<Draw>,
    /// Whether the lease stays open.
    pub then: Then,
}

impl Exchange {
    /// Who opened the lease. With the account and the epoch it names the lease for good.
    #[must_use]
    pub fn opener(&self) -> HolderId {
        self.opened_by.unwrap_or(self.holder)
    }
}

/// What becomes of a lease after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is renewed for another time to live.
    Renew,
    /// It ends: whatever is outstanding goes back to the pool. Only without open reservations.
    Close,
}

/// The store's answer to an exchange: the account as it stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Lent in all under this lease; the holder sets its own number to it.
    pub granted: Units,
    /// The budget's limit, read in the same transaction.
    pub limit: Units,
    /// Settled by all holders since the last reset.
    pub spent: Units,
    /// Outstanding at expired leases.
    pub forfeited: Units,
    /// Not spent, not lent, not forfeited; negative after an overdraft or a lowered limit.
    pub free: Units,
    /// Live leases on the account.
    pub holders: u32,
    /// Recalls on the account, this exchange's own among them.
    pub recalls: u32,
    /// How long the lease lasts from when the request was sent.
    pub ttl: Duration,
}

/// An exchange that can be neither applied nor replayed: its lease is closed, unknown or of another sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the lease is closed, unknown or of another sequence")]
pub struct Lost;

/// A lease is taken this long after its time ran out, so that a holder whose clock runs a little slow, or a store
/// whose clock steps, never has it taken while it is still in use.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long a request slot stays taken, and so how long the slots of a holder that fell silent may still be in use.
pub const ROLLING_MINUTE: Duration = Duration::from_secs(60);

/// Closed leases stay on record this long to answer replays; far longer than any batch is retried.
pub const CLOSED_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Up to so many holders a lease lasts its time to live. Among more of them it lasts longer, so that together they renew no more
/// leases in a second than these do,
const HOLDERS_OF_SHORT_LEASES: u32 = 64;
/// but among so many no longer.
const HOLDERS_OF_LONGEST_LEASES: u32 = 384;

/// A lease before its first exchange. To open it is to revive an expired one that has nothing outstanding.
const UNOPENED: Lease = Lease {
    seq: 0,
    granted: Units::ZERO,
    consumed: Units::ZERO,
    returned: Units::ZERO,
    overrun: Units::ZERO,
    state: LeaseState::Expired,
    expires_at: Wall::from_ms(0),
};

/// Applies one exchange, or answers its replay without changing anything. `lease` is `None` when there is no such row;
/// it is made by the exchange with `seq` 1.
///
/// Closing a lease on requests frees its slots at once: its holder closes it only when none was used for a minute.
///
/// # Errors
/// [`Lost`]; then nothing was changed.
pub fn exchange(
    account: &mut Account,
    lease: &mut Option<Lease>,
    request: &Exchange,
    limit: Units,
    ttl: Duration,
    now: Wall,
) -> Result<Grant, Lost> {
    let mut held = match *lease {
        Some(held) if held.seq == request.seq => {
            // A lease that the sweep closed meanwhile has taken the report all the same, and is good for nothing more. Any other is
            // good for what it was lent for at the least: there may have been fewer holders.
            let swept = held.state == LeaseState::Closed && request.then == Then::Renew;
            let good_for = if swept { Duration::ZERO } else { ttl };
            return Ok(account.grant(held.granted, limit, good_for));
        }
        Some(held) if held.takes(request) => held,
        None if UNOPENED.takes(request) => UNOPENED,
        Some(_) | None => return Err(Lost),
    };
    // Everything is checked; from here on everything is changed.
    revive(account, &mut held);
    settle(account, &mut held, request);
    match request.then {
        Then::Renew => lend(account, &mut held, request.draw, limit),
        Then::Close => close(account, &mut held),
    }
    let good_for = lasts(ttl, account.holders);
    held.seq = request.seq;
    held.expires_at = now.plus(good_for);
    *lease = Some(held);
    Ok(account.grant(held.granted, limit, good_for))
}

/// How long a lease lasts, with so many holders on its account.
#[must_use]
pub fn lasts(ttl: Duration, holders: u32) -> Duration {
    let many = holders.clamp(HOLDERS_OF_SHORT_LEASES, HOLDERS_OF_LONGEST_LEASES);
    ttl.saturating_mul(many).checked_div(HOLDERS_OF_SHORT_LEASES).unwrap_or(ttl)
}

/// The answer to an exchange on a budget that is gone: nothing is lent and nothing is owed, so that late settlements of
/// a deleted budget hold nothing up.
#[must_use]
pub fn gone(request: &Exchange, ttl: Duration) -> Grant {
    Account::default().grant(request.consumed.plus(request.returned), Units::ZERO, ttl)
}

/// Adds an amount that no lease covers. Negative amounts give back.
pub fn charge(account: &mut Account, amount: Units, limit: Units) {
    let beyond = amount.minus(account.free(limit).or_zero()).or_zero();
    account.spent = account.spent.plus(amount);
    account.overdraft = account.overdraft.plus(beyond);
}

/// Takes an active lease whose time ran out: what it has outstanding counts as spent from now on, because its holder
/// may have used it without being able to say so. With nothing outstanding the lease is closed.
pub fn expire(account: &mut Account, lease: &mut Lease) {
    if lease.state != LeaseState::Active {
        return;
    }
    let outstanding = lease.outstanding();
    account.leased = account.leased.minus(outstanding);
    account.forfeited = account.forfeited.plus(outstanding);
    account.holders = account.holders.saturating_sub(1);
    lease.state = if outstanding == Units::ZERO { LeaseState::Closed } else { LeaseState::Expired };
}

/// [`expire`], for a lease whose time ran out. Its slots are kept a minute from when it was noticed and not from when it was due: a
/// clock that steps ahead, as after a failover, must not free what was taken a moment ago.
pub fn run_out(dimension: Dimension, account: &mut Account, lease: &mut Lease, now: Wall) {
    expire(account, lease);
    if dimension == Dimension::Requests {
        lease.expires_at = lease.expires_at.max(now.minus(GRACE));
    }
}

/// Posts what an expired lease has outstanding as consumed and closes it, before a reset.
pub fn write_off(account: &mut Account, lease: &mut Lease) {
    if lease.state != LeaseState::Expired {
        return;
    }
    let outstanding = lease.outstanding();
    account.forfeited = account.forfeited.minus(outstanding);
    account.spent = account.spent.plus(outstanding);
    lease.consumed = lease.consumed.plus(outstanding);
    lease.state = LeaseState::Closed;
}

/// Starts an account anew. `spent` keeps growing, so that leases and late settlements stay right.
pub fn reset(account: &mut Account) {
    account.base = account.spent;
}

/// Gives back what an expired lease has outstanding and closes it: request slots whose minute is over, or what is known
/// not to be reported any more.
pub fn free_slots(account: &mut Account, lease: &mut Lease) {
    if lease.state != LeaseState::Expired {
        return;
    }
    let outstanding = lease.outstanding();
    account.forfeited = account.forfeited.minus(outstanding);
    lease.returned = lease.returned.plus(outstanding);
    lease.state = LeaseState::Closed;
}

/// Gives back a part of what an expired lease has outstanding, because it was charged by another road, and tells how much.
/// Its holder, should it come back, finds more returned than it says and has lost the lease.
pub fn take_back(account: &mut Account, lease: &mut Lease, amount: Units) -> Units {
    if lease.state != LeaseState::Expired {
        return Units::ZERO;
    }
    let taken = amount.min(lease.outstanding()).or_zero();
    account.forfeited = account.forfeited.minus(taken);
    lease.returned = lease.returned.plus(taken);
    if lease.outstanding() == Units::ZERO {
        lease.state = LeaseState::Closed;
    }
    taken
}

/// What the passing of time asks to be done with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Its time ran out: [`run_out`].
    Expire,
    /// Its slots can no longer be in use: [`free_slots`].
    FreeSlots,
    /// Nobody asks for it any more: delete its row.
    Forget,
}

/// What is due for a lease on an account of this dimension.
#[must_use]
pub fn due(dimension: Dimension, lease: &Lease, now: Wall) -> Option<Due> {
    let passed = |after: Duration| lease.expires_at.plus(after) < now;
    match lease.state {
        LeaseState::Active => passed(GRACE).then_some(Due::Expire),
        LeaseState::Expired if dimension == Dimension::Requests => {
            passed(GRACE.saturating_add(ROLLING_MINUTE)).then_some(Due::FreeSlots)
        }
        LeaseState::Expired => None,
        LeaseState::Closed => passed(CLOSED_KEPT).then_some(Due::Forget),
    }
}

/// Checks one account against all leases that were ever opened on it. `direct` is what reached it without a lease.
///
/// # Errors
/// The first invariant that does not hold, with its numbers.
pub fn check_invariants(account: &Account, leases: &[Lease], direct: Units) -> Result<(), String> {
    let sum = |of: &dyn Fn(&Lease) -> Units| leases.iter().map(of).fold(Units::ZERO, Units::plus);
    let outstanding = |state| {
        sum(&move |lease| if lease.state == state { lease.outstanding() } else { Units::ZERO })
    };
    let equal = |name: &str, is: i64, should: i64| {
        if is == should {
            Ok(())
        } else {
            Err(format!("{name} is {is} and should be {should}: {account:?} {leases:?}"))
        }
    };
    equal("I1: leased", account.leased.get(), outstanding(LeaseState::Active).get())?;
    equal("I2: forfeited", account.forfeited.get(), outstanding(LeaseState::Expired).get())?;
    equal("I3: spent", account.spent.get(), sum(&|lease| lease.consumed).plus(direct).get())?;
    let live = leases.iter().filter(|lease| lease.state == LeaseState::Active).count();
    equal("holders", i64::from(account.holders), i64::try_from(live).unwrap_or(i64::MAX))?;
    match leases.iter().find(|lease| lease.outstanding() < Units::ZERO) {
        Some(lease) => Err(format!("I5: more consumed and returned than lent: {lease:?}")),
        None => Ok(()),
    }
}

impl Draw {
    /// Whether a request waits for it.
    #[must_use]
    pub fn is_waited_for(self) -> bool {
        self.need_min > Units::ZERO
    }
}

impl Account {
    /// What can be lent under this limit; negative after an overdraft or a lowered limit.
    #[must_use]
    pub const fn free(&self, limit: Units) -> Units {
        limit.plus(self.base).minus(self.spent).minus(self.leased).minus(self.forfeited)
    }

    /// The account as it stands, for the holder of a lease with this much lent in all.
    fn grant(&self, granted: Units, limit: Units, ttl: Duration) -> Grant {
        Grant {
            granted,
            limit,
            spent: self.spent.minus(self.base),
            forfeited: self.forfeited,
            free: self.free(limit),
            holders: self.holders,
            recalls: self.recalls,
            ttl,
        }
    }
}

impl Lease {
    /// Lent and neither consumed nor handed back.
    #[must_use]
    pub const fn outstanding(&self) -> Units {
        self.granted.minus(self.consumed).minus(self.returned)
    }

    /// Whether this exchange comes next. An expired lease takes it, whatever the time: until now its outstanding amount
    /// was counted as spent, so its holder owes nobody anything.
    fn takes(&self, request: &Exchange) -> bool {
        self.state != LeaseState::Closed
            && self.seq.checked_add(1) == Some(request.seq)
            && self.consumed <= request.consumed
            && self.returned <= request.returned
            && self.overrun <= request.overrun
    }
}

/// Makes a lease active; what it has outstanding is lent instead of forfeited.
fn revive(account: &mut Account, lease: &mut Lease) {
    if lease.state != LeaseState::Expired {
        return;
    }
    let outstanding = lease.outstanding();
    account.forfeited = account.forfeited.minus(outstanding);
    account.leased = account.leased.plus(outstanding);
    account.holders = account.holders.saturating_add(1);
    lease.state = LeaseState::Active;
}

/// Takes over what the holder reports. What it consumed beyond its grants, said or not, is granted after the fact and
/// recorded as overdraft, so that it eats nobody else's cover.
fn settle(account: &mut Account, lease: &mut Lease, request: &Exchange) {
    let consumed = request.consumed.minus(lease.consumed);
    let used = consumed.plus(request.returned.minus(lease.returned));
    let overrun = request.overrun.minus(lease.overrun);
    let unsaid = used.minus(lease.outstanding().plus(overrun)).or_zero();
    let beyond = overrun.plus(unsaid);
    account.spent = account.spent.plus(consumed);
    account.leased = account.leased.minus(used).plus(beyond);
    account.overdraft = account.overdraft.plus(beyond);
    lease.granted = lease.granted.plus(beyond);
    lease.consumed = request.consumed;
    lease.returned = request.returned;
    lease.overrun = request.overrun;
}

/// Lends what is asked for, and leaves something to the other holders: beyond what is needed, nobody gets more than an eighth of
/// what is free, nor among many more than ten even parts of it. Less than the smallest waiting request needs would help nobody
/// and is not lent at all; what others have is recalled instead, unless nobody waits.
fn lend(account: &mut Account, lease: &mut Lease, draw: Option<Draw>, limit: Units) {
    let Some(draw) = draw else { return };
    let free = account.free(limit);
    if free <= Units::ZERO || free < draw.need_min {
        let is_recalled = draw.is_waited_for() && account.leased > lease.outstanding();
        account.recalls = account.recalls.saturating_add(u32::from(is_recalled));
        return;
    }
    let parts = i64::from(account.holders.checked_div(10).unwrap_or(0).max(8));
    let part = Units::new(free.get().checked_div(parts).unwrap_or(0));
    let fair = if account.holders > 1 { draw.need.max(part) } else { free };
    let lent = draw.want.min(free).min(fair).or_zero();
    account.leased = account.leased.plus(lent);
    lease.granted = lease.granted.plus(lent);
}

/// Ends an active lease; what it has outstanding goes back to the pool.
fn close(account: &mut Account, lease: &mut Lease) {
    let outstanding = lease.outstanding();
    account.leased = account.leased.minus(outstanding);
    account.holders = account.holders.saturating_sub(1);
    lease.returned = lease.returned.plus(outstanding);
    lease.state = LeaseState::Closed;
}
