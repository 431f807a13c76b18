//! Two replicas as clients meet them: what was lost with one is shown and given back, and a report reaches the one that holds the
//! reservation.

use std::time::Duration;

use super::*;
use crate::domain::decision::Decision;
use crate::domain::estimate::Estimate;
use crate::domain::ids::ReservationId;
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::subject::Subject;
use crate::engine::Ask;
use crate::engine::clock::Clock;
use crate::store::Store as _;

/// Clients of two replicas, one of which is lost in the end, and what they stand on.
struct Pair {
    client: Client,
    lost: Client,
    clock: Arc<ManualClock>,
    store: MemoryStore,
}

impl Pair {
    async fn new() -> Self {
        let store = MemoryStore::new(testing::LEASE_TTL);
        let clock = Arc::new(ManualClock::at(testing::NOW));
        let (client, lost) = (Client::on(&store, &clock).await, Client::on(&store, &clock).await);
        Self { client, lost, clock, store }
    }

    /// A request at the replica that is to be lost, which sets a dollar aside.
    async fn admitted_elsewhere(&self) -> ReservationId {
        let subject = Arc::new(Subject::of_workspace(Id::parse(WORKSPACE).unwrap()));
        let amounts = Amounts { cost: NanoUsd::new(1_000_000_000), tokens: Tokens::ZERO };
        let ask = Ask { subject, estimate: Estimate::of(amounts) };
        let held = self.lost.engine.reserve(ask, Duration::from_secs(60)).await;
        match held.hand_over() {
            Decision::Allow(admission) => admission.reservation.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Time passes in which the other replica says nothing.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.store.sweep(self.clock.now().wall).await.unwrap();
    }
}

/// A budget of the workspace with ten dollars.
fn ten_dollars() -> Value {
    json!({"scope": {"workspace": {}}, "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "amount": 10}})
}

#[tokio::test]
async fn what_a_lost_replica_forfeited_is_shown_and_given_back_when_nobody_can_report_it() {
    let pair = Pair::new().await;
    let client = &pair.client;
    let id = pair.lost.new_budget(ten_dollars()).await;
    pair.admitted_elsewhere().await;
    pair.lost.engine.shutdown().await;
    pair.pass(Duration::from_secs(60)).await;
    let path = format!("/v2/budgets/{id}");
    let shown = client.ok(&format!("GET {path}/accounts"), json!({})).await;
    let account = &shown["data"][0];
    let names = (&account["dimension"], &account["target_id"], &account["replicas"]);
    assert_eq!(names, (&json!("cost"), &json!(WORKSPACE), &json!(0)), "{shown}");
    let forfeited = account["forfeited"].clone();
    assert!(forfeited.as_f64().unwrap() >= 1.0, "{shown}");
    let release = format!("POST {path}/release-forfeits");
    let early = client.ok(&release, json!({})).await;
    assert_eq!(early, json!({"released": []}));
    let said = client.refused(&release, r#"{"older_than_seconds": 659}"#, 400, 3).await;
    assert_eq!(
        said,
        "older_than_seconds must be at least 660: until then it may still be reported"
    );
    pair.pass(Duration::from_secs(700)).await;
    let older = client.ok(&release, json!({"older_than_seconds": 86_400})).await;
    assert_eq!(older, json!({"released": []}));
    let (status, released) = client.send(&release, "").await;
    assert_eq!((status, &released["released"][0]["amount"]), (200, &forfeited), "{released}");
    let shown = client.ok(&format!("GET {path}/accounts?limit=1"), json!({})).await;
    assert_eq!(shown["data"][0]["forfeited"], 0, "{shown}");
    assert_eq!(client.send(&release, "").await.1, json!({"released": []}));
}

#[tokio::test]
async fn credits_that_a_lost_replica_forfeited_are_shown_and_given_back() {
    let pair = Pair::new().await;
    let client = &pair.client;
    let grant = json!({"id": "g1", "amount": 10, "reason": "paid"});
    pair.lost.ok("POST /v2/credits/grants", grant).await;
    let forfeits = async || {
        let credits = client.ok("GET /v2/credits", json!({})).await;
        (credits["lent"].as_f64().unwrap(), credits["forfeited"].as_f64().unwrap())
    };
    pair.admitted_elsewhere().await;
    pair.lost.engine.shutdown().await;
    pair.pass(Duration::from_secs(760)).await;
    assert!(forfeits().await.1 >= 1.0);
    let released = client.ok("POST /v2/credits/release-forfeits", json!({})).await;
    assert_eq!(released["released"].as_array().unwrap().len(), 1, "{released}");
    assert_eq!(forfeits().await, (0.0, 0.0));
}

#[tokio::test]
async fn a_report_for_a_replica_that_does_not_answer_is_accepted() {
    let pair = Pair::new().await;
    pair.lost.new_budget(ten_dollars()).await;
    let reservation = pair.admitted_elsewhere().await;
    let report =
        json!({"settlement_id": "s1", "reservation_id": reservation.to_string(), "cost": 1});
    let settled = pair.client.ok("POST /v2/usage", report).await;
    assert_eq!(settled["settlement"]["settlement_id"], "s1");
    let late = pair.admitted_elsewhere().await;
    pair.lost.engine.shutdown().await;
    let report = json!({"settlement_id": "s2", "reservation_id": late.to_string(), "cost": 1});
    let (status, reply) = pair.client.send("POST /v2/usage", report.to_string()).await;
    assert_eq!((status, reply), (202, json!({"handed_over": true, "settlement_id": "s2"})));
}
