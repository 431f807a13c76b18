//! What only a server can do: be missing, hang, refuse, be shared.

mod line;
mod pgbouncer;

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::timeout;

use self::line::Line;
use super::testing::{Database, settings};
use super::*;
use crate::domain::ledger::escrow;
use crate::domain::money::Units;
use crate::domain::settlement::Road;
use crate::store::contract::{
    MONTH, NOON, account, api_key, batch, budget, cost_of, credits::spent_beyond_all_numbers,
    exchange, id, settlement,
};
use crate::store::{Change, FleetStore, Told};

async fn refusal(url: &str) -> String {
    let settings = PostgresSettings { url: url.into(), ..settings("nothing") };
    PostgresStore::open(&settings).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_url_that_makes_no_sense_is_refused_without_its_password() {
    for (url, why) in [
        ("sqlite:bursar.db", "does not begin with postgres://"),
        ("postgres://me:hunter2@host:port/db", "a port"),
        ("postgres://me:hunter2@host:99999/db", "a port"),
        ("postgres://me:hunter2@host/db?sslmode=always", "sslmode"),
        ("postgres://me:hunter2@host/db?sslmode=allow", "sslmode"),
        ("postgres://me:hunter2@host/db?sslkey=/hunter2", "only one of sslcert and sslkey"),
        ("postgres://me:hunter2@host/db?sslrootcert=/hunter2", "only sslmode=verify-full"),
        (
            "postgres://me:hunter2@host/db?sslmode=require&sslrootcert=/x",
            "only sslmode=verify-full",
        ),
        ("postgres://me:hunter2@host/db?sslmode=verify-ca&sslrootcert=/hunter2", "No such file"),
        ("postgres://me:hunter2@host/db?sslmode=verify-full&sslrootcert=%2Fdev%2Fnull", "no cert"),
        ("postgres://me:hunter2@host/db?pasword=hunter2", "a parameter"),
        ("postgres://me:?hunter2@host/db", "percent-encode"),
        ("postgres://me:a?b&hunter2=@host/db", "percent-encode"),
        ("postgres://me:hunter2@ho st/db", "percent-encode"),
        ("postgres://me:hunter2%ff@host/db", "percent-encode"),
    ] {
        let refusal = refusal(url).await;
        assert!(refusal.contains(why) && !refusal.contains("hunter2"), "{url}: {refusal}");
        assert!(refusal.contains("store.url"), "{refusal}");
    }
}

#[tokio::test]
async fn a_server_or_database_that_is_not_there_is_told() {
    let refused = refusal("postgres://bursar@127.0.0.1:1/bursar").await;
    assert!(
        refused.contains("unavailable: cannot open the database bursar on 127.0.0.1:1:"),
        "{refused}"
    );
    let missing = settings("missing");
    let refused = PostgresStore::open(&missing).await.unwrap_err().to_string();
    assert!(refused.contains("make the database"), "{refused}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://bursar@127.0.0.1:{port}/bursar");
    let refused = timeout(CALL_TIMEOUT * 2, refusal(&url)).await.expect("in time");
    assert!(refused.contains("unavailable"), "{refused}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let database = Database::new().await;
    let line = Line::to_server().await;
    let settings = PostgresSettings {
        url: line.url(&database.settings),
        connections: 2,
        ..database.settings.clone()
    };
    let store = PostgresStore::open(&settings).await.unwrap();
    let budget = budget(1, "p1");
    store.create_budget(&budget).await.unwrap();
    line.stall();
    let sent = batch(&[], &[exchange(&cost_of(&budget), 1, 100)]);
    let calls = join_all((0..4).map(|_| store.commit(&sent, NOON)));
    let calls = timeout(CALL_TIMEOUT * 2, calls).await.expect("in time");
    assert!(calls.iter().all(|call| matches!(call, Err(StoreError::Unavailable(_)))), "{calls:?}");
    line.flow();
    // It may take the server a moment to let go of what it was asked before.
    let grants = store.commit(&sent, NOON).await.unwrap();
    assert_eq!(grants[0].granted.get(), 100);
    store.close().await;
    database.remove().await;
}

#[tokio::test]
async fn an_account_that_somebody_holds_locked_is_waited_for_in_bounds() {
    let database = Database::new().await;
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    database.store.create_budget(&budget).await.unwrap();
    database.store.commit(&batch(&[], &[exchange(&cost, 1, 10)]), NOON).await.unwrap();
    let mut other = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM account FOR UPDATE").execute(&mut other).await.unwrap();
    let sent =
        batch(&[settlement("s1", 1, &[(&cost, 5, Road::Direct)])], &[exchange(&cost, 2, 10)]);
    let refused = database.store.commit(&sent, NOON).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(why) if why.contains("too slow")),
        "{refused}"
    );
    assert_eq!(database.store.sweep(NOON.plus(Duration::from_secs(60))).await.unwrap(), 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(database.store.commit(&sent, NOON).await.unwrap()[0].spent.get(), 5);
    other.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn replicas_that_start_together_make_the_schema_once() {
    let name = Database::create("template1").await;
    let settings = settings(&name);
    let starts = (0..3).map(|_| PostgresStore::open(&settings));
    let stores = join_all(starts).await;
    let (first, last) = (stores[0].as_ref().unwrap(), stores[2].as_ref().unwrap());
    first.create_budget(&budget(1, "p1")).await.unwrap();
    assert_eq!(last.load_budgets().await.unwrap(), [budget(1, "p1")]);
    for store in stores {
        store.unwrap().close().await;
    }
}

#[tokio::test]
async fn a_schema_of_a_newer_bursar_is_left_alone() {
    let database = Database::new().await;
    let mut db = database.connect().await;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations SELECT 999, description, installed_on, success, checksum, 0
         FROM _sqlx_migrations WHERE version = 1",
    )
    .execute(&mut db)
    .await
    .unwrap();
    let refused = PostgresStore::open(&database.settings).await.unwrap_err().to_string();
    assert!(refused.contains("version 999") && refused.contains("newer Bursar"), "{refused}");
    db.close().await.unwrap();
    database.remove().await;
}

/// The server of these tests does not wait for the disk unless it is asked to.
#[tokio::test]
async fn what_is_acknowledged_was_written_with_synchronous_commit() {
    let database = Database::new().await;
    let mut db = database.connect().await;
    for write in [
        "SELECT bursar_begin(1000)",
        "SELECT * FROM bursar_commit('ws', '1', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
           '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', NULL, NULL, NULL, 1000, NULL)",
    ] {
        let shown = async |db: &mut PgConnection| -> String {
            sqlx::query_scalar("SHOW synchronous_commit").fetch_one(db).await.unwrap()
        };
        assert_eq!(shown(&mut db).await, "off");
        let begun = format!("BEGIN; {write}");
        sqlx::raw_sql(AssertSqlSafe(begun)).execute(&mut db).await.unwrap();
        assert_eq!(shown(&mut db).await, "on", "{write}");
        sqlx::raw_sql("COMMIT").execute(&mut db).await.unwrap();
    }
    db.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn a_stricter_isolation_is_not_taken_over_from_the_server() {
    let database = Database::new().await;
    let mut db = database.connect().await;
    sqlx::raw_sql(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable',
           current_database()); END $$",
    )
    .execute(&mut db)
    .await
    .unwrap();
    let store = PostgresStore::open(&database.settings).await.unwrap();
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    let asks: Vec<_> = (1..=20)
        .map(|holder| {
            let first = exchange(&cost, 1, 1);
            batch(&[], &[escrow::Exchange { holder: HolderId(holder), ..first }])
        })
        .collect();
    let done = join_all(asks.iter().map(|batch| store.commit(batch, NOON))).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(account(&store, &budget, &cost).await.unwrap().leased.get(), 20);
    store.close().await;
    db.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_told() {
    let database = Database::new().await;
    let mut db = database.connect().await;
    sqlx::raw_sql(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$",
    )
    .execute(&mut db)
    .await
    .unwrap();
    let store = PostgresStore::open(&database.settings).await.unwrap();
    let refused = store.ping().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(why) if why.contains("is it a standby")),
        "{refused}"
    );
    let refused = store.create_budget(&budget(1, "p1")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    assert_eq!(store.load_budgets().await.unwrap(), []);
    store.close().await;
    db.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_corrupt_and_named() {
    let database = Database::new().await;
    database.store.create_budget(&budget(1, "p1")).await.unwrap();
    let mut db = database.connect().await;
    sqlx::raw_sql("UPDATE budget SET zone = 'Mars/Olympus'").execute(&mut db).await.unwrap();
    let refused = database.store.load_budgets().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Corrupt(why) if why.contains("Mars/Olympus")),
        "{refused}"
    );
    db.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn a_broken_total_stops_the_batch_and_is_corrupt() {
    let database = Database::new().await;
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    database.store.create_budget(&budget).await.unwrap();
    database.store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let mut db = database.connect().await;
    sqlx::raw_sql("UPDATE account SET leased = 0").execute(&mut db).await.unwrap();
    let report = escrow::Exchange { returned: Units::new(100), ..exchange(&cost, 2, 0) };
    let refused = database.store.commit(&batch(&[], &[report]), NOON).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains("23514")), "{refused}");
    db.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn replicas_hear_of_each_other_and_again_after_their_connection_was_cut() {
    let database = Database::new().await;
    let other = PostgresStore::open(&database.settings).await.unwrap();
    other.create_budget(&budget(1, "p1")).await.unwrap();
    assert_eq!(database.store.told().await, Told::Changed(id("ws")));
    let mut db = database.connect().await;
    sqlx::raw_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    .execute(&mut db)
    .await
    .unwrap();
    assert_eq!(database.store.told().await, Told::Missed);
    other.create_key(&api_key("k1", 1)).await.unwrap();
    assert_eq!(database.store.told().await, Told::Changed(id("ws")));
    let deaf = PostgresSettings { listen: false, ..database.settings.clone() };
    let deaf = PostgresStore::open(&deaf).await.unwrap();
    let word = timeout(Duration::from_millis(50), deaf.told()).await;
    assert!(word.is_err(), "{word:?}");
    db.close().await.unwrap();
    other.close().await;
    deaf.close().await;
    database.remove().await;
}

