//! Usage that reached a replica which does not hold the reservation, as `engine/handoff` passes it on: written down for the holder, and
//! settled by another when the holder does not take it.

use std::sync::Arc;

use bursar::domain::ids::{Id, ReservationId};
use bursar::domain::ledger::Orphan;
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::money::Units;
use bursar::domain::settlement::{Settlement, was_exact};
use bursar::domain::subject::Subject;
use bursar::engine::journal::End;
use bursar::store::Handoff;

use super::clients::Request;
use super::plan::{MS, SECOND, room_of, workspace};
use super::replica::{Purpose, Replica};
use super::reports::{Road, Task, actual};
use super::room::{Room, Waiting};
use super::world::{Answer, Inbox, Place, Query, World};

/// How often a reporter's replica looks for the holder's entry, and the pause in between.
const LOOKS: u32 = 8;
const LOOK: u64 = 120 * MS;
/// How often a replica looks for what nobody took.
const LOOK_UNTAKEN: u64 = 20 * SECOND;
/// How often overdue reservations are ended.
const LOOK_OVERDUE: u64 = SECOND;

impl Replica {
    /// Whether this process made a reservation, or took it over.
    pub(crate) fn answers_for(&self, reservation: ReservationId) -> bool {
        self.holders.contains(&reservation.holder)
    }
}

impl World {
    /// Writes a report down for the replica that holds its reservation, unless there is nothing new in it.
    pub(crate) fn hand_over(&mut self, at: usize, task: u64) {
        let Some(work) = self.replicas[at].tasks.get_mut(&task) else { return };
        work.road = Road::HandedOn(0);
        let reservation = self.requests[work.request].reservation;
        let query = Query::Entries(workspace(work.room), work.id.clone(), reservation);
        self.call(at, query, Purpose::Report(task));
    }

    /// The store has answered about a report that is another replica's to settle.
    pub(crate) fn handed_on(
        &mut self,
        Place { at, room }: Place,
        task: u64,
        (number, id): (usize, Id),
        looks: u32,
        answer: Answer,
    ) {
        match answer {
            Answer::Entry(Some(_)) | Answer::Entries(Some(_), _) => self.close_task(at, task, true),
            Answer::Entries(None, earlier) if was_exact(&earlier) => {
                self.close_task(at, task, true);
            }
            Answer::Entries(None, _) => {
                let reservation = self.requests[number].reservation;
                let report = number.to_string();
                let handoff =
                    Handoff { workspace: workspace(room), reservation, settlement: id, report };
                self.trace.mark(self.now, "hands over", at, || format!("#{number}"));
                self.call(at, Query::HandOver(handoff), Purpose::Report(task));
            }
            // It is durable: the holder will settle it, or somebody for it.
            Answer::Done if !self.random.chance(500) => self.close_task(at, task, true),
            Answer::Done | Answer::Entry(None) if looks < LOOKS => {
                if let Some(work) = self.replicas[at].tasks.get_mut(&task) {
                    work.road = Road::HandedOn(looks + 1);
                }
                self.later(at, LOOK, Inbox::Look(task));
            }
            _ => self.close_task(at, task, false),
        }
    }

    /// Looks once more for an entry.
    pub(crate) fn look_again(&mut self, at: usize, task: u64) {
        let Some(work) = self.replicas[at].tasks.get(&task) else { return };
        let query = Query::Entry(workspace(work.room), work.id.clone());
        self.call(at, query, Purpose::Report(task));
    }

    /// What others wrote down for this replica.
    pub(crate) fn take_handoffs(&mut self, at: usize, handoffs: &[Handoff]) {
        for handoff in handoffs {
            let is_new = |task: &Task| task.road != Road::HandedOver(handoff.clone());
            if self.replicas[at].tasks.values().all(is_new) {
                self.begin_task(at, work(handoff, Road::HandedOver(handoff.clone())));
            }
        }
    }

    pub(crate) fn mark_settled(
        &mut self,
        at: usize,
        handoff: Handoff,
        against: Vec<(AccountKey, Units)>,
    ) {
        self.call(at, Query::HandoffSettled(handoff, against), Purpose::Errand);
    }

    pub(crate) fn look_for_untaken(&mut self, at: usize) {
        self.later(at, LOOK_UNTAKEN, Inbox::Untaken);
        if !self.plan.is_alone {
            self.call(at, Query::Untaken, Purpose::Errand);
        }
    }

    /// What nobody took is to be settled here.
    pub(crate) fn take_untaken(&mut self, at: usize, handoffs: Vec<Handoff>) {
        let holders: Vec<_> = handoffs.iter().map(|handoff| handoff.reservation.holder).collect();
        self.replicas[at].untaken.extend(handoffs);
        if !holders.is_empty() && self.breaks_now(600) {
            self.come_back(&holders);
            let delay = self.random.below(SECOND * 3 / 2);
            return self.later(at, delay, Inbox::NextUntaken);
        }
        self.next_untaken(at);
    }

    /// What nobody took is settled one after the other: several may be about one reservation.
    pub(crate) fn next_untaken(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let is_untaken = |task: &Task| matches!(task.road, Road::Untaken(_) | Road::Charged(_));
        if replica.tasks.values().any(is_untaken) {
            return;
        }
        let Some(handoff) = replica.untaken.pop_front() else { return };
        let work = work(&handoff, Road::Untaken(handoff.clone()));
        let Room { ledger, under_way, .. } = &replica.rooms[work.room];
        if under_way.is_settling(ledger, handoff.reservation) {
            return self.next_untaken(at);
        }
        let query = Query::Entries(handoff.workspace.clone(), work.id.clone(), handoff.reservation);
        let task = self.token();
        self.replicas[at].tasks.insert(task, work);
        self.later(at, 5 * SECOND, Inbox::TellOver(task));
        self.call(at, query, Purpose::Report(task));
        if self.breaks_now(250) {
            self.silence(at);
        }
    }

