//! Reading a journal back: what was open when its process ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::record::{Admitted, Ended, Entry, Record, reservation_of};
use crate::domain::budget::Dimension;
use crate::domain::ids::{HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{Ledger, NamedHold, RestoredReservation, Stamp};
use crate::domain::money::Units;
use crate::domain::time::{Mono, Now};
use crate::store::AdoptedLease;

/// What a journal of this boot held.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Whose leases the store may hold.
    pub holders: Vec<HolderId>,
    /// Reservations that were open, in the order of time.
    pub reservations: Vec<RestoredReservation>,
    /// Slots that were taken, in the order of time.
    pub stamps: Vec<Stamp>,
    /// How much of the file was read: the rest is torn.
    pub bytes: u64,
}

impl Recovered {
    /// Reads a journal. `None` when it belongs to another boot, whose end may have cut it short anywhere.
    pub fn read(bytes: &[u8], boot: &str) -> Option<Self> {
        let mut reader = Reader::default();
        let mut rest = bytes;
        while let Some((entry, after)) = Record::read_from(rest) {
            reader.take(entry);
            rest = after;
        }
        let read = u64::try_from(bytes.len().saturating_sub(rest.len())).unwrap_or(0);
        (reader.boot == boot).then(|| Self { bytes: read, ..reader.finish() })
    }

    /// The holders whose reservations a process answers for that starts from it as `own`: itself, and those that it takes over from. A
    /// reservation that was taken over twice names a holder before the last.
    #[must_use]
    pub fn holders_with(&self, own: HolderId) -> Vec<HolderId> {
        let taken_over = self.reservations.iter().map(|open| open.id.holder);
        let holders = self.holders.iter().copied().chain(taken_over).chain([own]);
        holders.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Open reservations by workspace: the store is asked which of them are settled, though the journal does not know it.
    #[must_use]
    pub fn open(&self) -> BTreeMap<Id, Vec<ReservationId>> {
        let mut open: BTreeMap<Id, Vec<ReservationId>> = BTreeMap::new();
        for reservation in &self.reservations {
            open.entry(reservation.subject.workspace.clone()).or_default().push(reservation.id);
        }
        open
    }

    /// What is opened again in each workspace: the leases that were taken over, and of the journal what is not `settled`.
    #[must_use]
    pub fn by_workspace(
        self,
        adopted: Vec<AdoptedLease>,
        settled: &BTreeSet<(Id, ReservationId)>,
    ) -> BTreeMap<Id, Restored> {
        let mut rooms: BTreeMap<Id, Restored> = BTreeMap::new();
        for lease in adopted {
            rooms.entry(lease.account.workspace.clone()).or_default().leases.push(lease);
        }
        for stamp in self.stamps {
            rooms.entry(stamp.account.workspace.clone()).or_default().stamps.push(stamp);
        }
        for open in self.reservations {
            let workspace = open.subject.workspace.clone();
            let name = (workspace, open.id);
            if !settled.contains(&name) {
                rooms.entry(name.0).or_default().reservations.push(open);
            }
        }
        rooms
    }
}

/// What is opened again in one workspace.
#[derive(Debug, Default)]
pub struct Restored {
    /// Leases that were taken over.
    pub leases: Vec<AdoptedLease>,
    /// Slots that were taken, in the order of time.
    pub stamps: Vec<Stamp>,
    /// Reservations that are open, in the order of time.
    pub reservations: Vec<RestoredReservation>,
}

impl Restored {
    /// Opens it: first the leases, which cover the rest.
    pub fn put_into(self, ledger: &mut Ledger, now: Now) {
        for AdoptedLease { account, opener, epoch, lease } in self.leases {
            ledger.restore_lease(&account, (opener, epoch), &lease, now);
        }
        for stamp in &self.stamps {
            ledger.restore_stamp(stamp, now);
        }
        for reservation in self.reservations {
            ledger.restore_reservation(reservation, now);
        }
    }
}

#[derive(Debug, Default)]
struct Reader {
    boot: String,
    holders: Vec<HolderId>,
    accounts: HashMap<u32, AccountKey>,
    open: BTreeMap<ReservationId, RestoredReservation>,
    stamps: BTreeMap<(Mono, AccountKey), u32>,
}

impl Reader {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Owner(owner) => {
                self.holders = owner.holders();
                self.boot = owner.boot;
            }
            Entry::Account(name) => {
                if let Some(key) = name.key() {
                    self.accounts.insert(name.number, key);
                }
            }
            Entry::Admitted(admitted) => self.admitted(&admitted),
            Entry::Ended(ended) => self.ended(&ended),
            Entry::Stamped(stamped) => {
                if let Some(key) = self.accounts.get(&stamped.account) {
                    let at = (Mono::from_ns(stamped.mono_ns), key.clone());
                    let count = self.stamps.entry(at).or_default();
                    *count = if stamped.again {
                        stamped.count.max(*count)
                    } else {
                        count.saturating_add(stamped.count)
                    };
                }
            }
        }
    }

    fn admitted(&mut self, admitted: &Admitted) {
        let Some(mut reservation) = admitted.reservation() else { return };
        let holds = admitted.accounts.iter().zip(&admitted.amounts);
        // An account without a name is one whose budget was deleted when it was written.
        reservation.holds = holds
            .filter_map(|(number, amount)| {
                let account = self.accounts.get(number)?.clone();
                Some(NamedHold { account, amount: Units::new(*amount) })
            })
            .collect();
        self.open.insert(reservation.id, reservation);
    }

    fn ended(&mut self, ended: &Ended) {
        let Some(id) = reservation_of(&ended.reservation) else { return };
        let Some(reservation) = self.open.remove(&id) else { return };
        if !ended.withdrawn {
            return;
        }
        for hold in reservation.holds {
            if hold.account.dimension == Dimension::Requests
                && let Some(count) = self.stamps.get_mut(&(reservation.made_at.mono, hold.account))
            {
                *count = count.saturating_sub(1);
            }
        }
    }

    fn finish(self) -> Recovered {
        let stamps = self.stamps.into_iter().flat_map(|((at, account), count)| {
            (0..count).map(move |_| Stamp { account: account.clone(), at })
        });
        let mut reservations: Vec<_> = self.open.into_values().collect();
        // They time out in the order in which they are opened again.
        reservations.sort_by_key(|reservation| reservation.made_at.mono);
        Recovered { holders: self.holders, stamps: stamps.collect(), reservations, bytes: 0 }
    }
}
