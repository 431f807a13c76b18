//! Notices as a receiver on this machine gets them.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::domain::credits::{AlertTerms, CreditGrant, Secret};
use crate::domain::estimate::Unpriced;
use crate::domain::ids::Id;
use crate::domain::ledger::{OnTimeout, Sharing, Terms};
use crate::domain::money::NanoUsd;
use crate::domain::pricing::PriceTable;
use crate::engine::Settings;
use crate::engine::clock::ManualClock;
use crate::store::memory::MemoryStore;
use crate::telemetry::Metrics;

const NOW: Wall = Wall::from_ms(1_795_305_600_000);
const SECRET: &str = "whsec_0123456789abcdef";

/// What came in, and how the next ones are answered; with 200 when nothing is planned.
#[derive(Default)]
struct Inbox {
    notices: Vec<(String, String)>,
    planned: VecDeque<StatusCode>,
}

type Receiver = Arc<Mutex<Inbox>>;

async fn receive(State(inbox): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    let mut inbox = inbox.lock().unwrap();
    inbox.notices.push((headers[SIGNATURE].to_str().unwrap().to_owned(), body));
    inbox.planned.pop_front().unwrap_or(StatusCode::OK)
}

/// A workspace with an alert at 10 nano-dollars, and the receiver of its notices.
struct Bench {
    engine: Engine,
    clock: Arc<ManualClock>,
    sender: Sender,
    inbox: Receiver,
}

impl Bench {
    async fn new() -> Self {
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout: OnTimeout::Charge,
            lease_ttl: Duration::from_secs(10),
            sharing: Sharing::Alone,
        };
        let settings = Settings { terms, journal: None, unpriced: Unpriced::Deny };
        let (_, prices) = watch::channel(Arc::new(PriceTable::new("test", HashMap::default())));
        let clock = Arc::new(ManualClock::at(NOW));
        let store = Arc::new(MemoryStore::new(Duration::from_secs(10)));
        let metrics = Metrics::new();
        let engine =
            Engine::start(settings, store, prices, Arc::clone(&clock) as _, metrics.clone())
                .await
                .unwrap();
        let (inbox, url) = receiver().await;
        let (threshold, secret) = (NanoUsd::new(10), Secret(Arc::from(SECRET)));
        let terms = AlertTerms { threshold, url: Arc::from(url), secret };
        engine.set_credit_alert(&workspace(), Some(&terms)).await.unwrap();
        Self { engine, clock, sender: Sender::new(metrics), inbox }
    }

    async fn add(&self, name: &str, amount: i64) {
        let grant = CreditGrant {
            id: Id::parse(name).unwrap(),
            amount: NanoUsd::new(amount),
            priority: 50,
            expires_at: None,
            reason: Id::parse("test").unwrap(),
            created_at: NOW,
        };
        self.engine.add_credit(&workspace(), &grant).await.unwrap();
    }

    async fn spend(&self, nano_usd: i64) {
        let subject = Arc::new(crate::domain::subject::Subject::of_workspace(workspace()));
        let cost = NanoUsd::new(nano_usd);
        let report = crate::engine::Report {
            settlement: Id::parse("s1").unwrap(),
            workspace: workspace(),
            against: crate::engine::Against::Subject(subject),
            used: crate::engine::Used::Cost { cost, model: None, usage: None },
            certainty: crate::domain::settlement::Certainty::Exact,
            correction: crate::engine::Correction::No,
            at: None,
            origin: None,
        };
        self.engine.report(report).await.unwrap();
    }

    /// Moves the clock and tells what is due then. Gives what came in.
    async fn after(&self, seconds: u64) -> Vec<(String, String)> {
        self.clock.advance(Duration::from_secs(seconds));
        tell_all(&self.engine, &self.sender).await;
        std::mem::take(&mut self.inbox.lock().unwrap().notices)
    }

    fn answer_with(&self, statuses: impl IntoIterator<Item = StatusCode>) {
        self.inbox.lock().unwrap().planned.extend(statuses);
    }
}

async fn receiver() -> (Receiver, String) {
    let inbox = Receiver::default();
    let router = Router::new().route("/low", post(receive)).with_state(Arc::clone(&inbox));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/low", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (inbox, url)
}

