//! What carries the ledgers' batches to the store and takes the answers in: `engine/driver.rs` without its tasks, of each workspace one
//! batch at a time and none waiting for another's.

use std::sync::Arc;

use bursar::domain::ledger::escrow::Grant;
use bursar::store::Batch;

use super::plan::{MS, SECOND};
use super::replica::{Purpose, RETRY_MIN};
use super::room::{Room, Waiting};
use super::store::Fault;
use super::world::{Answer, Inbox, Place, Query, World};

const RETRY_MAX: u64 = SECOND;
/// A ledger that has nothing to say after all decides on who waits, which may give it something to say, but not so often.
const EMPTY_MAX: u32 = 20;

impl World {
    /// Sets an alarm for the end of a recall.
    pub(crate) fn await_recalls(&mut self, place: Place) {
        let Some(end) = self.room(place).ledger.next_recall() else { return };
        if self.room(place).recall_ends == Some(end) {
            return;
        }
        self.room_mut(place).recall_ends = Some(end);
        let left = end.since(self.clocks(place.at).mono).as_nanos();
        let left = u64::try_from(left).expect("a short time");
        // A slow clock has not come there yet when the time has passed.
        self.later(place.at, left + left / 1000 + MS, Inbox::RecallOver(place.room));
    }

    /// Sends a batch of a workspace if there is one to send.
    pub(crate) fn talk(&mut self, place: Place) -> Result<(), Fault> {
        self.take_decided(place)?;
        let mut empty = 0;
        while self.room(place).carried.is_none() && self.room(place).ledger.has_batch() {
            let now = self.clocks(place.at);
            let Room { ledger, under_way, .. } = self.room_mut(place);
            let Some(batch) = under_way.next_batch(ledger, now) else {
                let told = under_way.count_down(ledger);
                self.take_decided(place)?;
                self.wake(place, told);
                empty += 1;
                if empty > EMPTY_MAX {
                    let accounts: Vec<_> = self.room(place).ledger.accounts().collect();
                    return Err(format!(
                        "{place:?} has something to say and never says it: {accounts:?}"
                    ));
                }
                continue;
            };
            let number = self.token();
            self.trace.mark(self.now, "sends", place.at, || format!("{number} {batch:?}"));
            self.room_mut(place).carried = Some((number, None));
            self.send_again(place, number);
        }
        Ok(())
    }

    pub(crate) fn send_again(&mut self, place: Place, number: u64) {
        let room = self.room(place);
        let (Some((current, None)), Some(batch)) = (room.carried, room.under_way.sent()) else {
            return;
        };
        if current != number {
            return;
        }
        let query = Query::Commit(number, Arc::clone(batch));
        let token = self.call(place.at, query, Purpose::Commit(place.room));
        self.room_mut(place).carried = Some((number, Some(token)));
    }

    pub(crate) fn batch_answered(&mut self, place: Place, answer: Answer) {
        let room = self.room_mut(place);
        let (Some((number, _)), Some(batch)) = (room.carried, room.under_way.sent().cloned())
        else {
            return;
        };
        match answer {
            Answer::Grants(grants) => self.take_grants(place, number, &batch, &grants),
            Answer::Lost(key) => {
                (room.carried, room.retry_pause) = (None, RETRY_MIN);
                room.under_way.lost(&mut room.ledger, &key, &batch);
                self.tally.lost_leases += 1;
                self.trace.mark(self.now, "lost", place.at, || format!("{number} {key:?}"));
            }
            _ => {
                room.carried = Some((number, None));
                let pause = room.retry_pause;
                room.retry_pause = (pause * 2).min(RETRY_MAX);
                self.later(place.at, pause, Inbox::Retry(place.room, number));
            }
        }
    }

    fn take_grants(&mut self, place: Place, number: u64, batch: &Batch, grants: &[Grant]) {
        let now = self.clocks(place.at);
        self.trace.mark(self.now, "granted", place.at, || format!("{number} {grants:?}"));
        let (room, records) = self.replicas[place.at].room_and_records(place.room);
        (room.carried, room.retry_pause) = (None, RETRY_MIN);
        let told = room.under_way.answered(&mut room.ledger, records, (batch, grants), now);
        room.forget_blind(batch);
        self.wake(place, told);
    }

    /// What they waited for is durable.
    fn wake(&mut self, place: Place, told: Vec<Waiting>) {
        for waiting in told {
            match waiting {
                Waiting::Recorded(task) => self.end_task(place.at, task, true),
                Waiting::Flushed(task) => self.look_up(place.at, task),
                Waiting::Credits => self.ask_for_credits(place),
            }
        }
    }
}
