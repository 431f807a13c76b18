//! The public Python clients, unchanged: that of the budgets API against a real Bursar, those of the providers through a
//! real Envoy.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bursar, Envoy, KEY, Process, Setup, Spent, Stage, tool, until};

/// LLM tokens that two requests use, but that are not enough to set aside for both at once.
const TIGHT: u64 = 350;

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
    let mut budgets = Vec::new();
    for (identity, period, limit) in [
        ("ada", "ONE_TIME", json!({"amount": 5, "token_limit": 1_000_000})),
        ("tim", "ONE_TIME", json!({"amount": 5, "token_limit": TIGHT})),
        ("bob", "DAILY", json!({"amount": 1})),
        ("max", "ONE_TIME", json!({"amount": 1})),
    ] {
        budgets.push(stage.bursar.create_budget(budget_of(identity, period, limit)).await);
    }
    for identity in ["bob", "max"] {
        let all = json!({"settlement_id": identity, "identity_external_id": identity, "cost": 1});
        stage.bursar.report(all).await;
    }

    let upstream = format!("http://{}", stage.upstream.address);
    let environment = [
        ("ENVOY_URL", stage.envoy.url.as_str()),
        ("UPSTREAM_URL", upstream.as_str()),
        ("PAYING", "ada"),
        ("TIGHT", "tim"),
        ("SPENT_TODAY", "bob"),
        ("SPENT", "max"),
    ];
    let requests_before = requests(&stage.envoy).await;
    let said = run("clients.py", stage.directory.path(), &environment).await;
    let said: Value = said.lines().last().and_then(|line| line.parse().ok()).expect("JSON");

    let [answered, refused, waited] = ["answered", "refused", "waited"].map(|n| count(&said[n]));
    assert_eq!((answered, refused, waited), (29, 10, 1), "{said}");
    let sent = requests(&stage.envoy).await - requests_before;
    assert_eq!(sent, answered + refused + waited, "only what may help is tried again");
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
    let (ada, tim) = (stage.bursar.spent(&budgets[0]).await, stage.bursar.spent(&budgets[1]).await);
    let both = Spent { nano_usd: ada.nano_usd + tim.nano_usd, tokens: ada.tokens + tim.tokens };
    assert_eq!(both, stage.upstream.billed().await);
}

/// A budget of an identity.
fn budget_of(identity: &str, period: &str, limit: Value) -> Value {
    let mut limits = limit;
    limits["period"] = format!("BUDGET_PERIOD_{period}").into();
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
