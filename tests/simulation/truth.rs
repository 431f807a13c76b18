//! The ground truth: every admission that was handed over to a client, what it really used, and what was booked of it. What the
//! store and the ledgers believe is held against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bursar::domain::budget::Dimension;
use bursar::domain::ids::{HolderId, Id, ReservationId};
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::money::{Amounts, Units};
use bursar::domain::period::Window;
use bursar::domain::settlement::{Charge, Road, Settlement};
use bursar::domain::time::Wall;

use super::world::{BudgetName, budget_of};

/// What one request means for one account.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// What it used, as far as it was set aside. It counts until something is booked.
    floor: Units,
    /// Charged by entries on record.
    recorded: Units,
    /// Charged through leases by entries that the store has not seen.
    pending: Units,
    /// Entries of either kind.
    entries: u32,
    /// Entries on record.
    on_record: u32,
    /// The first on record charged it directly, in the place of its holder.
    in_place: bool,
    /// It never reached its provider.
    released: bool,
}

impl Part {
    fn value(&self) -> Units {
        match (self.entries, self.released) {
            (0, true) => Units::ZERO,
            (0, false) => self.floor,
            // What its holder books under another name meanwhile, as when its time is up, is the same use once more. It counts twice from
            // when it is on record, and until then no more than the greater of the two has to be there: that is what was set aside.
            _ if self.in_place => self.recorded.max(self.pending),
            _ => self.recorded.plus(self.pending),
        }
    }
}

/// The truth of one account.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    /// Σ of what was used or booked.
    pub(crate) used: Units,
    /// Σ of what was used and not left out of a first report, as far as it was set aside.
    pub(crate) floor: Units,
    /// Σ of charges on record.
    pub(crate) recorded: Units,
    /// Σ of charges on record that no lease carried.
    pub(crate) direct: Units,
    /// The most that was ever allowed: limit + base.
    pub(crate) ceiling: Units,
    /// Whether a reset wrote off what expired leases had outstanding.
    pub(crate) written_off: bool,
    /// Σ of what was admitted without cover while the store was away.
    pub(crate) blind: Units,
    /// What an account of a later generation began with.
    pub(crate) seeded: Units,
    /// Σ of what corrections gave back.
    pub(crate) refunded: Units,
}

/// A workspace and the id of an entry: another workspace may have one with the same id.
type Name = (Id, Id);

fn name(entry: &Settlement) -> Name {
    (entry.subject.workspace.clone(), entry.id.clone())
}

/// All accounts and requests.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) accounts: BTreeMap<AccountKey, Sums>,
    requests: BTreeMap<ReservationId, Vec<(AccountKey, Part)>>,
    recorded: BTreeSet<Name>,
    /// Entries that their replicas know of and the store does not.
    pending: BTreeMap<(HolderId, Name), Settlement>,
    /// When requests were admitted, of each account that counts them.
    minutes: BTreeMap<AccountKey, VecDeque<u64>>,
    /// What holders admitted without cover.
    blind: BTreeMap<(AccountKey, HolderId), Units>,
    /// Charges on record, with the time of their usage.
    log: Vec<(Wall, Charge)>,
}

/// A part of an admission that is handed over to a client.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) key: AccountKey,
    pub(crate) amount: Units,
    /// Its gate was passed without the store, as its budget allows.
    pub(crate) is_blind: bool,
}

impl Truth {
    /// A request was handed over to its client. The first that is ever said of its use are `least`.
    pub(crate) fn admitted(
        &mut self,
        id: ReservationId,
        holds: Vec<Held>,
        (actual, least): (Amounts, Amounts),
        at: u64,
    ) {
        let mut parts = Vec::new();
        for Held { key, amount, is_blind } in holds {
            if key.dimension == Dimension::Requests {
                if !is_blind {
                    self.minutes.entry(key).or_default().push_back(at);
                }
                continue;
            }
            let floor = in_dimension(key.dimension, actual).min(amount);
            let sums = self.accounts.entry(key.clone()).or_default();
            sums.floor = sums.floor.plus(in_dimension(key.dimension, least).min(amount));
            sums.used = sums.used.plus(floor);
            parts.push((key, Part { floor, ..Part::default() }));
        }
        self.requests.insert(id, parts);
    }

    /// A holder admitted without cover.
    pub(crate) fn went_blind(&mut self, holder: HolderId, key: &AccountKey, amount: Units) {
        let sums = self.accounts.entry(key.clone()).or_default();
        sums.blind = sums.blind.plus(amount);
        let own = self.blind.entry((key.clone(), holder)).or_default();
        *own = own.plus(amount);
    }

    /// What these holders admitted without cover is known to their successor, until that is gone too: it may not have said so by then.
    pub(crate) fn found_again(&mut self, holders: &[HolderId], successor: HolderId) {
        let is_theirs =
            |(_, holder): &(AccountKey, HolderId), _: &mut Units| holders.contains(holder);
        let found: Vec<_> = self.blind.extract_if(.., is_theirs).collect();
        for ((key, _), amount) in found {
            let own = self.blind.entry((key, successor)).or_default();
            *own = own.plus(amount);
        }
    }

    /// What was admitted without cover by holders of whom none is `alive`.
    pub(crate) fn blind_of_others(
        &self,
        key: &AccountKey,
        is_alive: impl Fn(HolderId) -> bool,
    ) -> Units {
        let own = (key.clone(), HolderId(0))..=(key.clone(), HolderId(u128::MAX));
        let others = self.blind.range(own).filter(|((_, holder), _)| !is_alive(*holder));
        others.fold(Units::ZERO, |sum, (_, amount)| sum.plus(*amount))
    }

