//! By way of a real PgBouncer in transaction mode, which gives every transaction another connection.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures_util::future::join_all;

use crate::domain::ids::HolderId;
use crate::domain::ledger::escrow::Exchange;
use crate::store::Store;
use crate::store::contract::{NOON, account, batch, budget, cost_of, exchange};
use crate::store::postgres::testing::{Database, settings, socket_directory};
use crate::store::postgres::{PostgresSettings, PostgresStore};

const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// Ends with the test.
struct Bouncer(Child);

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bouncer {
    /// Two connections for all, and a socket in this directory.
    fn start(directory: &Path) -> Self {
        let file = directory.join("pgbouncer.ini");
        let server = socket_directory().display();
        let own = directory.display();
        let written = format!(
            "[databases]\n* = host={server} user=bursar\n[pgbouncer]\npool_mode = transaction\ndefault_pool_size = 2\n\
             auth_type = any\nunix_socket_dir = {own}\nlisten_port = 6432\n"
        );
        std::fs::write(&file, written).unwrap();
        let shell = "[ \"$(id -u)\" = 0 ] || exec \"$@\"; chown -R nobody \"$0\"; \
                     exec setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", shell])
            .arg(directory)
            .arg(PROGRAM)
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        let mut lines = said.lines().map_while(Result::ok);
        let is_up = lines.any(|line| line.contains("process up"));
        assert!(is_up, "PgBouncer did not start");
        // It goes on speaking; somebody must listen.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
async fn all_works_through_pgbouncer_in_transaction_mode() {
    if !Path::new(PROGRAM).exists() {
        eprintln!("skipped: PgBouncer is not installed; scripts/tools installs it where it can");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _bouncer = Bouncer::start(directory.path());
    let name = Database::create("template1").await;
    let direct = settings(&name);
    let own = directory.path().display();
    let through = PostgresSettings {
        url: format!("postgres://bursar@localhost:6432/{name}?host={own}").into(),
        prepared_statements: false,
        listen: false,
        ..direct.clone()
    };
    let refused = PostgresStore::open(&through).await.unwrap_err().to_string();
    assert!(refused.contains("store.migration_url"), "{refused}");
    let through = PostgresSettings { migration_url: Some(direct.url.clone()), ..through };
    let store = PostgresStore::open(&through).await.unwrap();

    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    for round in 1..=10 {
        let sent = (1..=8).map(|holder| {
            batch(&[], &[Exchange { holder: HolderId(holder), ..exchange(&cost, round, 1) }])
        });
        let sent: Vec<_> = sent.collect();
        let done = join_all(sent.iter().map(|batch| store.commit(batch, NOON))).await;
        for grants in done {
            assert_eq!(grants.unwrap()[0].granted.get(), i64::from(round));
        }
        store.sweep(NOON).await.unwrap();
        store.ping().await.unwrap();
    }
    assert_eq!(account(&store, &budget, &cost).await.unwrap().leased.get(), 80);
    assert_eq!(store.load_budgets().await.unwrap(), [budget]);
    store.close().await;
}
