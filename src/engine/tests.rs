//! The engine over a store in memory, on a clock that stands still unless it is moved.

mod budgets;
mod credits;
mod decisions;
mod faults;
mod flood;
mod metered;
mod reports;
mod restart;
mod unsteady;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;

use self::unsteady::Unsteady;
use super::clock::ManualClock;
use super::*;
use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::decision::{Admission, RefusalCode};
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, ReservationId};
use crate::domain::ledger::escrow::{Account, AccountKey};
use crate::domain::ledger::{OnTimeout, Sharing};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::pricing::{Entries, Entry, ModelPrice, Rate};
use crate::domain::settlement::Certainty;
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::usage::Usage;
use crate::store::memory::MemoryStore;

/// How long leases last.
const TTL: Duration = Duration::from_secs(10);
/// After this time an open reservation is ended.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Longer than any test: whoever waits this long waits for something that never comes.
const FOREVER: Duration = Duration::from_secs(60);
/// Long enough to be polled once.
const SHORT: Duration = Duration::from_millis(1);
/// Some instant in November 2026.
const NOON: Wall = Wall::from_ms(1_794_000_000_000);
const WORKSPACE: &str = "ws";

/// An engine, and what it stands on.
struct Bench {
    engine: Engine,
    store: Arc<Unsteady>,
    clock: Arc<ManualClock>,
    settings: Settings,
    _directory: TempDir,
}

impl Bench {
    /// An engine with these budgets, over an empty store.
    async fn with(budgets: impl IntoIterator<Item = Budget>) -> Self {
        Self::started(Arc::new(Unsteady::over(MemoryStore::new(TTL))), OnTimeout::Charge, budgets)
            .await
    }

    async fn started(
        store: Arc<Unsteady>,
        on_timeout: OnTimeout,
        budgets: impl IntoIterator<Item = Budget>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(Some(directory.path().join("bursar.journal")), on_timeout);
        let clock = Arc::new(ManualClock::at(NOON));
        let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
        for budget in budgets {
            engine.create_budget(budget).await.unwrap();
        }
        Self { engine, store, clock, settings, _directory: directory }
    }

    /// A request of the workspace that may cost this many nano-dollars.
    async fn ask(&self, cost: i64) -> Held {
        self.engine.reserve(request(cost), FOREVER).await
    }

    /// The same, admitted and handed over.
    async fn admitted(&self, cost: i64) -> ReservationId {
        admission(self.ask(cost).await.hand_over()).reservation.unwrap()
    }

    /// The same, refused.
    async fn refused(&self, cost: i64) -> RefusalCode {
        match self.ask(cost).await.hand_over() {
            Decision::Deny(refusal) => refusal.code,
            other => panic!("{other:?} is no refusal"),
        }
    }

    /// The account of the one budget's dimension at the store, with all that this replica has to tell.
    async fn account(&self, dimension: Dimension) -> Account {
        self.engine.flush(&id(WORKSPACE)).await.unwrap();
        self.stored(dimension).await
    }

    /// The same as it stands.
    async fn stored(&self, dimension: Dimension) -> Account {
        let accounts = self.accounts().await;
        accounts
            .into_iter()
            .find(|(key, _)| key.dimension == dimension)
            .map(|(_, account)| account)
            .unwrap_or_default()
    }

    async fn accounts(&self) -> Vec<(AccountKey, Account)> {
        let Some(budget) = self.store.inner.load_budgets().await.unwrap().pop() else {
            return Vec::new();
        };
        let label = budget.limits.schedule.as_ref().map(|s| s.window_at(self.engine.wall()).label);
        self.store.inner.accounts(&budget, &label.unwrap_or_default()).await.unwrap()
    }

    fn open(&self) -> usize {
        self.engine.shared.state().rooms.values().map(|room| room.ledger.open_reservations()).sum()
    }

