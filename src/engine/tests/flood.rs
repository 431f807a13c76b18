//! A flood on a real database: 1,000 requests, 200 at once, through six gates, with settlements that come late, twice or never,
//! and callers that leave. What the provider counted by itself is what the budgets are held against.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection, SqliteConnection};
use tokio::task::JoinSet;

use super::*;
use crate::engine::clock::SystemClock;
use crate::store::sqlite::SqliteStore;

const REQUESTS: u64 = 1000;
const AT_ONCE: usize = 200;
const SMALLEST: i64 = 50_000;
/// Each scope's budget: a tenth of what is asked for.
const LIMIT: i64 = 12_500_000;

/// What the provider knows: what it charged, and what requests that it works on may still cost.
#[derive(Default)]
struct Provider(Mutex<Count>);

#[derive(Default)]
struct Count {
    charged: i64,
    open: i64,
    settled: i64,
}

impl Provider {
    fn begin(&self, estimate: i64) {
        let mut count = self.0.lock().unwrap();
        count.open += estimate;
        let most = count.charged + count.open;
        assert!(most <= LIMIT, "{most} may be spent of {LIMIT}");
    }

    fn end(&self, estimate: i64, actual: i64) {
        let mut count = self.0.lock().unwrap();
        count.open -= estimate;
        count.charged += actual;
        count.settled += 1;
    }
}

/// A small generator of numbers that look random: a flood is the same each time, as far as the scheduler lets it be.
pub(super) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    }
}

fn six_gates() -> Vec<Budget> {
    let scopes = [
        (ScopeKind::Workspace, WORKSPACE),
        (ScopeKind::Project, "p"),
        (ScopeKind::Identity, "*"),
        (ScopeKind::ApiKey, "k"),
        (ScopeKind::Provider, "o"),
        (ScopeKind::Model, "m"),
    ];
    let budget = |(number, (kind, target))| Budget {
        id: BudgetId(number),
        scope: Scope { kind, target: Target::from_id(id(target)) },
        ..dollars(LIMIT)
    };
    (1..).zip(scopes).map(budget).collect()
}

fn asker() -> Arc<Subject> {
    Arc::new(Subject {
        workspace: id(WORKSPACE),
        project: Some(id("p")),
        identity: Some(id("i")),
        api_key: Some(id("k")),
        provider: Some(id("o")),
        model: Some(id("m")),
    })
}

