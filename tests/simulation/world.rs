//! The world: a queue of events, a clock that jumps from one to the next, and everything that they happen to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bursar::domain::budget::Budget;
use bursar::domain::credits::{Added, CreditGrant, InForce};
use bursar::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use bursar::domain::ledger::WaiterId;
use bursar::domain::ledger::escrow::{AccountKey, Grant};
use bursar::domain::money::Units;
use bursar::domain::settlement::Settlement;
use bursar::domain::time::Wall;
use bursar::store::{AdoptedLease, Batch, Change, Handoff};

use super::clients::Request;
use super::plan::{MS, Plan, SECOND};
use super::random::Random;
use super::replica::Replica;
use super::room::Room;
use super::store::{Fault, Store};
use super::trace::Trace;
use super::truth::Truth;

/// Many times what any world has seen happen.
const EVENTS_MAX: u64 = 2_000_000;

/// What happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client makes a request.
    Arrive,
    /// A client tries to report what its request used.
    Report(usize),
    /// Something reaches a replica. It is lost when that life of the replica is over, and waits while it is stopped.
    At(usize, u32, Inbox),
    /// A message reaches the store.
    AtStore(Call),
    /// A replica starts.
    Start(usize),
    /// Something breaks.
    Break,
    /// A one-way partition ends.
    Mend(usize),
    /// Somebody changes a budget.
    Administer,
    /// Somebody pays for credits.
    Pay,
    /// And says so to a replica, until one has confirmed it.
    Grant(usize),
}

/// What reaches a replica.
#[derive(Debug)]
pub(crate) enum Inbox {
    Ask(usize),
    /// Somebody has waited long enough in this workspace.
    GiveUp(usize, WaiterId),
    Finished(usize),
    Tell(usize),
    /// What a request used, told in the name of another workspace.
    TellAstray(usize, usize),
    /// Looks once more for the entry of a task.
    Look(u64),
    Untaken,
    /// The next of what nobody took.
    NextUntaken,
    Overdue,
    /// A task of reporting has taken too long.
    TellOver(u64),
    /// A grant of credits.
    Grant(usize),
    Tick,
    Sweep,
    Poll,
    /// Word that there is something new.
    Hint,
    /// Word that an account was recalled.
    Recalled(AccountKey, u32),
    /// Others have had time to heed a recall in this workspace.
    RecallOver(usize),
    /// A batch of this workspace that was not answered is sent again.
    Retry(usize, u64),
    Answer(u64, Answer),
    /// A call has taken too long.
    CallOver(u64),
    /// The end of a shutdown's patience.
    Closed,
}

/// A message to the store.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) from: usize,
    pub(crate) life: u32,
    pub(crate) holder: HolderId,
    pub(crate) token: u64,
    pub(crate) query: Query,
}

/// What a replica asks of the store.
#[derive(Debug, Clone)]
pub(crate) enum Query {
    Commit(u64, Arc<Batch>),
    Sweep,
    /// For these holders, and what was changed of each workspace after the change that is known.
    News(Vec<HolderId>, Vec<Change>),
    HandOver(Handoff),
    HandoffSettled(Handoff, Vec<(AccountKey, Units)>),
    Untaken,
    /// In this workspace, as all that follow.
    Settled(Id, Vec<ReservationId>),
    Adopt(Vec<HolderId>),
    Entry(Id, Id),
    Entries(Id, Id, ReservationId),
    Grant(Id, CreditGrant, Wall),
    ExpireCredits(Id, Wall),
}

/// What the store says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Grants(Vec<Grant>),
    Lost(AccountKey),
    Failed,
    Done,
    Untaken(Vec<Handoff>),
    News(News),
    Settled(Vec<ReservationId>),
    Adopted(Vec<AdoptedLease>),
    Entry(Option<Settlement>),
    Entries(Option<Settlement>, Vec<Settlement>),
    Granted(Added),
    Credits(Option<InForce>),
}

/// What was changed, and what of the asking holder was recalled.
#[derive(Debug, Clone)]
pub(crate) struct News {
    pub(crate) changed: Vec<Changed>,
    pub(crate) recalled: Vec<(AccountKey, u32)>,
    pub(crate) handed_over: Vec<Handoff>,
}

/// What was changed of a workspace, up to the change of this number.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) room: usize,
    pub(crate) version: Change,
    /// `None` for those that were deleted.
    pub(crate) budgets: Vec<(BudgetId, Option<Budget>)>,
    pub(crate) credits: Option<InForce>,
}

/// A workspace at a replica, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) room: usize,
}

/// A budget of a workspace: another may have one with the same id.
pub(crate) type BudgetName = (Id, BudgetId);

/// Whose account it is.
pub(crate) fn budget_of(key: &AccountKey) -> BudgetName {
    (key.workspace.clone(), key.budget)
}

/// A grant of credits.
#[derive(Debug, Clone)]
pub(crate) struct Payment {
    pub(crate) room: usize,
    pub(crate) grant: CreditGrant,
    /// A replica has confirmed it.
    pub(crate) is_confirmed: bool,
}

/// What was done, in numbers.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) undecided: u64,
    pub(crate) blind: u64,
    pub(crate) lost_leases: u64,
    pub(crate) restarts: u64,
}

