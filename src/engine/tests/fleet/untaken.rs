//! What is settled for a replica that is gone.

use std::pin::pin;

use tokio::time::timeout;

use super::*;

/// A clock and a fleet on it, whose first replica admitted a request of 100 and heard nothing since; its lease has expired.
/// Another was told what the request used, and what was set aside for it.
async fn abandoned(clock: &Arc<ManualClock>, used: i64) -> (Fleet, ReservationId) {
    abandoned_by(clock, used, |origin| origin).await
}

/// The same; what the other was told of the request is changed on the way.
async fn abandoned_by(
    clock: &Arc<ManualClock>,
    used: i64,
    told: impl Fn(Origin) -> Origin,
) -> (Fleet, ReservationId) {
    let fleet = Fleet::on(Arc::clone(clock) as _, [dollars(1000)]).await;
    let (gone, other) = fleet.pair();
    let reservation = gone.admitted(100).await;
    gone.engine.flush(&id(WORKSPACE)).await.unwrap();
    gone.store.turn_only("news", Weather::Away);
    gone.store.turn_only("commit", Weather::Away);
    clock.advance(TTL * 2);
    fleet.memory.sweep(clock.now().wall).await.unwrap();
    assert!(fleet.account().await.forfeited >= units(100));
    let origin = gone.engine.origin(&id(WORKSPACE), reservation).map(told);
    let report = Report { origin, ..cost_of(reservation, "s", used) };
    let reported = other.engine.report(report).await;
    assert!(matches!(reported, Err(ReportError::HandedOver)), "{reported:?}");
    clock.advance(Duration::from_secs(61));
    (fleet, reservation)
}

#[tokio::test]
async fn usage_of_a_replica_that_is_gone_is_charged_and_what_it_forfeited_gives_way() {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, reservation) = abandoned(&clock, 60).await;
    let (_, other) = fleet.pair();
    let before = fleet.account().await;
    other.store.plan(other.store.calls(), Weather::Fair);
    for _ in 0..3 {
        other.engine.settle_untaken().await;
        clock.advance(Duration::from_secs(61));
    }
    let after = fleet.account().await;
    assert_eq!(after.spent, before.spent.plus(units(60)));
    assert_eq!(after.forfeited, before.forfeited.minus(units(60)));
    let again = other.engine.report(cost_of(reservation, "s", 60)).await.unwrap();
    assert!(!again.first);
}

#[tokio::test]
async fn more_than_is_given_at_a_time_is_settled_at_once() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (_, other) = fleet.pair();
    let many = HANDOFFS_MAX + 1;
    for nonce in 0..many {
        let reservation = ReservationId { holder: HolderId(9), nonce: nonce.try_into().unwrap() };
        other.engine.release(&id(WORKSPACE), reservation).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    other.engine.settle_untaken().await;
    let settled = other.store.calls_of("handoff_settled");
    assert_eq!(usize::try_from(settled).unwrap(), many);
}

#[tokio::test]
async fn no_more_gives_way_for_it_than_was_set_aside() {
    for holds_are_known in [true, false] {
        let clock = Arc::new(ManualClock::at(NOON));
        let told =
            |origin: Origin| Origin { holds: origin.holds.filter(|_| holds_are_known), ..origin };
        let (fleet, _) = abandoned_by(&clock, 160, told).await;
        let (_, other) = fleet.pair();
        let before = fleet.account().await;
        other.engine.settle_untaken().await;
        let after = fleet.account().await;
        assert_eq!(after.spent, before.spent.plus(units(160)));
        assert_eq!(after.forfeited, before.forfeited.minus(units(100)));
    }
}

#[tokio::test]
async fn it_is_charged_where_it_was_set_aside_though_the_budget_is_not_in_force_any_more() {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, _) = abandoned(&clock, 60).await;
    let (_, other) = fleet.pair();
    let off = Budget { is_active: false, ..dollars(1000) };
    other.engine.replace_budget(off, None).await.unwrap();
    let before = fleet.account().await;
    other.engine.settle_untaken().await;
    let after = fleet.account().await;
    let moved = (after.spent.minus(before.spent), before.forfeited.minus(after.forfeited));
    assert_eq!(moved, (units(60), units(60)));
}

#[tokio::test]
async fn whichever_step_of_it_fails_it_is_charged_once_and_the_forfeits_give_way_once() {
    let steps = ["settlements_of", "commit", "handoff_settled"];
    let both = |step| [Weather::Away, Weather::Mute].map(|weather| failing(step, weather));
    join_all(steps.into_iter().flat_map(both)).await;
}

async fn failing(step: &'static str, weather: Weather) {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, _) = abandoned(&clock, 60).await;
    let (_, other) = fleet.pair();
    let before = fleet.account().await;
    other.store.turn_only(step, weather);
    let first = timeout(Duration::from_millis(100), other.engine.settle_untaken());
    let _ = first.await;
    other.store.turn_only(step, Weather::Fair);
    other.engine.flush(&id(WORKSPACE)).await.unwrap();
    clock.advance(Duration::from_secs(61));
    other.engine.settle_untaken().await;
    let after = fleet.account().await;
    let moved = (after.spent.minus(before.spent), before.forfeited.minus(after.forfeited));
    assert_eq!(moved, (units(60), units(60)), "{step} met {weather:?}");
}

#[tokio::test]
async fn a_replica_that_comes_back_does_not_charge_again_what_was_settled_for_it() {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, _) = abandoned(&clock, 60).await;
    let (back, other) = fleet.pair();
    other.engine.settle_untaken().await;
    assert_eq!(back.open(), 1);
    clock.advance(TIMEOUT);
    back.store.turn_only("commit", Weather::Fair);
    back.engine.shared.end_overdue_in_fleet().await.unwrap();
    assert_eq!(back.open(), 0);
    back.engine.flush(&id(WORKSPACE)).await.unwrap();
    assert_eq!(fleet.account().await.spent, units(60));
}

#[tokio::test]
async fn a_replica_that_hears_again_gives_up_what_was_settled_for_it() {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, _) = abandoned(&clock, 60).await;
    let (back, other) = fleet.pair();
    other.engine.settle_untaken().await;
    back.store.turn_only("news", Weather::Fair);
    within(FOREVER, "the news", async || back.open() == 0).await;
}

#[tokio::test]
async fn two_reports_of_one_request_are_charged_once_though_the_store_was_asked_before_the_first_arrived()
 {
    let clock = Arc::new(ManualClock::at(NOON));
    let (fleet, reservation) = abandoned(&clock, 60).await;
    let (_, other) = fleet.pair();
    let before = fleet.account().await;
    other.store.turn_only("commit", Weather::Away);
    assert!(timeout(SHORT * 100, other.engine.settle_untaken()).await.is_err());
    let second = other.engine.report(cost_of(reservation, "a", 60)).await;
    assert!(matches!(second, Err(ReportError::HandedOver)), "{second:?}");
    clock.advance(Duration::from_secs(61));
    other.store.turn_only("settlements_of", Weather::Late);
    let mut looks = pin!(other.engine.settle_untaken());
    let is_over = timeout(SHORT * 100, &mut looks).await.is_ok();
    other.store.turn_only("commit", Weather::Fair);
    other.engine.flush(&id(WORKSPACE)).await.unwrap();
    other.store.turn_only("settlements_of", Weather::Fair);
    if !is_over {
        looks.await;
    }
    clock.advance(Duration::from_secs(61));
    other.engine.settle_untaken().await;
    let after = fleet.account().await;
    assert_eq!(after.spent, before.spent.plus(units(60)));
}
