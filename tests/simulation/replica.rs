//! One replica: a ledger for each workspace, one journal over all of them, and what an engine does around them. It mirrors
//! `engine/decide.rs`, `engine/tend.rs` and `engine/news.rs` without their tasks and locks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bursar::domain::ids::{HolderId, Id, ReservationId};
use bursar::domain::ledger;
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::settlement::Settlement;
use bursar::domain::time::{Mono, Now, Wall};
use bursar::engine::has_jumped;
use bursar::engine::journal::{Buffer, Recovered};
use bursar::store::{AdoptedLease, Handoff};

use super::plan::{MS, Plan, SECOND, room_of, workspace};
use super::random::Random;
use super::reports::Task;
use super::room::{Room, rooms};
use super::store::Fault;
use super::world::{Answer, Call, Event, Inbox, News, Place, Query, World};

const SWEEP: u64 = 5 * SECOND;
const POLL: u64 = SECOND;
pub(crate) const RETRY_MIN: u64 = 20 * MS;
pub(crate) const CLOSE_PATIENCE: u64 = 2 * SECOND;
/// After this time a call to the store has failed.
const CALL_PATIENCE: u64 = 2 * SECOND;
/// After so long without news a replica asks whether others settled its reservations.
const DEAF_MAX: Duration = Duration::from_secs(20);
/// A journal that has grown past this is written anew.
const JOURNAL_MAX: usize = 16 * 1024;
/// The machine is never started anew with its journal.
pub(crate) const BOOT: &str = "boot";

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Down,
    Starting,
    Running,
    /// Admits nothing more and gives its leases back.
    Closing,
}

/// Why the store was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Commit(usize),
    Start,
    Errand,
    Report(u64),
    /// Reservations of a workspace that were overdue at this time.
    Overdue(usize, Now),
    /// Reservations of a workspace that others may have settled.
    GiveUp(usize),
    /// A grant of credits.
    Grant(usize),
    /// What is in force of a workspace's credits.
    Credits(usize),
}

pub(crate) struct Replica {
    pub(crate) stage: Stage,
    pub(crate) life: u32,
    pub(crate) holder: HolderId,
    /// One for each workspace.
    pub(crate) rooms: Vec<Room>,
    pub(crate) records: Buffer,
    /// The file; `None` for a replica without one.
    pub(crate) journal: Option<Vec<u8>>,
    pub(crate) calls: BTreeMap<u64, Purpose>,
    pub(crate) stopped_until: u64,
    pub(crate) hears_nothing: bool,
    pub(crate) says_nothing: bool,
    /// Until when it is cut off both ways.
    pub(crate) cut_until: u64,
    /// How fast its clock runs, in millionths.
    pub(crate) drift: i64,
    pub(crate) boot: u64,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) wall_off: i64,
    pub(crate) tasks: BTreeMap<u64, Task>,
    /// All whose reservations it answers for: itself, and those that it took over.
    pub(crate) holders: Vec<HolderId>,
    /// Handoffs that nobody took, to be settled here.
    pub(crate) untaken: VecDeque<Handoff>,
    /// When news came last.
    pub(crate) heard_at: Mono,
    pub(crate) recalled: BTreeMap<AccountKey, u32>,
    /// When the leases were last tended.
    pub(crate) tended_at: Now,
    /// When requests were admitted in this life, of each account that counts them.
    pub(crate) minutes: BTreeMap<AccountKey, VecDeque<u64>>,
    pub(crate) recovered: Recovered,
    pub(crate) adopted: Vec<AdoptedLease>,
    /// Reservations of the journal that the store has entries of, and those that it has still to be asked about.
    pub(crate) settled: BTreeSet<(Id, ReservationId)>,
    pub(crate) unasked: BTreeMap<Id, Vec<ReservationId>>,
    pub(crate) number: usize,
}

/// A holder's name is the number of its replica, and of its life in so many bits.
pub(crate) const LIFE_BITS: u32 = 64;

/// Which replica has or had this name.
pub(crate) const fn replica_of(holder: HolderId) -> u128 {
    holder.0 >> LIFE_BITS
}

