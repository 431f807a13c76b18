//! Reports of usage on their way through a replica, as `engine/report.rs` takes them: looked up, booked, acknowledged when durable.

use bursar::domain::ids::{Id, ReservationId};
use bursar::domain::ledger::{Actual, Correcting};
use bursar::domain::money::{Amounts, NanoUsd, Tokens};
use bursar::domain::settlement::{Certainty, Settlement, was_exact};
use bursar::store::Handoff;

use super::clients::Fate;
use super::plan::{MS, SECOND, workspace};
use super::replica::{Purpose, Stage};
use super::room::{Room, Waiting};
use super::world::{Answer, Event, Inbox, Place, Query, World};

/// How long a reporter waits, and how long a replica works on a report.
const PATIENCE: u64 = 5 * SECOND;
/// Reporters give up after so many tries.
const TRIES_MAX: u32 = 30;
/// Tries in a thousand that are made once more in the name of another workspace.
const ASTRAY: u64 = 50;

/// A report that a replica works on.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) request: usize,
    /// The workspace in whose name it is told.
    pub(crate) room: usize,
    pub(crate) id: Id,
    /// Whether it has the right to correct its reservation.
    pub(crate) has_turn: bool,
    pub(crate) road: Road,
}

/// How a report came here, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Road {
    /// By its reporter.
    Told,
    /// By its reporter, for another replica, which is to write its entry; looked for so often.
    HandedOn(u32),
    /// By another replica, for this one.
    HandedOver(Handoff),
    /// By another replica, for one that is gone.
    Untaken(Handoff),
    /// Likewise, and it was charged directly.
    Charged(Handoff),
}

impl World {
    /// A client tries to report.
    pub(crate) fn send_report(&mut self, number: usize) {
        let request = &mut self.requests[number];
        if request.is_acknowledged() || request.tries >= TRIES_MAX {
            return;
        }
        request.tries += 1;
        let mut at = request.at;
        if self.random.chance(self.plan.elsewhere) {
            at = self.random.index(self.replicas.len());
        }
        self.later(at, MS, Inbox::Tell(number));
        if self.random.chance(self.plan.weather.twice) {
            let other = self.random.index(self.replicas.len());
            self.later(other, MS, Inbox::Tell(number));
        }
        if self.plan.workspaces > 1 && self.random.chance(ASTRAY) {
            let (at, room) = (self.random.index(self.replicas.len()), self.requests[number].room);
            self.later(at, MS, Inbox::TellAstray(number, (room + 1) % self.plan.workspaces));
        }
        let pause = PATIENCE + self.random.below(2 * SECOND);
        self.after(pause, Event::Report(number));
    }

    /// What the next report of a request says.
    pub(crate) fn said(&self, number: usize) -> (Id, Certainty, Amounts) {
        let request = &self.requests[number];
        let id = |text: String| Id::parse(&text).expect("a name");
        if request.fate == Fate::InParts && request.acknowledged == 0 {
            let id = id(format!("part-{}", request.ordinal));
            let (certainty, amounts) = self.words(number, &id);
            return (id, certainty, amounts);
        }
        (id(format!("usage-{}", request.ordinal)), Certainty::Exact, request.actual)
    }

    /// What the report of this id says.
    pub(crate) fn words(&self, number: usize, id: &Id) -> (Certainty, Amounts) {
        let actual = self.requests[number].actual;
        if !id.as_str().starts_with("part-") {
            return (Certainty::Exact, actual);
        }
        let half = Amounts {
            cost: NanoUsd::new(actual.cost.get() / 2),
            tokens: Tokens::new(actual.tokens.get() / 2),
        };
        (Certainty::AtLeast, half)
    }

    /// A report reaches a replica.
    pub(crate) fn tell(&mut self, at: usize, number: usize) {
        if self.replicas[at].stage != Stage::Running {
            return;
        }
        let (id, ..) = self.said(number);
        let room = self.requests[number].room;
        self.begin_task(at, Task { request: number, room, id, has_turn: false, road: Road::Told });
    }