fn workspace() -> Id {
    Id::parse("ws").unwrap()
}

#[tokio::test]
async fn a_low_balance_is_told_once_and_signed() {
    let bench = Bench::new().await;
    assert_eq!(bench.after(1).await, []);
    bench.add("g1", 9).await;
    let told = bench.after(1).await;
    let [(signed, body)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(*signed, signature(&Secret(Arc::from(SECRET)), body, bench.engine.wall()));
    assert!(body.contains("\"balance\":0.000000009,"), "{body}");
    let at = bench.engine.wall().as_ms();
    let message: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        message,
        json!({"id": format!("ws:{at}"), "type": "credits.low_balance", "workspace_id": "ws", "balance": 9e-9,
               "threshold": 1e-8, "crossed_at": "2026-11-22T00:00:02Z"})
    );
    for _ in 0..5 {
        assert_eq!(bench.after(3600).await, []);
    }
}

#[tokio::test]
async fn a_notice_that_is_not_taken_is_repeated_with_pauses_and_signed_anew() {
    let bench = Bench::new().await;
    bench.answer_with([
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::NOT_FOUND,
        StatusCode::MOVED_PERMANENTLY,
    ]);
    bench.add("g1", 9).await;
    let first = bench.after(0).await;
    assert_eq!(bench.after(14).await, []);
    let second = bench.after(1).await;
    assert_eq!(bench.after(29).await, []);
    let third = bench.after(1).await;
    assert_eq!(bench.after(59).await, []);
    let fourth = bench.after(1).await;
    for again in [&second, &third, &fourth] {
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].1, first[0].1, "the same notice");
        assert_ne!(again[0].0, first[0].0, "at another time");
    }
    assert_eq!(bench.after(9999).await, []);
}

#[tokio::test]
async fn attempts_are_counted_and_those_to_come_are_shown() {
    let bench = Bench::new().await;
    let shows = |lines: &[&str]| {
        let page = bench.sender.metrics.encode();
        for line in lines {
            assert!(page.lines().any(|shown| shown == *line), "{line} is missing from\n{page}");
        }
    };
    bench.answer_with([StatusCode::INTERNAL_SERVER_ERROR; 2]);
    bench.add("g1", 9).await;
    bench.after(1).await;
    bench.after(15).await;
    shows(&["bursar_notices_total{outcome=\"failed\"} 2", "bursar_notices_pending 1"]);
    bench.after(30).await;
    shows(&["bursar_notices_total{outcome=\"sent\"} 1", "bursar_notices_pending 0"]);

    bench.add("g2", 9).await;
    bench.after(1).await;
    bench.answer_with(vec![StatusCode::NOT_FOUND; 30]);
    bench.spend(8).await;
    for _ in 0..30 {
        bench.after(3600).await;
    }
    shows(&["bursar_notices_total{outcome=\"given_up\"} 1", "bursar_notices_pending 0"]);
}

#[tokio::test]
async fn a_balance_that_rose_is_told_of_again_when_it_falls() {
    let bench = Bench::new().await;
    bench.add("g1", 9).await;
    assert_eq!(bench.after(1).await.len(), 1);
    bench.add("g2", 9).await;
    assert_eq!(bench.after(1).await, []);
    bench.spend(8).await;
    assert_eq!(bench.after(1).await.len(), 1);
    assert_eq!(bench.after(9999).await, []);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_holds_nobody_up() {
    let bench = Bench::new().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (scheme, other) in [("http", "other"), ("https", "another")] {
        let terms = AlertTerms {
            threshold: NanoUsd::new(10),
            url: Arc::from(format!("{scheme}://{gone}/")),
            secret: Secret(Arc::from(SECRET)),
        };
        let other = Id::parse(other).unwrap();
        bench.engine.set_credit_alert(&other, Some(&terms)).await.unwrap();
        let grant = CreditGrant {
            id: Id::parse("g").unwrap(),
            amount: NanoUsd::new(1),
            priority: 50,
            expires_at: None,
            reason: Id::parse("test").unwrap(),
            created_at: NOW,
        };
        bench.engine.add_credit(&other, &grant).await.unwrap();
    }
    bench.add("g1", 9).await;
    assert_eq!(bench.after(1).await.len(), 1);
}
