//! Thousands of requests of every kind at once, with clients that leave and reports that come twice: in the end the books
//! agree with the provider and with themselves, and nothing is left open.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::SqliteConnection;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::harness::{Api, Question, Setup, Spent, Stage, grpc, open_database, until};

/// `make soak` asks for more.
const REQUESTS: u64 = 1_500;
/// Clients, each with one request at a time.
const CLIENTS: usize = 35;
/// Nano-dollars of each report.
const REPORTED: u64 = 1_000;

/// Whose requests are read to their end.
const READER: &str = "ada";
/// Who reports instead of being watched.
const REPORTER: &str = "bob";
/// Who leaves.
const LEAVER: &str = "eve";
/// Whose budget is spent.
const SPENT_UP: &str = "max";

#[tokio::test]
async fn after_thousands_of_mixed_requests_the_books_agree_and_nothing_is_left_open() {
    let requests = std::env::var("SOAK_REQUESTS");
    let requests = requests.map_or(REQUESTS, |count| count.parse().expect("a count"));
    // A request whose client left before its response began is charged when the first is over. Nobody is left to be
    // waited for at the end.
    let setup = Setup::config("reservation: {timeout: 3s}\ndrain_timeout: 0s\n");
    let mut stage = Stage::with(setup, &[("METERING_TIMEOUT", "5s")]).await;
    let mut budgets = Vec::new();
    for (identity, dollars) in [(READER, 1000), (REPORTER, 1000), (LEAVER, 1000), (SPENT_UP, 0)] {
        budgets.push(stage.bursar.create_budget(budget_of(identity, dollars)).await);
    }

    let reported = send_all(&stage, requests).await;
    stage.all_responses_metered().await;
    until("the end of all reservations", async || {
        (stage.bursar.metric("bursar_open_reservations").await == 0).then_some(())
    })
    .await;

    let mut spent = Vec::new();
    for budget in &budgets {
        spent.push(stage.bursar.spent(budget).await);
    }
    assert_eq!(spent[0], stage.upstream.billed().await);
    assert_eq!(spent[1].nano_usd, reported);
    assert!(spent[2].nano_usd > 0, "what the leavers saw is paid");
    assert_eq!(spent[3], Spent { nano_usd: 0, tokens: 0 });
    stage.bursar.process().terminate();
    assert_eq!(stage.bursar.process().ended().await.code(), Some(0));
    check_books(stage.directory.path(), &budgets, &spent).await;
}

fn budget_of(identity: &str, dollars: u64) -> Value {
    let period = "BUDGET_PERIOD_ONE_TIME";
    let limits = json!({"period": period, "amount": dollars, "token_limit": 1_000_000_000});
    json!({"scope": {"identity": {"identity_external_id": identity}}, "limits": limits})
}

/// Sends so many requests and returns what was reported of them, in nano-dollars.
async fn send_all(stage: &Stage, requests: u64) -> u64 {
    let channel = grpc::connect(format!("unix://{}", stage.bursar.socket().display())).await;
    let mut clients = JoinSet::new();
    for first in 0..CLIENTS as u64 {
        let client = Client {
            envoy: stage.envoy.url.clone(),
            api: stage.bursar.api(),
            channel: channel.clone(),
        };
        let numbers = (first..requests).step_by(CLIENTS);
        clients.spawn(async move {
            let mut reported = 0;
            for number in numbers {
                reported += client.send(number).await;
            }
            reported
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// One that sends requests of every kind.
struct Client {
    envoy: String,
    api: Api,
    channel: Channel,
}

impl Client {
    /// Sends a request of the kind whose turn it is. Returns what was reported, in nano-dollars.
    async fn send(&self, number: u64) -> u64 {
        match number % 12 {
            0 => self.read(Question::of(READER), 200).await,
            1 => self.read(Question::streamed(READER), 200).await,
            2 => self.read(Question::of(READER).header("x-sample", "gzip"), 200).await,
            3 => self.read(Question::streamed(READER).header("x-sample", "gzip"), 200).await,
            4 => self.read(Question::to_claude(READER, false), 200).await,
            5 => self.read(Question::to_claude(READER, true), 200).await,
            6 => self.read(Question::to_claude(READER, true).header("x-sample", "gzip"), 200).await,
            7 => self.read(Question::streamed(READER).header("x-sample", "busy"), 429).await,
            8 if number.is_multiple_of(24) => {
                self.read(Question::of(READER).path("/v1/nowhere"), 404).await
            }
            8 => self.read(Question::streamed(SPENT_UP), 429).await,
            9 => self.leave_in_the_middle().await,
            10 => self.leave_after(Duration::from_millis(number % 20)).await,
            _ => return self.report_twice(number).await,
        }
        0
    }

    async fn read(&self, question: Question, status: u16) {
        let reply = question.send(&self.envoy).await;
        assert_eq!(reply.status, status, "{}", reply.text);
    }

    async fn leave_in_the_middle(&self) {
        let mut reply = left().header("x-sample", "wait").begin(&self.envoy).await;
        assert_eq!(reply.status(), 200);
        reply.chunk().await.expect("a stream").expect("its beginning");
    }

    /// Anywhere: before Bursar has answered, before the response begins, in its middle, or at its end.
    async fn leave_after(&self, patience: Duration) {
        let question = left();
        // Either is fine.
        let _ = tokio::time::timeout(patience, question.send(&self.envoy)).await;
    }

    /// Asks without Envoy, and reports the same twice at the same time.
    async fn report_twice(&self, number: u64) -> u64 {
        let decided = grpc::decide(&self.channel, REPORTER).await.expect("an answer");
        let report = json!({
            "settlement_id": format!("s-{number}"),
            "reservation_id": decided.reservation.expect("something set aside"),
            "cost": REPORTED as f64 / 1e9,
        });
        let (one, other) =
            tokio::join!(self.api.report(report.clone()), self.api.report(report.clone()));
        assert_ne!(one["duplicate"], other["duplicate"], "{one} {other}");
        assert_eq!(one["settlement"], other["settlement"]);
        REPORTED
    }
}

/// A long stream of a model that the provider counts apart.
fn left() -> Question {
    let messages = json!([{"role": "user", "content": "Say many words."}]);
    let body = json!({"model": "gpt-4o", "max_tokens": 400, "stream": true, "messages": messages});
    Question::of(LEAVER).body(body.to_string())
}

/// What the database says: of each account, the sum of its events is what was spent, and nothing is lent any more.
async fn check_books(directory: &Path, budgets: &[String], shown: &[Spent]) {
    let mut db = open_database(directory).await;
    for (budget, shown) in budgets.iter().zip(shown) {
        for (dimension, shown) in [("cost", shown.nano_usd), ("tokens", shown.tokens)] {
            let (spent, events, leased) = account(&mut db, budget, dimension).await;
            let shown = i64::try_from(shown).expect("a small number");
            assert_eq!((spent, events, leased), (shown, shown, 0), "{dimension} of {budget}");
        }
    }
}

async fn account(db: &mut SqliteConnection, budget: &str, dimension: &str) -> (i64, i64, i64) {
    let row = sqlx::query_as(
        "SELECT COALESCE(SUM(spent), 0), COALESCE(SUM(leased), 0),
           (SELECT COALESCE(SUM(amount), 0) FROM usage_event WHERE budget = ?1 AND dimension = ?2)
         FROM account WHERE budget = ?1 AND dimension = ?2",
    );
    let row = row.bind(budget).bind(dimension).fetch_one(db).await;
    let (spent, leased, events) = row.expect("a row");
    (spent, events, leased)
}