#[tokio::test]
async fn that_a_budget_was_deleted_is_known_for_a_day() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let database = Database::new().await;
    let store = &database.store;
    store.sweep(NOON).await.unwrap();
    for number in [1, 2] {
        store.create_budget(&budget(number, &format!("p{number}"))).await.unwrap();
    }
    store.delete_budget(&id("ws"), budget(1, "p1").id).await.unwrap();
    let known = async || {
        let all = store.changed_budgets(&id("ws"), &Change::default(), 9).await.unwrap();
        all.unwrap().budgets.len()
    };
    store.sweep(NOON.plus(DAY)).await.unwrap();
    assert_eq!(known().await, 2);
    store.sweep(NOON.plus(DAY + Duration::from_secs(1))).await.unwrap();
    assert_eq!(known().await, 1);
    database.remove().await;
}

#[tokio::test]
async fn the_time_is_that_of_the_database() {
    let database = Database::new().await;
    let settings = PostgresSettings { clock: Clock::Database, ..database.settings.clone() };
    let store = PostgresStore::open(&settings).await.unwrap();
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    // A replica whose clock is years ahead takes nobody's lease.
    let wrong = Wall::from_ms(i64::MAX / 2);
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), wrong).await.unwrap();
    assert_eq!(store.sweep(wrong).await.unwrap(), 0);
    assert_eq!(account(&store, &budget, &cost).await.unwrap().leased.get(), 100);
    let upto = store.news(&[], wrong).await.unwrap().upto;
    assert!(upto < wrong && upto > Wall::from_ms(0), "{upto:?}");
    assert!(store.accounts(&budget, MONTH).await.unwrap().len() == 1);
    store.close().await;
    database.remove().await;
}