    /// What a request used reaches a replica in the name of another workspace, where nobody knows the reservation.
    pub(crate) fn tell_astray(&mut self, Place { at, room }: Place, number: usize) {
        if self.replicas[at].stage != Stage::Running {
            return;
        }
        let id = Id::parse(&format!("astray-{}", self.requests[number].ordinal)).expect("a name");
        self.begin_task(at, Task { request: number, room, id, has_turn: false, road: Road::Told });
    }

    /// A replica begins to work on a report.
    pub(crate) fn begin_task(&mut self, at: usize, work: Task) {
        let task = self.token();
        let (id, room) = (work.id.clone(), work.room);
        self.replicas[at].tasks.insert(task, work);
        self.later(at, PATIENCE, Inbox::TellOver(task));
        let Room { ledger, under_way, .. } = self.room_mut(Place { at, room });
        if let Some(waiting) = under_way.recording(&id) {
            waiting.push(Waiting::Recorded(task));
            ledger.hurry();
            return;
        }
        self.call(at, Query::Entry(workspace(room), id), Purpose::Report(task));
    }

    /// The store has said what is on record.
    pub(crate) fn report_answered(&mut self, at: usize, task: u64, answer: Answer) {
        let work = self.replicas[at].tasks.get(&task).cloned();
        let Some(Task { request, room, id, road, .. }) = work else { return };
        let place = Place { at, room };
        let reservation = self.requests[request].reservation;
        match (road, answer) {
            (Road::HandedOn(looks), answer) => {
                self.handed_on(place, task, (request, id), looks, answer);
            }
            (Road::Charged(handoff), Answer::Entry(Some(entry))) => {
                self.charged(at, task, handoff, &entry);
            }
            (Road::Untaken(handoff), Answer::Entries(_, earlier)) => {
                self.settle_untaken(at, task, handoff, &earlier);
            }
            (_, Answer::Entry(Some(_)) | Answer::Entries(Some(_), _)) => {
                self.end_task(at, task, true);
            }
            (_, Answer::Entry(None)) => {
                let room = self.room_mut(place);
                if room.under_way.recording(&id).is_some()
                    || room.ledger.reservation(reservation).is_some()
                {
                    self.book(place, request, &id, Some(task));
                } else if self.plan.is_alone || self.replicas[at].answers_for(reservation) {
                    self.adjust(place, task, reservation);
                } else {
                    self.hand_over(at, task);
                }
            }
            (_, Answer::Entries(None, earlier)) if !earlier.is_empty() => {
                self.book_adjustment(at, task, &earlier);
            }
            // The holder does not know it: there is nothing to settle.
            (Road::HandedOver(_), Answer::Entries(..)) => self.end_task(at, task, true),
            _ => self.end_task(at, task, false),
        }
    }

    /// Books what a request used. A task waits until that is durable.
    pub(crate) fn book(&mut self, place: Place, number: usize, id: &Id, task: Option<u64>) {
        let (certainty, amounts) = self.words(number, id);
        let reservation = self.requests[number].reservation;
        let (at, now) = (place.at, self.clocks(place.at));
        let (Room { ledger, under_way, .. }, records) =
            self.replicas[at].room_and_records(place.room);
        if let Some(waiting) = under_way.recording(id) {
            waiting.extend(task.map(Waiting::Recorded));
            ledger.hurry();
            return;
        }
        records.cut(ledger, reservation, amounts);
        let Some(entry) = ledger.settle(reservation, actual(id.clone(), certainty, amounts), now)
        else {
            return;
        };
        under_way.record(id, task.map(Waiting::Recorded));
        if task.is_some() {
            ledger.hurry();
        }
        let holder = self.replicas[at].holder;
        self.trace.mark(self.now, "books", at, || format!("#{number} {amounts:?}"));
        self.truth.booked(holder, &entry);
        self.hold_up(at, number);
    }

