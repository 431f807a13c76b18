//! What a replica hears of changes: all of them, each once, and everything anew where it cannot know what it missed.

use super::*;
use crate::domain::settlement::Settlement;
use crate::store::{Batch, FleetStore as _};

/// One of many budgets.
fn of_project(number: u128) -> Budget {
    let target = Target::One(id(&format!("p{number}")));
    let scope = Scope { kind: ScopeKind::Project, target };
    Budget { id: BudgetId(number), scope, ..dollars(1000) }
}

#[tokio::test]
async fn a_thousand_budgets_made_one_after_the_other_are_read_once_or_twice_each() {
    const BUDGETS: u128 = 1000;
    let mut fleet = Fleet::with([]).await;
    fleet.add().await;
    fleet.replicas[2].store.turn_only("told", Weather::Away);
    for number in 1..=BUDGETS {
        fleet.replicas[0].engine.create_budget(of_project(number)).await.unwrap();
    }
    for replica in &fleet.replicas {
        within(FOREVER, "the last", async || replica.budgets() == 1000).await;
    }
    fleet.replicas[1].engine.delete_budget(&id(WORKSPACE), BudgetId(7)).await.unwrap();
    for replica in &fleet.replicas {
        within(FOREVER, "the deletion", async || replica.budgets() == 999).await;
        let read = replica.store.budgets_read();
        assert!((1000..=2000).contains(&read), "{read} budgets were read");
        assert_eq!(replica.store.calls_of("load_budgets"), 1, "at the start");
        assert_eq!(replica.store.calls_of("list_budgets"), 0);
    }
}

#[tokio::test]
async fn changes_that_come_while_others_are_read_are_read_together() {
    let fleet = Fleet::with([]).await;
    let (one, other) = fleet.pair();
    other.store.turn(Weather::Hanging);
    for number in 1..=100 {
        one.engine.create_budget(of_project(number)).await.unwrap();
    }
    within(FOREVER, "a try", async || other.store.calls_of("expire_credits") > 0).await;
    other.store.turn(Weather::Fair);
    within(FOREVER, "the last", async || other.budgets() == 100).await;
    let calls = other.store.calls_of("changed_budgets");
    assert!(calls <= 3, "they were read {calls} times");
}

#[tokio::test]
async fn when_the_store_lost_changes_everything_is_loaded_anew() {
    let fleet = Fleet::with([]).await;
    let (one, other) = fleet.pair();
    for number in 1..=3 {
        one.engine.create_budget(of_project(number)).await.unwrap();
    }
    within(FOREVER, "the last", async || other.budgets() == 3).await;
    let loaded = other.store.calls_of("load_budgets");
    fleet.memory.lose_changes(&id(WORKSPACE), 2);
    within(FOREVER, "a load", async || other.store.calls_of("load_budgets") > loaded).await;
    fleet.memory.delete_budget(&id(WORKSPACE), BudgetId(2)).await.unwrap();
    within(FOREVER, "the deletion", async || other.budgets() == 2).await;
}

#[tokio::test]
async fn changes_that_came_to_the_same_number_after_the_store_was_set_back_are_not_taken_for_known()
{
    let fleet = Fleet::with([]).await;
    let (one, other) = fleet.pair();
    for number in 1..=3 {
        one.engine.create_budget(of_project(number)).await.unwrap();
    }
    within(FOREVER, "the last", async || other.budgets() == 3).await;
    // Nobody looks in between: each is done at once.
    fleet.memory.lose_changes(&id(WORKSPACE), 2);
    fleet.memory.delete_budget(&id(WORKSPACE), BudgetId(2)).await.unwrap();
    fleet.memory.delete_budget(&id(WORKSPACE), BudgetId(3)).await.unwrap();
    let numbers: Vec<_> = fleet.memory.changes().await.unwrap();
    assert_eq!(numbers[0].1.number, 3);
    for replica in [one, other] {
        within(FOREVER, "what is on record", async || replica.budgets() == 1).await;
    }
}

#[tokio::test]
async fn who_could_not_reload_a_workspace_for_more_than_a_day_reads_everything_anew() {
    let fleet = Fleet::with([]).await;
    let (one, other) = fleet.pair();
    for number in 1..=3 {
        one.engine.create_budget(of_project(number)).await.unwrap();
    }
    within(FOREVER, "the last", async || other.budgets() == 3).await;
    other.store.turn_only("changed_budgets", Weather::Away);
    one.engine.delete_budget(&id(WORKSPACE), BudgetId(2)).await.unwrap();
    within(FOREVER, "a try", async || other.store.calls_of("changed_budgets") > 0).await;
    fleet.memory.forget_deleted();
    let loaded = other.store.calls_of("load_budgets");
    other.store.turn_only("changed_budgets", Weather::Fair);
    within(FOREVER, "what is on record", async || other.budgets() == 2).await;
    assert_eq!(other.store.calls_of("load_budgets"), loaded + 1);
}

/// Has a replica ask for news again and again, over a silence by its own clock each time, until it has loaded everything.
async fn loads_all(replica: &Replica, clock: &ManualClock) {
    let loaded = replica.store.calls_of("load_budgets");
    within(FOREVER, "a load", async || {
        clock.advance(Duration::from_secs(21));
        replica.engine.shared.ask_news.notify_one();
        replica.store.calls_of("load_budgets") > loaded
    })
    .await;
}

#[tokio::test]
async fn no_change_is_missed_after_the_store_was_restored_in_a_silence() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, []).await;
    let (one, other) = fleet.pair();
    for number in 1..=3 {
        one.engine.create_budget(of_project(number)).await.unwrap();
    }
    within(FOREVER, "the last", async || other.budgets() == 3).await;
    // The changes of long ago are not told again.
    other.store.garble_news(|news| news.changed.clear());
    fleet.memory.lose_changes(&id(WORKSPACE), 2);
    loads_all(other, &clock).await;
    for number in 1..=3 {
        let lowered = Budget { limits: dollars(5).limits, ..of_project(number) };
        fleet.memory.replace_budget(&lowered, None, None).await.unwrap();
    }
    other.store.garble_news(|_| {});
    let lowered = || {
        let state = other.engine.shared.state();
        let budgets = state.rooms.values().flat_map(|room| room.ledger.budgets());
        budgets.filter(|budget| budget.limits == dollars(5).limits).count()
    };
    within(FOREVER, "every change", async || lowered() == 3).await;
}

#[tokio::test]
async fn a_silence_that_only_the_clock_of_the_store_tells_is_a_silence() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (paused, _) = fleet.pair();
    let settled = Settlement {
        id: id("s"),
        subject: Arc::new(Subject::of_workspace(id(WORKSPACE))),
        reservation: Some(paused.admitted(100).await),
        certainty: Certainty::Exact,
        amounts: Amounts::default(),
        usage: None,
        model: None,
        rates: None,
        at: NOON,
        charges: [].into(),
    };
    let by_another = Batch {
        workspace: id(WORKSPACE),
        holder: HolderId(7),
        settlements: vec![settled],
        exchanges: Vec::new(),
    };
    fleet.memory.commit(&by_another, NOON).await.unwrap();
    let loaded = paused.store.calls_of("load_budgets");
    paused.store.garble_news(|news| news.upto = news.upto.plus(Duration::from_secs(60)));
    within(FOREVER, "the end of the reservation", async || paused.open() == 0).await;
    clock.advance(Duration::from_secs(10));
    let loads = async || paused.store.calls_of("load_budgets") > loaded;
    within(FOREVER, "a load", loads).await;
}
