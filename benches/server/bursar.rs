//! Bursar as the benchmark runs it: six budgets that every request must pass, each far from its limit.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::{Pinning, Server};
use crate::requests::{KEYS, secret};

const MANAGEMENT_KEY: &str = "bench";
/// Nobody reports usage here. Each reservation is given back after a second, so that the work of ending it is in the figures
/// and what is open stays bounded.
const SETTINGS: &str = "{reservation: {timeout: 1s, on_timeout: release}, log: {filter: warn}}\n";

/// Starts the release binary and gives it budgets and keys.
pub(crate) async fn start(pinning: Pinning, directory: &Path, socket: &Path) -> Result<Server> {
    let settings = directory.join("bursar.yaml");
    std::fs::write(&settings, SETTINGS)?;
    let ready_file = directory.join("bursar.ready");
    let mut command = pinning.command(Path::new(env!("CARGO_BIN_EXE_bursar")));
    command
        .args(["serve", "--config"])
        .arg(&settings)
        .arg("--ready-file")
        .arg(&ready_file)
        .env("BURSAR_LISTEN_GRPC", "127.0.0.1:0")
        .env("BURSAR_LISTEN_HTTP", "127.0.0.1:0")
        .env("BURSAR_LISTEN_UNIX", socket)
        .env("BURSAR_STORE_URL", format!("sqlite:{}", directory.join("bursar.db").display()))
        .env("BURSAR_MANAGEMENT_KEY", MANAGEMENT_KEY);
    let server = Server::start(&mut command, &ready_file)?;
    let http = server.address("http")?;
    for budget in budgets() {
        post(&http, "/v2/budgets", &budget).await?;
    }
    for key in 0..KEYS {
        let hash = Sha256::digest(secret(key));
        let sha256: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("key-{key:04}");
        let key = json!({ "api_key_id": id, "name": id, "sha256": sha256 });
        post(&http, "/v2/api-keys", &key).await?;
    }
    Ok(server)
}

/// One budget for each kind of scope. Five count money; the one of the API keys counts requests, so that the answer has the
/// six headers of the no-op server.
fn budgets() -> [Value; 6] {
    let monthly = json!({ "period": "BUDGET_PERIOD_MONTHLY", "amount": 1_000_000 });
    let cost = |scope: Value| json!({ "scope": scope, "limits": monthly });
    let requests = json!({ "requests_per_minute": 1_000_000_000 });
    [
        cost(json!({ "workspace": {} })),
        cost(json!({ "project": { "project_id": "*" } })),
        cost(json!({ "identity": { "identity_external_id": "*" } })),
        json!({ "scope": { "api_key": { "api_key_id": "*" } }, "rate_limit": requests }),
        cost(json!({ "provider": { "provider": "openai" } })),
        cost(json!({ "model": { "model_id": "gpt-4o-mini" } })),
    ]
}

async fn post(http: &str, path: &str, body: &Value) -> Result<()> {
    let request =
        Client::new().post(format!("http://{http}{path}")).bearer_auth(MANAGEMENT_KEY).json(body);
    let reply = request.send().await.with_context(|| format!("POST {path}"))?;
    let status = reply.status();
    ensure!(status.is_success(), "POST {path} answered {status}: {}", reply.text().await?);
    Ok(())
}