impl Replica {
    pub(crate) fn new(plan: &Plan, number: usize, random: &mut Random) -> Self {
        let holder = HolderId(0);
        Self {
            stage: Stage::Down,
            life: 0,
            holder,
            rooms: rooms(plan, holder),
            records: Buffer::default(),
            journal: plan.journals[number].then(Vec::new),
            calls: BTreeMap::new(),
            stopped_until: 0,
            hears_nothing: false,
            says_nothing: false,
            cut_until: 0,
            drift: random.signed(-200, 200),
            boot: random.between(1, 100_000) * SECOND,
            wall_off: random.signed(-1_500, 1_500),
            tasks: BTreeMap::new(),
            holders: Vec::new(),
            untaken: VecDeque::new(),
            heard_at: Mono::default(),
            recalled: BTreeMap::new(),
            tended_at: Now { wall: Wall::default(), mono: Mono::default() },
            minutes: BTreeMap::new(),
            recovered: Recovered::default(),
            adopted: Vec::new(),
            settled: BTreeSet::new(),
            unasked: BTreeMap::new(),
            number,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    /// Whether what its process knows is in its ledger.
    pub(crate) fn is_remembered(&self) -> bool {
        self.stage != Stage::Starting
    }

    fn has_ledger(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Closing)
    }

    /// Writes what the journal's buffer holds.
    pub(crate) fn write_journal(&mut self) {
        let (bytes, _) = self.records.drain();
        if let Some(journal) = &mut self.journal {
            journal.extend_from_slice(&bytes);
        }
    }

    pub(crate) fn rewrite_journal(&mut self, now: Now) {
        let Self { records, rooms, holder, holders, .. } = self;
        let ledgers = rooms.iter_mut().map(|room| {
            let unrecorded: Vec<Settlement> =
                room.under_way.unrecorded(&room.ledger).cloned().collect();
            (&mut room.ledger, unrecorded)
        });
        records.rewrite(BOOT, *holder, holders, ledgers, now);
        let (bytes, _) = records.drain();
        if let Some(journal) = &mut self.journal {
            *journal = bytes;
        }
    }

    pub(crate) fn room_and_records(&mut self, room: usize) -> (&mut Room, &mut Buffer) {
        (&mut self.rooms[room], &mut self.records)
    }
}

impl World {
    /// Lets something reach a replica after a while, if it is still the same life.
    pub(crate) fn later(&mut self, at: usize, delay: u64, what: Inbox) {
        let life = self.replicas[at].life;
        self.after(delay, Event::At(at, life, what));
    }

    /// Something reaches a replica.
    pub(crate) fn deliver(&mut self, at: usize, life: u32, what: Inbox) -> Result<(), Fault> {
        let replica = &self.replicas[at];
        if replica.life != life || replica.stage == Stage::Down {
            self.nobody_there(&what);
            return Ok(());
        }
        if replica.stopped_until > self.now {
            let delay = replica.stopped_until - self.now;
            self.after(delay, Event::At(at, life, what));
            return Ok(());
        }
        match what {
            Inbox::Ask(request) => self.ask(at, request)?,
            Inbox::GiveUp(room, waiter) => self.lose_patience(Place { at, room }, waiter)?,
            Inbox::Finished(request) => self.finished(at, request),
            Inbox::Tell(request) => self.tell(at, request),
            Inbox::TellAstray(request, room) => self.tell_astray(Place { at, room }, request),
            Inbox::TellOver(task) => self.end_task(at, task, false),
            Inbox::Look(task) => self.look_again(at, task),
            Inbox::Untaken => self.look_for_untaken(at),
            Inbox::NextUntaken => self.next_untaken(at),
            Inbox::Overdue => self.look_for_overdue(at),
            Inbox::Grant(grant) => self.take_grant_of_credits(at, grant),
            Inbox::Tick => self.tick(at),
            Inbox::Sweep => {
                self.later(at, SWEEP, Inbox::Sweep);
                self.call(at, Query::Sweep, Purpose::Errand);
            }
            Inbox::Poll => {
                self.later(at, POLL, Inbox::Poll);
                let query = self.news_query(at);
                self.call(at, query, Purpose::Errand);
            }
            Inbox::Recalled(key, count) => {
                let now = self.clocks(at);
                let room = room_of(&key.workspace);
                self.replicas[at].rooms[room].ledger.recalled(&key, count, now);
            }
            Inbox::RecallOver(room) => {
                let now = self.clocks(at);
                let room = self.room_mut(Place { at, room });
                room.recall_ends = None;
                room.ledger.tend_recalls(now);
            }
            Inbox::Hint => {
                let query = self.news_query(at);
                self.call(at, query, Purpose::Errand);
            }
            Inbox::Retry(room, number) => self.send_again(Place { at, room }, number),
            Inbox::Answer(token, answer) => self.answered(at, token, answer)?,
            Inbox::CallOver(token) => self.answered(at, token, Answer::Failed)?,
            Inbox::Closed => self.stop(at),
        }
        if self.replicas[at].has_ledger() {
            for place in self.rooms_of(at) {
                self.talk(place)?;
                self.await_recalls(place);
                self.check_ledger(place)?;
            }
        }
        Ok(())
    }

    /// Asks the store.
    pub(crate) fn call(&mut self, at: usize, query: Query, purpose: Purpose) -> u64 {
        let token = self.token();
        let replica = &mut self.replicas[at];
        replica.calls.insert(token, purpose);
        let (life, holder) = (replica.life, replica.holder);
        let call = Call { from: at, life, holder, token, query };
        let copies = 1 + usize::from(self.random.chance(self.plan.weather.twice));
        for _ in 0..copies {
            if self.replicas[at].says_nothing || self.random.chance(self.plan.weather.loss) {
                continue;
            }
            let delay = self.delay();
            self.after(delay, Event::AtStore(call.clone()));
        }
        self.later(at, CALL_PATIENCE, Inbox::CallOver(token));
        token
    }

    /// How long a message takes.
    pub(crate) fn delay(&mut self) -> u64 {
        if self.random.chance(self.plan.weather.slow) {
            return self.random.between(500, 4_000) * MS;
        }
        self.random.between(50_000, self.plan.latency)
    }