#[tokio::test]
async fn sums_that_no_number_holds_are_the_largest_there_is() {
    let database = Database::new().await;
    let spent = spent_beyond_all_numbers(&database.store).await;
    assert_eq!(spent, [i64::MAX]);
    database.remove().await;
}

#[tokio::test]
async fn a_text_that_no_database_holds_is_found_nowhere() {
    let database = Database::new().await;
    let store = &database.store;
    store.create_budget(&budget(1, "p1")).await.unwrap();
    for filter in [
        BudgetFilter { target: Some("p\0".to_owned()), ..BudgetFilter::default() },
        BudgetFilter { target_contains: Some("\0".to_owned()), ..BudgetFilter::default() },
    ] {
        let page = store.list_budgets(&id("ws"), &filter, Cursor::Start, 10).await.unwrap();
        assert!(page.budgets.is_empty());
    }
    database.remove().await;
}

#[tokio::test]
async fn calls_that_hang_leave_room_for_batches() {
    let database = Database::new().await;
    let store = &database.store;
    let here = budget(1, "p1");
    store.create_budget(&here).await.unwrap();
    let mut other = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM change WHERE workspace = 'ws' FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let keys: Vec<_> = (0..20).map(|at| api_key(&format!("k{at}"), at)).collect();
    let mut hanging = join_all(keys.iter().map(|key| store.create_key(key)));
    let exchanges = [exchange(&cost_of(&here), 1, 10)];
    let batch = batch(&[], &exchanges);
    let batch = async {
        // All who hang have what connections they get.
        tokio::task::yield_now().await;
        let waits = "SELECT count(*) >= 4 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let mut looking = database.connect().await;
        while !query_scalar::<bool>(waits).fetch_one(&mut looking).await.unwrap() {}
        timeout(CALL_TIMEOUT / 3, store.commit(&batch, NOON)).await
    };
    let done = tokio::select! {
        done = batch => done,
        _ = &mut hanging => panic!("they wait for a lock"),
    };
    assert_eq!(done.expect("in time").unwrap()[0].granted, Units::new(10));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    hanging.await;
    database.remove().await;
}
