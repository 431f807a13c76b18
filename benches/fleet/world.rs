//! Replicas, their store and their clients, as a queue of events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bursar::domain::budget::{Budget, Limits, WhenUnavailable};
use bursar::domain::decision::Decision;
use bursar::domain::estimate::Estimate;
use bursar::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use bursar::domain::ledger::escrow::{self, Account, AccountKey, Grant, Lease};
use bursar::domain::ledger::{
    Actual, Ledger, OnTimeout, Outgoing, Sharing, Terms, Verdict, WaiterId,
};
use bursar::domain::money::{Amounts, NanoUsd, Tokens, Units};
use bursar::domain::period::{Period, Schedule, WeekStart, Zone};
use bursar::domain::settlement::Certainty;
use bursar::domain::subject::{Scope, ScopeKind, Subject, Target};
use bursar::domain::time::{Mono, Now, Wall};

use crate::random::Random;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// From a replica to the store, and back.
const ONE_WAY: u64 = MS * 3 / 2;
/// From the store to all replicas.
const WORD: u64 = 2 * MS;
const TICK: u64 = 250 * MS;
/// For how long a lease is lent, at the least.
const TTL: Duration = Duration::from_secs(10);
const PATIENCE: u64 = 50 * MS;
/// Nothing is admitted any more when so many requests in a row were refused.
const EXHAUSTED: u32 = 4_000;

/// What is simulated.
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    pub(crate) limit: i64,
    /// Requests per second over all replicas.
    pub(crate) rate: u64,
    /// Mean of what a request sets aside.
    pub(crate) estimate: i64,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    /// Refused, though what was idle somewhere would have paid for it.
    pub(crate) falsely: u64,
    /// What was spent or set aside when that first happened.
    pub(crate) first_false: Option<i64>,
    /// The most that was idle when it happened.
    pub(crate) idle_most: i64,
    /// Requests that waited for the store.
    pub(crate) waited: u64,
    pub(crate) waited_to_99: u64,
    /// Transactions of the store.
    pub(crate) operations: u64,
    pub(crate) operations_to_99: u64,
    pub(crate) admitted_to_99: u64,
    /// Up to the last request that was admitted.
    pub(crate) operations_to_last: u64,
    pub(crate) refused_to_last: u64,
    pub(crate) spent: i64,
}

enum Event {
    Ask,
    Finish(usize, ReservationId, i64),
    /// A batch reaches the store.
    Store(usize, Outgoing),
    Answer(usize, Vec<Grant>),
    Tick(usize),
    Recalled(usize, u32),
    RecallOver(usize),
    PatienceOver(usize, WaiterId),
}

