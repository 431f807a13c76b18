//! Reports of usage on their way through a replica, as `engine/report.rs` takes them: looked up, booked, acknowledged when durable.

use bursar::domain::ids::{Id, ReservationId};
use bursar::domain::ledger::{Actual, Correcting};
use bursar::domain::money::{Amounts, NanoUsd, Tokens};
use bursar::domain::settlement::{Certainty, Settlement};

use super::clients::Fate;
use super::plan::{MS, SECOND};
use super::replica::{Purpose, Stage};
use super::world::{Answer, Event, Inbox, Query, World};

/// How long a reporter waits, and how long a replica works on a report.
const PATIENCE: u64 = 5 * SECOND;
/// Reporters give up after so many tries.
const TRIES_MAX: u32 = 30;

/// A report that a replica works on.
#[derive(Debug)]
pub struct Task {
    request: usize,
    id: Id,
    /// Whether it has the right to correct its reservation.
    has_turn: bool,
}

impl World {
    /// A client tries to report.
    pub fn send_report(&mut self, number: usize) {
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
    pub fn said(&self, number: usize) -> (Id, Certainty, Amounts) {
        let request = &self.requests[number];
        let id = |text: String| Id::parse(&text).expect("a name");
        if request.fate == Fate::InParts && request.acknowledged == 0 {
            let part = Amounts {
                cost: NanoUsd::new(request.actual.cost.get() / 2),
                tokens: Tokens::new(request.actual.tokens.get() / 2),
            };
            return (id(format!("part-{number}")), Certainty::AtLeast, part);
        }
        (id(format!("usage-{number}")), Certainty::Exact, request.actual)
    }

    /// A report reaches a replica.
    pub fn tell(&mut self, at: usize, number: usize) {
        if self.replicas[at].stage != Stage::Running {
            return;
        }
        let (id, ..) = self.said(number);
        let task = self.token();
        let replica = &mut self.replicas[at];
        replica.tasks.insert(task, Task { request: number, id: id.clone(), has_turn: false });
        self.later(at, PATIENCE, Inbox::TellOver(task));
        if let Some(waiting) = self.replicas[at].recording.get_mut(&id) {
            waiting.push(task);
            self.replicas[at].ledger.hurry();
            return;
        }
        self.call(at, Query::Entry(id), Purpose::Report(task));
    }

    /// The store has said what is on record.
    pub fn report_answered(&mut self, at: usize, task: u64, answer: Answer) {
        let Some(Task { request, id, .. }) = self.replicas[at].tasks.get(&task) else { return };
        let (number, id) = (*request, id.clone());
        match answer {
            Answer::Entry(Some(_)) => self.end_task(at, task, true),
            Answer::Entry(None) => {
                let reservation = self.requests[number].reservation;
                if self.replicas[at].recording.contains_key(&id)
                    || self.replicas[at].ledger.reservation(reservation).is_some()
                {
                    self.book(at, number, Some(task));
                } else {
                    self.adjust(at, task, reservation);
                }
            }
            Answer::Entries(Some(_), _) => self.end_task(at, task, true),
            Answer::Entries(None, earlier) if !earlier.is_empty() => {
                self.book_adjustment(at, task, &earlier);
            }
            _ => self.end_task(at, task, false),
        }
    }

    /// Books what a request used. A task waits until that is durable.
    pub fn book(&mut self, at: usize, number: usize, task: Option<u64>) {
        let (id, certainty, amounts) = self.said(number);
        if let Some(waiting) = self.replicas[at].recording.get_mut(&id) {
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
        replica.recording.insert(id, task.into_iter().collect());
        if task.is_some() {
            replica.ledger.hurry();
        }
        let holder = replica.holder;
        self.trace.mark(self.now, "books", at, || format!("#{number} {amounts:?}"));
        self.truth.booked(holder, &entry);
    }

    /// The reservation is over: what is on record may have to be corrected. Corrections of one reservation take turns.
    fn adjust(&mut self, at: usize, task: u64, reservation: ReservationId) {
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
                replica.flushing.push((left, task));
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
        let (_, certainty, amounts) = self.said(number);
        let Some(last) = earlier.last() else { return };
        let is_exact = |entry: &Settlement| {
            matches!(entry.certainty, Certainty::Exact | Certainty::Adjustment)
        };
        let was_exact = earlier.iter().any(is_exact);
        let (certainty, amounts) = match (certainty, was_exact) {
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
    }

    /// A replica has done what it can for a report.
    pub fn end_task(&mut self, at: usize, task: u64, is_durable: bool) {
        let Some(Task { request, id, has_turn }) = self.replicas[at].tasks.remove(&task) else {
            return;
        };
        let reservation = self.requests[request].reservation;
        if has_turn {
            self.replicas[at].turns.remove(&reservation);
        }
        let (due, ..) = self.said(request);
        if !is_durable || due != id || self.requests[request].is_acknowledged() {
            return;
        }
        self.trace.mark(self.now, "acknowledges", at, || format!("#{request}"));
        self.requests[request].acknowledged += 1;
        self.requests[request].tries = 0;
        self.acknowledged.push((id, request));
    }

    /// One more batch is durable.
    pub fn count_down(&mut self, at: usize) {
        for (left, task) in std::mem::take(&mut self.replicas[at].flushing) {
            match left - 1 {
                0 => self.look_up(at, task),
                left => self.replicas[at].flushing.push((left, task)),
            }
        }
    }
}

fn actual(settlement: Id, certainty: Certainty, amounts: Amounts) -> Actual {
    Actual { settlement, certainty, amounts, usage: None, model: None, rates: None }
}

fn greater(a: Amounts, b: Amounts) -> Amounts {
    Amounts { cost: a.cost.max(b.cost), tokens: a.tokens.max(b.tokens) }
}
