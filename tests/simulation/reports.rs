//! Reports of usage on their way through a replica, as `engine/report.rs` takes them: looked up, booked, acknowledged when durable.

use bursar::domain::ids::{Id, ReservationId};
use bursar::domain::ledger::{Actual, Correcting};
use bursar::domain::money::{Amounts, NanoUsd, Tokens};
use bursar::domain::settlement::{Certainty, Settlement};
use bursar::store::Handoff;

use super::clients::Fate;
use super::plan::{MS, SECOND};
use super::replica::{Flushing, Purpose, Stage};
use super::world::{Answer, Event, Inbox, Query, World};

/// How long a reporter waits, and how long a replica works on a report.
const PATIENCE: u64 = 5 * SECOND;
/// Reporters give up after so many tries.
const TRIES_MAX: u32 = 30;

/// A report that a replica works on.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) request: usize,
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
        let pause = PATIENCE + self.random.below(2 * SECOND);
        self.after(pause, Event::Report(number));
    }

    /// What the next report of a request says.
    pub(crate) fn said(&self, number: usize) -> (Id, Certainty, Amounts) {
        let request = &self.requests[number];
        let id = |text: String| Id::parse(&text).expect("a name");
        if request.fate == Fate::InParts && request.acknowledged == 0 {
            let id = id(format!("part-{number}"));
            let (certainty, amounts) = self.words(number, &id);
            return (id, certainty, amounts);
        }
        (id(format!("usage-{number}")), Certainty::Exact, request.actual)
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
        self.begin_task(at, Task { request: number, id, has_turn: false, road: Road::Told });
    }

    /// A replica begins to work on a report.
    pub(crate) fn begin_task(&mut self, at: usize, work: Task) {
        let task = self.token();
        let id = work.id.clone();
        let replica = &mut self.replicas[at];
        replica.tasks.insert(task, work);
        self.later(at, PATIENCE, Inbox::TellOver(task));
        if let Some(waiting) = self.replicas[at].recording.get_mut(&id) {
            waiting.push(task);
            self.replicas[at].ledger.hurry();
            return;
        }
        self.call(at, Query::Entry(id), Purpose::Report(task));
    }

    /// The store has said what is on record.
    pub(crate) fn report_answered(&mut self, at: usize, task: u64, answer: Answer) {
        let Some(Task { request, id, road, .. }) = self.replicas[at].tasks.get(&task).cloned()
        else {
            return;
        };
        let reservation = self.requests[request].reservation;
        match (road, answer) {
            (Road::HandedOn(looks), answer) => {
                self.handed_on(at, task, (request, id), looks, answer);
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
                let replica = &self.replicas[at];
                if replica.recording.contains_key(&id)
                    || replica.ledger.reservation(reservation).is_some()
                {
                    self.book(at, request, &id, Some(task));
                } else if self.plan.is_alone || replica.answers_for(reservation) {
                    self.adjust(at, task, reservation);
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
    pub(crate) fn book(&mut self, at: usize, number: usize, id: &Id, task: Option<u64>) {
        let (certainty, amounts) = self.words(number, id);
        if let Some(waiting) = self.replicas[at].recording.get_mut(id) {
            waiting.extend(task);
            self.replicas[at].ledger.hurry();
            return;
        }
        let reservation = self.requests[number].reservation;
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        replica.records.cut(&replica.ledger, reservation, amounts);
        let Some(entry) =
            replica.ledger.settle(reservation, actual(id.clone(), certainty, amounts), now)
        else {
            return;
        };
        replica.recording.insert(id.clone(), task.into_iter().collect());
        if task.is_some() {
            replica.ledger.hurry();
        }
        let holder = replica.holder;
        self.trace.mark(self.now, "books", at, || format!("#{number} {amounts:?}"));
        self.truth.booked(holder, &entry);
        self.hold_up(at, number);
    }

    /// The reservation is over: what is on record may have to be corrected. Corrections of one reservation take turns.
    pub(crate) fn adjust(&mut self, at: usize, task: u64, reservation: ReservationId) {
        let replica = &mut self.replicas[at];
        if !replica.turns.insert(reservation) {
            return self.end_task(at, task, false);
        }
        if let Some(task) = replica.tasks.get_mut(&task) {
            task.has_turn = true;
        }
        match replica.ledger.batches_left() {
            0 => self.look_up(at, task),
            left => {
                replica.flushing.push((left, Flushing::Task(task)));
                replica.ledger.hurry();
            }
        }
    }

    fn look_up(&mut self, at: usize, task: u64) {
        let Some(Task { request, id, .. }) = self.replicas[at].tasks.get(&task) else { return };
        let query = Query::Entries(id.clone(), self.requests[*request].reservation);
        self.call(at, query, Purpose::Report(task));
    }

    fn book_adjustment(&mut self, at: usize, task: u64, earlier: &[Settlement]) {
        let Some(Task { request, id, .. }) = self.replicas[at].tasks.get(&task) else { return };
        let (number, id) = (*request, id.clone());
        let (certainty, amounts) = self.words(number, &id);
        let Some(last) = earlier.last() else { return };
        let (certainty, amounts) = match (certainty, was_exact(earlier)) {
            // Refused or passed over: there is nothing to retry.
            (_, true) => return self.end_task(at, task, true),
            (Certainty::Exact, false) => (Certainty::Adjustment, amounts),
            _ => (Certainty::AtLeast, greater(amounts, last.amounts)),
        };
        let correcting = Correcting {
            subject: last.subject.clone(),
            reservation: last.reservation,
            at: last.at,
            charges: earlier.iter().flat_map(|entry| entry.charges.iter().cloned()).collect(),
        };
        let replica = &mut self.replicas[at];
        let entry = replica.ledger.adjust(correcting, actual(id.clone(), certainty, amounts));
        replica.recording.entry(id).or_default().push(task);
        replica.ledger.hurry();
        let holder = replica.holder;
        self.trace.mark(self.now, "corrects", at, || format!("#{number} {:?}", entry.charges));
        self.truth.booked(holder, &entry);
        self.hold_up(at, number);
    }

    /// A replica has done what it can for a report.
    pub(crate) fn end_task(&mut self, at: usize, task: u64, is_done: bool) {
        let Some(Task { road: Road::Charged(_), id, .. }) = self.replicas[at].tasks.get(&task)
        else {
            return self.close_task(at, task, is_done);
        };
        // Whose entry is on record decides what gives way to it.
        if is_done {
            let id = id.clone();
            self.call(at, Query::Entry(id), Purpose::Report(task));
        } else {
            self.close_task(at, task, false);
        }
    }

    pub(crate) fn close_task(&mut self, at: usize, task: u64, is_done: bool) {
        let Some(Task { request, id, has_turn, road }) = self.replicas[at].tasks.remove(&task)
        else {
            return;
        };
        if has_turn {
            self.replicas[at].turns.remove(&self.requests[request].reservation);
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

    /// One more batch is durable.
    pub(crate) fn count_down(&mut self, at: usize) {
        let ledger = &self.replicas[at].ledger;
        let all_is_told = !ledger.is_under_way() && !ledger.has_more();
        for (left, who) in std::mem::take(&mut self.replicas[at].flushing) {
            match (if all_is_told { 0 } else { left - 1 }, who) {
                (0, Flushing::Task(task)) => self.look_up(at, task),
                (0, Flushing::Credits) => self.ask_for_credits(at),
                (left, who) => self.replicas[at].flushing.push((left, who)),
            }
        }
    }
}

/// Whether one of these entries says what was used exactly.
pub(crate) fn was_exact(earlier: &[Settlement]) -> bool {
    let is_exact =
        |entry: &Settlement| matches!(entry.certainty, Certainty::Exact | Certainty::Adjustment);
    earlier.iter().any(is_exact)
}

pub(crate) fn actual(settlement: Id, certainty: Certainty, amounts: Amounts) -> Actual {
    Actual { settlement, certainty, amounts, usage: None, model: None, rates: None }
}

fn greater(a: Amounts, b: Amounts) -> Amounts {
    Amounts { cost: a.cost.max(b.cost), tokens: a.tokens.max(b.tokens) }
}