/// One request from its question to its last report. Returns whether it was admitted.
async fn one(engine: Engine, provider: Arc<Provider>, number: u64) -> bool {
    let mut below = random(number + 1);
    let estimate = SMALLEST + i64::try_from(below(150_000)).unwrap();
    let cost = NanoUsd::new(estimate);
    let amounts = Amounts { cost, tokens: Tokens::new(1) };
    let ask = Ask { subject: asker(), estimate: Estimate::of(amounts) };
    let fate = below(10);
    if fate == 0 {
        // The client leaves while its request waits, or just after.
        let asked = engine.reserve(ask, FOREVER);
        let patience = Duration::from_micros(below(3000));
        drop(tokio::time::timeout(patience, asked).await);
        return false;
    }
    let held = engine.reserve(ask, FOREVER).await;
    if fate == 1 {
        return false;
    }
    let Decision::Allow(admission) = held.hand_over() else { return false };
    let reservation = admission.reservation.unwrap();
    provider.begin(estimate);
    for _ in 0..below(50) {
        tokio::task::yield_now().await;
    }
    let actual = estimate - i64::try_from(below(u64::try_from(estimate).unwrap())).unwrap();
    if fate == 2 {
        // It failed before it cost anything. The provider forgets it first, or another could take its place too early.
        provider.end(estimate, 0);
        engine.release(&id(WORKSPACE), reservation).await.unwrap();
        return true;
    }
    provider.end(estimate, actual);
    let report = Report {
        against: Against::Reservation(reservation),
        ..cost_of_subject(&format!("s{number}"), actual)
    };
    let twice = (fate == 3).then(|| {
        let (engine, report) = (engine.clone(), report.clone());
        tokio::spawn(async move { engine.report(report).await.unwrap() })
    });
    engine.report(report.clone()).await.unwrap();
    if let Some(twice) = twice {
        twice.await.unwrap();
    }
    if fate == 4 {
        assert!(!engine.report(report).await.unwrap().first);
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_never_spends_more_than_its_budgets_and_leaves_less_than_its_smallest_request() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bursar.db");
    let store = SqliteStore::open(&format!("sqlite:{}", file.display()), TTL).await.unwrap();
    let settings = settings(Some(directory.path().join("bursar.journal")), OnTimeout::Charge);
    let engine = start(&settings, Arc::new(store.clone()), Arc::new(SystemClock)).await;
    for budget in six_gates() {
        engine.create_budget(budget).await.unwrap();
    }
    let provider = Arc::new(Provider::default());
    let admitted = flood(&engine, &provider).await;
    // Small requests take what the flood left.
    let mut number = REQUESTS;
    while ask_smallest(&engine, &provider, number).await {
        number += 1;
    }
    engine.shutdown().await;
    store.close().await;
    let (charged, open, settled) = {
        let count = provider.0.lock().unwrap();
        (count.charged, count.open, count.settled)
    };
    assert!((50..REQUESTS / 2).contains(&admitted), "{admitted} were admitted");
    assert_eq!(open, 0);
    assert!(LIMIT - charged < SMALLEST, "{} of {LIMIT} is left", LIMIT - charged);
    assert!(settled > 0);
    check_totals(&file, charged).await;
}

/// All requests, [`AT_ONCE`] at a time. Returns how many were admitted.
async fn flood(engine: &Engine, provider: &Arc<Provider>) -> u64 {
    let (next, admitted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (engine, provider) = (engine.clone(), Arc::clone(provider));
        let (next, admitted) = (Arc::clone(&next), Arc::clone(&admitted));
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= REQUESTS {
                    return;
                }
                let was = one(engine.clone(), Arc::clone(&provider), number).await;
                admitted.fetch_add(u64::from(was), Ordering::SeqCst);
            }
        });
    }
    clients.join_all().await;
    admitted.load(Ordering::SeqCst)
}

/// The smallest request there is, settled for all that it may cost.
async fn ask_smallest(engine: &Engine, provider: &Provider, number: u64) -> bool {
    let amounts = Amounts { cost: NanoUsd::new(SMALLEST), tokens: Tokens::new(1) };
    let ask = Ask { subject: asker(), estimate: Estimate::of(amounts) };
    let Decision::Allow(admission) = engine.reserve(ask, FOREVER).await.hand_over() else {
        return false;
    };
    provider.begin(SMALLEST);
    provider.end(SMALLEST, SMALLEST);
    let against = Against::Reservation(admission.reservation.unwrap());
    let report = Report { against, ..cost_of_subject(&format!("s{number}"), SMALLEST) };
    engine.report(report).await.unwrap();
    true
}

/// What the database says of every account, against the provider's own count and against itself.
async fn check_totals(file: &std::path::Path, charged: i64) {
    let url = format!("sqlite:{}", file.display());
    let mut db = SqliteConnection::connect(&url).await.unwrap();
    // I1, I2, I3 and I12 in the order of the columns.
    let rows: Vec<(i64, i64, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT a.spent, a.leased, a.forfeited, a.overdraft, a.holders,
           (SELECT COALESCE(SUM(consumed), 0) FROM lease l WHERE l.budget = a.budget AND l.dimension = a.dimension),
           (SELECT COALESCE(SUM(amount), 0) FROM usage_event e WHERE e.budget = a.budget AND e.dimension = a.dimension)
         FROM account a",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    assert_eq!(rows.len(), 6);
    for (spent, leased, forfeited, overdraft, holders, consumed, recorded) in rows {
        assert_eq!((leased, forfeited, overdraft, holders), (0, 0, 0, 0));
        assert_eq!((spent, consumed, recorded), (charged, charged, charged));
    }
}
