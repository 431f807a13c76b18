//! The lives of a replica: it starts from its journal, runs, and ends by a shutdown or a crash, as in `engine/start.rs`.

use std::time::Duration;

use bursar::domain::ids::HolderId;
use bursar::domain::time::{Mono, Now};
use bursar::engine::journal::{Buffer, Recovered};

use super::plan::{MS, SECOND, room_of};
use super::replica::{BOOT, CLOSE_PATIENCE, LIFE_BITS, Purpose, Replica, Stage, tick};
use super::room::rooms;
use super::world::{Answer, Event, Inbox, Query, World};

impl Replica {
    /// The next workspace to ask about; there is none without open reservations.
    fn next_unasked(&self) -> Option<Query> {
        let (workspace, open) = self.unasked.first_key_value()?;
        Some(Query::Settled(workspace.clone(), open.clone()))
    }

    fn restore(&mut self, now: Now) {
        let adopted = std::mem::take(&mut self.adopted);
        let recovered = std::mem::take(&mut self.recovered);
        for (workspace, restored) in recovered.by_workspace(adopted, &self.settled) {
            restored.put_into(&mut self.rooms[room_of(&workspace)].ledger, now);
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
        let replica = &mut self.replicas[at];
        replica.life += 1;
        let number = u128::try_from(replica.number).expect("a few") + 1;
        replica.holder = HolderId(number << LIFE_BITS | u128::from(replica.life));
        replica.rooms = rooms(&self.plan, replica.holder);
        replica.stage = Stage::Starting;
        replica.records = Buffer::default();
        replica.recovered = Recovered::default();
        replica.adopted.clear();
        if let Some(journal) = &mut replica.journal {
            replica.recovered = Recovered::read(journal, BOOT).unwrap_or_default();
            journal.truncate(usize::try_from(replica.recovered.bytes).expect("a length"));
            let holders: Vec<_> =
                replica.recovered.holders.iter().copied().chain([replica.holder]).collect();
            replica.records.own(BOOT, &holders);
        }
        replica.holders = replica.recovered.holders_with(replica.holder);
        replica.write_journal();
        self.tally.restarts += 1;
        self.trace.mark(self.now, "starts", at, String::new);
        let query = self.news_query(at);
        self.call(at, query, Purpose::Start);
    }

    /// Starting is a question after the other, until all are answered: what is in force, what leases there are, and of each workspace what
    /// was settled.
    pub(crate) fn go_on_starting(&mut self, at: usize, answer: Answer) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        let query = match answer {
            Answer::News(news) => {
                for changed in &news.changed {
                    let room = &mut replica.rooms[changed.room];
                    room.put_changed(changed, now);
                    room.put_credits(changed.credits, now);
                }
                Some(Query::Adopt(replica.holders.clone()))
            }
            Answer::Adopted(leases) => {
                replica.adopted = leases;
                replica.unasked = replica.recovered.open();
                replica.next_unasked()
            }
            Answer::Settled(settled) => {
                if let Some((workspace, _)) = replica.unasked.pop_first() {
                    let settled = settled.into_iter().map(|id| (workspace.clone(), id));
                    replica.settled.extend(settled);
                }
                replica.next_unasked()
            }
            _ => {
                replica.settled.clear();
                Some(self.news_query(at))
            }
        };
        match query {
            Some(query) => drop(self.call(at, query, Purpose::Start)),
            None => self.go_on(at),
        }
    }

    /// It has all that it needs to go on with what its journal says.
    fn go_on(&mut self, at: usize) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        if replica.journal.is_some() {
            replica.restore(now);
            let Replica { holders, holder, .. } = &self.replicas[at];
            self.truth.found_again(holders, *holder);
        }
        self.run(at);
    }

    fn run(&mut self, at: usize) {
        self.trace.mark(self.now, "runs", at, String::new);
        self.replicas[at].stage = Stage::Running;
        let spread = self.random.below(SECOND);
        self.later(at, tick(), Inbox::Tick);
        self.later(at, spread, Inbox::Poll);
        self.later(at, spread * 5, Inbox::Sweep);
        if !self.plan.is_alone {
            self.later(at, spread, Inbox::Overdue);
            self.later(at, spread * 20, Inbox::Untaken);
        }
        let now = self.clocks(at);
        (self.replicas[at].heard_at, self.replicas[at].tended_at) = (now.mono, now);
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
        for room in &mut replica.rooms {
            room.ledger.close_leases();
        }
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
        replica.stopped_until = 0;
        replica.calls.clear();
        replica.tasks.clear();
        replica.untaken.clear();
        replica.recalled.clear();
        replica.minutes.clear();
        replica.settled.clear();
        replica.unasked.clear();
        let holder = replica.holder;
        if replica.journal.is_none() {
            self.gone.insert(holder);
        }
        self.truth.forgotten(holder);
        for room in &mut self.replicas[at].rooms {
            room.forget();
            for request in std::mem::take(&mut room.waiting).into_values() {
                self.requests[request].leave();
            }
        }
    }
}