    /// Settles a report for a holder that is gone.
    pub(crate) fn settle_untaken(
        &mut self,
        at: usize,
        task: u64,
        handoff: Handoff,
        earlier: &[Settlement],
    ) {
        let reservation = handoff.reservation;
        let Some(work) = self.replicas[at].tasks.get_mut(&task) else { return };
        match earlier.first() {
            Some(first) if first.id == handoff.settlement => {
                work.road = Road::Charged(handoff);
                self.look_again(at, task);
            }
            Some(_) => self.adjust_untaken(at, task, earlier),
            None if self.replicas[at].answers_for(reservation) => self.close_task(at, task, false),
            None => self.book_directly(at, task, handoff),
        }
    }

    fn adjust_untaken(&mut self, at: usize, task: u64, earlier: &[Settlement]) {
        let Some(work) = self.replicas[at].tasks.get_mut(&task) else { return };
        let is_there = earlier.iter().any(|entry| entry.id == work.id);
        let reservation = self.requests[work.request].reservation;
        let place = Place { at, room: work.room };
        if is_there || was_exact(earlier) {
            return self.close_task(at, task, true);
        }
        // As any correction, from here on.
        if let Road::Untaken(handoff) = work.road.clone() {
            work.road = Road::HandedOver(handoff);
        }
        self.adjust(place, task, reservation);
        self.next_untaken(at);
    }

    fn book_directly(&mut self, at: usize, task: u64, handoff: Handoff) {
        let now = self.clocks(at);
        let Some(work) = self.replicas[at].tasks.get_mut(&task) else { return };
        let (number, id, place) = (work.request, work.id.clone(), Place { at, room: work.room });
        work.road = Road::Charged(handoff.clone());
        let (certainty, amounts) = self.words(number, &id);
        let request = &self.requests[number];
        // Whoever tells it in the name of another workspace knows nothing of what is set aside there.
        let is_own = request.room == place.room;
        let subject =
            Subject { workspace: handoff.workspace.clone(), ..(*request.subject).clone() };
        let orphan = Orphan {
            reservation: handoff.reservation,
            subject: Arc::new(subject),
            at: request.made_at,
            holds: is_own.then(|| request.holds.clone()),
        };
        if is_own && !self.gone.contains(&handoff.reservation.holder) {
            self.contested.insert(number);
        }
        let Room { ledger, under_way, .. } = self.room_mut(place);
        let entry = ledger.book_directly(orphan, actual(id.clone(), certainty, amounts), now);
        let Some(entry) = entry else { return self.close_task(at, task, false) };
        under_way.record(&id, [Waiting::Recorded(task)]);
        ledger.hurry();
        let holder = self.replicas[at].holder;
        self.trace.mark(self.now, "charges directly", at, || format!("#{number} {amounts:?}"));
        self.truth.booked(holder, &entry);
        self.hold_up(at, number);
    }

    /// What was booked long after its request is held up just when others may book it too, and its holder comes back.
    pub(crate) fn hold_up(&mut self, at: usize, number: usize) {
        let Request { arrived, reservation, .. } = self.requests[number];
        if self.now - arrived > 60 * SECOND && self.breaks_now(400) {
            if !self.replicas[at].answers_for(reservation) {
                self.come_back(&[reservation.holder]);
            }
            self.silence(at);
        }
    }

    /// What was charged directly gives way among what the holder forfeited, as far as it had been set aside.
    pub(crate) fn charged(&mut self, at: usize, task: u64, handoff: Handoff, entry: &Settlement) {
        let Some(work) = self.replicas[at].tasks.get(&task) else { return };
        let holds = &self.requests[work.request].holds;
        let against = entry.gives_way(|account| {
            let held = holds.iter().find(|hold| hold.account == *account);
            held.map_or(Units::ZERO, |hold| hold.amount)
        });
        self.trace.mark(self.now, "takes back", at, || format!("{against:?}"));
        self.mark_settled(at, handoff, against);
        self.close_task(at, task, true);
    }

    /// A fleet's replica ends overdue reservations after the store has said that nobody else did.
    pub(crate) fn look_for_overdue(&mut self, at: usize) {
        self.later(at, LOOK_OVERDUE, Inbox::Overdue);
        let now = self.clocks(at);
        for Place { at, room } in self.rooms_of(at) {
            let overdue: Vec<_> = self.room(Place { at, room }).ledger.overdue(now).collect();
            if !overdue.is_empty() {
                let query = Query::Settled(workspace(room), overdue);
                self.call(at, query, Purpose::Overdue(room, now));
            }
        }
    }

    /// Gives back open reservations that another replica settled.
    pub(crate) fn give_up(&mut self, place: Place, settled: &[ReservationId]) {
        let now = self.clocks(place.at);
        let (room, records) = self.replicas[place.at].room_and_records(place.room);
        for id in settled {
            if room.ledger.release(*id, now).is_some() {
                records.end(*id, End::Over);
            }
        }
    }
}

fn work(handoff: &Handoff, road: Road) -> Task {
    let request = handoff.report.parse().expect("the number of a request");
    let room = room_of(&handoff.workspace);
    Task { request, room, id: handoff.settlement.clone(), has_turn: false, road }
}
