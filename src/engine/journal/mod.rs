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

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use self::record::{AccountName, Admitted, Ended, Owner, Recorded, Stamped, reservation_bytes};
use crate::domain::budget::Dimension;
use crate::domain::estimate::Lesson;
use crate::domain::ids::{HolderId, Id, ReservationId};
use crate::domain::ledger::account::AccountIndex;
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{Ledger, Reservation};
use crate::domain::money::Amounts;
use crate::domain::settlement::Settlement;
use crate::domain::time::{Mono, Now};

pub(super) use self::file::{JournalFile, boot_id};
pub use self::load::{Recovered, Restored};

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was used, or released after its answer left.
    Over,
    /// Its answer never left.
    Withdrawn,
}

/// Whether slots are recorded for the first time, or once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    First,
    Again,
}

/// Records that are not written yet, in order.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where the buffer ends, counted from the start of the process.
    end: u64,
    /// Accounts that the file has the names of, by workspace and serial, and the numbers it has them under.
    named: HashMap<Id, HashMap<u32, u32, RandomState>, RandomState>,
    last_number: u32,
    /// Filled anew for each admission, so that its memory is used again.
    admitted: Admitted,
}

impl Buffer {
    /// Records an admission and the slots that it took. Returns the position to which the file must be written before it is
    /// answered.
    pub fn admit(&mut self, ledger: &Ledger, id: ReservationId) -> u64 {
        let Some(reservation) = ledger.reservation(id) else { return self.end };
        for hold in &reservation.holds {
            if ledger.dimension(hold.account) == Some(Dimension::Requests) {
                self.stamp(ledger, hold.account, (reservation.made_at.mono, 1), Told::First);
            }
        }
        self.open(ledger, id, reservation);
        self.end
    }

    /// Records that a reservation is being settled. Until that is durable it stays open, but holds only what was used: the rest
    /// may be set aside for others at once, and must not be held twice after a crash.
    pub fn cut(&mut self, ledger: &Ledger, id: ReservationId, used: Amounts) {
        let Some(mut reservation) = ledger.reservation(id).cloned() else { return };
        reservation.estimate = used;
        for hold in &mut reservation.holds {
            match ledger.dimension(hold.account) {
                Some(Dimension::Cost) => hold.amount = used.cost.into(),
                Some(Dimension::Tokens) => hold.amount = used.tokens.into(),
                Some(Dimension::Requests) | None => {}
            }
        }
        self.open(ledger, id, &reservation);
    }

    /// Records what a settlement ended as open, holding what was used.
    fn reopen(&mut self, settlement: &Settlement, now: Now) {
        let Some(id) = settlement.reservation else { return };
        let reservation = Reservation {
            subject: Arc::clone(&settlement.subject),
            estimate: settlement.amounts,
            lesson: Lesson::Nothing,
            made_at: Now { wall: settlement.at, mono: now.mono },
            holds: SmallVec::new(),
        };
        let mut admitted = Admitted::default();
        admitted.set(id, &reservation);
        for charge in settlement.charges.iter() {
            admitted.accounts.push(self.name_anew(&charge.account));
            admitted.amounts.push(charge.amount.get());
        }
        self.push(&admitted);
    }

    /// Records an open reservation.
    fn open(&mut self, ledger: &Ledger, id: ReservationId, reservation: &Reservation) {
        let mut admitted = std::mem::take(&mut self.admitted);
        admitted.set(id, reservation);
        admitted.accounts.clear();
        for hold in &reservation.holds {
            admitted.accounts.push(self.name(ledger, hold.account));
        }
        self.push(&admitted);
        self.admitted = admitted;
    }

    fn stamp(
        &mut self,
        ledger: &Ledger,
        at: AccountIndex,
        (taken, count): (Mono, u32),
        told: Told,
    ) {
        let account = self.name(ledger, at);
        self.push(&Stamped { account, mono_ns: taken.as_ns(), count, again: told == Told::Again });
    }

    /// Records the end of a reservation.
    pub fn end(&mut self, id: ReservationId, end: End) {
        let withdrawn = end == End::Withdrawn;
        self.push(&Ended { reservation: reservation_bytes(id).to_vec(), withdrawn });
    }

    /// Records whose leases the store may hold.
    pub fn own(&mut self, boot: &str, holders: &[HolderId]) {
        self.push(&Owner::new(boot, holders));
    }

