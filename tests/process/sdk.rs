//! The public Python clients, unchanged: that of the budgets API against a real Bursar, those of the providers through a
//! real Envoy.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bursar, Envoy, KEY, Process, Setup, Stage, tool, until};

#[tokio::test]
async fn the_public_python_client_gets_the_right_answer_from_every_method() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bursar = Bursar::start(directory.path(), Setup::default()).await;
    let environment = [("BURSAR_URL", bursar.url.as_str()), ("BURSAR_KEY", KEY)];
    let said = run("budgets.py", directory.path(), &environment).await;
    assert!(said.contains("all 8 methods"), "{said}");
}

#[tokio::test]
async fn the_clients_of_openai_and_anthropic_pay_what_they_are_told_and_do_not_retry_in_vain() {
    let stage = Stage::start().await;
    let paid = stage.bursar.create_budget(budget_of("ada", 5)).await;
    stage.bursar.create_budget(budget_of("bob", 1)).await;
    let all_of_it = json!({"settlement_id": "s1", "identity_external_id": "bob", "cost": 1});
    stage.bursar.report(all_of_it).await;

    let requests = requests(&stage.envoy).await;
    let environment =
        [("ENVOY_URL", stage.envoy.url.as_str()), ("PAYING", "ada"), ("SPENT", "bob")];
    let said = run("clients.py", stage.directory.path(), &environment).await;
    let said: Value = said.lines().last().and_then(|line| line.parse().ok()).expect("JSON");

    let (answered, refused) = (count(&said["answered"]), count(&said["refused"]));
    assert_eq!((answered, refused), (27, 6), "{said}");
    assert_eq!(self::requests(&stage.envoy).await - requests, answered + refused, "no retries");
    let served = stage.upstream.served().await;
    assert_eq!(count(&served["requests"]), answered, "what is refused does not reach a provider");
    for (model, told) in said["models"].as_object().expect("models") {
        for (name, tokens) in told.as_object().expect("counts") {
            assert_eq!(&served["models"][model][name], tokens, "{name} of {model}");
        }
    }
    until("the end of all responses", async || {
        (stage.bursar.metric("bursar_watched_responses_total").await >= answered).then_some(())
    })
    .await;
    assert_eq!(stage.bursar.spent(&paid).await, stage.upstream.billed().await);
}

/// A budget of an identity, in dollars a day.
fn budget_of(identity: &str, dollars: u64) -> Value {
    let limits =
        json!({"period": "BUDGET_PERIOD_DAILY", "amount": dollars, "token_limit": 1_000_000});
    json!({"scope": {"identity": {"identity_external_id": identity}}, "limits": limits})
}

/// Requests that clients have sent to Envoy.
async fn requests(envoy: &Envoy) -> u64 {
    envoy.statistic("http.llm.downstream_rq_total").await.expect("a count")
}

fn count(number: &Value) -> u64 {
    number.as_u64().expect("a count")
}

/// Runs a script of `tests/sdk` to its end, which must be a success, and returns what it said.
async fn run(script: &str, directory: &Path, environment: &[(&str, &str)]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
    let mut command = Command::new(tool("venv/bin/python"));
    command.arg(script).envs(environment.iter().copied());
    // Nothing here goes through a proxy.
    command.env("NO_PROXY", "127.0.0.1");
    let mut client = Process::start("client", directory, &mut command);
    let status = client.ended().await;
    assert!(status.success(), "{status}");
    client.log()
}
