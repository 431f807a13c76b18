//! kill -9 under load, again and again, on the same files: what was acknowledged stays, what was in flight is in flight again,
//! and no budget is exceeded by the count that the provider keeps for itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Api, Bursar, ESTIMATE, Provider, Setup, grpc, open_database, until};

/// Times that it is killed.
const ROUNDS: usize = 6;
/// Clients that ask and report at the same time.
const CLIENTS: u64 = 24;
/// Nano-dollars of the budget: two hundred requests at once, or the settlements of some rounds.
const LIMIT: i64 = 200 * ESTIMATE;

/// Asks and reports until Bursar is gone. A third of the requests are still under way when it goes.
async fn client(seed: u64, channel: Channel, api: Api, provider: Arc<Provider>) {
    for number in 0u64.. {
        let Ok(decided) = grpc::decide(&channel, "ada").await else { return };
        let Some(reservation) = decided.reservation else {
            assert_ne!(decided.code, Code::Ok);
            // The budget is spent, or held by requests in flight: whoever waits sees it killed.
            provider.count().answers += 1;
            continue;
        };
        provider.let_through(&reservation);
        let turn = seed.wrapping_mul(31).wrapping_add(number);
        if turn.is_multiple_of(3) && number < 6 {
            continue;
        }
        let micros = i64::try_from(turn.wrapping_mul(7919) % 2000).expect("a small number") + 1;
        let settlement = provider.done(&reservation, micros * 1000);
        let report = provider.report(&settlement);
        let Ok(reply) = api.try_call("POST", "/v2/usage", Some(report)).await else { return };
        assert_eq!(reply.status, 200, "{}", reply.text);
        provider.acknowledged(&settlement);
    }
}

/// A life under load that ends by a kill after some hundred answers.
async fn live_and_be_killed(bursar: &mut Bursar, provider: &Arc<Provider>, round: u64) {
    let before = provider.count().answers;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let channel = grpc::connect(format!("unix://{}", bursar.socket().display())).await;
        let (api, provider) = (bursar.api(), Arc::clone(provider));
        clients.spawn(client(round * CLIENTS + number, channel, api, provider));
    }
    let some = 150 + usize::try_from(round * 67 % 200).expect("a small number");
    until("some load", async || (provider.count().answers > before + some).then_some(())).await;
    bursar.process().kill();
    clients.join_all().await;
}

/// Settles what the clients left open, as a provider's retries would.
async fn settle_the_rest(bursar: &Bursar, provider: &Provider) {
    for reservation in provider.unsettled() {
        let settlement = format!("s-{reservation}");
        if !provider.count().reports.contains_key(&settlement) {
            provider.done(&reservation, ESTIMATE / 2);
        }
        // It must be known: by this process, or as settled before.
        bursar.report(provider.report(&settlement)).await;
        provider.acknowledged(&settlement);
    }
}

#[tokio::test]
async fn killed_under_load_again_and_again_it_loses_nothing_and_exceeds_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bursar = Bursar::start(directory.path(), Setup::default()).await;
    let dollars = LIMIT / 1_000_000_000;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "amount": dollars});
    bursar.create_budget(json!({"scope": {"workspace": {}}, "limits": limits})).await;
    let each = json!({"identity": {"identity_external_id": "*"}});
    bursar.create_budget(json!({"scope": each, "limits": limits})).await;
    let provider = Arc::new(Provider::new(LIMIT));
    for round in 0..ROUNDS {
        let number = u64::try_from(round).expect("a small number");
        live_and_be_killed(&mut bursar, &provider, number).await;
        bursar.start_again().await;
        if round % 2 == 0 {
            settle_the_rest(&bursar, &provider).await;
        }
    }
    settle_the_rest(&bursar, &provider).await;
    bursar.process().terminate();
    assert_eq!(bursar.process().ended().await.code(), Some(0));
    check_records(directory.path(), &provider).await;
}

/// What the database says, against the provider's count and against itself.
async fn check_records(directory: &Path, provider: &Provider) {
    let mut db = open_database(directory).await;
    let integrity: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut db).await.expect("an answer");
    assert_eq!(integrity, "ok");
    let recorded: Vec<(String, i64)> =
        sqlx::query_as("SELECT id, cost FROM settlement").fetch_all(&mut db).await.expect("rows");
    let recorded: BTreeMap<String, i64> = recorded.into_iter().collect();
    let sent = provider.sent();
    assert!(sent.len() > 100 * ROUNDS / 2, "only {} reports", sent.len());
    assert_eq!(recorded, sent, "each report that was acknowledged is on record, once");
    let spent: i64 = sent.values().sum();
    assert!(spent <= LIMIT);
    let accounts: Vec<(i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT spent, forfeited, overdraft,
           (SELECT SUM(consumed) FROM lease l WHERE l.budget = a.budget),
           (SELECT SUM(amount) FROM usage_event e WHERE e.budget = a.budget)
         FROM account a WHERE dimension = 'cost'",
    )
    .fetch_all(&mut db)
    .await
    .expect("rows");
    assert_eq!(accounts, vec![(spent, 0, 0, spent, spent); 2], "spent, forfeited, overdraft, …");
    let out_of_balance: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT a.budget, a.leased, COALESCE(SUM(l.granted - l.consumed - l.returned), 0) AS outstanding
         FROM account a LEFT JOIN lease l USING (workspace, budget, generation, dimension, target, window_label)
         WHERE l.state = 'active' GROUP BY a.budget, a.leased HAVING outstanding <> a.leased",
    )
    .fetch_all(&mut db)
    .await
    .expect("rows");
    assert_eq!(out_of_balance, []);
}

/// Requests per minute of the budget that outlives its process.
const PER_MINUTE: usize = 300;

#[tokio::test]
async fn slots_of_the_rolling_minute_survive_every_kill() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut bursar = Bursar::start(directory.path(), Setup::default()).await;
    let limit = json!({"requests_per_minute": PER_MINUTE});
    let budget = json!({"scope": {"workspace": {}}, "rate_limit": limit});
    let budget = bursar.create_budget(budget).await;
    let mut let_through = 0;
    for _ in 0..3 {
        let channel = grpc::connect(format!("unix://{}", bursar.socket().display())).await;
        for _ in 0..PER_MINUTE / 4 {
            let_through += usize::from(grpc::check(&channel, "ada").await == Code::Ok);
        }
        bursar.process().kill();
        bursar.start_again().await;
    }
    assert_eq!(let_through, PER_MINUTE / 4 * 3);
    // As long as the first of them is not a minute old.
    let counted = bursar.consumption(&budget).await["requests_in_window"].as_u64();
    assert_eq!(counted, u64::try_from(let_through).ok());
}
