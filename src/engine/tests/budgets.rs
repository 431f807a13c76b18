//! Administration: a change is in force before its call returns, whether or not its caller stays to hear of it.

use super::unsteady::Weather;
use super::*;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::store::StoreError;

const HASH: KeyHash = [7; 32];

fn key(name: &str, hash: KeyHash) -> ApiKey {
    let (id, workspace) = (id(name), id(WORKSPACE));
    ApiKey { name: id.clone(), id, workspace, project: None, hash, created_at: NOON }
}

#[tokio::test]
async fn a_budget_is_in_force_when_it_was_created_replaced_and_deleted() {
    let bench = Bench::with([]).await;
    bench.admitted(1_000_000).await;
    bench.engine.create_budget(dollars(100)).await.unwrap();
    assert_eq!(bench.refused(101).await, RefusalCode::RequestExceedsBudget);
    bench.admitted(60).await;
    bench.engine.replace_budget(dollars(70), None).await.unwrap();
    assert_eq!(bench.refused(11).await, RefusalCode::BudgetInFlight);
    bench.engine.replace_budget(dollars(200), None).await.unwrap();
    bench.admitted(140).await;
    assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
    bench.engine.delete_budget(&id(WORKSPACE), BudgetId(1)).await.unwrap();
    bench.admitted(1_000_000).await;
}

#[tokio::test]
async fn a_second_budget_for_a_scope_is_refused_and_changes_nothing() {
    let bench = Bench::with([dollars(100)]).await;
    let second = Budget { id: BudgetId(2), ..dollars(5) };
    let refused = bench.engine.create_budget(second).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Conflict { existing } if existing == BudgetId(1).to_string())
    );
    bench.admitted(100).await;
}

#[tokio::test]
async fn a_reset_starts_anew_and_what_is_in_flight_still_counts() {
    let bench = Bench::with([dollars(100)]).await;
    let settled = bench.admitted(70).await;
    bench.engine.report(cost_of(settled, "s", 70)).await.unwrap();
    let open = bench.admitted(30).await;
    bench.engine.reset_budget(&dollars(100)).await.unwrap();
    assert_eq!(bench.engine.consumption(&dollars(100)).await.unwrap().cost, NanoUsd::ZERO);
    bench.admitted(70).await;
    assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
    bench.engine.report(cost_of(open, "t", 30)).await.unwrap();
    assert_eq!(bench.engine.consumption(&dollars(100)).await.unwrap().cost, NanoUsd::new(30));
}

#[tokio::test]
async fn a_reset_empties_the_rolling_minute_and_an_earlier_request_cannot_give_back_a_later_slot() {
    let bench = Bench::with([per_minute(1)]).await;
    let before = bench.ask(1).await;
    bench.engine.reset_budget(&per_minute(1)).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
    bench.admitted(1).await;
    drop(before);
    assert_eq!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
}

#[tokio::test]
async fn consumption_includes_everything_that_was_settled_before() {
    let bench = Bench::with([dollars(10_000)]).await;
    for sum in 1..=20 {
        let reservation = bench.admitted(100).await;
        bench.engine.report(cost_of(reservation, &format!("s{sum}"), 7)).await.unwrap();
        let consumption = bench.engine.consumption(&dollars(10_000)).await.unwrap();
        assert_eq!(consumption.cost, NanoUsd::new(7 * sum));
        assert_eq!(&*consumption.label, "2026-11");
    }
}

#[tokio::test]
async fn a_changed_schedule_opens_the_new_window_with_what_was_spent_in_it() {
    let bench = Bench::with([dollars(100)]).await;
    let reservation = bench.admitted(60).await;
    bench.engine.report(cost_of(reservation, "s", 60)).await.unwrap();
    let daily = |limit| {
        let mut budget = dollars(limit);
        budget.limits.schedule =
            budget.limits.schedule.map(|s| Schedule { period: Period::Daily, ..s });
        budget
    };
    let replaced = bench.engine.replace_budget(daily(100), None).await.unwrap();
    assert_eq!(replaced.generation, 1);
    assert_eq!(bench.refused(41).await, RefusalCode::RequestExceedsBudget);
    bench.admitted(40).await;
    bench.clock.advance(Duration::from_secs(24 * 60 * 60));
    bench.admitted(100).await;
}

#[tokio::test]
async fn a_change_whose_caller_leaves_is_made_to_its_end() {
    let bench = Bench::with([]).await;
    bench.store.turn(Weather::Hanging);
    let created = bench.engine.create_budget(dollars(100));
    assert!(tokio::time::timeout(SHORT, created).await.is_err());
    bench.store.turn(Weather::Fair);
    until("the budget is in force", async || {
        bench
            .engine
            .shared
            .state()
            .rooms
            .values()
            .any(|room| room.ledger.budget(BudgetId(1)).is_some())
    })
    .await;
    assert_eq!(bench.refused(101).await, RefusalCode::RequestExceedsBudget);
}

#[tokio::test]
async fn a_change_that_was_made_but_not_confirmed_comes_into_force() {
    let bench = Bench::with([]).await;
    let in_force = |limit: Option<Budget>| {
        let shared = Arc::clone(&bench.engine.shared);
        async move {
            until("what is on record is in force", async || {
                let state = shared.state();
                let mut rooms = state.rooms.values();
                rooms.find_map(|room| room.ledger.budget(BudgetId(1)).cloned()) == limit
            })
            .await;
        }
    };
    for call in ["create_budget", "replace_budget", "delete_budget"] {
        bench.store.turn_only(call, Weather::Mute);
    }
    bench.engine.create_budget(dollars(100)).await.unwrap_err();
    in_force(Some(dollars(100))).await;
    bench.engine.replace_budget(dollars(50), None).await.unwrap_err();
    in_force(Some(dollars(50))).await;
    bench.engine.delete_budget(&id(WORKSPACE), BudgetId(1)).await.unwrap_err();
    in_force(None).await;
}

#[tokio::test]
async fn a_deleted_key_is_unknown_at_once() {
    let bench = Bench::with([]).await;
    assert_eq!(bench.engine.key_by_hash(&HASH).await.unwrap(), None);
    bench.engine.create_key(&key("k", HASH)).await.unwrap();
    assert!(bench.engine.key_by_hash(&HASH).await.unwrap().is_some());
    bench.engine.delete_key(&id(WORKSPACE), &id("k")).await.unwrap();
    assert_eq!(bench.engine.key_by_hash(&HASH).await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_from_before_a_key_was_deleted_is_not_remembered_after_it() {
    let bench = Bench::with([]).await;
    bench.engine.create_key(&key("k", HASH)).await.unwrap();
    let cache = &bench.engine.shared.keys;
    let (stale, changes) = (Arc::new(key("k", HASH)), cache.changes());
    bench.engine.delete_key(&id(WORKSPACE), &id("k")).await.unwrap();
    cache.remember(HASH, Some(stale), bench.engine.shared.now().mono, changes);
    assert_eq!(bench.engine.key_by_hash(&HASH).await.unwrap(), None);
}

#[tokio::test]
async fn the_last_answer_about_a_key_holds_while_the_store_is_away() {
    let bench = Bench::with([]).await;
    bench.engine.create_key(&key("k", HASH)).await.unwrap();
    bench.engine.key_by_hash(&HASH).await.unwrap();
    bench.store.turn(Weather::Away);
    bench.clock.advance(Duration::from_secs(3600));
    assert!(bench.engine.key_by_hash(&HASH).await.unwrap().is_some());
    assert!(bench.engine.key_by_hash(&[8; 32]).await.is_err());
}
