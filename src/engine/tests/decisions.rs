//! Decisions: what waits gets its grant, what goes away leaves nothing behind, what the store cannot be asked about follows the
//! budget's own rule.

use super::unsteady::Weather;
use super::*;

#[tokio::test]
async fn a_decision_waits_for_a_grant_and_gets_it() {
    let bench = Bench::with([dollars(100)]).await;
    bench.store.turn(Weather::Hanging);
    let engine = bench.engine.clone();
    let waiting =
        tokio::spawn(async move { engine.reserve(request(40), FOREVER).await.hand_over() });
    until("the request waits", async || {
        bench.engine.shared.state().rooms.values().any(|room| !room.deciding.is_empty())
    })
    .await;
    bench.store.turn(Weather::Fair);
    admission(waiting.await.unwrap());
    assert_eq!(bench.open(), 1);
    assert_eq!(bench.refused(61).await, RefusalCode::BudgetInFlight);
    bench.admitted(60).await;
}

#[tokio::test]
async fn a_request_that_leaves_while_it_waits_leaves_nothing_behind() {
    let bench = Bench::with([dollars(100)]).await;
    bench.store.turn(Weather::Hanging);
    for _ in 0..3 {
        let asked = bench.engine.reserve(request(100), FOREVER);
        assert!(tokio::time::timeout(SHORT, asked).await.is_err());
    }
    bench.store.turn(Weather::Fair);
    bench.admitted(100).await;
    assert_eq!(bench.open(), 1);
    assert!(bench.engine.shared.state().rooms.values().all(|room| room.deciding.is_empty()));
}

#[tokio::test]
async fn an_answer_that_is_not_handed_over_gives_everything_back_its_slot_too() {
    let both = Budget {
        limits: Limits { requests_per_minute: Some(1), ..dollars(100).limits },
        ..dollars(100)
    };
    let bench = Bench::with([both]).await;
    for _ in 0..3 {
        let held = bench.ask(100).await;
        assert!(matches!(held.decision(), Decision::Allow(_)));
        drop(held);
    }
    assert_eq!(bench.open(), 0);
    bench.admitted(100).await;
    assert_eq!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
}

#[tokio::test]
async fn a_released_reservation_gives_its_money_back_but_not_its_slot() {
    let both = Budget {
        limits: Limits { requests_per_minute: Some(2), ..dollars(100).limits },
        ..dollars(100)
    };
    let bench = Bench::with([both]).await;
    let reservation = bench.admitted(100).await;
    bench.engine.release(&id(WORKSPACE), reservation).await.unwrap();
    bench.engine.release(&id(WORKSPACE), reservation).await.unwrap();
    bench.admitted(100).await;
    assert_eq!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
    bench.clock.advance(Duration::from_secs(60));
    assert_ne!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
}

#[tokio::test]
async fn an_allowed_check_counts_a_request_and_sets_nothing_aside() {
    let both = Budget {
        limits: Limits { requests_per_minute: Some(1), ..dollars(100).limits },
        ..dollars(100)
    };
    let bench = Bench::with([both]).await;
    let checked = admission(bench.engine.check(subject(), FOREVER).await);
    assert_eq!((checked.reservation, bench.open()), (None, 0));
    assert!(matches!(bench.engine.check(subject(), FOREVER).await, Decision::Deny(_)));
}

#[tokio::test]
async fn a_budget_that_denies_is_undecided_while_the_store_is_away_and_decides_when_it_is_back() {
    for weather in [Weather::Away, Weather::Hanging, Weather::Mute] {
        let bench = Bench::with([dollars(100)]).await;
        bench.store.turn(weather);
        let asked = bench.engine.reserve(request(1), SHORT).await.hand_over();
        assert_eq!(asked, Decision::Undecided { budget: Some(BudgetId(1)) }, "{weather:?}");
        bench.store.turn(Weather::Fair);
        bench.admitted(100).await;
        assert_eq!(bench.account(Dimension::Cost).await.overdraft, units(0), "{weather:?}");
    }
}

