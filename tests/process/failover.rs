//! A PostgreSQL whose place another takes, and one that has no connection left.

use std::sync::Arc;

use tokio::task::JoinSet;
use tonic::Code;

use crate::fleet::{CONFIG, Fleet, budget_of, check_records, spend, spend_what_is_left};
use crate::harness::{ESTIMATE, Provider, grpc, until};

#[tokio::test]
async fn a_failover_to_a_standby_with_every_commit_exceeds_nothing_and_loses_nothing() {
    const LIMIT: i64 = 300 * ESTIMATE;
    let (mut fleet, budget) = Fleet::with_budget(4, CONFIG, budget_of(LIMIT)).await;
    let standby = fleet.postgres.standby().await;
    let provider = Arc::new(Provider::new(LIMIT));
    let mut spending = JoinSet::new();
    for replica in &fleet.replicas {
        let channel = replica.channel().await;
        spending.spawn(spend(channel, replica.bursar.api(), Arc::clone(&provider)));
    }
    until("some load", async || (provider.count().answers > 60).then_some(())).await;
    fleet.postgres.kill();
    for replica in &fleet.replicas {
        replica.proxy.turn_to(standby.socket());
    }
    spending.join_all().await;
    for replica in &fleet.replicas {
        until("a store that takes no writes", async || {
            replica.bursar.log().contains("is it a standby?").then_some(())
        })
        .await;
    }
    standby.promote().await;
    fleet.postgres = standby;
    spend_what_is_left(&fleet, &provider, &budget, LIMIT).await;
    check_records(&fleet, &provider).await;
}

#[tokio::test]
async fn a_store_without_a_connection_left_is_one_that_is_away() {
    let (mut fleet, _) = Fleet::with_budget(1, CONFIG, budget_of(1000 * ESTIMATE)).await;
    fleet.postgres.execute("ALTER SYSTEM SET max_connections = 20").await;
    fleet.postgres.crash().await;
    let replica = &fleet.replicas[0];
    let channel = replica.channel().await;
    let is = async |code| (grpc::check(&channel, "ada").await == code).then_some(());
    until("a store that answers", async || is(Code::Ok).await).await;
    replica.proxy.close();
    let taken = fleet.postgres.take_all_connections(20).await;
    replica.proxy.open();
    until("what is wrong", async || {
        replica.bursar.log().contains("the server has no connection left").then_some(())
    })
    .await;
    until("the end of the lease", async || is(Code::Unavailable).await).await;
    drop(taken);
    until("a store that answers", async || is(Code::Ok).await).await;
}
