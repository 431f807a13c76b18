//! Starting again after a crash: leases come back from the store, reservations and stamps from the journal.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::budget::Dimension;
use crate::domain::estimate::Lesson;
use crate::domain::ids::{HolderId, ReservationId};
use crate::domain::ledger::account::{
    AccountIndex, LocalAccount, LocalLease, OpenerIndex, Standing,
};
use crate::domain::ledger::escrow::{AccountKey, Lease};
use crate::domain::ledger::{Hold, Ledger, Reservation};
use crate::domain::money::{Amounts, Units};
use crate::domain::period::Window;
use crate::domain::subject::Subject;
use crate::domain::time::{Mono, Now, Wall};

/// An open reservation as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredReservation {
    /// Its id.
    pub id: ReservationId,
    /// Who asked.
    pub subject: Arc<Subject>,
    /// What it may cost.
    pub estimate: Amounts,
    /// When it was made, on the clocks of the same boot.
    pub made_at: Now,
    /// What it holds.
    pub holds: Vec<NamedHold>,
}

/// A hold by the account's full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedHold {
    /// The account.
    pub account: AccountKey,
    /// In the account's dimension.
    pub amount: Units,
}

/// An admission that may still hold a slot of a rolling minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The requests account.
    pub account: AccountKey,
    /// When it was admitted.
    pub at: Mono,
}

impl Ledger {
    /// Takes over a lease that an earlier holder opened. It is admitted against after its next exchange. Passed over are leases
    /// of deleted budgets, and all but the latest on an account: the others were lost.
    pub fn restore_lease(
        &mut self,
        key: &AccountKey,
        (opener, epoch): (HolderId, u32),
        lease: &Lease,
        now: Now,
    ) {
        self.last_epoch = self.last_epoch.max(epoch);
        let Some(opener) = self.opener_index(opener) else { return };
        let Some(at) = self.restored_account(key, now) else { return };
        let is_latest = |account: &&mut LocalAccount| account.lease.epoch <= epoch;
        if let Some(account) = self.accounts.get_mut(at).filter(is_latest) {
            account.opener = opener;
            account.lease = LocalLease {
                epoch,
                seq: lease.seq,
                granted: lease.granted,
                consumed: lease.consumed,
                returned: lease.returned,
                overrun: lease.overrun,
            };
            account.confirm_reported();
            account.last_used = now.mono;
        }
        self.enqueue(at);
    }

    /// Who opened the leases of all accounts in memory: what a store may hold in other names is nobody's any more.
    #[must_use]
    pub fn openers(&self) -> Vec<HolderId> {
        if let [own] = *self.openers {
            return vec![own];
        }
        let mut has_any = vec![false; self.openers.len()];
        for (_, account) in self.accounts() {
            if let Some(has_any) = has_any.get_mut(usize::from(account.opener)) {
                *has_any = true;
            }
        }
        let named = self.openers.iter().zip(has_any);
        named.filter(|(_, has_any)| *has_any).map(|(opener, _)| *opener).collect()
    }

    /// The holder that opened an account's lease, or will open it.
    #[must_use]
    pub fn opener(&self, at: AccountIndex) -> Option<HolderId> {
        self.openers.get(usize::from(self.accounts.get(at)?.opener)).copied()
    }

    /// The place of a holder among those that opened leases. `None` when there are more than numbers for them.
    fn opener_index(&mut self, opener: HolderId) -> Option<OpenerIndex> {
        let known = self.openers.iter().position(|known| *known == opener);
        let at = OpenerIndex::try_from(known.unwrap_or(self.openers.len())).ok()?;
        if known.is_none() {
            self.openers.push(opener);
        }
        Some(at)
    }

    /// Opens a reservation again. Call it after the leases are back, and for those only that have no settlement.
    pub fn restore_reservation(&mut self, restored: RestoredReservation, now: Now) {
        let mut holds = SmallVec::new();
        for NamedHold { account: key, amount } in restored.holds {
            let Some(at) = self.restored_account(&key, now) else { continue };
            let Some(account) = self.accounts.get_mut(at) else { continue };
            let counted = if key.dimension == Dimension::Requests { Units::ZERO } else { amount };
            account.hold(counted, now);
            if !self.budgets.get(account.budget).is_some_and(|budget| budget.shadow) {
                // A hold beyond the lease was admitted as overdraft, or its lease was lost: it stays covered either way.
                account.extend(Units::ZERO.minus(account.available()).or_zero());
            }
            holds.push(Hold { account: at, amount });
            // Where its lease is gone, the store knows nothing of it.
            self.enqueue(at);
        }
        let RestoredReservation { id, subject, estimate, made_at, .. } = restored;
        // What it was to teach is not on record.
        let lesson = Lesson::Nothing;
        self.keep(id, Reservation { subject, estimate, lesson, made_at, holds });
    }

    /// Puts an admission back into its rolling minute. Call it in the order of time.
    pub fn restore_stamp(&mut self, stamp: &Stamp, now: Now) {
        let Some(budget) = self.budget(stamp.account.budget) else { return };
        // A rolling minute goes on whatever becomes of the schedule.
        let generation = budget.generation_of(stamp.account.dimension);
        let key = AccountKey { generation, ..stamp.account.clone() };
        let limit = budget.limits.requests_per_minute.unwrap_or(0);
        let Some(at) = self.restored_account(&key, now) else { return };
        let Some(account) = self.accounts.get_mut(at) else { return };
        account.take_slot(stamp.at, limit, self.terms.sharing);
    }

    /// The account of this name: live if it belongs to the current window, otherwise one that only takes settlements.
    fn restored_account(&mut self, key: &AccountKey, now: Now) -> Option<AccountIndex> {
        let place = self.budgets.index_of(key.budget)?;
        if let Some(at) = self.find(key).or_else(|| self.find_retired(key)) {
            return Some(at);
        }
        let window = match key.dimension {
            Dimension::Requests => Arc::clone(&self.always),
            Dimension::Cost | Dimension::Tokens => {
                Arc::clone(self.budgets.window(place, now.wall)?)
            }
        };
        let budget = self.budgets.get(place)?;
        let is_current =
            budget.generation_of(key.dimension) == key.generation && window.label == key.window;
        let generation = key.generation;
        let window = if is_current { window } else { Arc::new(past(&key.window)) };
        let mut account =
            LocalAccount::new((place, budget), key.dimension, key.target.clone(), window);
        account.generation = generation;
        if is_current {
            return self.accounts.add(account);
        }
        let at = self.accounts.add_retired(account)?;
        self.restored.insert(key.clone(), at);
        Some(at)
    }

    /// The account of this name that came back before, of a window that has passed.
    fn find_retired(&self, key: &AccountKey) -> Option<AccountIndex> {
        let at = self.restored.get(key).copied()?;
        let is_retired = |account: &LocalAccount| account.standing == Standing::Retired;
        let is_there = self.accounts.get(at).is_some_and(is_retired);
        (is_there && self.key(at).is_some_and(|own| own == *key)).then_some(at)
    }
}

/// A window of which only the name is known, and that it has passed.
fn past(label: &Arc<str>) -> Window {
    let never = Wall::from_ms(i64::MIN);
    Window { start: never, end: Some(never), label: Arc::clone(label) }
}