/// Whether things still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Stormy,
    Healed,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    tie: u64,
    pub(crate) store: Store,
    /// Until when the store answers nobody.
    pub(crate) store_away_until: u64,
    pub(crate) truth: Truth,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) requests: Vec<Request>,
    /// How many requests were made in each workspace.
    pub(crate) asked: Vec<usize>,
    pub(crate) phase: Phase,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) last_token: u64,
    /// The last budget that was made, of each workspace.
    pub(crate) last_budget: Vec<u128>,
    /// Holders that nobody will ever take over from.
    pub(crate) gone: BTreeSet<HolderId>,
    /// Limits of requests that were in force, and since when.
    pub(crate) rates: BTreeMap<BudgetName, Vec<(u64, u32)>>,
    pub(crate) resets: BTreeMap<BudgetName, Vec<u64>>,
    /// Budgets of which it was changed what they let pass without the store.
    pub(crate) relaxed: BTreeSet<BudgetName>,
    /// Recalls that replicas were told of.
    pub(crate) recalls: BTreeMap<AccountKey, u32>,
    /// Accounts of which others took something back that a replica forfeited, under whatever name.
    pub(crate) taken_back: BTreeSet<(AccountKey, u128)>,
    /// Requests that were charged for a holder that was gone, and may come back.
    pub(crate) contested: BTreeSet<usize>,
    /// Reports that were acknowledged.
    pub(crate) acknowledged: Vec<(Id, usize)>,
    pub(crate) grants: Vec<Payment>,
}

impl World {
    pub(crate) fn new(plan: Plan, random: Random, in_words: bool) -> Self {
        let store = Store::new(plan.ttl);
        let last_budget = vec![100; plan.workspaces];
        let replicas = Vec::new();
        let mut world = Self {
            random,
            now: 0,
            queue: BTreeMap::new(),
            tie: 0,
            store,
            store_away_until: 0,
            truth: Truth::default(),
            replicas,
            requests: Vec::new(),
            asked: vec![0; plan.workspaces],
            phase: Phase::Stormy,
            trace: Trace::new(in_words),
            tally: Tally::default(),
            last_token: 0,
            last_budget,
            gone: BTreeSet::new(),
            rates: BTreeMap::new(),
            resets: BTreeMap::new(),
            relaxed: BTreeSet::new(),
            recalls: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            contested: BTreeSet::new(),
            acknowledged: Vec::new(),
            grants: Vec::new(),
            plan,
        };
        world.store.tell_time(world.store_wall()).expect("nothing is there yet");
        for budget in world.plan.budgets.clone() {
            world.note_rate(&budget);
            world.store.create(budget);
        }
        for at in 0..world.plan.replicas {
            let replica = Replica::new(&world.plan, at, &mut world.random);
            world.replicas.push(replica);
            world.after(MS, Event::Start(at));
        }
        world.after(50 * MS, Event::Arrive);
        world.plan_fault();
        world.plan_change();
        world.plan_grant();
        world
    }

    pub(crate) fn room(&self, place: Place) -> &Room {
        &self.replicas[place.at].rooms[place.room]
    }

    pub(crate) fn room_mut(&mut self, place: Place) -> &mut Room {
        &mut self.replicas[place.at].rooms[place.room]
    }

    /// All workspaces at a replica.
    pub(crate) fn rooms_of(&self, at: usize) -> impl Iterator<Item = Place> + use<> {
        (0..self.plan.workspaces).map(move |room| Place { at, room })
    }

    /// Lets an event happen after a while.
    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.tie += 1;
        self.queue.insert((self.now + delay, self.tie), event);
    }

    /// Lets things happen until an instant.
    pub(crate) fn run_until(&mut self, end: u64) -> Result<(), Fault> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.tally.events += 1;
            if self.tally.events > EVENTS_MAX {
                return Err(format!("it does not come to rest: {event:?}"));
            }
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Arrive => self.arrive(),
            Event::Report(request) => self.send_report(request),
            Event::At(at, life, what) => return self.deliver(at, life, what),
            Event::AtStore(call) => return self.at_store(call),
            Event::Start(at) => self.start(at),
            Event::Break => self.break_something(),
            Event::Mend(at) => self.mend_in_time(at),
            Event::Administer => return self.administer(),
            Event::Pay => self.pay(),
            Event::Grant(number) => self.send_grant(number),
        }
        Ok(())
    }

    /// The store's clock.
    pub(crate) fn store_wall(&self) -> Wall {
        self.plan.begins_at.plus(Duration::from_nanos(self.now)).plus(self.store.ahead)
    }

    pub(crate) fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Remembers the limit of requests that a budget has from now on.
    pub(crate) fn note_rate(&mut self, budget: &Budget) {
        let limit = budget.limits.requests_per_minute.unwrap_or(0);
        self.rates
            .entry((budget.workspace.clone(), budget.id))
            .or_default()
            .push((self.now, limit));
    }

    /// The most requests that a budget may have admitted in the minute that ends now. A limit that was lowered is not known
    /// everywhere before leases have run out. A reset forgets a minute of a lone replica; in a fleet minutes pass by themselves.
    pub(crate) fn rate_allowed(&self, id: &BudgetName) -> u64 {
        let ttl = u64::try_from(self.plan.ttl.as_nanos()).expect("a short time");
        let since = self.now.saturating_sub(63 * SECOND + ttl);
        let rates = self.rates.get(id).map_or(&[][..], Vec::as_slice);
        let ends = rates.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
        let in_force = rates.iter().zip(ends).filter(|(_, end)| *end >= since);
        let most = in_force.map(|((_, limit), _)| u64::from(*limit)).max().unwrap_or(0);
        let is_late = |at: &&u64| self.plan.is_alone && **at >= since;
        let resets = self.resets.get(id).into_iter().flatten().filter(is_late).count();
        most * (1 + u64::try_from(resets).expect("a few"))
    }
}