    fn answered(&mut self, at: usize, token: u64, answer: Answer) -> Result<(), Fault> {
        let Some(purpose) = self.replicas[at].calls.remove(&token) else { return Ok(()) };
        match purpose {
            Purpose::Commit(room) => self.batch_answered(Place { at, room }, answer),
            Purpose::Start => self.go_on_starting(at, answer),
            Purpose::Errand => self.errand_answered(at, answer),
            Purpose::Report(task) => self.report_answered(at, task, answer),
            Purpose::Overdue(room, since) => {
                if let Answer::Settled(settled) = answer {
                    self.give_up(Place { at, room }, &settled);
                    self.end_overdue(Place { at, room }, since);
                }
            }
            Purpose::Grant(grant) => self.grant_answered(at, grant, answer),
            Purpose::Credits(room) => self.credits_answered(Place { at, room }, answer),
            Purpose::GiveUp(room) => {
                if let Answer::Settled(settled) = answer {
                    self.give_up(Place { at, room }, &settled);
                }
            }
        }
        Ok(())
    }

    fn errand_answered(&mut self, at: usize, answer: Answer) {
        match answer {
            Answer::News(news) if self.replicas[at].has_ledger() => self.take_news(at, &news),
            Answer::Untaken(handoffs) => {
                self.take_untaken(at, handoffs);
            }
            _ => {}
        }
    }

    fn take_news(&mut self, at: usize, news: &News) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        for changed in &news.changed {
            let room = &mut replica.rooms[changed.room];
            if changed.version.number > room.version.number {
                room.put_changed(changed, now);
                room.purse.is_due = true;
            }
        }
        let silence = std::mem::replace(&mut replica.heard_at, now.mono);
        let is_deaf = now.mono.since(silence) > DEAF_MAX;
        for (key, count) in &news.recalled {
            let known = replica.recalled.entry(key.clone()).or_default();
            if *count > *known {
                *known = *count;
                replica.rooms[room_of(&key.workspace)].ledger.recalled(key, *count, now);
            }
        }
        self.take_handoffs(at, &news.handed_over);
        for place in self.rooms_of(at).filter(|_| is_deaf) {
            let open = self.room(place).ledger.reservations();
            let mut open: Vec<_> = open.map(|(id, _)| id).collect();
            open.sort_unstable();
            if !open.is_empty() {
                let query = Query::Settled(workspace(place.room), open);
                self.call(at, query, Purpose::GiveUp(place.room));
            }
        }
    }

    pub(crate) fn news_query(&self, at: usize) -> Query {
        let replica = &self.replicas[at];
        let known = replica.rooms.iter().map(|room| room.version.clone()).collect();
        Query::News(replica.holders.clone(), known)
    }

    /// A budget was changed by way of this replica.
    pub(crate) fn put_here(&mut self, at: usize) {
        let now = self.clocks(at);
        let rooms = &mut self.replicas[at].rooms;
        let known: Vec<_> = rooms.iter().map(|room| room.version.clone()).collect();
        for changed in self.store.changed_since(&known) {
            let room = &mut rooms[changed.room];
            room.put_changed(&changed, now);
            room.purse.is_due = true;
        }
    }

    fn tick(&mut self, at: usize) {
        self.later(at, tick(), Inbox::Tick);
        let now = self.clocks(at);
        if !self.replicas[at].has_ledger() {
            return;
        }
        let last = std::mem::replace(&mut self.replicas[at].tended_at, now);
        for place in self.rooms_of(at) {
            if has_jumped(last, now) {
                self.room_mut(place).ledger.lapse_leases();
            }
            // In a fleet the store is asked first. What was settled in time is forgotten all the same.
            if self.plan.is_alone || self.room(place).ledger.overdue(now).next().is_none() {
                self.end_overdue(place, now);
            }
            self.room_mut(place).ledger.tend_leases(now);
            self.keep_credits(place);
        }
        let replica = &mut self.replicas[at];
        if replica.journal.as_ref().is_some_and(|journal| journal.len() > JOURNAL_MAX) {
            replica.rewrite_journal(now);
        } else {
            replica.write_journal();
        }
    }

    fn end_overdue(&mut self, place: Place, now: Now) {
        let ended = self.room_mut(place).ledger.end_overdue(now);
        if !ended.is_empty() {
            self.book_what_timed_out(place, &ended);
        }
    }

    fn book_what_timed_out(&mut self, place: Place, ended: &[ReservationId]) {
        let is_new = |entry: &&Settlement| {
            entry
                .reservation
                .is_some_and(|id| ended.contains(&id) && id.timeout_settlement() == entry.id)
        };
        let entries: Vec<_> = self.room(place).ledger.unsent().filter(is_new).cloned().collect();
        for entry in entries {
            self.trace.mark(self.now, "timeout", place.at, || format!("{:?}", entry.id));
            self.truth.booked(self.replicas[place.at].holder, &entry);
        }
    }
}

/// How often leases are tended, as in the engine.
pub(crate) fn tick() -> u64 {
    u64::try_from(ledger::TICK.as_nanos()).expect("a short time")
}
