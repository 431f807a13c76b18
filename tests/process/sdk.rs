//! The public client of the budgets API, unchanged, against a real Bursar.

use std::path::Path;
use std::process::Command;

use crate::harness::{Bursar, KEY, Process, Setup, tool};

#[tokio::test]
async fn the_public_python_client_gets_the_right_answer_from_every_method() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bursar = Bursar::start(directory.path(), Setup::default()).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/budgets.py");
    let mut command = Command::new(tool("venv/bin/python"));
    command.arg(script).env("BURSAR_URL", &bursar.url).env("BURSAR_KEY", KEY);
    // Nothing here goes through a proxy.
    command.env("NO_PROXY", "127.0.0.1");
    let mut client = Process::start("client", directory.path(), &mut command);
    let status = client.ended().await;
    assert!(status.success(), "{status}");
    assert!(client.log().contains("all 8 methods"), "{}", client.log());
}
