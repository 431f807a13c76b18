//! How much an account draws and gives back, and when. It decides what a fleet costs its store and how much of a budget lies idle;
//! what may be admitted does not depend on it.

use std::time::Duration;

use super::LocalAccount;
use crate::domain::ledger::{Sharing, Terms};
use crate::domain::money::Units;
use crate::domain::time::Now;

/// A refill is asked for when less than this part is left of what was in hand after the last grant.
const LOW_WATER_DIVISOR: i64 = 4;
/// In a fleet, a lease that is low with less than so many typical requests is not refilled by a message of its own: there are news
/// before, or the request that lacks something asks.
const LOW_WATER_REQUESTS: i64 = 3;
/// In a fleet a refill of slots comes with any exchange when less than so many times the low water is left.
const TOP_UP_FACTOR: i64 = 2;
/// A first grant covers this many requests like the one that waits.
const FIRST_GRANT_REQUESTS: i64 = 4;
/// And this many where the limit has room for so many times that.
const AMPLE_GRANT_REQUESTS: i64 = 16;
const AMPLE_LIMIT: i64 = 256;
/// Later grants bring the lease up to at least so many typical requests.
const FEW_REQUESTS: i64 = 2;
/// Where half of the pool lasts for so many times what a refill covers, what is used by chance is covered besides: so many typical
/// requests. Who sees few requests would wait for the store with each run of them otherwise.
const AMPLE_TIMES: u32 = 4;
const CHANCE_REQUESTS: i64 = 6;
/// But for a pool that is gone before the next news: until half of it is gone, and at least so much use.
const HASTE_MIN: Duration = Duration::from_secs(1);
/// When others recall it, less than so much use or a typical request is not worth a message of its own.
const CRUMB_USE: Duration = Duration::from_millis(500);
/// Unless what all holders might keep of it would be more than this part of the limit.
const CRUMBS_DIVISOR: i64 = 75;
/// Where news wait so long for each other there are many holders, seven at least.
const MANY_HOLD: Duration = Duration::from_secs(1);
/// Slots without use are given back to a shared pool this long after the store last answered.
const SLOTS_KEPT: Duration = Duration::from_secs(1);
/// But for those that so much use will need.
const SLOTS_AHEAD: Duration = Duration::from_secs(2);
/// Where all are in need, a pool of less than so many typical requests is empty a moment later.
const SCARCE_REQUESTS: i64 = 4;

/// What a replica may keep of what others recall, under this limit and with so many holders.
pub fn crumbs(limit: Units, holders: u32) -> Units {
    let parts = i64::from(holders.max(1)).saturating_mul(CRUMBS_DIVISOR);
    Units::new(limit.get().checked_div(parts).unwrap_or(0))
}

impl LocalAccount {
    /// What a grant should cover, given what waiting requests lack: what brings the lease up to so much time of use, and less than
    /// that the sooner the pool is gone.
    pub fn want(&self, need: Units, limit: Units, horizon: Duration, now: Now) -> Units {
        let first = times(need, FIRST_GRANT_REQUESTS);
        if self.minute.is_some() {
            return if self.sips { need } else { first.max(self.use_in(horizon, now)) };
        }
        if !self.was_told() {
            let ample = times(need, AMPLE_GRANT_REQUESTS);
            return if times(ample, AMPLE_LIMIT) <= limit { ample } else { first };
        }
        need.max(self.ahead(horizon, now).minus(self.available().or_zero()))
    }

    /// Whether an exchange that takes place anyway should bring a refill. In a fleet not when nobody asked since the store last answered:
    /// what was handed back for others would return here with the next news, again and again.
    pub fn wants_refill(&mut self, terms: &Terms, horizon: Duration, now: Now) -> bool {
        let is_asked = self.last_used >= self.told_at;
        if terms.sharing == Sharing::Fleet && self.minute.is_none() && !is_asked {
            return false;
        }
        let full = match terms.sharing {
            Sharing::Alone => self.low_water,
            Sharing::Fleet if self.minute.is_some() => times(self.low_water, TOP_UP_FACTOR),
            Sharing::Fleet => self.ahead(horizon, now),
        };
        self.may_refill(terms) && self.in_hand(now) < full
    }

    /// Whether a refill should be asked for ahead of need.
    pub fn is_low(&mut self, terms: &Terms, now: Now) -> bool {
        self.may_refill(terms) && self.in_hand(now) < self.low_water && self.is_large(terms)
    }

    /// From now on a refill is asked for when most of what is in hand now is used.
    pub(super) fn set_low_water(&mut self, now: Now) {
        let full = self.in_hand(now).get();
        self.low_water = Units::new(full.checked_div(LOW_WATER_DIVISOR).unwrap_or(0));
    }