#[tokio::test]
async fn a_lease_in_hand_decides_without_the_store_until_it_expires() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(10).await;
    bench.store.turn(Weather::Hanging);
    bench.admitted(10).await;
    bench.clock.advance(TTL);
    let asked = bench.engine.reserve(request(10), SHORT).await.hand_over();
    assert_eq!(asked, Decision::Undecided { budget: Some(BudgetId(1)) });
    bench.store.turn(Weather::Fair);
    bench.admitted(80).await;
    assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
}

#[tokio::test]
async fn a_lease_is_asked_for_anew_when_the_machine_stood_still_without_its_clock_counting_it() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(1).await;
    bench.store.turn(Weather::Away);
    let shared = &bench.engine.shared;
    let last = shared.mind_the_clock(shared.now());
    bench.clock.advance(TTL / 2);
    let last = shared.mind_the_clock(last);
    bench.admitted(1).await;
    bench.clock.step_wall(Duration::from_millis(1_001));
    shared.mind_the_clock(last);
    let asked = bench.engine.reserve(request(1), SHORT).await;
    assert!(matches!(asked.decision(), Decision::Undecided { .. }), "{:?}", asked.decision());
}

#[tokio::test]
async fn a_budget_that_allows_up_to_an_amount_admits_that_much_blind_and_records_it_as_overdraft() {
    let rule = WhenUnavailable::AllowUpTo(NanoUsd::new(50));
    let bench = Bench::with([Budget { when_unavailable: rule, ..dollars(1) }]).await;
    bench.store.turn(Weather::Away);
    let mut blind = Vec::new();
    for _ in 0..2 {
        let admitted = admission(bench.engine.reserve(request(25), SHORT).await.hand_over());
        assert!(admitted.unavailable);
        blind.extend(admitted.reservation);
    }
    let asked = bench.engine.reserve(request(1), SHORT).await.hand_over();
    assert_eq!(asked, Decision::Undecided { budget: Some(BudgetId(1)) });
    bench.store.turn(Weather::Fair);
    for (at, reservation) in blind.into_iter().enumerate() {
        bench.engine.report(cost_of(reservation, &format!("s{at}"), 25)).await.unwrap();
    }
    let account = bench.account(Dimension::Cost).await;
    assert_eq!((account.spent, account.overdraft), (units(50), units(50)));
    assert_eq!(bench.refused(1).await, RefusalCode::CostBudgetExceeded);
}

#[tokio::test]
async fn a_budget_that_allows_admits_everything_blind() {
    let bench =
        Bench::with([Budget { when_unavailable: WhenUnavailable::Allow, ..dollars(1) }]).await;
    bench.store.turn(Weather::Away);
    for _ in 0..5 {
        let admitted = bench.engine.reserve(request(1000), SHORT).await.hand_over();
        assert!(admission(admitted).unavailable);
    }
    bench.store.turn(Weather::Fair);
    bench.account(Dimension::Cost).await;
    // What is in flight is told with the lease's next renewal.
    bench.clock.advance(TTL * 2 / 3);
    bench.engine.shared.tick();
    assert_eq!(bench.account(Dimension::Cost).await.overdraft, units(5000));
    assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
}

#[tokio::test]
async fn a_reservation_that_nobody_settles_is_charged_in_full_or_given_back_as_the_terms_say() {
    for (on_timeout, spent) in [(OnTimeout::Charge, 40), (OnTimeout::Release, 0)] {
        let store = Arc::new(Unsteady::over(MemoryStore::new(TTL)));
        let bench = Bench::started(store, on_timeout, [dollars(100)]).await;
        bench.admitted(40).await;
        bench.clock.advance(TIMEOUT);
        bench.engine.shared.tick();
        assert_eq!(bench.open(), 0);
        assert_eq!(bench.account(Dimension::Cost).await.spent, units(spent), "{on_timeout:?}");
    }
}
