//! Decisions of a whole engine, journal and all, side by side on both stores.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar::domain::budget::Budget;
use bursar::domain::decision::Decision;
use bursar::domain::estimate::{Estimate, Unpriced};
use bursar::domain::ids::{BudgetId, Id, ReservationId};
use bursar::domain::ledger::{OnTimeout, Sharing, Terms};
use bursar::domain::money::{Amounts, NanoUsd, Tokens};
use bursar::domain::period::{Period, Schedule, WeekStart, Zone};
use bursar::domain::pricing::PriceTable;
use bursar::domain::settlement::Certainty;
use bursar::domain::subject::{Scope, ScopeKind, Subject, Target};
use bursar::engine::clock::SystemClock;
use bursar::engine::{self, Against, Ask, Correction, Engine, Report, Used};
use bursar::store::Store;
use bursar::store::postgres::PostgresStore;
use bursar::store::sqlite::SqliteStore;
use bursar::telemetry::Metrics;
use tokio::sync::watch;

use crate::exchanges::{budget, id};
use crate::{TTL, median};

/// Decisions between two looks at the clock, and pairs of such blocks.
const BLOCK: u32 = 100;
const ROUNDS: usize = 300;
/// Targets that nobody has asked for before.
const NEW: usize = 300;
/// What a request sets aside, and one for which no first grant is enough.
const REQUEST: NanoUsd = NanoUsd::new(1_000);
const LARGE_REQUEST: NanoUsd = NanoUsd::new(100_000);
/// The background has this long to report what a block settled, as it would between requests.
const BREATH: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(5);
/// Budgets of the same workspace that do not apply.
const OTHERS: u128 = 10_000;

pub(crate) async fn run(postgres: &PostgresStore) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("bursar.db").display());
    let sqlite = SqliteStore::open(&url, TTL).await.unwrap();
    let journal = |name| directory.path().join(name);
    let alone = Asker::new(Arc::new(sqlite), Sharing::Alone, &journal("alone")).await;
    let fleet = Asker::new(Arc::new(postgres.clone()), Sharing::Fleet, &journal("fleet")).await;
    println!("reserve + settle, p50 µs                       SQLite  PostgreSQL   ratio");
    for asker in [&alone, &fleet] {
        asker.warm().await;
    }
    let (mut on_sqlite, mut on_postgres) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = u32::try_from(round).unwrap() * BLOCK;
        on_sqlite.push(alone.block(first).await);
        on_postgres.push(fleet.block(first).await);
    }
    show("a lease in hand", median(on_sqlite), median(on_postgres));
    let (mut on_sqlite, mut on_postgres) = (Vec::new(), Vec::new());
    for number in 0..NEW {
        on_sqlite.push(alone.first(number).await);
        on_postgres.push(fleet.first(number).await);
    }
    show("no lease: the first request of a target", median(on_sqlite), median(on_postgres));
    let (mut on_sqlite, mut on_postgres) = (Vec::new(), Vec::new());
    for number in 0..NEW {
        on_sqlite.push(alone.starved(number).await);
        on_postgres.push(fleet.starved(number).await);
    }
    show("a starved lease: it has less than is asked", median(on_sqlite), median(on_postgres));
    println!();
    among_others(&fleet).await;
    alone.engine.shutdown().await;
    fleet.engine.shutdown().await;
}

/// The same decisions in a workspace without other budgets and in one with many, on PostgreSQL.
async fn among_others(fleet: &Asker) {
    let crowded = Asker::of(fleet.engine.clone(), "crowded").await;
    let others =
        || (1..=OTHERS).map(|number| Budget { workspace: id("crowded"), ..budget(number) });
    for other in others() {
        crowded.engine.create_budget(other).await.unwrap();
    }
    crowded.warm().await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for first in (0..).step_by(BLOCK as usize).take(ROUNDS) {
        without.push(fleet.block(first).await);
        with.push(crowded.block(first).await);
    }
    let (without, with) = (median(without), median(with));
    println!("a lease in hand, p50 µs on PostgreSQL         alone      others   ratio");
    println!(
        "{OTHERS:>6} other budgets in force {without:>22.2} {with:>11.2} {:>7.2}",
        with / without
    );
    println!();
    for other in others() {
        crowded.engine.delete_budget(&other.workspace, other.id).await.unwrap();
    }
}