    /// What is on record of a budget's usage in a window, by dimension and target.
    pub(crate) fn on_record_in(
        &self,
        budget: &BudgetName,
        window: &Window,
    ) -> BTreeMap<(Dimension, Id), Units> {
        let is_inside = |at: Wall| window.start <= at && window.end.is_none_or(|end| at < end);
        let mut sums = BTreeMap::<_, Units>::new();
        for (at, Charge { account, amount, .. }) in &self.log {
            if budget_of(account) == *budget && is_inside(*at) {
                let sum = sums.entry((account.dimension, account.target.clone())).or_default();
                *sum = sum.plus(*amount);
            }
        }
        sums
    }

    /// An account of a later generation begins with what is on record.
    pub(crate) fn seeded(&mut self, key: AccountKey, amount: Units) {
        let sums = self.accounts.entry(key).or_default();
        (sums.seeded, sums.recorded, sums.direct) = (amount, amount, amount);
    }

    /// A request turned out not to have reached its provider.
    pub(crate) fn released(&mut self, id: ReservationId) {
        let accounts = &mut self.accounts;
        for (key, part) in self.requests.get_mut(&id).into_iter().flatten() {
            let sums = accounts.entry(key.clone()).or_default();
            change(sums, part, |part| part.released = true);
        }
    }

    /// A replica booked an entry. One that is on record already says nothing new: another replica booked it in its place.
    pub(crate) fn booked(&mut self, holder: HolderId, entry: &Settlement) {
        if self.recorded.contains(&name(entry)) {
            return;
        }
        self.pending.insert((holder, name(entry)), entry.clone());
        self.each_charge(entry, |part, amount, road| {
            part.entries += 1;
            if road == Road::Lease {
                part.pending = part.pending.plus(amount);
            }
        });
    }

    /// A replica died: it knows no more of entries that the store has not seen.
    pub(crate) fn forgotten(&mut self, holder: HolderId) {
        self.drop_pending(|of, _| of == holder);
    }

    fn drop_pending(&mut self, is_meant: impl Fn(HolderId, &Name) -> bool) {
        let dropped = self.pending.extract_if(.., |(of, id), _| is_meant(*of, id));
        for ((_, id), entry) in dropped.collect::<Vec<_>>() {
            let is_recorded = self.recorded.contains(&id);
            self.each_charge(&entry, |part, amount, road| {
                part.entries -= u32::from(!is_recorded);
                if road == Road::Lease {
                    part.pending = part.pending.minus(amount);
                    // Its journal says that a lower bound was booked: the rest is set aside no more.
                    part.floor = part.floor.min(amount);
                }
            });
        }
    }

    /// The store recorded an entry of this holder.
    pub(crate) fn recorded(&mut self, holder: HolderId, entry: &Settlement) {
        self.recorded.insert(name(entry));
        self.drop_pending(|of, id| of != holder && *id == name(entry));
        for charge in entry.charges.iter() {
            self.log.push((entry.at, charge.clone()));
            let sums = self.accounts.entry(charge.account.clone()).or_default();
            sums.recorded = sums.recorded.plus(charge.amount);
            sums.refunded = sums.refunded.minus(charge.amount.min(Units::ZERO));
            if charge.road == Road::Direct {
                sums.direct = sums.direct.plus(charge.amount);
            }
        }
        let was_booked = self.pending.remove(&(holder, name(entry))).is_some();
        self.each_charge(entry, |part, amount, road| {
            part.recorded = part.recorded.plus(amount);
            part.in_place |= part.on_record == 0 && road == Road::Direct;
            part.on_record += 1;
            if !was_booked {
                part.entries += 1;
            } else if road == Road::Lease {
                part.pending = part.pending.minus(amount);
            }
        });
    }

    pub(crate) fn is_recorded(&self, workspace: &Id, id: &Id) -> bool {
        self.recorded.contains(&(workspace.clone(), id.clone()))
    }

    /// What entries on record charged for a request on one account.
    pub(crate) fn charged(&self, id: ReservationId) -> impl Iterator<Item = (&AccountKey, Units)> {
        let parts = self.requests.get(&id).into_iter().flatten();
        parts.map(|(key, part)| (key, part.recorded))
    }

    /// Requests admitted on an account in the time of this length that ends at `now`.
    pub(crate) fn in_minute(&mut self, key: &AccountKey, length: u64, now: u64) -> usize {
        let Some(minute) = self.minutes.get_mut(key) else { return 0 };
        while minute.front().is_some_and(|at| at + length <= now) {
            minute.pop_front();
        }
        minute.len()
    }

    fn each_charge(&mut self, entry: &Settlement, change_part: impl Fn(&mut Part, Units, Road)) {
        let Some(id) = entry.reservation else { return };
        let parts = self.requests.entry(id).or_default();
        for charge in entry.charges.iter() {
            let place = parts.iter().position(|(key, _)| *key == charge.account);
            let place = place.unwrap_or_else(|| {
                parts.push((charge.account.clone(), Part::default()));
                parts.len() - 1
            });
            let sums = self.accounts.entry(charge.account.clone()).or_default();
            change(sums, &mut parts[place].1, |part| {
                change_part(part, charge.amount, charge.road);
            });
        }
    }
}

/// Changes a part and keeps the sum.
fn change(sums: &mut Sums, part: &mut Part, change: impl FnOnce(&mut Part)) {
    let before = part.value();
    change(part);
    sums.used = sums.used.plus(part.value()).minus(before);
}

/// The amount that counts in a dimension.
pub(crate) fn in_dimension(dimension: Dimension, amounts: Amounts) -> Units {
    match dimension {
        Dimension::Cost => amounts.cost.into(),
        Dimension::Tokens => amounts.tokens.into(),
        Dimension::Requests => Units::ZERO,
    }
}
