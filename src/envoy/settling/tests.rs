//! The names of entries, and that a response which is read more than once counts once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::*;
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::decision::Decision;
use crate::domain::estimate::{Estimate, Unpriced};
use crate::domain::ids::BudgetId;
use crate::domain::ledger::{OnTimeout, Sharing, Terms};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::pricing::{Entry, ModelPrice, PriceTable, Rate};
use crate::domain::settlement::reserved_prefix;
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::Wall;
use crate::domain::usage::{Record, Usage};
use crate::engine::clock::ManualClock;
use crate::engine::{self, Ask, Engine};
use crate::envoy::handover::tests::handover;
use crate::store::memory::MemoryStore;
use crate::telemetry::Metrics;

fn name(method: &str, path: &str, id: Option<&str>, verdict: Verdict) -> String {
    let ended = Ended {
        handover: handover(),
        method: method.to_owned(),
        path: path.to_owned(),
        response_id: id.map(Into::into),
        verdict,
    };
    let fetched = ended.fetched_id().map(|id| format!(" fetched {id}")).unwrap_or_default();
    let Some(claim) = ended.claim() else { return fetched };
    assert!(reserved_prefix(&claim.settlement).is_some(), "anybody may take {}", claim.settlement);
    claim.settlement.to_string() + &fetched
}

#[test]
fn an_entry_is_named_by_its_reservation_or_by_the_response_that_can_be_fetched_again() {
    let reservation = handover().reservation;
    let sure = || Verdict::Charge(Certainty::Exact, Box::default());
    let part = || Verdict::Charge(Certainty::AtLeast, Box::default());
    let begun = || Verdict::ChargeReserved(Certainty::Estimated);
    let chat = "/v1/chat/completions";
    assert_eq!(name("POST", chat, Some("c1"), sure()), format!("metered:{reservation}"));
    assert_eq!(name("POST", chat, None, part()), format!("metered-in-part:{reservation}"));
    assert_eq!(name("POST", chat, None, begun()), format!("estimated:{reservation}"));
    assert_eq!(name("POST", chat, None, Verdict::Release), "");
    let made = "/v1/responses?x=1";
    assert_eq!(name("POST", made, Some("r1"), sure()), "response:r1");
    assert_eq!(name("POST", made, Some("r1"), begun()), "response-begun:r1");
    assert_eq!(name("POST", made, Some("bad\n"), sure()), format!("metered:{reservation}"));
    assert_eq!(name("GET", "/v1/responses/r1", Some("r1"), sure()), "response:r1 fetched r1");
}

const LEASE_TTL: Duration = Duration::from_secs(10);

/// A workspace with a budget that nothing exhausts, and an engine whose one model costs a nano-dollar a token.
pub(in crate::envoy) struct Bench {
    pub(in crate::envoy) settler: Settler,
    budget: Budget,
}

impl Bench {
    pub(in crate::envoy) async fn start() -> Self {
        let bench = Self::on(MemoryStore::new(LEASE_TTL), Sharing::Alone).await;
        bench.settler.engine.create_budget(bench.budget.clone()).await.unwrap();
        bench
    }

    /// Two replicas of one store.
    pub(in crate::envoy) async fn pair() -> (Self, Self) {
        let store = MemoryStore::new(LEASE_TTL);
        let one = Self::on(store.clone(), Sharing::Fleet).await;
        one.settler.engine.create_budget(one.budget.clone()).await.unwrap();
        (one, Self::on(store, Sharing::Fleet).await)
    }

    async fn on(store: MemoryStore, sharing: Sharing) -> Self {
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout: OnTimeout::Charge,
            lease_ttl: LEASE_TTL,
            sharing,
        };
        let settings = engine::Settings { terms, journal: None, unpriced: Unpriced::Deny };
        let rate = Rate::per_million(1_000_000);
        let price = Entry::Priced(Arc::new(ModelPrice::flat("m", rate, rate)));
        let table = PriceTable::new("test", [("m".into(), price)].into_iter().collect());
        let (_, prices) = watch::channel(Arc::new(table));
        let now = Wall::from_ms(1_795_305_600_000);
        let clock = Arc::new(ManualClock::at(now));
        let engine = Engine::start(settings, Arc::new(store), prices, clock, Metrics::new());
        let engine = engine.await.unwrap();
        let workspace = handover().workspace;
        let schedule =
            Schedule { period: Period::Monthly, zone: Zone::utc(), week_start: WeekStart::Monday };
        let cost = Some(NanoUsd::new(1_000_000));
        let budget = Budget {
            scope: Scope { kind: ScopeKind::Workspace, target: Target::One(workspace.clone()) },
            workspace,
            id: BudgetId(1),
            generation: 0,
            resets: 0,
            limits: Limits { cost, schedule: Some(schedule), ..Limits::default() },
            is_active: true,
            expires_at: None,
            shadow: false,
            when_unavailable: WhenUnavailable::Deny,
            name: None,
            created_at: now,
            updated_at: now,
        };
        Self { settler: Settler::new(engine), budget }
    }

    /// Waits until a reservation of this replica is settled, on whichever road that was told.
    pub(in crate::envoy) async fn settled(&self, handover: &Handover) {
        while self.settler.is_left_open(handover) {
            tokio::task::yield_now().await;
        }
    }

    /// A request that is set 100 nano-dollars aside for, of an input of ten tokens.
    pub(in crate::envoy) async fn admit(&self) -> Handover {
        let subject = Subject {
            model: Some(Id::parse("m").unwrap()),
            ..Subject::of_workspace(handover().workspace)
        };
        let amounts = Amounts { cost: NanoUsd::new(100), tokens: Tokens::ZERO };
        let estimate = Estimate::of(amounts);
        let ask = Ask { subject: Arc::new(subject), estimate };
        let held = self.settler.engine.reserve(ask, Duration::from_secs(60)).await;
        let Decision::Allow(admission) = held.hand_over() else { panic!("refused") };
        let reservation = admission.reservation.unwrap();
        Handover { reservation, input_tokens: 10, ..handover() }
    }

    /// What the budget has spent.
    pub(in crate::envoy) async fn spent(&self) -> i64 {
        self.settler.engine.consumption(&self.budget).await.unwrap().cost.get()
    }

    async fn respond(&self, method: &str, verdict: Verdict) -> i64 {
        let ended = Ended {
            handover: self.admit().await,
            method: method.to_owned(),
            path: if method == "GET" { "/v1/responses/r1" } else { "/v1/responses" }.to_owned(),
            response_id: Some("r1".into()),
            verdict,
        };
        self.settler.settle(ended).await;
        self.spent().await
    }
}

