//! Several Bursars and one PostgreSQL: one budget, no more let through than it allows, whatever is killed, cut or hangs.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::{Api, Bursar, ESTIMATE, Postgres, Provider, Proxy, Setup, grpc, until};

/// What every replica is told beside its store. Nobody has to wait long for what a replica that is gone still held.
pub(crate) const CONFIG: &str = "patience: 300ms\nlease: {ttl: 3s}\nreservation: {timeout: 3s}\n";
const NANO_PER_DOLLAR: i64 = 1_000_000_000;

/// Replicas on one store, each behind a proxy of its own.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) postgres: Postgres,
    directory: TempDir,
}

pub(crate) struct Replica {
    pub(crate) bursar: Bursar,
    pub(crate) proxy: Proxy,
}

impl Fleet {
    /// All replicas know the budget from their start. Its id comes along.
    pub(crate) async fn with_budget(
        replicas: usize,
        config: &str,
        budget: Value,
    ) -> (Self, String) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let postgres = Postgres::start().await;
        let mut fleet = Self { replicas: Vec::new(), postgres, directory };
        fleet.add(config).await;
        let id = fleet.replicas[0].bursar.create_budget(budget).await;
        for _ in 1..replicas {
            fleet.add(config).await;
        }
        (fleet, id)
    }

    async fn add(&mut self, config: &str) {
        let directory = self.directory.path().join(self.replicas.len().to_string());
        fs::create_dir(&directory).expect("a writable directory");
        let proxy = Proxy::to(self.postgres.socket()).await;
        let url = ("BURSAR_STORE_URL".to_owned(), Postgres::url(&proxy.address));
        let setup = Setup { config: config.to_owned(), environment: vec![url], ..Setup::default() };
        let bursar = Bursar::start(&directory, setup).await;
        self.replicas.push(Replica { bursar, proxy });
    }
}

/// A budget of the whole workspace.
pub(crate) fn budget_of(nano_usd: i64) -> Value {
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "amount": nano_usd / NANO_PER_DOLLAR});
    json!({"scope": {"workspace": {}}, "limits": limits})
}

impl Replica {
    pub(crate) async fn channel(&self) -> Channel {
        grpc::connect(format!("unix://{}", self.bursar.socket().display())).await
    }
}

/// Asks and reports until the budget is spent, or its Bursar is gone.
pub(crate) async fn spend(channel: Channel, api: Api, provider: Arc<Provider>) {
    let mut refused = 0;
    while refused < 5 {
        let Ok(decided) = grpc::decide(&channel, "ada").await else { return };
        let Some(reservation) = decided.reservation else {
            assert_ne!(decided.code, Code::Ok);
            refused += 1;
            continue;
        };
        refused = 0;
        provider.let_through(&reservation);
        let settlement = provider.done(&reservation, ESTIMATE / 2);
        let report = provider.report(&settlement);
        let Ok(reply) = api.try_call("POST", "/v2/usage", Some(report)).await else { return };
        if reply.status == 200 {
            provider.acknowledged(&settlement);
        }
    }
}

/// Clients at every replica, until all of them are refused.
pub(crate) async fn spend_everywhere(fleet: &Fleet, provider: &Arc<Provider>, clients: usize) {
    let mut spending = JoinSet::new();
    for replica in &fleet.replicas {
        for _ in 0..clients {
            let channel = replica.channel().await;
            spending.spawn(spend(channel, replica.bursar.api(), Arc::clone(provider)));
        }
    }
    spending.join_all().await;
}

/// Clients at every replica, until not enough is left for a request.
pub(crate) async fn spend_what_is_left(
    fleet: &Fleet,
    provider: &Arc<Provider>,
    budget: &str,
    limit: i64,
) {
    until("all that is left of the budget", async || {
        spend_everywhere(fleet, provider, 1).await;
        let shown = fleet.replicas[0].bursar.spent_if_known(budget).await?;
        let spent = i64::try_from(shown.nano_usd).expect("a number");
        (spent > limit - ESTIMATE).then_some(())
    })
    .await;
}

