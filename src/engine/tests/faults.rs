//! A whole life, with each call to the store failing once: done or not done, it ends with the same totals.

use super::unsteady::Weather;
use super::*;
use crate::domain::budget::Dimension;
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::settlement::Settlement;
use crate::engine::driver::Losses;
use crate::store::StoreError;

/// Whoever calls tries again until the store answers. A budget that exists was created by an earlier try.
async fn create(engine: &Engine, budget: Budget) {
    for _ in 0..5 {
        match engine.create_budget(budget.clone()).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => return,
            Err(StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the budget was never created");
}

async fn report(engine: &Engine, report: Report) -> Settlement {
    for _ in 0..5 {
        match engine.report(report.clone()).await {
            Ok(settled) => return settled.settlement,
            Err(ReportError::Store(StoreError::Unavailable(_))) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the report was never taken");
}

async fn admitted(engine: &Engine, cost: i64) -> ReservationId {
    admission(engine.reserve(request(cost), FOREVER).await.hand_over()).reservation.unwrap()
}

/// A life with one fault. Returns how many calls it took.
async fn life(call: u32, weather: Weather) -> u32 {
    let store = Arc::new(Unsteady::over(MemoryStore::new(TTL)));
    store.plan(call, weather);
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Some(directory.path().join("j")), OnTimeout::Charge);
    let clock = Arc::new(ManualClock::at(NOON));
    let begin = async || loop {
        match try_start(&settings, store.clone(), clock.clone()).await {
            Ok(engine) => break engine,
            Err(error) => assert!(format!("{error:#}").contains("bad weather"), "{error:#}"),
        }
    };
    let engine = begin().await;
    create(&engine, dollars(1000)).await;
    until("the budget is in force", async || {
        engine.shared.state().rooms.values().any(|room| room.ledger.budget(BudgetId(1)).is_some())
    })
    .await;
    let (first, second) = (admitted(&engine, 300).await, admitted(&engine, 300).await);
    report(&engine, cost_of(first, "first", 250)).await;
    report(&engine, cost_of_subject("other", 50)).await;
    report(&engine, Report { correction: Correction::Yes, ..cost_of(first, "corrected", 200) })
        .await;
    kill(engine).await;
    let engine = begin().await;
    report(&engine, cost_of(second, "second", 350)).await;
    let third = admitted(&engine, 400).await;
    report(&engine, cost_of(third, "third", 400)).await;
    engine.shutdown().await;
    let month = dollars(0).limits.schedule.map(|s| s.window_at(NOON).label).unwrap();
    let accounts = store.inner.accounts(&dollars(1000), &month).await.unwrap();
    let account = accounts[0].1;
    let told = format!("call {call} met {weather:?}: {account:?}");
    assert_eq!((account.spent, account.forfeited), (units(1000), units(0)), "{told}");
    assert_eq!((account.leased, account.holders), (units(0), 0), "{told}");
    store.calls()
}

#[tokio::test]
async fn whichever_call_fails_the_totals_are_the_same() {
    for weather in [Weather::Away, Weather::Mute] {
        let mut call = 0;
        while call < life(call, weather).await {
            call += 1;
        }
        assert!(call > 15, "the life made only {call} calls");
    }
}

#[tokio::test]
async fn a_workspace_whose_batch_is_never_taken_holds_up_no_other() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(1).await;
    let theirs = Arc::new(Subject::of_workspace(id("theirs")));
    let scope = Scope { kind: ScopeKind::Workspace, target: Target::One(id("theirs")) };
    let budget = Budget { workspace: id("theirs"), id: BudgetId(2), scope, ..dollars(100) };
    bench.engine.create_budget(budget).await.unwrap();
    bench.store.refuse_batches_of(Some(id(WORKSPACE)));
    let report = bench.engine.report(cost_of_subject("s", 1));
    assert!(tokio::time::timeout(SHORT, report).await.is_err());
    let asked = Ask { subject: theirs, ..request(50) };
    admission(bench.engine.reserve(asked, FOREVER).await.hand_over());
    bench.store.refuse_batches_of(None);
    bench.engine.report(cost_of_subject("s", 1)).await.unwrap();
}

#[tokio::test]
async fn leases_that_are_lost_again_and_again_are_asked_for_more_and_more_seldom() {
    let bench = Bench::with([dollars(100)]).await;
    let account = |target: &str| {
        Box::new(AccountKey {
            workspace: id(WORKSPACE),
            budget: BudgetId(1),
            generation: 0,
            dimension: Dimension::Cost,
            target: id(target),
            window: "2026-11".into(),
        })
    };
    let mut losses = Losses::default();
    let mut pause = |target| losses.pause(account(target), &bench.engine.shared);
    let (one, other) = (pause("one"), pause("other"));
    assert_eq!((one, other), (Duration::ZERO, Duration::ZERO), "each is followed by another lease");
    let pauses: Vec<Duration> = (0..12).map(|_| pause("other")).collect();
    assert!(pauses[0] >= Duration::from_millis(10), "{pauses:?}");
    assert!(pauses[11] >= Duration::from_millis(500), "{pauses:?}");
}

/// A request of another workspace, which has a budget of its own.
async fn other_workspace(bench: &Bench, number: u128) -> Ask {
    let workspace = id(&format!("other{number}"));
    let scope = Scope { kind: ScopeKind::Workspace, target: Target::One(workspace.clone()) };
    let budget =
        Budget { workspace: workspace.clone(), id: BudgetId(number), scope, ..dollars(100) };
    bench.engine.create_budget(budget).await.unwrap();
    Ask { subject: Arc::new(Subject::of_workspace(workspace)), ..request(50) }
}

#[tokio::test]
async fn a_batch_that_is_never_answered_holds_up_no_other_workspace_and_is_sent_again() {
    let bench = Bench::with([dollars(100)]).await;
    let theirs = other_workspace(&bench, 2).await;
    bench.store.leave_unanswered(id(WORKSPACE));
    let report = bench.engine.report(cost_of_subject("s", 1));
    tokio::pin!(report);
    assert!(tokio::time::timeout(SHORT, &mut report).await.is_err());
    admission(bench.engine.reserve(theirs, FOREVER).await.hand_over());
    assert!(report.await.unwrap().first);
    assert_eq!(bench.account(Dimension::Cost).await.spent, units(1));
    let page = bench.engine.shared.metrics.clone().encode();
    assert!(page.contains("bursar_store_commits_total{outcome=\"timeout\"} 1\n"), "{page}");
}

#[tokio::test]
async fn more_unanswered_batches_than_there_are_connections_hold_up_the_others_for_two_seconds() {
    let bench = Bench::with([]).await;
    for number in 10..19 {
        let asked = other_workspace(&bench, number).await;
        bench.store.leave_unanswered(asked.subject.workspace.clone());
        let waiting = bench.engine.reserve(asked, SHORT).await;
        assert!(matches!(waiting.decision(), Decision::Undecided { .. }));
    }
    let asked = other_workspace(&bench, 1).await;
    admission(bench.engine.reserve(asked, FOREVER).await.hand_over());
}

#[tokio::test]
async fn a_lease_that_was_taken_away_is_followed_by_another_and_the_report_is_recorded() {
    let bench = Bench::with([dollars(100)]).await;
    let open = bench.admitted(40).await;
    bench.clock.advance(TTL * 2);
    let store = &bench.store.inner;
    store.sweep(bench.engine.wall()).await.unwrap();
    // A reset writes an expired lease off.
    store.reset_budget(&dollars(100), "2026-11").await.unwrap();
    let consumption = async || bench.engine.consumption(&dollars(100)).await.unwrap().cost.get();
    let (settled, flushed) =
        tokio::join!(bench.engine.report(cost_of(open, "s", 40)), consumption());
    assert!(settled.unwrap().first);
    assert!([0, 40].contains(&flushed));
    assert_eq!(consumption().await, 40);
    bench.admitted(60).await;
    assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
}

#[tokio::test]
async fn workspaces_that_nobody_has_a_budget_for_are_forgotten_and_leave_room_for_others() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(1).await;
    for number in 0..WORKSPACES_MAX + 10 {
        let subject = Arc::new(Subject::of_workspace(id(&format!("made-up {number}"))));
        let held = bench.engine.reserve(Ask { subject, ..request(1) }, FOREVER).await;
        assert!(matches!(held.decision(), Decision::Allow(_)), "{number}");
        drop(held);
        if number % 1000 == 0 {
            bench.engine.shared.tick();
        }
    }
    bench.engine.shared.tick();
    assert_eq!(bench.engine.shared.state().rooms.len(), 1);
    assert_eq!(bench.open(), 1);
}