fn used(output: u64) -> Verdict {
    let usage = Usage { output, ..Usage::default() };
    Verdict::Charge(Certainty::Exact, Box::new(Record { usage, ..Record::default() }))
}

#[tokio::test]
async fn a_response_that_goes_by_another_replica_settles_the_reservation_of_the_first() {
    for (verdict, cost) in [(used(70), 70), (Verdict::Release, 0)] {
        let (holder, other) = Bench::pair().await;
        let handover = holder.admit().await;
        let ended = Ended {
            handover: handover.clone(),
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            response_id: None,
            verdict,
        };
        other.settler.settle(ended).await;
        holder.settled(&handover).await;
        assert_eq!(holder.spent().await, cost);
    }
}

#[tokio::test]
async fn a_response_that_is_fetched_again_and_again_costs_once() {
    let bench = Bench::start().await;
    assert_eq!(bench.respond("POST", used(70)).await, 70);
    for _ in 0..3 {
        assert_eq!(bench.respond("GET", used(70)).await, 70);
    }
}

#[tokio::test]
async fn a_response_made_in_the_background_costs_what_was_set_aside_until_it_is_fetched() {
    let bench = Bench::start().await;
    let begun = Verdict::ChargeReserved(Certainty::Estimated);
    assert_eq!(bench.respond("POST", begun).await, 100);
    assert_eq!(bench.respond("GET", Verdict::Release).await, 100);
    for _ in 0..3 {
        assert_eq!(bench.respond("GET", used(30)).await, 30);
    }
}

#[tokio::test]
async fn what_was_seen_of_hidden_reasoning_costs_no_less_than_was_set_aside() {
    let bench = Bench::start().await;
    let seen = |output| {
        let usage = Usage { input: 10, output, ..Usage::default() };
        let record = Record { usage, ..Record::default() };
        Verdict::ChargeSeen(Certainty::AtLeast, Box::new(record))
    };
    assert_eq!(bench.respond("POST", seen(5)).await, 100);
    assert_eq!(bench.respond("POST", seen(150)).await, 100 + 160);
}

#[tokio::test]
async fn what_a_provider_says_in_the_end_replaces_what_was_set_aside_for_its_reasoning() {
    let bench = Bench::start().await;
    let handover = bench.admit().await;
    for (verdict, spent) in [
        (Verdict::ChargeSeen(Certainty::AtLeast, Box::default()), 100),
        (used(70), 70),
        (Verdict::ChargeSeen(Certainty::AtLeast, Box::default()), 70),
    ] {
        let (handover, method) = (handover.clone(), "POST".to_owned());
        let path = "/v1/chat/completions".to_owned();
        bench.settler.settle(Ended { handover, method, path, response_id: None, verdict }).await;
        assert_eq!(bench.spent().await, spent);
    }
}

#[tokio::test]
async fn a_response_that_nobody_saw_being_made_costs_when_it_is_first_fetched() {
    let bench = Bench::start().await;
    for _ in 0..3 {
        assert_eq!(bench.respond("GET", used(30)).await, 30);
    }
}

#[tokio::test]
async fn responses_that_share_an_id_are_each_on_record_as_they_are_counted() {
    let bench = Bench::start().await;
    assert_eq!(bench.respond("POST", used(70)).await, 70);
    assert_eq!(bench.respond("POST", used(50)).await, 120);
    // A changed schedule opens its window with what is on record.
    let daily =
        Schedule { period: Period::Daily, zone: Zone::utc(), week_start: WeekStart::Monday };
    let mut budget = bench.budget.clone();
    budget.limits.schedule = Some(daily);
    let budget = bench.settler.engine.replace_budget(budget, None).await.unwrap();
    let spent = bench.settler.engine.consumption(&budget).await.unwrap().cost;
    assert_eq!(spent, NanoUsd::new(120));
}
