//! Reading a journal back: what was open when its process ended.

use std::collections::{BTreeMap, HashMap};

use super::record::{Admitted, Ended, Entry, Record, reservation_of};
use crate::domain::budget::Dimension;
use crate::domain::ids::{HolderId, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{RestoredHold, RestoredReservation, Stamp};
use crate::domain::money::Units;
use crate::domain::time::Mono;

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
                Some(RestoredHold { account, amount: Units::new(*amount) })
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
