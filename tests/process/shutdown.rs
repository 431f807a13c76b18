//! SIGTERM: who is connected is answered, everybody is told, nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Api, Bursar, Question, Setup, Stage, UNMETERED, grpc, until};

const LIMIT: i64 = 1_000_000_000;
/// Clients that ask, and as many that report.
const CLIENTS: u32 = 8;

/// What was answered.
#[derive(Default)]
struct Answered {
    allowed: AtomicI64,
    reported: AtomicI64,
}

#[tokio::test]
async fn sigterm_under_load_loses_nothing() {
    let setup = Setup::config("drain_timeout: 1s\n");
    let mut stage = Stage::with(setup, &[UNMETERED]).await;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": LIMIT});
    let budget = json!({"scope": {"workspace": {}}, "limits": limits});
    let budget = stage.bursar.create_budget(budget).await;

    let answered = Arc::new(Answered::default());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(ask_until_refused(stage.envoy.url.clone(), Arc::clone(&answered)));
        clients.spawn(report_until_gone(stage.bursar.api(), client, Arc::clone(&answered)));
    }
    until("some load", async || {
        let (allowed, reported) = (&answered.allowed, &answered.reported);
        (allowed.load(Ordering::Relaxed) > 100 && reported.load(Ordering::Relaxed) > 100)
            .then_some(())
    })
    .await;
    let before = answered.allowed.load(Ordering::Relaxed);
    stage.bursar.process().terminate();
    let status = stage.bursar.process().ended().await;
    clients.join_all().await;
    assert_eq!(status.code(), Some(0), "{}", stage.bursar.log());
    assert!(stage.bursar.log().contains("everything is written down"));
    assert!(!stage.directory.path().join("ready.json").exists(), "no longer ready");
    assert!(!stage.bursar.socket().exists(), "the socket goes with its process");
    let (allowed, reported) =
        (answered.allowed.load(Ordering::Relaxed), answered.reported.load(Ordering::Relaxed));
    assert!(allowed > before, "who is connected is answered while it drains");

    stage.bursar.start_again().await;
    let spent = stage.bursar.consumption(&budget).await;
    assert_eq!(
        spent["tokens"], reported,
        "every report that was acknowledged counts, and no other"
    );
    let reply = until("a decision", async || {
        Some(stage.ask(&Question::of("ada")).await).filter(|reply| reply.status != 503)
    })
    .await;
    let left = reply.header("x-ratelimit-remaining-tokens").parse::<i64>().expect("a number");
    let in_flight = (LIMIT - reported - left) / Question::TOKENS;
    assert_eq!(
        in_flight,
        allowed + 1,
        "each request that was answered is still in flight, and no other"
    );
}

/// Asks until Bursar is gone. Each answer before that must be an allow.
async fn ask_until_refused(envoy: String, answered: Arc<Answered>) {
    loop {
        let reply = Question::of("ada").send(&envoy).await;
        if reply.status == 503 {
            return;
        }
        assert_eq!(reply.status, 200, "{}", reply.text);
        answered.allowed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reports one token after the other until Bursar is gone. Each answer before that must be a yes.
async fn report_until_gone(api: Api, client: u32, answered: Arc<Answered>) {
    for number in 0u32.. {
        let usage = json!({"input_tokens": 1, "output_tokens": 0});
        let report = json!({"settlement_id": format!("{client}-{number}"), "model": "gpt-4o", "usage": usage});
        let Ok(reply) = api.try_call("POST", "/v2/usage", Some(report)).await else { return };
        assert_eq!(reply.status, 200, "{}", reply.text);
        answered.reported.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_stopping_bursar_says_so_and_ends_when_nobody_is_connected() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bursar = Bursar::start(directory.path(), Setup::config("drain_timeout: 1h\n")).await;
    let connection = grpc::connect(format!("http://{}", bursar.grpc)).await;
    assert_eq!(grpc::health(&connection, "").await, Ok(ServingStatus::Serving));
    bursar.process().terminate();
    until("Bursar to tell that it stops", async || {
        let told = grpc::health(&connection, "").await.expect("whoever is connected is answered");
        (told == ServingStatus::NotServing).then_some(())
    })
    .await;
    let ready = bursar.try_call("GET", "/readyz", None).await.expect("an answer");
    assert_eq!((ready.status, ready.text.as_str()), (503, "stopping\n"));
    assert_eq!(grpc::check(&connection, "ada").await, Code::Ok, "decisions are made to the end");
    drop(connection);
    assert_eq!(bursar.process().ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_second_signal_does_not_wait_for_who_is_connected() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bursar = Bursar::start(directory.path(), Setup::config("drain_timeout: 1h\n")).await;
    let connection = grpc::connect(format!("http://{}", bursar.grpc)).await;
    grpc::health(&connection, "").await.expect("an answer");
    bursar.process().terminate();
    until("Bursar to drain", async || bursar.log().contains("stopping").then_some(())).await;
    bursar.process().terminate();
    assert_eq!(bursar.process().ended().await.code(), Some(0));
}
