//! What happens while something is away: Bursar itself, its store, or room on the disk.

use std::fs;
use std::time::Duration;

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use crate::harness::{Envoy, Question, Setup, Stage, UNMETERED, until};

/// What Envoy tells the provider about a request that passed without a decision.
const MARK: &str = "x-envoy-auth-failure-mode-allowed";

const LIMIT: i64 = 1_000_000;

/// A second Envoy on the same Bursar, which lets requests pass when it gets no decision.
async fn envoy_that_fails_open(stage: &Stage) -> Envoy {
    let directory = stage.directory.path().join("open");
    fs::create_dir(&directory).expect("a writable directory");
    let lines = [("FAIL_OPEN", "true")];
    Envoy::start(&directory, &stage.upstream, &stage.bursar.socket(), &lines, &[]).await
}

#[tokio::test]
async fn while_bursar_is_away_envoy_does_what_it_was_told_and_asks_again_when_it_is_back() {
    let mut stage = Stage::start().await;
    let open = envoy_that_fails_open(&stage).await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let rate_limit = json!({"requests_per_minute": 2});
    stage.bursar.create_budget(json!({"scope": scope, "rate_limit": rate_limit})).await;
    assert_eq!(stage.ask(&Question::of("ada")).await.status, 200);

    stage.bursar.process().kill();
    let closed = stage.ask(&Question::of("ada")).await;
    assert_eq!((closed.status, closed.text.as_str()), (503, ""), "fail closed");
    until("an access log that tells it from a refusal", async || {
        stage.envoy.log().contains("503 ext_authz_error").then_some(())
    })
    .await;
    let passed = Question::of("ada").send(&open.url).await;
    assert_eq!(passed.status, 200, "fail open: {}", passed.text);
    assert_eq!(stage.upstream.last_headers().await[MARK], "true");

    stage.bursar.start_again().await;
    let allowed = until("a decision after the restart", async || {
        Some(stage.ask(&Question::of("ada")).await).filter(|reply| reply.status != 503)
    })
    .await;
    assert_eq!(allowed.status, 200, "{}", allowed.text);
    assert_eq!(allowed.header("x-ratelimit-remaining"), "0", "the first request is remembered");
    let refused = Question::of("ada").send(&open.url).await;
    assert_eq!(refused.code(), "requests_per_minute_exceeded", "fail open refuses what is refused");
}

#[tokio::test]
async fn a_bursar_that_hangs_is_not_waited_for() {
    let mut stage = Stage::with(Setup::default(), &[("DECISION_TIMEOUT", "0.3s")]).await;
    stage.bursar.process().pause();
    let late = stage.ask(&Question::of("ada")).await;
    assert_eq!((late.status, late.text.as_str()), (503, ""));
    stage.bursar.process().go_on();
    until("a decision", async || {
        Some(stage.ask(&Question::of("ada")).await).filter(|reply| reply.status == 200)
    })
    .await;
}

/// Keeps everybody else from writing, until it is dropped.
async fn hold_the_database(stage: &Stage) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(stage.directory.path().join("bursar.db"));
    let mut holder = options.connect().await.expect("the database opens");
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.expect("nobody else writes");
    holder
}