#[tokio::test]
async fn eight_replicas_spend_one_budget_to_its_end_and_not_beyond() {
    const LIMIT: i64 = 200 * ESTIMATE;
    let (fleet, budget) = Fleet::with_budget(8, CONFIG, budget_of(LIMIT)).await;
    let provider = Arc::new(Provider::new(LIMIT));
    spend_everywhere(&fleet, &provider, 3).await;
    // What others had idle a moment ago is there for whoever asks again.
    until("the end of the budget", async || {
        spend_everywhere(&fleet, &provider, 1).await;
        let sent: i64 = provider.sent().values().sum();
        (sent > LIMIT - ESTIMATE).then_some(())
    })
    .await;
    let sent: i64 = provider.sent().values().sum();
    for replica in &fleet.replicas {
        until("the same books everywhere", async || {
            let spent = replica.bursar.spent(&budget).await;
            (i64::try_from(spent.nano_usd) == Ok(sent)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn whatever_is_killed_or_cut_nothing_is_exceeded_and_nothing_acknowledged_is_lost() {
    const LIMIT: i64 = 300 * ESTIMATE;
    let (mut fleet, budget) = Fleet::with_budget(8, CONFIG, budget_of(LIMIT)).await;
    let provider = Arc::new(Provider::new(LIMIT));
    for round in 0..4usize {
        let before = provider.count().answers;
        let mut spending = JoinSet::new();
        for replica in &fleet.replicas {
            for _ in 0..2 {
                let channel = replica.channel().await;
                spending.spawn(spend(channel, replica.bursar.api(), Arc::clone(&provider)));
            }
        }
        until("some load", async || {
            let is_over = spending.try_join_next().is_some();
            (is_over || provider.count().answers > before + 30).then_some(())
        })
        .await;
        fleet.disturb(round).await;
        spending.join_all().await;
        fleet.heal(round).await;
    }
    spend_what_is_left(&fleet, &provider, &budget, LIMIT).await;
    check_records(&fleet, &provider).await;
}

impl Fleet {
    /// Something goes wrong while clients spend.
    async fn disturb(&mut self, round: usize) {
        match round {
            0 => {
                for at in [1, 4] {
                    self.replicas[at].bursar.process().kill();
                }
            }
            1 => {
                self.replicas[2].proxy.hang();
                self.replicas[3].proxy.close();
                for at in [5, 6] {
                    self.replicas[at].proxy.cut();
                }
            }
            2 => self.postgres.crash().await,
            _ => self.postgres.pause(),
        }
    }

    async fn heal(&mut self, round: usize) {
        match round {
            0 => {
                for at in [1, 4] {
                    self.replicas[at].bursar.start_again().await;
                }
            }
            1 => {
                for at in [2, 3] {
                    self.replicas[at].proxy.open();
                }
            }
            2 => {}
            _ => self.postgres.go_on(),
        }
    }
}

/// What the database says, against the provider's count and against itself.
pub(crate) async fn check_records(fleet: &Fleet, provider: &Provider) {
    let mut db = fleet.postgres.open().await;
    let recorded: Vec<String> =
        sqlx::query_scalar("SELECT id FROM settlement").fetch_all(&mut db).await.expect("rows");
    for id in provider.acknowledgements() {
        assert!(recorded.contains(&id), "{id} was acknowledged");
    }
    let books: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT spent, (SELECT COALESCE(SUM(amount), 0)::bigint FROM usage_event e
           WHERE e.budget = a.budget AND e.dimension = a.dimension)
         FROM account a WHERE dimension = 'cost'",
    )
    .fetch_all(&mut db)
    .await
    .expect("rows");
    for (spent, recorded) in books {
        assert_eq!(spent, recorded, "what is counted is on record");
    }
}

#[tokio::test]
async fn usage_that_reaches_another_replica_settles_the_reservation() {
    let (mut fleet, budget) = Fleet::with_budget(2, CONFIG, budget_of(200 * ESTIMATE)).await;
    let channel = fleet.replicas[0].channel().await;
    let decided = grpc::decide(&channel, "ada").await.expect("an answer");
    let reservation = decided.reservation.expect("it is let through");
    let usage = json!({"settlement_id": "s-1", "reservation_id": reservation, "cost": 0.01});
    let reply = fleet.replicas[1].bursar.try_call("POST", "/v2/usage", Some(usage)).await;
    let status = reply.expect("an answer").status;
    assert!(matches!(status, 200 | 202), "{status}");
    until("the settlement", async || {
        let spent = fleet.replicas[1].bursar.spent(&budget).await;
        (spent.nano_usd == 10_000_000).then_some(())
    })
    .await;

    // And when its holder is gone before it is told.
    let decided = grpc::decide(&channel, "ada").await.expect("an answer");
    let reservation = decided.reservation.expect("it is let through");
    fleet.replicas[0].bursar.process().kill();
    let usage = json!({"settlement_id": "s-2", "reservation_id": reservation, "cost": 0.02});
    let reply = fleet.replicas[1].bursar.try_call("POST", "/v2/usage", Some(usage)).await;
    assert_eq!(reply.expect("an answer").status, 202, "it is kept for its holder");
    fleet.replicas[0].bursar.start_again().await;
    until("the settlement", async || {
        let spent = fleet.replicas[1].bursar.spent(&budget).await;
        (spent.nano_usd == 30_000_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_changed_on_one_replica_is_in_force_on_the_others() {
    let (fleet, _) = Fleet::with_budget(2, CONFIG, budget_of(200 * ESTIMATE)).await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let rate_limit = json!({"requests_per_minute": 0});
    let budget = json!({"scope": scope, "rate_limit": rate_limit});
    let channel = fleet.replicas[1].channel().await;
    let admission = async || (grpc::check(&channel, "ada").await == Code::Ok).then_some(());
    until("an admission", admission).await;
    let id = fleet.replicas[0].bursar.create_budget(budget).await;
    until("a refusal", async || (grpc::check(&channel, "ada").await != Code::Ok).then_some(()))
        .await;
    let path = format!("/v2/budgets/{id}");
    fleet.replicas[0].bursar.call("DELETE", &path, None).await;
    until("an admission", admission).await;
}

#[tokio::test]
async fn a_store_that_hangs_is_not_waited_for_and_leases_are_spent_meanwhile() {
    let config = "patience: 50ms\nlease: {ttl: 5s}\n";
    let (fleet, _) = Fleet::with_budget(1, config, budget_of(1000 * ESTIMATE)).await;
    let replica = &fleet.replicas[0];
    let channel = replica.channel().await;
    for _ in 0..3 {
        assert_eq!(grpc::check(&channel, "ada").await, Code::Ok);
    }
    replica.proxy.hang();
    assert_eq!(grpc::check(&channel, "ada").await, Code::Ok, "its lease lasts");
    until("the end of the lease", async || {
        (grpc::check(&channel, "ada").await == Code::Unavailable).then_some(())
    })
    .await;
    replica.proxy.open();
    until("a store that answers", async || {
        (grpc::check(&channel, "ada").await == Code::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_rolling_minute_is_one_for_all_replicas() {
    const PER_MINUTE: usize = 20;
    let limit = json!({"requests_per_minute": PER_MINUTE});
    let budget = json!({"scope": {"workspace": {}}, "rate_limit": limit});
    let (fleet, _) = Fleet::with_budget(4, CONFIG, budget).await;
    let mut asking = JoinSet::new();
    for replica in &fleet.replicas {
        let channel = replica.channel().await;
        asking.spawn(async move {
            let mut admitted = 0;
            for _ in 0..PER_MINUTE {
                admitted += usize::from(grpc::check(&channel, "ada").await == Code::Ok);
            }
            admitted
        });
    }
    let admitted: usize = asking.join_all().await.into_iter().sum();
    assert!(admitted <= PER_MINUTE, "{admitted} within a few seconds");
    assert!(admitted > PER_MINUTE / 2, "only {admitted}");
}
