//! How long a replica takes from its start to ready when it was killed with many live accounts.

use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::{Bursar, Setup, grpc};

const ACCOUNTS: usize = 100_000;
const CLIENTS: usize = 32;

pub(crate) async fn run(url: &str) {
    let directory = tempfile::tempdir().unwrap();
    let store = ("BURSAR_STORE_URL".to_owned(), url.to_owned());
    let config = "patience: 5s\nlease: {ttl: 600s}\nlog: {filter: warn}\n".to_owned();
    let setup = Setup { config, environment: vec![store], ..Setup::default() };
    let mut bursar = Bursar::start(directory.path(), setup).await;
    let limits = json!({"period": "BUDGET_PERIOD_MONTHLY", "amount": 1000});
    let each = json!({"identity": {"identity_external_id": "*"}});
    bursar.create_budget(json!({"scope": each, "limits": limits})).await;
    let mut asking = JoinSet::new();
    for client in 0..CLIENTS {
        let channel = grpc::connect(format!("unix://{}", bursar.socket().display())).await;
        asking.spawn(async move {
            for number in (client..ACCOUNTS).step_by(CLIENTS) {
                grpc::check(&channel, &format!("user-{number}")).await;
            }
        });
    }
    asking.join_all().await;
    let live = bursar.metric("bursar_live_accounts").await;
    let open = bursar.metric("bursar_open_reservations").await;
    bursar.process().kill();
    let begun = Instant::now();
    bursar.start_again().await;
    let took = begun.elapsed().as_secs_f64();
    println!(
        "restart after kill -9 with {live} live accounts and {open} open reservations: ready in {took:.2} s"
    );
}