fn show(name: &str, sqlite: f64, postgres: f64) {
    println!("{name:<43} {sqlite:>9.2} {postgres:>11.2} {:>7.2}", postgres / sqlite);
}

/// An engine and who asks it.
struct Asker {
    engine: Engine,
    workspace: Id,
}

impl Asker {
    async fn new(store: Arc<dyn Store>, sharing: Sharing, journal: &Path) -> Self {
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout: OnTimeout::Charge,
            lease_ttl: TTL,
            sharing,
        };
        let settings =
            engine::Settings { terms, journal: Some(journal.into()), unpriced: Unpriced::Deny };
        let (_, prices) = watch::channel(Arc::new(PriceTable::new("none", HashMap::default())));
        let clock = Arc::new(SystemClock);
        let engine = Engine::start(settings, store, prices, clock, Metrics::new()).await.unwrap();
        Self::of(engine, "bench").await
    }

    /// Makes the budget that applies.
    async fn of(engine: Engine, workspace: &str) -> Self {
        let workspace = id(workspace);
        let mut each = budget(1);
        each.workspace = workspace.clone();
        each.id = BudgetId(u128::MAX / 3);
        each.scope = Scope { kind: ScopeKind::Identity, target: Target::Each };
        let (period, zone, week_start) = (Period::OneTime, Zone::utc(), WeekStart::Monday);
        each.limits.schedule = Some(Schedule { period, zone, week_start });
        engine.create_budget(each).await.unwrap();
        Self { engine, workspace }
    }

    /// The target has a lease that covers what is to come.
    async fn warm(&self) {
        for number in 0..3 {
            self.decide_and_settle(number).await;
            tokio::time::sleep(BREATH).await;
        }
    }

    /// Microseconds per decision and settlement.
    async fn block(&self, first: u32) -> f64 {
        let begun = Instant::now();
        for number in first..first + BLOCK {
            self.decide_and_settle(number).await;
        }
        let took = begun.elapsed();
        tokio::time::sleep(BREATH).await;
        took.as_secs_f64() * 1e6 / f64::from(BLOCK)
    }

    /// Microseconds until a target that nobody knew is admitted.
    async fn first(&self, number: usize) -> f64 {
        self.asked(number, REQUEST).await
    }

    /// Microseconds until a target is admitted whose lease has too little in hand.
    async fn starved(&self, number: usize) -> f64 {
        self.asked(number, LARGE_REQUEST).await
    }

    async fn asked(&self, number: usize, amount: NanoUsd) -> f64 {
        let begun = Instant::now();
        self.decide(&format!("new-{number}"), amount).await;
        let took = begun.elapsed();
        tokio::time::sleep(BREATH).await;
        took.as_secs_f64() * 1e6
    }

    async fn decide_and_settle(&self, number: u32) {
        let reservation = self.decide("target", REQUEST).await;
        let report = Report {
            settlement: id(&format!("s-{reservation}-{number}")),
            workspace: self.workspace.clone(),
            against: Against::Reservation(reservation),
            used: Used::Cost { cost: NanoUsd::new(500), model: None, usage: None },
            certainty: Certainty::Exact,
            correction: Correction::No,
            at: None,
            origin: None,
        };
        self.engine.settle(&report).await.unwrap();
    }

    async fn decide(&self, identity: &str, cost: NanoUsd) -> ReservationId {
        let identity = Some(Id::parse(identity).unwrap());
        let subject =
            Arc::new(Subject { identity, ..Subject::of_workspace(self.workspace.clone()) });
        let amounts = Amounts { cost, tokens: Tokens::new(0) };
        let ask = Ask { subject, estimate: Estimate::of(amounts) };
        match self.engine.reserve(ask, PATIENCE).await.hand_over() {
            Decision::Allow(admission) => admission.reservation.unwrap(),
            other @ (Decision::Deny(_) | Decision::Undecided { .. }) => panic!("{other:?}"),
        }
    }
}