    /// Starts the file anew: everything that is open, what settlements ended that are not durable yet, and nothing else. Earlier
    /// holders are named as long as they opened a lease that a ledger has. What is booked in the place of another replica is not
    /// open here: its handoff lasts at the store, and its reservation would make a restart take that replica over.
    pub fn rewrite<'a>(
        &mut self,
        boot: &str,
        own: HolderId,
        before: &[HolderId],
        ledgers: impl Iterator<Item = (&'a mut Ledger, Vec<Settlement>)>,
        now: Now,
    ) {
        self.bytes.clear();
        let ledgers: Vec<_> = ledgers.collect();
        let openers = ledgers.iter().flat_map(|(ledger, _)| ledger.openers());
        let holders: BTreeSet<HolderId> = [own].into_iter().chain(openers).collect();
        let ours: Vec<HolderId> = before.iter().copied().chain([own]).collect();
        self.begin_again(boot, holders);
        for (ledger, unrecorded) in ledgers {
            for (id, reservation) in ledger.reservations() {
                self.open(ledger, id, reservation);
            }
            self.ended_again(unrecorded.iter(), &ours, now);
            self.stamps_again(ledger, ledger.places(), now);
        }
    }

    /// Begins to record once more all that is open, behind what the file has. In between others go on, and record what they do as
    /// they always do: a reservation that is recorded twice is one, its end counts wherever it stands, and so do slots. Of each
    /// ledger come first the reservations that it had at the beginning, then what settlements had ended by then, then the slots. When all
    /// of it stands, nothing before the position that this returns is needed any more.
    pub fn begin_again(&mut self, boot: &str, holders: impl IntoIterator<Item = HolderId>) -> u64 {
        let from = self.end;
        self.named.clear();
        self.last_number = 0;
        self.own(boot, &Vec::from_iter(holders));
        from
    }

    /// Records reservations once more, those of them that are open still.
    pub fn open_again(&mut self, ledger: &Ledger, ids: &[ReservationId]) {
        for id in ids {
            if let Some(reservation) = ledger.reservation(*id) {
                self.open(ledger, *id, reservation);
            }
        }
    }

    /// Records once more what settlements ended that are not durable yet, of these holders' reservations.
    pub fn ended_again<'a>(
        &mut self,
        unrecorded: impl Iterator<Item = &'a Settlement>,
        ours: &[HolderId],
        now: Now,
    ) {
        let is_ours = |id: ReservationId| ours.contains(&id.holder);
        let ended = unrecorded.filter(|ended| ended.reservation.is_some_and(is_ours));
        ended.for_each(|settlement| self.reopen(settlement, now));
    }

    /// Records once more which slots are taken of the accounts in these places. Limits that count by buckets have them at another time
    /// than that of their admission, so that some may count twice to who reads both: for a minute, and never one too few.
    pub fn stamps_again(&mut self, ledger: &mut Ledger, places: Range<AccountIndex>, now: Now) {
        for (at, taken, count) in ledger.stamps(places, now) {
            self.stamp(ledger, at, (taken, count), Told::Again);
        }
    }

    /// Empties the buffer. Returns what it held, and the position that it ended at.
    pub fn drain(&mut self) -> (Vec<u8>, u64) {
        (std::mem::take(&mut self.bytes), self.end)
    }

    /// Exchanges the buffer for another one, whose memory it goes on with. Returns the position that it ended at.
    pub(super) fn swap(&mut self, other: &mut Vec<u8>) -> u64 {
        other.clear();
        std::mem::swap(&mut self.bytes, other);
        self.end
    }

    /// The number of an account, naming it first where the file does not know it yet. 0 for one whose budget was deleted.
    fn name(&mut self, ledger: &Ledger, at: AccountIndex) -> u32 {
        let Some(serial) = ledger.serial(at) else { return 0 };
        let names = self.named.get(ledger.workspace());
        if let Some(number) = names.and_then(|names| names.get(&serial)) {
            return *number;
        }
        let Some(key) = ledger.key(at) else { return 0 };
        let number = self.name_anew(&key);
        self.named.entry(key.workspace).or_default().insert(serial, number);
        number
    }

    /// Gives an account one more number.
    fn name_anew(&mut self, key: &AccountKey) -> u32 {
        self.last_number = self.last_number.saturating_add(1);
        let number = self.last_number;
        self.push(&AccountName::new(number, key));
        number
    }

    fn push(&mut self, entry: &impl Recorded) {
        let before = self.bytes.len();
        record::write_to(entry, &mut self.bytes);
        let added = self.bytes.len().saturating_sub(before);
        self.end = self.end.saturating_add(u64::try_from(added).unwrap_or(u64::MAX));
    }
}