    /// The reservation is over: what is on record may have to be corrected. Corrections of one reservation take turns.
    pub(crate) fn adjust(&mut self, place: Place, task: u64, reservation: ReservationId) {
        if !self.room_mut(place).turns.insert(reservation) {
            return self.end_task(place.at, task, false);
        }
        if let Some(task) = self.replicas[place.at].tasks.get_mut(&task) {
            task.has_turn = true;
        }
        let Room { ledger, under_way, .. } = self.room_mut(place);
        if under_way.flush(ledger, Waiting::Flushed(task)).is_some() {
            self.look_up(place.at, task);
        }
    }

    pub(crate) fn look_up(&mut self, at: usize, task: u64) {
        let Some(work) = self.replicas[at].tasks.get(&task) else { return };
        let reservation = self.requests[work.request].reservation;
        let query = Query::Entries(workspace(work.room), work.id.clone(), reservation);
        self.call(at, query, Purpose::Report(task));
    }

    fn book_adjustment(&mut self, at: usize, task: u64, earlier: &[Settlement]) {
        let Some(work) = self.replicas[at].tasks.get(&task) else { return };
        let (number, id, room) = (work.request, work.id.clone(), work.room);
        let (certainty, amounts) = self.words(number, &id);
        let Some(last) = earlier.last() else { return };
        if was_exact(earlier) {
            // Refused or passed over: there is nothing to retry.
            return self.end_task(at, task, true);
        }
        let (certainty, amounts) = last.corrected_to(certainty, amounts);
        let Room { ledger, under_way, .. } = self.room_mut(Place { at, room });
        let corrected = actual(id.clone(), certainty, amounts);
        let entry = ledger.adjust(Correcting::all(earlier, last), corrected);
        under_way.record(&id, [Waiting::Recorded(task)]);
        ledger.hurry();
        let holder = self.replicas[at].holder;
        self.trace.mark(self.now, "corrects", at, || format!("#{number} {:?}", entry.charges));
        self.truth.booked(holder, &entry);
        self.hold_up(at, number);
    }

    /// A replica has done what it can for a report.
    pub(crate) fn end_task(&mut self, at: usize, task: u64, is_done: bool) {
        let work = self.replicas[at].tasks.get(&task);
        let Some(Task { road: Road::Charged(_), id, room, .. }) = work else {
            return self.close_task(at, task, is_done);
        };
        // Whose entry is on record decides what gives way to it.
        if is_done {
            let query = Query::Entry(workspace(*room), id.clone());
            self.call(at, query, Purpose::Report(task));
        } else {
            self.close_task(at, task, false);
        }
    }

    pub(crate) fn close_task(&mut self, at: usize, task: u64, is_done: bool) {
        let work = self.replicas[at].tasks.remove(&task);
        let Some(Task { request, room, id, has_turn, road }) = work else { return };
        if has_turn {
            let reservation = self.requests[request].reservation;
            self.room_mut(Place { at, room }).turns.remove(&reservation);
        }
        match road {
            Road::Told | Road::HandedOn(_) if is_done => self.acknowledge(at, request, id),
            Road::HandedOver(handoff) if is_done => self.mark_settled(at, handoff, Vec::new()),
            Road::Untaken(handoff) => {
                if is_done {
                    self.mark_settled(at, handoff, Vec::new());
                }
                self.next_untaken(at);
            }
            Road::Charged(_) => self.next_untaken(at),
            Road::Told | Road::HandedOn(_) | Road::HandedOver(_) => {}
        }
    }

    pub(crate) fn acknowledge(&mut self, at: usize, request: usize, id: Id) {
        if self.said(request).0 != id || self.requests[request].is_acknowledged() {
            return;
        }
        self.trace.mark(self.now, "acknowledges", at, || format!("#{request}"));
        self.requests[request].acknowledged += 1;
        self.requests[request].tries = 0;
        self.acknowledged.push((id, request));
    }
}

pub(crate) fn actual(settlement: Id, certainty: Certainty, amounts: Amounts) -> Actual {
    Actual { settlement, certainty, amounts, usage: None, model: None, rates: None }
}
