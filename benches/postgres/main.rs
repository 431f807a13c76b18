//! A replica on PostgreSQL beside one on SQLite: decisions with leases in hand and without, a restart with many live accounts;
//! what exchanges cost and how much room accounts take. Starts a PostgreSQL of its own that syncs what it commits.
//! `cargo bench --bench postgres`, or `… -- decisions exchanges room restart` for some of it.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark measures time, prints its figures, and may panic"
)]

mod decisions;
mod exchanges;
#[expect(dead_code, unused_imports, reason = "a part of what the tests start is enough here")]
#[path = "../../tests/process/harness/mod.rs"]
mod harness;
mod restart;
mod room;

use std::time::Duration;

use bursar::store::Store;
use bursar::store::postgres::{Clock, PostgresSettings, PostgresStore};

use harness::{Postgres, Proxy};

const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let postgres = Postgres::start().await;
    // Nothing goes wrong on this way; it is there because PostgreSQL has no address.
    let proxy = Proxy::to(postgres.socket()).await;
    let settings = PostgresSettings {
        url: direct(&postgres).into(),
        migration_url: None,
        connections: 16,
        listen: true,
        prepared_statements: true,
        ttl: TTL,
        clock: Clock::Database,
    };
    let store = PostgresStore::open(&settings).await.unwrap();
    let named: Vec<String> = std::env::args().skip(1).filter(|name| name != "--bench").collect();
    let is_meant = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    if is_meant("decisions") {
        decisions::run(&store).await;
    }
    if is_meant("exchanges") {
        exchanges::run(&store).await;
    }
    if is_meant("room") {
        room::run(&store, &postgres).await;
    }
    store.close().await;
    if is_meant("restart") {
        restart::run(&Postgres::url(&proxy.address)).await;
    }
}

/// The database without anything in between.
fn direct(postgres: &Postgres) -> String {
    let socket = postgres.socket();
    let directory = socket.parent().unwrap().display();
    format!("postgres://bursar@localhost/postgres?host={directory}")
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