    /// Near exhaustion, what no reservation holds goes back where it serves others: when the pool has run dry, and it is enough
    /// for a request. Returns how much it was.
    pub fn give_leftovers(&mut self, now: Now) -> Units {
        if !self.sips {
            return Units::ZERO;
        }
        let serves = self.free < self.typical && self.in_hand(now) >= self.typical;
        let gives = serves || self.minute.is_some();
        if gives { self.give(Units::MAX, now) } else { Units::ZERO }
    }

    /// Gives slots back to a shared pool that two seconds of use do not need. Returns how many.
    pub fn give_idle_slots(&mut self, now: Now) -> Units {
        if self.minute.is_none() || now.mono.since(self.told_at) < SLOTS_KEPT {
            return Units::ZERO;
        }
        let kept = if self.sips { Units::ZERO } else { self.use_in(SLOTS_AHEAD, now) };
        let idle = self.in_hand(now).minus(kept).or_zero();
        self.give(idle, now)
    }

    /// Others need what this replica does not use: gives it back, at most this much and once for each recall. Crumbs are not
    /// worth a message: they stay, unless there are news to tell anyway. Returns how much it was.
    pub fn heed(&mut self, recalls: u32, most: Units, crumbs: Units, now: Now) -> Units {
        if std::mem::replace(&mut self.recalls, recalls) == recalls {
            return Units::ZERO;
        }
        let has_news = now.mono.since(self.told_at) >= self.patience();
        let few = self.typical.max(self.use_in(CRUMB_USE, now)).min(crumbs);
        if self.minute.is_none() && !has_news && self.in_hand(now) < few {
            return Units::ZERO;
        }
        self.give(most, now)
    }

    /// Who has asked others in vain before draws all that a request needs: what is here goes into the pool, where it serves somebody
    /// in any case.
    pub fn pool_crumbs(&mut self, now: Now) {
        // What was so long ago says nothing.
        let recently = self.known_for().saturating_mul(2);
        self.in_vain &= now.mono.since(self.told_at) < recently;
        if self.in_vain {
            self.hand_back(Units::MAX, now);
        }
    }

    /// Others were asked for what is lacking, and had not enough. Among few holders that says little about the next time.
    pub fn asked_in_vain(&mut self) {
        let are_many = self.patience() >= MANY_HOLD;
        self.waits_again = self.in_vain && !self.waits_again;
        self.in_vain = are_many && self.sips && self.minute.is_none();
    }

    /// Whether to be refused at once rather than wait for others, who had not enough the last time. Every other time they are waited
    /// for all the same: small requests that go on elsewhere would keep a larger one from what they leave idle for good.
    pub fn gives_up_on_others(&self) -> bool {
        self.in_vain && !self.waits_again
    }

    /// Whether others were asked in vain, and it has been near exhaustion since.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain
    }

    /// Whether the pool had too few typical requests' worth to have any of it by now, where all are in need.
    pub fn is_scarce(&self) -> bool {
        self.free < times(self.typical, SCARCE_REQUESTS)
    }

    /// Hands back for others to use: nothing is drawn ahead of need before the next grant.
    fn give(&mut self, most: Units, now: Now) -> Units {
        let amount = self.hand_back(most, now);
        if amount > Units::ZERO {
            self.set_low_water(now);
        }
        amount
    }

    /// Whether the pool may have something to refill from. What was handed back just now is for others.
    fn may_refill(&self, terms: &Terms) -> bool {
        let least = match self.minute {
            None => !self.has_returned && self.free > self.typical,
            // A lone replica draws all slots of a rolling minute at once.
            Some(_) => terms.sharing == Sharing::Fleet && self.free > Units::ZERO,
        };
        least && !self.sips
    }

    /// Whether a refill is worth a message of its own.
    fn is_large(&self, terms: &Terms) -> bool {
        let large = times(self.typical, LOW_WATER_REQUESTS);
        terms.sharing == Sharing::Alone || self.minute.is_some() || self.low_water >= large
    }

    /// What should be in hand ahead of need.
    fn ahead(&self, horizon: Duration, now: Now) -> Units {
        let until_half =
            self.fleet.uses_up(self.free, self.typical).checked_div(2).unwrap_or_default();
        if until_half < horizon {
            return self.use_in(until_half.max(HASTE_MIN), now);
        }
        let used = self.use_in(horizon, now);
        if until_half < horizon.saturating_mul(AMPLE_TIMES) {
            return used.max(times(self.typical, FEW_REQUESTS));
        }
        used.plus(times(self.typical, CHANCE_REQUESTS))
    }

    /// What will be used in this time.
    fn use_in(&self, time: Duration, now: Now) -> Units {
        let since = now.mono.since(self.told_at);
        self.speed.after(self.demand, since, self.typical).used_in(time, self.typical)
    }
}

/// So many times an amount.
fn times(amount: Units, factor: i64) -> Units {
    Units::new(amount.get().saturating_mul(factor))
}