struct Replica {
    ledger: Ledger,
    asking: HashMap<WaiterId, (ReservationId, i64)>,
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    at: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Event>,
    last: u64,
    replicas: Vec<Replica>,
    account: Account,
    leases: HashMap<(HolderId, u32), Option<Lease>>,
    key: Option<AccountKey>,
    subject: Arc<Subject>,
    /// Settled, and set aside.
    spent: i64,
    held: i64,
    refused_in_a_row: u32,
    made: u128,
    outcome: Outcome,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let plan = Plan { ..*plan };
        let mut world = Self {
            random: Random::new(plan.seed),
            at: 0,
            events: BinaryHeap::new(),
            due: BTreeMap::new(),
            last: 0,
            replicas: Vec::new(),
            account: Account::default(),
            leases: HashMap::new(),
            key: None,
            subject: Arc::new(Subject::of_workspace(workspace())),
            spent: 0,
            held: 0,
            refused_in_a_row: 0,
            made: 0,
            outcome: Outcome::default(),
            plan,
        };
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout: OnTimeout::Charge,
            lease_ttl: TTL,
            sharing: Sharing::Fleet,
        };
        for number in 0..world.plan.replicas {
            let holder = HolderId(u128::try_from(number).unwrap() + 1);
            let mut ledger = Ledger::new(workspace(), holder, terms);
            ledger.put_budget(budget(world.plan.limit), world.now());
            world.replicas.push(Replica { ledger, asking: HashMap::new() });
            let first = world.random.between(0, TICK);
            world.after(first, Event::Tick(number));
        }
        world.after(0, Event::Ask);
        world
    }

    /// Runs until the budget is spent and everything under way has ended.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, number))) = self.events.pop() {
            self.at = at;
            let event = self.due.remove(&number).unwrap();
            self.happen(event);
            let is_over = self.refused_in_a_row >= EXHAUSTED && self.held == 0;
            if is_over {
                break;
            }
        }
        self.outcome.spent = self.spent;
        self.outcome
    }

    fn after(&mut self, wait: u64, event: Event) {
        self.last += 1;
        self.events.push(Reverse((self.at + wait, self.last)));
        self.due.insert(self.last, event);
    }

    fn now(&self) -> Now {
        let ms = i64::try_from(self.at / MS).unwrap();
        Now {
            wall: Wall::from_ms(1_795_341_600_000 + ms),
            mono: Mono::from_ns(1_000 * SECOND + self.at),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask => self.ask(),
            Event::Finish(at, reservation, cost) => self.finish(at, reservation, cost),
            Event::Store(at, batch) => self.store(at, &batch),
            Event::Answer(at, grants) => self.answer(at, &grants),
            Event::Tick(at) => {
                let now = self.now();
                self.replicas[at].ledger.tend_leases(now);
                self.after(TICK, Event::Tick(at));
                self.send(at);
            }
            Event::Recalled(at, recalls) => {
                let now = self.now();
                if let Some(key) = &self.key {
                    self.replicas[at].ledger.recalled(key, recalls, now);
                }
                self.send(at);
            }
            Event::RecallOver(at) => {
                let now = self.now();
                self.replicas[at].ledger.tend_recalls(now);
                self.send(at);
            }
            Event::PatienceOver(at, waiter) => {
                let now = self.now();
                if let Some(decision) = self.replicas[at].ledger.give_up(waiter, now) {
                    let asked = self.replicas[at].asking.remove(&waiter).unwrap();
                    self.decided(at, asked, &decision);
                }
                self.send(at);
            }
        }
    }

    /// A request somewhere: two in five at a tenth of the replicas, the others anywhere.
    fn ask(&mut self) {
        let mean = SECOND / self.plan.rate;
        let wait = self.random.between(0, 2 * mean);
        self.after(wait, Event::Ask);
        let replicas = u64::try_from(self.plan.replicas).unwrap();
        let busy = self.random.between(0, 5) < 2;
        let among = if busy { replicas.div_ceil(10) } else { replicas };
        let at = usize::try_from(self.random.between(0, among)).unwrap();
        let mean = u64::try_from(self.plan.estimate).unwrap();
        let estimate = i64::try_from(self.random.between(mean / 2, mean * 3 / 2)).unwrap();
        self.made += 1;
        let holder = HolderId(u128::try_from(at).unwrap() + 1);
        let id = ReservationId { holder, nonce: self.made };
        let amounts = Amounts { cost: NanoUsd::new(estimate), tokens: Tokens::new(0) };
        let (subject, now) = (Arc::clone(&self.subject), self.now());
        let replica = &mut self.replicas[at];
        match replica.ledger.reserve(subject, Estimate::of(amounts), id, now) {
            Verdict::Decided(decision) => self.decided(at, (id, estimate), &decision),
            Verdict::Starved(waiter) => {
                self.outcome.waited += 1;
                replica.asking.insert(waiter, (id, estimate));
                self.after(PATIENCE, Event::PatienceOver(at, waiter));
            }
        }
        self.send(at);
    }

    fn decided(&mut self, at: usize, asked: (ReservationId, i64), decision: &Decision) {
        let (id, estimate) = asked;
        match decision {
            Decision::Allow(_) => {
                self.refused_in_a_row = 0;
                self.outcome.admitted += 1;
                self.outcome.operations_to_last = self.outcome.operations;
                self.outcome.refused_to_last = self.outcome.refused;
                self.held += estimate;
                let cost = i64::try_from(self.random.between(1, u64::try_from(estimate).unwrap()))
                    .unwrap();
                let takes = self.random.between(SECOND / 2, 4 * SECOND);
                self.after(takes, Event::Finish(at, id, cost));
                if self.spent + self.held <= self.plan.limit / 100 * 99 {
                    self.outcome.admitted_to_99 = self.outcome.admitted;
                    self.outcome.operations_to_99 = self.outcome.operations;
                    self.outcome.waited_to_99 = self.outcome.waited;
                }
            }
            Decision::Deny(_) | Decision::Undecided { .. } => {
                self.refused_in_a_row += 1;
                self.outcome.refused += 1;
                let used = self.spent + self.held;
                if self.plan.limit - used >= estimate {
                    self.outcome.falsely += 1;
                    self.outcome.first_false.get_or_insert(used);
                    self.outcome.idle_most = self.outcome.idle_most.max(self.plan.limit - used);
                }
            }
        }
    }

    fn finish(&mut self, at: usize, reservation: ReservationId, cost: i64) {
        let actual = Actual {
            settlement: Id::parse(&reservation.to_string()).unwrap(),
            certainty: Certainty::Exact,
            amounts: Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(0) },
            usage: None,
            model: None,
            rates: None,
        };
        let now = self.now();
        let ledger = &mut self.replicas[at].ledger;
        let estimate = ledger.reservation(reservation).unwrap().estimate.cost.get();
        ledger.settle(reservation, actual, now).unwrap();
        self.held -= estimate;
        self.spent += cost;
        self.send(at);
    }

    fn send(&mut self, at: usize) {
        let now = self.now();
        let ledger = &mut self.replicas[at].ledger;
        if !ledger.has_batch() {
            return;
        }
        let batch = ledger.next_batch(now);
        self.deliver(at);
        if let Some(batch) = batch {
            self.after(ONE_WAY, Event::Store(at, batch));
        }
    }

    fn store(&mut self, at: usize, batch: &Outgoing) {
        self.outcome.operations += 1;
        let (now, limit) = (self.now(), Units::new(self.plan.limit));
        let recalls = self.account.recalls;
        let mut grants = Vec::new();
        for exchange in &batch.exchanges {
            self.key.get_or_insert_with(|| exchange.account.clone());
            let lease = self.leases.entry((exchange.holder, exchange.epoch)).or_default();
            let grant = escrow::exchange(&mut self.account, lease, exchange, limit, TTL, now.wall);
            grants.push(grant.unwrap());
        }
        if self.account.recalls != recalls {
            let recalls = self.account.recalls;
            for other in (0..self.replicas.len()).filter(|other| *other != at) {
                self.after(WORD, Event::Recalled(other, recalls));
            }
        }
        self.after(ONE_WAY, Event::Answer(at, grants));
    }

    fn answer(&mut self, at: usize, grants: &[Grant]) {
        let now = self.now();
        self.replicas[at].ledger.apply(grants, now);
        if let Some(until) = self.replicas[at].ledger.next_recall() {
            let wait = until.since(now.mono).as_nanos();
            self.after(u64::try_from(wait).unwrap(), Event::RecallOver(at));
        }
        self.deliver(at);
        self.send(at);
    }

    fn deliver(&mut self, at: usize) {
        for (waiter, decision) in self.replicas[at].ledger.take_decided() {
            if let Some(asked) = self.replicas[at].asking.remove(&waiter) {
                self.decided(at, asked, &decision);
            }
        }
    }
}

fn workspace() -> Id {
    Id::parse("acme").unwrap()
}

fn budget(limit: i64) -> Budget {
    let schedule =
        Schedule { period: Period::OneTime, zone: Zone::utc(), week_start: WeekStart::Monday };
    Budget {
        workspace: workspace(),
        id: BudgetId(1),
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Workspace, target: Target::One(workspace()) },
        limits: Limits {
            cost: Some(NanoUsd::new(limit)),
            schedule: Some(schedule),
            ..Limits::default()
        },
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: Wall::from_ms(0),
        updated_at: Wall::from_ms(0),
    }
}
