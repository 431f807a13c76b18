//! Several engines on one store: what each sees of the others.

mod news;
mod untaken;

use futures_util::future::join_all;

use super::unsteady::Weather;
use super::*;
use crate::domain::credits::CreditGrant;
use crate::engine::Released;
use crate::engine::clock::SystemClock;
use crate::store::HANDOFFS_MAX;

/// Changes are in force everywhere within this time, when the store tells nothing by itself.
const EVERYWHERE: Duration = Duration::from_secs(2);

/// Replicas of one store.
struct Fleet {
    memory: MemoryStore,
    clock: Arc<dyn Clock>,
    replicas: Vec<Replica>,
    directory: TempDir,
}

struct Replica {
    engine: Engine,
    store: Arc<Unsteady>,
}

impl Fleet {
    /// Two replicas with these budgets, on the machine's clock.
    async fn with(budgets: impl IntoIterator<Item = Budget>) -> Self {
        Self::on(Arc::new(SystemClock), budgets).await
    }

    async fn on(clock: Arc<dyn Clock>, budgets: impl IntoIterator<Item = Budget>) -> Self {
        let memory = MemoryStore::new(TTL);
        for budget in budgets {
            memory.create_budget(&budget).await.unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let mut fleet = Self { memory, clock, replicas: Vec::new(), directory };
        fleet.add().await;
        fleet.add().await;
        fleet
    }

    async fn add(&mut self) {
        let store = Arc::new(Unsteady::over(self.memory.clone()));
        let journal = self.directory.path().join(self.replicas.len().to_string());
        let mut settings = settings(Some(journal), OnTimeout::Charge);
        settings.terms.sharing = Sharing::Fleet;
        let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&self.clock)).await;
        self.replicas.push(Replica { engine, store });
    }

    fn pair(&self) -> (&Replica, &Replica) {
        (&self.replicas[0], &self.replicas[1])
    }

    /// The cost account of the budget.
    async fn account(&self) -> Account {
        let wall = self.clock.now().wall;
        let label = dollars(0).limits.schedule.map(|s| s.window_at(wall).label).unwrap();
        let accounts = self.memory.accounts(&dollars(0), &label).await.unwrap();
        accounts.first().map(|(_, account)| *account).unwrap_or_default()
    }
}

impl Replica {
    async fn ask(&self, cost: i64) -> Decision {
        self.engine.reserve(request(cost), FOREVER).await.hand_over()
    }

    async fn admitted(&self, cost: i64) -> ReservationId {
        admission(self.ask(cost).await).reservation.unwrap()
    }

    /// The budget that is in force here.
    fn in_force(&self) -> Option<Budget> {
        let state = self.engine.shared.state();
        state.rooms.values().find_map(|room| room.ledger.budget(BudgetId(1)).cloned())
    }

    fn budgets(&self) -> usize {
        let state = self.engine.shared.state();
        state.rooms.values().map(|room| room.ledger.budgets().count()).sum()
    }

    fn open(&self) -> usize {
        self.engine.shared.state().rooms.values().map(|room| room.ledger.open_reservations()).sum()
    }
}

/// Waits until something is so, at most as long as a change may take.
async fn within(most: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let came = async {
        while !is_so().await {
            tokio::time::sleep(SHORT).await;
        }
    };
    assert!(tokio::time::timeout(most, came).await.is_ok(), "{what} did not come in {most:?}");
}

#[tokio::test]
async fn two_replicas_spend_a_budget_together_to_its_last_unit_and_no_further() {
    let fleet = Fleet::with([dollars(1000)]).await;
    let mut admitted = 0;
    for cost in [40, 7, 1].into_iter().flat_map(|cost| std::iter::repeat_n(cost, 40)) {
        for replica in &fleet.replicas {
            if let Decision::Allow(admission) = replica.ask(cost).await {
                admitted += cost;
                let reservation = admission.reservation.unwrap();
                let report = cost_of(reservation, &format!("s{admitted}"), cost);
                replica.engine.report(report).await.unwrap();
            }
            assert!(admitted <= 1000, "{admitted} of 1000 were spent");
        }
        if admitted == 1000 {
            break;
        }
    }
    assert_eq!(admitted, 1000, "something is left that nobody could spend");
    assert_eq!(fleet.account().await.spent, units(1000));
}

#[tokio::test]
async fn what_one_replica_holds_idle_is_recalled_when_another_needs_it() {
    let fleet = Fleet::with([dollars(1000)]).await;
    let (one, other) = fleet.pair();
    one.admitted(100).await;
    assert!(fleet.account().await.leased > units(100), "nothing lies idle");
    other.admitted(900).await;
}

