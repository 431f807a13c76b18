//! What only a file can do: be missing, foreign, full, or opened again.

use super::*;
use crate::domain::money::Units;
use crate::domain::settlement::Road;
use crate::store::contract::{
    MONTH, NOON, TTL, account, api_key, batch, budget, cost_of, credits::spent_beyond_all_numbers,
    exchange, id, settlement, sqlite_in,
};

async fn refusal(url: &str) -> String {
    SqliteStore::open(url, TTL).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_closed_file_opens_again_with_all_that_was_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    let settled = settlement("s1", 1, &[(&cost, 5, Road::Direct)]);
    let store = sqlite_in(directory.path()).await;
    store.create_budget(&budget).await.unwrap();
    store.create_key(&api_key("k1", 1)).await.unwrap();
    let sent = batch(std::slice::from_ref(&settled), &[exchange(&cost, 1, 100)]);
    let grants = store.commit(&sent, NOON).await.unwrap();
    let before = store.accounts(&budget, MONTH).await.unwrap();
    store.close().await;

    let store = sqlite_in(directory.path()).await;
    assert_eq!(store.load_budgets().await.unwrap(), std::slice::from_ref(&budget));
    assert_eq!(store.list_keys(&id("ws")).await.unwrap(), [api_key("k1", 1)]);
    assert_eq!(store.accounts(&budget, MONTH).await.unwrap(), before);
    assert_eq!(store.settlement(&id("ws"), &settled.id).await.unwrap(), Some(settled));
    assert_eq!(store.commit(&sent, NOON).await.unwrap(), grants);
}

#[tokio::test]
async fn a_url_that_names_no_file_is_refused() {
    for url in ["bursar.db", "postgres://x/y", "sqlite:", "sqlite::memory:", "sqlite:x.db?mode=rwc"]
    {
        let refusal = refusal(url).await;
        assert!(refusal.contains(url) && refusal.contains("sqlite:bursar.db"), "{refusal}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_path_is_said_with_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let missing = at("nowhere/bursar.db");
    let refused = refusal(&format!("sqlite:{missing}")).await;
    assert!(refused.contains(&missing) && refused.contains("there is no directory"), "{refused}");
    let refused = refusal(&format!("sqlite:{}", at("."))).await;
    assert!(refused.contains("it is a directory"), "{refused}");
    std::fs::write(
        at("notes.txt"),
        "not a database, but more than a hundred bytes long. ".repeat(9),
    )
    .unwrap();
    let refused = refusal(&format!("sqlite://{}", at("notes.txt"))).await;
    assert!(refused.contains("notes.txt: the file is not a SQLite database"), "{refused}");
}

#[tokio::test]
async fn a_schema_of_a_newer_bursar_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    sqlx::query("INSERT INTO _sqlx_migrations SELECT 999, description, installed_on, success, checksum, 0 FROM _sqlx_migrations WHERE version = 1")
        .execute(&store.writer)
        .await
        .unwrap();
    store.close().await;
    let refused =
        refusal(&format!("sqlite:{}", directory.path().join("bursar.db").display())).await;
    assert!(refused.contains("version 999") && refused.contains("newer Bursar"), "{refused}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_of_the_batch_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let before = account(&store, &budget, &cost).await;

    sqlx::query("PRAGMA max_page_count = 1").execute(&store.writer).await.unwrap();
    let settled: Vec<_> =
        (0..500).map(|n| settlement(&format!("s{n}"), n, &[(&cost, 1, Road::Direct)])).collect();
    let sent = batch(&settled, &[exchange(&cost, 2, 50)]);
    let refused = store.commit(&sent, NOON).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(why) if why.contains("full: free some space")),
        "{refused}"
    );
    assert_eq!(account(&store, &budget, &cost).await, before);
    assert_eq!(store.settlement(&id("ws"), &settled[0].id).await.unwrap(), None);

    sqlx::query("PRAGMA max_page_count = 1000000").execute(&store.writer).await.unwrap();
    let grants = store.commit(&sent, NOON).await.unwrap();
    assert_eq!((grants[0].spent, grants[0].granted), (Units::new(500), Units::new(150)));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    sqlx::query("PRAGMA query_only = 1").execute(&store.writer).await.unwrap();
    let refused = store.ping().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Unavailable(why) if why.contains("write access")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_corrupt_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    store.create_budget(&budget(1, "p1")).await.unwrap();
    sqlx::query("UPDATE budget SET zone = 'Mars/Olympus'").execute(&store.writer).await.unwrap();
    let refused = store.load_budgets().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Corrupt(why) if why.contains("Mars/Olympus")),
        "{refused}"
    );
}

#[tokio::test]
async fn sums_that_no_number_holds_are_the_largest_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    let spent = spent_beyond_all_numbers(&store).await;
    let [spent] = spent[..] else { panic!("{spent:?}") };
    assert!(spent > i64::MAX - 2_000_000_000, "{spent}");
}

/// The statements that run for every batch and every second must find their rows by an index.
#[tokio::test]
async fn no_statement_of_the_hot_path_scans_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let store = sqlite_in(directory.path()).await;
    for statement in
        tables::HOT.into_iter().chain([commit::SUCCESSORS, leases::DUE, credits::ENTRIES])
    {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
                .fetch_all(&store.readers)
                .await
                .unwrap();
        let scans = |step: &&String| step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE");
        assert_eq!(plan.iter().map(|(.., step)| step).find(scans), None, "{statement}");
    }
}