    /// Ends the process without a word, and starts another on the same files.
    async fn killed_and_restarted(self) -> Self {
        let Self { engine, store, clock, settings, _directory } = self;
        kill(engine).await;
        let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
        Self { engine, store, clock, settings, _directory }
    }
}

fn settings(journal: Option<PathBuf>, on_timeout: OnTimeout) -> Settings {
    let terms =
        Terms { reservation_timeout: TIMEOUT, on_timeout, lease_ttl: TTL, sharing: Sharing::Alone };
    Settings { terms, journal, unpriced: Unpriced::Deny }
}

async fn start(settings: &Settings, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Engine {
    let started = try_start(settings, store, clock).await;
    started.unwrap()
}

async fn try_start(
    settings: &Settings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Engine> {
    Engine::start(settings.clone(), store, prices(), clock, Metrics::new()).await
}

/// As a kill does it: nothing is written, nothing is given back.
async fn kill(engine: Engine) {
    engine.stop_tasks().await;
    assert_eq!(Arc::strong_count(&engine.shared), 1, "somebody still holds the engine");
}

/// Waits, by other tasks' turns, until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000_000 {
        if is_so().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what} never came about");
}

/// One model, `m`, at one nano-dollar for a token.
fn prices() -> Prices {
    let price = ModelPrice::flat("m", Rate::per_million(1_000_000), Rate::per_million(1_000_000));
    let entries = Entries::from([("m".into(), Entry::Priced(Arc::new(price)))]);
    // The sender may go: what was sent last stays.
    watch::channel(Arc::new(PriceTable::new("t1", entries))).1
}

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn subject() -> Arc<Subject> {
    Arc::new(Subject { model: Some(id("m")), ..Subject::of_workspace(id(WORKSPACE)) })
}

fn request(cost: i64) -> Ask {
    let amounts = Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(cost) };
    Ask { subject: subject(), estimate: Estimate::of(amounts) }
}

fn admission(decision: Decision) -> Admission {
    match decision {
        Decision::Allow(admission) => admission,
        other => panic!("{other:?} is no admission"),
    }
}

fn units(amount: i64) -> Units {
    Units::new(amount)
}

/// A monthly budget of the workspace of this many nano-dollars.
fn dollars(limit: i64) -> Budget {
    let schedule =
        Schedule { period: Period::Monthly, zone: Zone::utc(), week_start: WeekStart::Monday };
    let limits =
        Limits { cost: Some(NanoUsd::new(limit)), schedule: Some(schedule), ..Limits::default() };
    Budget {
        workspace: id(WORKSPACE),
        id: BudgetId(1),
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Workspace, target: Target::One(id(WORKSPACE)) },
        limits,
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: NOON,
        updated_at: NOON,
    }
}

/// A budget of the workspace of this many requests per minute.
fn per_minute(limit: u32) -> Budget {
    let limits = Limits { requests_per_minute: Some(limit), ..Limits::default() };
    Budget { limits, ..dollars(0) }
}

/// A report of what a reservation cost.
fn cost_of(reservation: ReservationId, settlement: &str, cost: i64) -> Report {
    Report { against: Against::Reservation(reservation), ..cost_of_subject(settlement, cost) }
}

/// A report of cost that was not asked about before.
fn cost_of_subject(settlement: &str, cost: i64) -> Report {
    Report {
        settlement: id(settlement),
        workspace: id(WORKSPACE),
        against: Against::Subject(subject()),
        used: Used::Cost { cost: NanoUsd::new(cost), model: None, usage: None },
        certainty: Certainty::Exact,
        correction: Correction::No,
        at: None,
    }
}

/// The same as token counts of a model that costs a nano-dollar a token.
fn tokens_of(reservation: ReservationId, settlement: &str, output: u64) -> Report {
    let usage = Usage { output, ..Usage::default() };
    Report { used: Used::Usage { model: None, usage }, ..cost_of(reservation, settlement, 0) }
}