#[tokio::test]
async fn what_is_changed_on_one_replica_is_in_force_on_the_other_at_once_where_it_is_told() {
    let fleet = Fleet::with([]).await;
    let (one, other) = fleet.pair();
    let comes = async |budget: Option<Budget>| {
        within(FOREVER, "the change", async || other.in_force() == budget).await;
    };
    let created = one.engine.create_budget(dollars(100)).await.unwrap();
    comes(Some(created.clone())).await;
    let raised = Budget { limits: dollars(500).limits, ..created };
    one.engine.replace_budget(raised.clone(), None).await.unwrap();
    comes(Some(raised.clone())).await;
    one.engine.reset_budget(&raised).await.unwrap();
    comes(Some(Budget { resets: 1, ..raised })).await;
    one.engine.delete_budget(&id(WORKSPACE), BudgetId(1)).await.unwrap();
    comes(None).await;
}

#[tokio::test]
async fn what_is_changed_is_in_force_within_two_seconds_where_nothing_is_told() {
    let mut fleet = Fleet::with([]).await;
    fleet.add().await;
    let deaf = fleet.replicas.last().unwrap();
    deaf.store.turn_only("told", Weather::Away);
    // What it was told while it listened comes first.
    let earlier = fleet.replicas[0].engine.create_budget(dollars(1)).await.unwrap();
    within(FOREVER, "the first change", async || deaf.in_force().is_some()).await;
    let raised = Budget { limits: dollars(500).limits, ..earlier };
    fleet.replicas[0].engine.replace_budget(raised.clone(), None).await.unwrap();
    within(EVERYWHERE, "the change", async || deaf.in_force().as_ref() == Some(&raised)).await;
}

#[tokio::test]
async fn a_reset_counts_for_the_windows_that_another_replica_has_just_made() {
    let fleet = Fleet::with([dollars(100)]).await;
    let (one, other) = fleet.pair();
    let spent = other.admitted(100).await;
    other.engine.report(cost_of(spent, "s", 100)).await.unwrap();
    let read = dollars(100);
    let mut daily = read.clone();
    daily.limits.schedule =
        daily.limits.schedule.map(|schedule| Schedule { period: Period::Daily, ..schedule });
    let daily = one.engine.replace_budget(daily, None).await.unwrap();
    other.engine.reset_budget(&read).await.unwrap();
    assert_eq!(other.engine.consumption(&daily).await.unwrap().cost, NanoUsd::ZERO);
    assert_eq!(other.in_force(), Some(Budget { resets: 1, ..daily }));
}

#[tokio::test]
async fn a_raised_limit_a_reset_and_credits_of_one_replica_end_the_refusals_of_the_other() {
    let fleet = Fleet::with([dollars(100)]).await;
    let (one, other) = fleet.pair();
    let spent = other.admitted(100).await;
    other.engine.report(cost_of(spent, "s", 100)).await.unwrap();
    let refused = async || matches!(other.ask(50).await, Decision::Deny(_));
    let admits = async || {
        within(FOREVER, "an admission", async || !refused().await).await;
    };
    assert!(refused().await);
    one.engine.replace_budget(dollars(150), None).await.unwrap();
    admits().await;
    assert!(refused().await);
    one.engine.reset_budget(&dollars(150)).await.unwrap();
    admits().await;
    let grant = |name: &str, amount| CreditGrant {
        id: id(name),
        amount: NanoUsd::new(amount),
        priority: 50,
        expires_at: None,
        reason: id("paid"),
        created_at: NOON,
    };
    one.engine.replace_budget(dollars(10_000), None).await.unwrap();
    admits().await;
    one.engine.add_credit(&id(WORKSPACE), &grant("g1", 1)).await.unwrap();
    within(FOREVER, "the gate", refused).await;
    one.engine.add_credit(&id(WORKSPACE), &grant("g2", 1000)).await.unwrap();
    admits().await;
}

#[tokio::test]
async fn usage_that_reaches_another_replica_is_settled_by_the_one_that_holds_the_reservation() {
    let fleet = Fleet::with([dollars(1000)]).await;
    let (holder, other) = fleet.pair();
    let reservation = holder.admitted(100).await;
    let settled = other.engine.report(cost_of(reservation, "s", 60)).await.unwrap();
    assert_eq!((settled.first, settled.settlement.amounts.cost), (true, NanoUsd::new(60)));
    assert_eq!(holder.open(), 0);
    assert_eq!(fleet.account().await.spent, units(60));
    let again = other.engine.report(cost_of(reservation, "s", 60)).await.unwrap();
    assert!(!again.first);
    let second = other.engine.report(cost_of(reservation, "t", 70)).await;
    assert!(matches!(second, Err(ReportError::SettledBefore(_))), "{second:?}");
    let corrected = Report { correction: Correction::Yes, ..cost_of(reservation, "t", 70) };
    other.engine.report(corrected).await.unwrap();
    assert_eq!(fleet.account().await.spent, units(70));
}

