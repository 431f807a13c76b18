//! What the journal's records look like on disk: length, checksum, and a protobuf message.

use std::sync::Arc;

use prost::Message;

use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{Reservation, RestoredReservation};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::subject::Subject;
use crate::domain::time::{Mono, Now, Wall};

/// Bytes before each message: its length and its CRC-32.
const FRAME_HEADER: usize = 8;
/// A record is never longer; a length beyond it is a torn or foreign file.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// One record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5")]
    pub(super) entry: Option<Entry>,
}

/// What a record says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Entry {
    /// Whose journal this is. A later one replaces an earlier one.
    #[prost(message, tag = "1")]
    Owner(Owner),
    /// Gives an account's name a number, for the records that follow.
    #[prost(message, tag = "2")]
    Account(AccountName),
    /// A request was admitted.
    #[prost(message, tag = "3")]
    Admitted(Admitted),
    /// A reservation is over: released, or its settlement is durable.
    #[prost(message, tag = "4")]
    Ended(Ended),
    /// Slots of a rolling minute that are taken.
    #[prost(message, tag = "5")]
    Stamped(Stamped),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Owner {
    /// Names the boot that the monotonic times belong to.
    #[prost(string, tag = "1")]
    pub(super) boot: String,
    /// Holders whose leases may be at the store: 16 bytes each.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) holders: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AccountName {
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    #[prost(string, tag = "2")]
    workspace: String,
    #[prost(bytes = "vec", tag = "3")]
    budget: Vec<u8>,
    #[prost(uint32, tag = "4")]
    generation: u32,
    #[prost(string, tag = "5")]
    dimension: String,
    #[prost(string, tag = "6")]
    target: String,
    #[prost(string, tag = "7")]
    window: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Admitted {
    /// Holder and nonce, 32 bytes; empty for a request that was only counted.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) reservation: Vec<u8>,
    #[prost(string, tag = "2")]
    workspace: String,
    #[prost(string, optional, tag = "3")]
    project: Option<String>,
    #[prost(string, optional, tag = "4")]
    identity: Option<String>,
    #[prost(string, optional, tag = "5")]
    api_key: Option<String>,
    #[prost(string, optional, tag = "6")]
    provider: Option<String>,
    #[prost(string, optional, tag = "7")]
    model: Option<String>,
    #[prost(int64, tag = "8")]
    cost: i64,
    #[prost(int64, tag = "9")]
    tokens: i64,
    #[prost(int64, tag = "10")]
    wall_ms: i64,
    #[prost(uint64, tag = "11")]
    mono_ns: u64,
    /// Numbers of the accounts that hold something for it.
    #[prost(uint32, repeated, tag = "12")]
    pub(super) accounts: Vec<u32>,
    /// What each of them holds.
    #[prost(int64, repeated, tag = "13")]
    pub(super) amounts: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ended {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) reservation: Vec<u8>,
    /// Whether the request never left, so that its slots of the rolling minute are free again.
    #[prost(bool, tag = "2")]
    pub(super) withdrawn: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Stamped {
    #[prost(uint32, tag = "1")]
    pub(super) account: u32,
    #[prost(uint64, tag = "2")]
    pub(super) mono_ns: u64,
    #[prost(uint32, tag = "3")]
    pub(super) count: u32,
    /// Whether these are all that were taken then, those among them that are recorded already.
    #[prost(bool, tag = "4")]
    pub(super) again: bool,
}

/// What a record may hold. It is written as the entry of this tag, in place and without a [`Record`] around it: one is
/// written for every request.
pub(super) trait Recorded: Message {
    const TAG: u32;
}

impl Recorded for Owner {
    const TAG: u32 = 1;
}

impl Recorded for AccountName {
    const TAG: u32 = 2;
}

impl Recorded for Admitted {
    const TAG: u32 = 3;
}

impl Recorded for Ended {
    const TAG: u32 = 4;
}

impl Recorded for Stamped {
    const TAG: u32 = 5;
}

/// Appends a framed record to a buffer.
pub(super) fn write_to<E: Recorded>(entry: &E, buffer: &mut Vec<u8>) {
    let frame = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    prost::encoding::message::encode(E::TAG, entry, buffer);
    let Some((header, message)) =
        buffer.get_mut(frame..).and_then(|frame| frame.split_first_chunk_mut::<FRAME_HEADER>())
    else {
        return;
    };
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let checksum = crc32fast::hash(message);
    let (length_place, checksum_place) = header.split_at_mut(FRAME_HEADER / 2);
    length_place.copy_from_slice(&length.to_le_bytes());
    checksum_place.copy_from_slice(&checksum.to_le_bytes());
}

impl Record {
    /// Reads the next record and what follows it. `None` at the end, and at the first record that is torn: whatever
    /// comes after it was never acknowledged.
    pub(super) fn read_from(bytes: &[u8]) -> Option<(Entry, &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        if length > RECORD_BYTES_MAX || bytes.len() < FRAME_HEADER.saturating_add(length) {
            return None;
        }
        let (message, rest) = rest.split_at_checked(length)?;
        if crc32fast::hash(message) != u32::from_le_bytes(*checksum) {
            return None;
        }
        Some((Self::decode(message).ok()?.entry?, rest))
    }
}

impl Owner {
    pub(super) fn new(boot: &str, holders: &[HolderId]) -> Self {
        let holders = holders.iter().map(|holder| holder.0.to_be_bytes().to_vec()).collect();
        Self { boot: boot.to_owned(), holders }
    }

    pub(super) fn holders(&self) -> Vec<HolderId> {
        self.holders.iter().filter_map(|bytes| Some(HolderId(u128_of(bytes)?))).collect()
    }
}

impl AccountName {
    pub(super) fn new(number: u32, key: &AccountKey) -> Self {
        Self {
            number,
            workspace: key.workspace.to_string(),
            budget: key.budget.0.to_be_bytes().to_vec(),
            generation: key.generation,
            dimension: key.dimension.as_str().to_owned(),
            target: key.target.to_string(),
            window: key.window.to_string(),
        }
    }

    pub(super) fn key(&self) -> Option<AccountKey> {
        Some(AccountKey {
            workspace: Id::parse(&self.workspace).ok()?,
            budget: BudgetId(u128_of(&self.budget)?),
            generation: self.generation,
            dimension: Dimension::from_name(&self.dimension)?,
            target: Id::parse(&self.target).ok()?,
            window: Arc::from(self.window.as_str()),
        })
    }
}

impl Admitted {
    /// Becomes the record of this reservation, but for the numbers of its accounts.
    pub(super) fn set(&mut self, id: ReservationId, reservation: &Reservation) {
        let subject = &reservation.subject;
        self.reservation.clear();
        self.reservation.extend_from_slice(&reservation_bytes(id));
        subject.workspace.as_str().clone_into(&mut self.workspace);
        set_text(&mut self.project, subject.project.as_ref());
        set_text(&mut self.identity, subject.identity.as_ref());
        set_text(&mut self.api_key, subject.api_key.as_ref());
        set_text(&mut self.provider, subject.provider.as_ref());
        set_text(&mut self.model, subject.model.as_ref());
        self.cost = reservation.estimate.cost.get();
        self.tokens = reservation.estimate.tokens.get();
        self.wall_ms = reservation.made_at.wall.as_ms();
        self.mono_ns = reservation.made_at.mono.as_ns();
        self.amounts.clear();
        self.amounts.extend(reservation.holds.iter().map(|hold| hold.amount.get()));
    }

    /// The reservation without its holds.
    pub(super) fn reservation(&self) -> Option<RestoredReservation> {
        let optional = |text: &Option<String>| match text {
            None => Some(None),
            Some(text) => Id::parse(text).ok().map(Some),
        };
        let subject = Subject {
            workspace: Id::parse(&self.workspace).ok()?,
            project: optional(&self.project)?,
            identity: optional(&self.identity)?,
            api_key: optional(&self.api_key)?,
            provider: optional(&self.provider)?,
            model: optional(&self.model)?,
        };
        Some(RestoredReservation {
            id: reservation_of(&self.reservation)?,
            subject: Arc::new(subject),
            estimate: Amounts { cost: NanoUsd::new(self.cost), tokens: Tokens::new(self.tokens) },
            made_at: self.made_at(),
            holds: Vec::new(),
        })
    }

    pub(super) fn made_at(&self) -> Now {
        Now { wall: Wall::from_ms(self.wall_ms), mono: Mono::from_ns(self.mono_ns) }
    }
}

fn set_text(place: &mut Option<String>, id: Option<&Id>) {
    match id {
        Some(id) => id.as_str().clone_into(place.get_or_insert_default()),
        None => *place = None,
    }
}

/// Holder and nonce, big-endian.
pub(super) fn reservation_bytes(id: ReservationId) -> [u8; 32] {
    let mut bytes = [0; 32];
    let (holder, nonce) = bytes.split_at_mut(16);
    holder.copy_from_slice(&id.holder.0.to_be_bytes());
    nonce.copy_from_slice(&id.nonce.to_be_bytes());
    bytes
}

/// The reverse of [`reservation_bytes`].
pub(super) fn reservation_of(bytes: &[u8]) -> Option<ReservationId> {
    let (holder, nonce) = bytes.split_at_checked(16)?;
    Some(ReservationId { holder: HolderId(u128_of(holder)?), nonce: u128_of(nonce)? })
}

fn u128_of(bytes: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::estimate::Lesson;
    use crate::domain::ledger::Hold;
    use crate::domain::money::Units;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    fn reservation(project: Option<&str>, accounts: u32) -> Reservation {
        let subject = Subject {
            workspace: id("ws"),
            project: project.map(id),
            identity: Some(id("ada")),
            api_key: None,
            provider: Some(id("openai")),
            model: None,
        };
        let hold = |account| Hold { account, amount: Units::new(i64::from(account) + 1) };
        Reservation {
            subject: Arc::new(subject),
            estimate: Amounts { cost: NanoUsd::new(7), tokens: Tokens::new(8) },
            lesson: Lesson::Nothing,
            made_at: Now { wall: Wall::from_ms(9), mono: Mono::from_ns(10) },
            holds: (0..accounts).map(hold).collect(),
        }
    }

    fn read_back<E: Recorded>(entry: &E) -> Entry {
        let mut bytes = Vec::from(*b"before");
        write_to(entry, &mut bytes);
        let (entry, rest) = Record::read_from(&bytes[6..]).unwrap();
        assert_eq!(rest, b"");
        entry
    }

    #[test]
    fn every_entry_is_read_as_what_it_was_written_as() {
        let owner = Owner::new("boot", &[HolderId(1), HolderId(2)]);
        assert_eq!(read_back(&owner), Entry::Owner(owner));
        let name = AccountName { number: 3, workspace: "ws".to_owned(), ..AccountName::default() };
        assert_eq!(read_back(&name), Entry::Account(name));
        let admitted = Admitted { accounts: vec![1, 2], ..Admitted::default() };
        assert_eq!(read_back(&admitted), Entry::Admitted(admitted));
        let ended = Ended { reservation: vec![4; 32], withdrawn: true };
        assert_eq!(read_back(&ended), Entry::Ended(ended));
        let stamped = Stamped { account: 5, mono_ns: 6, count: 7, again: true };
        assert_eq!(read_back(&stamped), Entry::Stamped(stamped));
    }

    #[test]
    fn a_record_that_is_used_again_keeps_nothing_of_the_reservation_before() {
        let key = |nonce| ReservationId { holder: HolderId(1), nonce };
        let mut again = Admitted::default();
        again.set(key(1), &reservation(Some("a project with a long name"), 3));
        again.set(key(2), &reservation(None, 1));
        let mut fresh = Admitted::default();
        fresh.set(key(2), &reservation(None, 1));
        assert_eq!(again, fresh);
        let restored = again.reservation().unwrap();
        assert_eq!((restored.id, restored.subject.project.as_ref()), (key(2), None));
    }

    #[test]
    fn a_torn_or_changed_record_is_not_read() {
        let mut bytes = Vec::new();
        write_to(&Stamped { account: 5, mono_ns: 6, count: 7, again: false }, &mut bytes);
        for end in 0..bytes.len() {
            assert!(Record::read_from(&bytes[..end]).is_none(), "{end} bytes");
        }
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(Record::read_from(&bytes).is_none());
    }
}