#[tokio::test]
async fn while_the_store_is_away_each_budget_does_what_it_says_and_what_is_lent_is_spent() {
    // What is lent lasts for the whole test.
    let config = "patience: 300ms\nlease: {ttl: 5m}\n".to_owned();
    let setup = Setup { config, ..Setup::default() };
    let stage = Stage::with(setup, &[UNMETERED]).await;
    let open = envoy_that_fails_open(&stage).await;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": LIMIT});
    for (identity, when_unavailable) in [("ada", "deny"), ("bob", "allow"), ("eve", "deny")] {
        let scope = json!({"identity": {"identity_external_id": identity}});
        let budget =
            json!({"scope": scope, "limits": limits, "when_unavailable": when_unavailable});
        stage.bursar.create_budget(budget).await;
    }
    let lent = until("a lease", async || {
        Some(stage.ask(&Question::of("eve")).await).filter(|reply| reply.status == 200)
    })
    .await;
    assert_eq!(lent.header("x-bursar-unavailable"), "");

    let holder = hold_the_database(&stage).await;
    let refused = stage.ask(&Question::of("ada")).await;
    assert_eq!((refused.status, refused.code()), (503, "budget_unavailable"), "{}", refused.text);
    assert_eq!(refused.header("retry-after"), "1");
    let passed = Question::of("ada").send(&open.url).await;
    assert_eq!(passed.status, 200, "it is no refusal, so fail open lets it pass: {}", passed.text);
    assert_eq!(stage.upstream.last_headers().await[MARK], "true");

    for (identity, mark) in [("bob", "allow"), ("eve", ""), ("bob", "allow"), ("eve", "")] {
        let admitted = stage.ask(&Question::of(identity)).await;
        assert_eq!(admitted.status, 200, "{}", admitted.text);
        assert_eq!(admitted.header("x-bursar-unavailable"), mark, "{identity}");
    }

    drop(holder);
    let allowed = until("the store's return", async || {
        Some(stage.ask(&Question::of("ada")).await).filter(|reply| reply.status == 200)
    })
    .await;
    assert_eq!(
        allowed.header("x-ratelimit-remaining-tokens"),
        (LIMIT - Question::TOKENS).to_string()
    );
    let mut admitted = 2;
    let bob = until("a lease for bob", async || {
        let reply = stage.ask(&Question::of("bob")).await;
        admitted += i64::from(reply.status == 200);
        Some(reply).filter(|reply| reply.header("x-bursar-unavailable").is_empty())
    })
    .await;
    let left = LIMIT - admitted * Question::TOKENS;
    assert_eq!(bob.header("x-ratelimit-remaining-tokens"), left.to_string(), "what passed counts");
}

/// When a client loses patience. Long enough for its request to be waiting for the store.
const CLIENT_PATIENCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_client_that_leaves_before_the_decision_leaves_nothing_set_aside() {
    let stage = Stage::start().await;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": LIMIT});
    stage.bursar.create_budget(json!({"scope": {"workspace": {}}, "limits": limits})).await;
    let holder = hold_the_database(&stage).await;
    let left = tokio::time::timeout(CLIENT_PATIENCE, stage.ask(&Question::of("ada"))).await;
    assert!(left.is_err(), "the store is away, so nothing can have been decided: {left:?}");
    until("Envoy to notice", async || {
        stage.envoy.log().contains("downstream_remote_disconnect").then_some(())
    })
    .await;
    drop(holder);
    let reply = stage.ask(&Question::of("ada")).await;
    let expected = (LIMIT - Question::TOKENS).to_string();
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), expected, "{}", reply.text);
    assert_eq!(stage.upstream.served().await["requests"], 1);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged_and_with_room_again_all_goes_on() {
    // No file may grow past 400 KiB. The signal that would end the process is ignored, for a full disk sends none.
    let full = "trap '' XFSZ; ulimit -S -f 400; exec \"$@\"".to_owned();
    let setup =
        Setup { shell: Some(full), config: "patience: 300ms\n".to_owned(), ..Setup::default() };
    let mut stage = Stage::with(setup, &[UNMETERED]).await;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "amount": 1_000_000});
    let budget = json!({"scope": {"workspace": {}}, "limits": limits});
    let budget = stage.bursar.create_budget(budget).await;

    let report = |number: u32| json!({"settlement_id": format!("settlement-{number}"), "cost": 1});
    let mut acknowledged = 0;
    let refused = loop {
        let reply = stage.bursar.try_call("POST", "/v2/usage", Some(report(acknowledged))).await;
        let reply = reply.expect("an answer");
        if reply.status != 200 {
            break reply;
        }
        acknowledged += 1;
        assert!(acknowledged < 1000, "the disk does not fill up");
    };
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(acknowledged > 0, "the disk was full from the start");
    let reply = stage.ask(&Question::of("ada")).await;
    assert_eq!((reply.status, reply.code()), (503, "budget_unavailable"), "{}", reply.text);
    assert!(stage.bursar.log().contains("check the disk and the space on it"));

    stage.bursar.process().lift_file_size_limit();
    // Whether it was the report that was refused or this one that is recorded, it counts once.
    stage.bursar.report(report(acknowledged)).await;
    until("a decision", async || {
        Some(stage.ask(&Question::of("ada")).await).filter(|reply| reply.status == 200)
    })
    .await;
    assert_eq!(stage.bursar.consumption(&budget).await["cost"], acknowledged + 1);
    stage.bursar.lift_restrictions();
    stage.bursar.start_again().await;
    assert_eq!(stage.bursar.consumption(&budget).await["cost"], acknowledged + 1);
}
