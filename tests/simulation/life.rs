//! The lives of a replica: it starts from its journal, runs, and ends by a shutdown or a crash, as in `engine/start.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use bursar::domain::ids::{HolderId, ReservationId};
use bursar::domain::ledger::{Ledger, RestoredReservation};
use bursar::domain::time::{Mono, Now};
use bursar::engine::journal::{Buffer, Recovered};
use bursar::store::AdoptedLease;

use super::credits::Purse;
use super::plan::{MS, SECOND, workspace};
use super::replica::{
    BOOT, CLOSE_PATIENCE, LIFE_BITS, Purpose, RETRY_MIN, Replica, Stage, TICK, terms,
};
use super::world::{Answer, Event, Inbox, Query, World};

impl Replica {
    fn restore(&mut self, settled: &[ReservationId], now: Now) {
        let Recovered { reservations, stamps, .. } = std::mem::take(&mut self.recovered);
        for AdoptedLease { account, opener, epoch, lease } in std::mem::take(&mut self.adopted) {
            self.ledger.restore_lease(&account, (opener, epoch), &lease, now);
        }
        for stamp in stamps {
            self.ledger.restore_stamp(&stamp, now);
        }
        let is_open = |open: &RestoredReservation| !settled.contains(&open.id);
        for reservation in reservations.into_iter().filter(is_open).collect::<Vec<_>>() {
            self.ledger.restore_reservation(reservation, now);
        }
        self.rewrite_journal(now);
    }
}

impl World {
    /// A replica's clocks.
    pub(crate) fn clocks(&self, at: usize) -> Now {
        let replica = &self.replicas[at];
        let passed = i128::from(self.now) * i128::from(1_000_000 + replica.drift) / 1_000_000;
        let mono = u64::try_from(passed).expect("time goes forward") + replica.boot;
        let wall = self.plan.begins_at.plus(Duration::from_nanos(self.now)).as_ms();
        Now {
            wall: bursar::domain::time::Wall::from_ms(wall + replica.wall_off),
            mono: Mono::from_ns(mono),
        }
    }

    /// A replica starts, as a new holder.
    pub(crate) fn start(&mut self, at: usize) {
        if self.replicas[at].stage != Stage::Down {
            return;
        }
        let terms = terms(&self.plan);
        let replica = &mut self.replicas[at];
        replica.life += 1;
        let number = u128::try_from(replica.number).expect("a few") + 1;
        replica.holder = HolderId(number << LIFE_BITS | u128::from(replica.life));
        replica.ledger = Ledger::new(workspace(), replica.holder, terms);
        replica.stage = Stage::Starting;
        (replica.version, replica.retry_pause, replica.recall_ends) = (0, RETRY_MIN, None);
        replica.records = Buffer::default();
        replica.purse = Purse::default();
        replica.recovered = Recovered::default();
        replica.adopted.clear();
        if let Some(journal) = &mut replica.journal {
            replica.recovered = Recovered::read(journal, BOOT).unwrap_or_default();
            journal.truncate(usize::try_from(replica.recovered.bytes).expect("a length"));
            let holders: Vec<_> =
                replica.recovered.holders.iter().copied().chain([replica.holder]).collect();
            replica.records.own(BOOT, &holders);
        }
        // A reservation that was taken over twice names a holder before the last.
        let taken_over = replica.recovered.reservations.iter().map(|open| open.id.holder);
        let before = replica.recovered.holders.iter().copied().chain(taken_over);
        replica.before = before.collect::<BTreeSet<_>>().into_iter().collect();
        replica.write_journal();
        self.tally.restarts += 1;
        self.trace.mark(self.now, "starts", at, String::new);
        let query = self.news_query(at);
        self.call(at, query, Purpose::Start);
    }

    /// Starting is four questions, each asked until it is answered.
    pub(crate) fn go_on_starting(&mut self, at: usize, answer: Answer) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        let open: Vec<_> = replica.recovered.reservations.iter().map(|open| open.id).collect();
        let query = match answer {
            Answer::News(news) => {
                replica.version = news.version;
                replica.put_exactly(&news.budgets, now);
                replica.put_credits(news.credits, now);
                Query::Adopt(replica.before.clone())
            }
            Answer::Adopted(leases) => {
                replica.adopted = leases;
                Query::Settled(open)
            }
            Answer::Settled(settled) => {
                if replica.journal.is_some() {
                    replica.restore(&settled, now);
                    self.truth.found_again(&self.replicas[at].before);
                }
                self.run(at);
                return;
            }
            _ => Query::News(replica.holders()),
        };
        self.call(at, query, Purpose::Start);
    }

    fn run(&mut self, at: usize) {
        self.trace.mark(self.now, "runs", at, String::new);
        self.replicas[at].stage = Stage::Running;
        let spread = self.random.below(SECOND);
        self.later(at, TICK, Inbox::Tick);
        self.later(at, spread, Inbox::Poll);
        self.later(at, spread * 5, Inbox::Sweep);
        if !self.plan.is_alone {
            self.later(at, spread, Inbox::Overdue);
            self.later(at, spread * 20, Inbox::Untaken);
        }
        let now = self.clocks(at);
        self.replicas[at].heard_at = now.mono;
    }

    /// The process is gone. What was being written to the journal may be there in part.
    pub(crate) fn crash(&mut self, at: usize) {
        self.trace.mark(self.now, "crashes", at, String::new);
        let (unwritten, _) = self.replicas[at].records.drain();
        let torn = self.random.index(unwritten.len() + 1);
        if let Some(journal) = &mut self.replicas[at].journal {
            journal.extend_from_slice(&unwritten[..torn]);
        }
        self.end_life(at);
    }

    /// A shutdown begins.
    pub(crate) fn close(&mut self, at: usize) {
        self.trace.mark(self.now, "closes", at, String::new);
        let replica = &mut self.replicas[at];
        replica.stage = Stage::Closing;
        replica.ledger.close_leases();
        self.later(at, CLOSE_PATIENCE, Inbox::Closed);
    }

    /// A shutdown ends.
    pub(crate) fn stop(&mut self, at: usize) {
        self.trace.mark(self.now, "stops", at, String::new);
        self.replicas[at].write_journal();
        self.end_life(at);
        let pause = self.random.between(10, 5_000) * MS;
        self.after(pause, Event::Start(at));
    }

    fn end_life(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        replica.stage = Stage::Down;
        (replica.sent, replica.stopped_until) = (None, 0);
        replica.calls.clear();
        replica.tasks.clear();
        replica.recording.clear();
        replica.flushing.clear();
        replica.turns.clear();
        replica.untaken.clear();
        replica.recalled.clear();
        replica.blind.clear();
        replica.minutes.clear();
        let holder = replica.holder;
        if replica.journal.is_none() {
            self.gone.insert(holder);
        }
        self.truth.forgotten(holder);
        let waiting = std::mem::take(&mut self.replicas[at].waiting);
        for request in waiting.into_values() {
            self.requests[request].leave();
        }
    }
}
