//! What must hold after every step: the ledgers' own books, and the truth against what the store counts.

use std::collections::BTreeMap;

use bursar::domain::budget::Dimension;
use bursar::domain::ids::{HolderId, ReservationId};
use bursar::domain::ledger::account::{AccountIndex, LocalAccount, Standing};
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::money::Units;

use super::plan::{MS, SECOND};
use super::store::Fault;
use super::world::World;

impl World {
    /// I6: what is reserved is what open reservations hold, and none of it lacks cover.
    pub(crate) fn check_ledger(&self, at: usize) -> Result<(), Fault> {
        let ledger = &self.replicas[at].ledger;
        let mut held: BTreeMap<AccountIndex, (Units, u32)> = BTreeMap::new();
        for (_, reservation) in ledger.reservations() {
            for hold in &reservation.holds {
                let (sum, count) = held.entry(hold.account).or_default();
                *sum = sum.plus(hold.amount);
                *count += 1;
            }
        }
        for (place, account) in ledger.accounts() {
            let (reserved, holds) = held.remove(&place).unwrap_or_default();
            let is_minute = account.dimension == Dimension::Requests;
            let reserved = if is_minute { Units::ZERO } else { reserved };
            if account.reserved != reserved || account.holds != holds {
                return Err(format!("I6: {reserved:?} in {holds} holds, not {account:?}"));
            }
            if account.available() < Units::ZERO && self.is_covered(account, at) {
                return Err(format!("I6: more set aside than lent: {account:?}"));
            }
        }
        match held.first_key_value() {
            Some((place, _)) => Err(format!("I6: a reservation holds of {place}, which is free")),
            None => Ok(()),
        }
    }

    /// Shadow budgets have no leases, and deleted ones no books.
    fn is_covered(&self, account: &LocalAccount, at: usize) -> bool {
        let ledger = &self.replicas[at].ledger;
        let budget = ledger.accounts().find(|(_, other)| std::ptr::eq(*other, account));
        let key = budget.and_then(|(place, _)| ledger.key(place));
        let was_shadow = |key: &AccountKey| self.was_shadow(key);
        account.standing != Standing::Dead
            && account.dimension != Dimension::Requests
            && key.is_some_and(|key| !was_shadow(&key))
    }

    fn was_shadow(&self, key: &AccountKey) -> bool {
        self.store.budgets.get(&key.budget).is_none_or(|budget| budget.shadow)
    }

    /// I9: a holder admits against leases only that the store still counts for it.
    pub(crate) fn check_admission(&self, at: usize, id: ReservationId) -> Result<(), Fault> {
        let replica = &self.replicas[at];
        let Some(reservation) = replica.ledger.reservation(id) else { return Ok(()) };
        for hold in &reservation.holds {
            let Some(key) = replica.ledger.key(hold.account) else { continue };
            let known = replica.ledger.budget(key.budget);
            if self.was_shadow(&key) || known.is_none_or(|budget| budget.shadow) {
                continue;
            }
            let mut accounts = replica.ledger.accounts();
            let Some((_, account)) = accounts.find(|(place, _)| *place == hold.account) else {
                continue;
            };
            let epoch = account.lease.epoch;
            let opener = replica.ledger.opener(hold.account).unwrap_or(replica.holder);
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
                && sums.floor > sums.ceiling
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
        let allowed = self.rate_allowed(key.budget);
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
        let counted = stored.spent.plus(stored.leased).plus(stored.forfeited);
        if sums.used <= counted {
            return Ok(());
        }
        let unreported = self.unreported(key);
        if sums.used <= counted.plus(unreported) {
            return Ok(());
        }
        Err(format!(
            "I13: {key:?}: {sums:?}, {unreported:?} unreported and only {stored:?} counted"
        ))
    }

    /// Overrun that the replicas have still to report.
    fn unreported(&self, key: &AccountKey) -> Units {
        let mut sum = Units::ZERO;
        for replica in &self.replicas {
            for (place, account) in replica.ledger.accounts() {
                if replica.ledger.key(place).as_ref() == Some(key) {
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