#[tokio::test]
async fn a_response_that_went_by_another_replica_is_settled_and_nobody_waits_for_it() {
    let fleet = Fleet::with([dollars(1000)]).await;
    let (holder, other) = fleet.pair();
    let reservation = holder.admitted(100).await;
    for _ in 0..2 {
        other.engine.settle(&tokens_of(reservation, "metered", 60)).await.unwrap();
    }
    within(FOREVER, "the settlement", async || holder.open() == 0).await;
    holder.engine.flush(&id(WORKSPACE)).await.unwrap();
    assert_eq!(fleet.account().await.spent, units(60));
}

#[tokio::test]
async fn what_another_replica_releases_is_given_back_by_the_one_that_holds_it() {
    let fleet = Fleet::with([dollars(1000)]).await;
    let (holder, other) = fleet.pair();
    let reservation = holder.admitted(100).await;
    let released = other.engine.release(&id(WORKSPACE), reservation).await.unwrap();
    assert_eq!(released, Released::HandedOver);
    within(FOREVER, "the release", async || holder.open() == 0).await;
    assert_eq!(
        holder.engine.release(&id(WORKSPACE), reservation).await.unwrap(),
        Released::NotOpen
    );
}

#[tokio::test]
async fn usage_of_a_process_before_is_settled_by_the_one_that_took_it_over() {
    let mut fleet = Fleet::with([dollars(1000)]).await;
    let reservation = fleet.replicas[0].admitted(100).await;
    let killed = fleet.replicas.remove(0);
    kill(killed.engine).await;
    // The one that is left has the second journal; the next one opens the first.
    let other = fleet.replicas.remove(0);
    fleet.add().await;
    let settled = other.engine.report(cost_of(reservation, "s", 60)).await.unwrap();
    assert!(settled.first);
    assert_eq!((fleet.replicas[0].open(), fleet.account().await.spent), (0, units(60)));
}

#[tokio::test]
async fn a_replica_that_hears_again_after_a_silence_loads_everything_anew() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (one, other) = fleet.pair();
    let changed = other.engine.replace_budget(dollars(900), None).await.unwrap();
    within(FOREVER, "the first news", async || one.in_force().as_ref() == Some(&changed)).await;
    one.store.turn_only("news", Weather::Away);
    {
        // What no news will ever tell.
        let mut state = one.engine.shared.state();
        let room = state.rooms.get_mut(WORKSPACE).unwrap();
        room.ledger.remove_budget(BudgetId(1), clock.now());
    }
    clock.advance(Duration::from_secs(21));
    one.store.turn_only("news", Weather::Fair);
    within(FOREVER, "the budget", async || {
        clock.advance(Duration::from_millis(5));
        one.in_force().is_some()
    })
    .await;
}

#[tokio::test]
async fn a_reservation_whose_time_is_up_waits_for_the_store_and_is_then_charged() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (one, _) = fleet.pair();
    one.admitted(100).await;
    clock.advance(TIMEOUT);
    one.store.turn_only("settled_among", Weather::Away);
    one.engine.shared.end_overdue_in_fleet().await.unwrap_err();
    assert_eq!(one.open(), 1);
    one.store.turn_only("settled_among", Weather::Fair);
    one.engine.shared.end_overdue_in_fleet().await.unwrap();
    one.engine.flush(&id(WORKSPACE)).await.unwrap();
    assert_eq!((one.open(), fleet.account().await.spent), (0, units(100)));
}

#[tokio::test]
async fn a_workspace_that_cannot_be_loaded_costs_the_store_no_more_than_its_loading() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (one, other) = fleet.pair();
    one.admitted(100).await;
    one.store.turn_only("changed_budgets", Weather::Away);
    other.engine.replace_budget(dollars(900), None).await.unwrap();
    let before = one.store.calls_of("changed_budgets");
    within(FOREVER, "a try", async || one.store.calls_of("changed_budgets") > before).await;
    clock.advance(Duration::from_secs(21));
    let tried = one.store.calls_of("changed_budgets") + 4;
    within(FOREVER, "some more", async || one.store.calls_of("changed_budgets") > tried).await;
    assert!(one.store.calls_of("settled_among") <= 1, "all open reservations are asked for once");
}

#[tokio::test]
async fn who_waits_for_others_is_answered_however_often_the_driver_is_woken() {
    let clock = Arc::new(ManualClock::at(NOON));
    let fleet = Fleet::on(Arc::clone(&clock) as _, [dollars(1000)]).await;
    let (one, other) = fleet.pair();
    one.admitted(600).await;
    let engine = other.engine.clone();
    let asked =
        tokio::spawn(async move { engine.reserve(request(500), FOREVER).await.hand_over() });
    let mut turns = 0;
    until("the answer", async || {
        turns += 1;
        clock.advance(Duration::from_micros(100));
        other.engine.shared.stirred.notify_one();
        asked.is_finished()
    })
    .await;
    assert!(matches!(asked.await.unwrap(), Decision::Deny(_)), "400 are left");
    assert!(turns < 1000, "{turns} turns for 25 ms of a tenth each");
}
