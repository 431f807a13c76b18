//! Putting a journal of what is open in the place of one that has grown, in pieces: between them requests are decided, and what
//! they record goes to the file as always. What is open is said once more behind all that the file has; then its head is cut off.
//!
//! Invariant: until the new file stands, the old one has all that was answered; from then on the new one has.

use std::io;
use std::ops::Range;

use super::{Journal, Shared, State};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::account::AccountIndex;

/// Reservations that are recorded in one turn under the ledgers' lock: a quarter of a millisecond.
const OPEN_PER_TURN: usize = 256;
/// Places of accounts that are looked at in one turn; few of them have slots that are taken.
const PLACES_PER_TURN: AccountIndex = 1024;

/// A journal that is being renewed.
pub(super) struct Renewal {
    /// What stands before this position will be needed no more.
    from: u64,
    /// Workspaces that are still to come.
    left: Vec<Id>,
    now_at: Option<(Id, At)>,
}

/// How far a workspace has come.
enum At {
    /// These reservations are left.
    Open(Vec<ReservationId>),
    /// Next is what settlements ended.
    Ended,
    /// The accounts in these places are left.
    Slots(Range<AccountIndex>),
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    More,
    Last,
}

impl Renewal {
    /// Begins.
    pub(super) fn begin(shared: &Shared, journal: &Journal) -> io::Result<Self> {
        let workspaces: Vec<Id> = shared.state().rooms.keys().cloned().collect();
        // Nobody opens a lease in another's name, so that whoever has none at one look has none later.
        let mut holders = vec![shared.holder];
        for workspace in &workspaces {
            let state = shared.state();
            holders.extend(
                state.rooms.get(workspace).into_iter().flat_map(|room| room.ledger.openers()),
            );
        }
        holders.sort_unstable();
        holders.dedup();
        let from = shared.state().records.begin_again(&journal.boot, holders);
        shared.write_journal(u64::MAX)?;
        Ok(Self { from, left: workspaces, now_at: None })
    }

    /// Goes on to the end.
    pub(super) fn finish(mut self, shared: &Shared, journal: &Journal) -> io::Result<()> {
        while self.step(shared)? == Step::More {}
        self.end(journal)
    }

    /// Records one more piece and writes it: a pause in which others have the lock.
    pub(super) fn step(&mut self, shared: &Shared) -> io::Result<Step> {
        let step = self.record(shared);
        shared.write_journal(u64::MAX)?;
        Ok(step)
    }

    /// Cuts off the head, when all is written.
    pub(super) fn end(self, journal: &Journal) -> io::Result<()> {
        journal.file.cut_head(self.from)
    }

    fn record(&mut self, shared: &Shared) -> Step {
        let mut state = shared.state();
        let State { rooms, records, .. } = &mut *state;
        let Some((workspace, at)) = self.now_at.take() else {
            let Some(workspace) = self.left.pop() else { return Step::Last };
            let open = rooms
                .get(&workspace)
                .map(|room| At::Open(room.ledger.reservations().map(|(id, _)| id).collect()));
            self.now_at = open.map(|open| (workspace, open));
            return Step::More;
        };
        // A room that is gone had nothing open.
        let Some(room) = rooms.get_mut(&workspace) else { return Step::More };
        let next = match at {
            At::Open(mut ids) => {
                let piece = ids.split_off(ids.len().saturating_sub(OPEN_PER_TURN));
                records.open_again(&room.ledger, &piece);
                if ids.is_empty() { At::Ended } else { At::Open(ids) }
            }
            At::Ended => {
                records.ended_again(room.unrecorded(), &shared.holders, shared.now());
                At::Slots(room.ledger.places())
            }
            At::Slots(places) => {
                let end = places.end.min(places.start.saturating_add(PLACES_PER_TURN));
                records.stamps_again(&mut room.ledger, places.start..end, shared.now());
                if end == places.end {
                    return Step::More;
                }
                At::Slots(end..places.end)
            }
        };
        self.now_at = Some((workspace, next));
        Step::More
    }
}
