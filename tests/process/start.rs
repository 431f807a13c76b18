//! Starts that cannot work: one clear message, and exit code 1.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Bursar, Process, Setup};

/// What Bursar says when it does not come up.
pub(crate) async fn refusal(directory: &Path, setup: &Setup) -> String {
    let mut process = Process::start("bursar", directory, &mut Bursar::command(directory, setup));
    let status = process.ended().await;
    let said = process.log();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The default with one variable more.
fn with(name: &str, value: &str) -> Setup {
    let environment = vec![(name.to_owned(), value.to_owned())];
    Setup { environment, ..Setup::default() }
}

#[track_caller]
pub(crate) fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("ready\n"), "{said}");
}

#[tokio::test]
async fn what_another_bursar_uses_is_named_and_left_alone() {
    let (first, second) = (directory(), directory());
    let running = Bursar::start(first.path(), Setup::default()).await;
    let socket = running.socket().display().to_string();
    let said = refusal(second.path(), &with("BURSAR_LISTEN_UNIX", &socket)).await;
    assert_says(&said, &["listen.unix", &socket, "is in use"]);
    let http = running.url.trim_start_matches("http://");
    let said = refusal(second.path(), &with("BURSAR_LISTEN_HTTP", http)).await;
    assert_says(&said, &["listen.http", http, "is in use", "BURSAR_LISTEN_HTTP"]);
    let said = refusal(second.path(), &with("BURSAR_LISTEN_GRPC", &running.grpc)).await;
    assert_says(&said, &["listen.grpc", &running.grpc, "is in use", "BURSAR_LISTEN_GRPC"]);
    let journal = first.path().join("bursar.journal").display().to_string();
    let setup = Setup::config(&format!("journal: {{path: {journal}}}\n"));
    let said = refusal(second.path(), &setup).await;
    assert_says(&said, &["journal.path", &journal, "in use by another process"]);
    running.call("GET", "/v2/budgets", None).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named_with_what_is_wrong_and_not_touched() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("folder.db")).expect("a directory");
    fs::write(path("notes.db"), "These are my notes, not a database.\n".repeat(100))
        .expect("a file");
    for (url, why) in [
        ("sqlite:folder.db", "it is a directory"),
        ("sqlite:notes.db", "is not a SQLite database"),
        ("sqlite:missing/bursar.db", "there is no directory missing"),
        // The system lets nobody write there, not even root.
        ("sqlite:/proc/version", "cannot open the database /proc/version"),
        ("mysql://somewhere", "BURSAR_STORE_URL"),
    ] {
        let said = refusal(directory.path(), &with("BURSAR_STORE_URL", url)).await;
        assert_says(&said, &[why]);
    }
    let notes = fs::read_to_string(path("notes.db")).expect("still there");
    assert!(notes.starts_with("These are my notes"), "the file is as it was");
}

#[tokio::test]
async fn every_fault_of_a_configuration_is_told_at_once() {
    let config = "
listen: {grpc: nowhere}
patience: soon
estimate: {mode: generous}
mapping: {trusted_headers: ['x y']}
surprise: true
";
    let environment = vec![("BURSAR_WORKSPACE".to_owned(), "w\n".to_owned())];
    let setup = Setup { config: config.to_owned(), environment, ..Setup::default() };
    let said = refusal(directory().path(), &setup).await;
    let places = [
        "listen.grpc",
        "patience",
        "estimate.mode",
        "mapping.trusted_headers",
        "surprise",
        "BURSAR_WORKSPACE",
    ];
    assert_says(&said, &places);
}

#[tokio::test]
async fn a_variable_that_means_nothing_is_told_and_passed_over() {
    let directory = directory();
    // Kubernetes sets the second for a Service called bursar.
    let mut setup = with("BURSAR_STORE_URI", "sqlite:other.db");
    setup.environment.push(("BURSAR_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()));
    let bursar = Bursar::start(directory.path(), setup).await;
    assert_says(
        &bursar.log(),
        &["BURSAR_STORE_URI", "did you mean BURSAR_STORE_URL?", "BURSAR_SERVICE_HOST"],
    );
    assert!(!directory.path().join("other.db").exists());
}
