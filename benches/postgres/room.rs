//! How much room a million accounts take in the database.

use std::time::Instant;

use bursar::domain::ids::HolderId;
use bursar::domain::ledger::escrow::{Draw, Exchange, Then};
use bursar::domain::money::Units;
use bursar::domain::time::Wall;
use bursar::store::postgres::PostgresStore;
use bursar::store::{Batch, Store};

use crate::exchanges::{budget, id, key};
use crate::harness::Postgres;

const ACCOUNTS: u32 = 1_000_000;
/// Accounts of one batch.
const AT_ONCE: u32 = 2_000;

pub(crate) async fn run(store: &PostgresStore, postgres: &Postgres) {
    let budget = budget(u128::MAX / 5);
    store.create_budget(&budget).await.unwrap();
    let before = bytes(postgres).await;
    let begun = Instant::now();
    for first in (0..ACCOUNTS).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let mut exchanges: Vec<_> = (first..first + AT_ONCE)
            .map(|number| Exchange {
                account: key(&budget, &format!("user-{number:07}")),
                holder: HolderId(1),
                opened_by: None,
                epoch: 1,
                seq: 1,
                consumed: Units::ZERO,
                returned: Units::ZERO,
                overrun: Units::ZERO,
                draw: Some(Draw { need_min: Units::ONE, need: Units::ONE, want: Units::ONE }),
                then: Then::Renew,
            })
            .collect();
        exchanges.sort_by(|a, b| a.account.cmp(&b.account));
        let (workspace, holder, settlements) = (id("bench"), HolderId(1), Vec::new());
        let batch = Batch { workspace, holder, settlements, exchanges };
        store.commit(&batch, Wall::default()).await.unwrap();
    }
    let took = begun.elapsed();
    let grown = bytes(postgres).await - before;
    println!();
    println!(
        "{ACCOUNTS} accounts, each with a lease: {} MB of tables and indexes, opened in {:.0} s",
        grown / 1_000_000,
        took.as_secs_f64()
    );
    println!();
}

async fn bytes(postgres: &Postgres) -> i64 {
    let mut db = postgres.open().await;
    let total =
        "SELECT (pg_total_relation_size('account') + pg_total_relation_size('lease'))::bigint";
    sqlx::query_scalar(total).fetch_one(&mut db).await.unwrap()
}
