//! The journal: which reservations are open, so that a process that is killed forfeits nothing when it starts again.
//!
//! A record is in the operating system's hands before the admission that it records is answered. It need not survive the
//! machine, so nothing is synced; a journal of another boot is not believed, and what it held is forfeited by the leases.
//! Records are gathered in a buffer under the ledgers' lock and written outside of it: whoever comes first writes for all.

mod file;
mod load;
mod record;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::record::{
    AccountName, Admitted, Ended, Entry, Owner, Record, Stamped, reservation_bytes,
};
use crate::domain::budget::Dimension;
use crate::domain::ids::{HolderId, Id, ReservationId};
use crate::domain::ledger::Ledger;
use crate::domain::ledger::account::AccountIndex;
use crate::domain::time::{Mono, Now};

pub(super) use self::file::{JournalFile, boot_id};
pub(super) use self::load::Recovered;

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was used, or released after its answer left.
    Over,
    /// Its answer never left.
    Withdrawn,
}

/// Records that are not written yet, in order.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where the buffer ends, counted from the start of the process.
    end: u64,
    /// Accounts that the file has the names of, by workspace and serial, and the numbers it has them under.
    named: HashMap<(Id, u32), u32>,
}

impl Buffer {
    /// Records an admission and the slots that it took. Returns the position to which the file must be written before it is
    /// answered.
    pub(super) fn admit(&mut self, ledger: &Ledger, id: ReservationId) -> u64 {
        let Some(reservation) = ledger.reservation(id) else { return self.end };
        for hold in &reservation.holds {
            let counts_requests =
                ledger.key(hold.account).is_some_and(|key| key.dimension == Dimension::Requests);
            if counts_requests {
                self.stamp(ledger, hold.account, reservation.made_at.mono, 1);
            }
        }
        self.open(ledger, id)
    }

    /// Records an open reservation.
    fn open(&mut self, ledger: &Ledger, id: ReservationId) -> u64 {
        let Some(reservation) = ledger.reservation(id) else { return self.end };
        let accounts =
            reservation.holds.iter().map(|hold| self.name(ledger, hold.account)).collect();
        self.push(Entry::Admitted(Admitted::new(id, reservation, accounts)))
    }

    fn stamp(&mut self, ledger: &Ledger, at: AccountIndex, taken: Mono, count: u32) {
        let account = self.name(ledger, at);
        self.push(Entry::Stamped(Stamped { account, mono_ns: taken.as_ns(), count }));
    }

    /// Records the end of a reservation.
    pub(super) fn end(&mut self, id: ReservationId, end: End) {
        let withdrawn = end == End::Withdrawn;
        self.push(Entry::Ended(Ended { reservation: reservation_bytes(id), withdrawn }));
    }

    /// Records whose leases the store may hold.
    pub(super) fn own(&mut self, boot: &str, holders: &[HolderId]) {
        self.push(Entry::Owner(Owner::new(boot, holders)));
    }

    /// Starts the file anew: everything that is open, and nothing else.
    pub(super) fn rewrite<'a>(
        &mut self,
        boot: &str,
        holders: &[HolderId],
        ledgers: impl Iterator<Item = &'a mut Ledger>,
        now: Now,
    ) {
        self.bytes.clear();
        self.named.clear();
        self.own(boot, holders);
        for ledger in ledgers {
            for (at, taken, count) in ledger.stamps(now) {
                self.stamp(ledger, at, taken, count);
            }
            let ids: Vec<_> = ledger.reservations().map(|(id, _)| id).collect();
            for id in ids {
                self.open(ledger, id);
            }
        }
    }

    /// Takes what there is to write, and the position that it ends at.
    fn take(&mut self) -> (Vec<u8>, u64) {
        (std::mem::take(&mut self.bytes), self.end)
    }

    /// The number of an account, naming it first where the file does not know it yet. 0 for one whose budget was deleted.
    fn name(&mut self, ledger: &Ledger, at: AccountIndex) -> u32 {
        let (Some(serial), Some(key)) = (ledger.serial(at), ledger.key(at)) else { return 0 };
        let name = (key.workspace.clone(), serial);
        if let Some(number) = self.named.get(&name) {
            return *number;
        }
        let number = u32::try_from(self.named.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.named.insert(name, number);
        self.push(Entry::Account(AccountName::new(number, &key)));
        number
    }

    fn push(&mut self, entry: Entry) -> u64 {
        let before = self.bytes.len();
        Record::write_to(entry, &mut self.bytes);
        let added = self.bytes.len().saturating_sub(before);
        self.end = self.end.saturating_add(u64::try_from(added).unwrap_or(u64::MAX));
        self.end
    }
}
