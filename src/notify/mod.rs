//! Floor 3: tells others what happens here, by webhook. So far that is one thing: a prepaid balance that has fallen low.
//!
//! What is to be told, and how often it was tried, is in the store, so that a restart forgets nothing. Here is only the
//! telling: a signed POST, which counts as taken when it is answered with a 2xx.

mod message;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::domain::credits::{ATTEMPTS_MAX, Notice};
use crate::domain::ids::Id;
use crate::domain::time::Wall;
use crate::engine::Engine;
use crate::telemetry::Metrics;
use message::{SIGNATURE, body, signature};

/// How often it is seen whether there is something to tell.
const TICK: Duration = Duration::from_secs(1);
/// How long one attempt may take. Shorter than the pause before the next.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts at once, so that one receiver that hangs does not hold up the others.
const ATTEMPTS_AT_ONCE: usize = 16;

/// Longer than the pause between any two attempts: a notice that was not tried again by then is over.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(2);

/// Sends notices.
pub struct Sender {
    metrics: Metrics,
    /// Workspaces whose notice has failed, and when it was tried last. There is one notice for each.
    failed: Mutex<BTreeMap<Id, Wall>>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Sender {
    /// A sender that trusts the certificate authorities of the machine.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let connector = HttpsConnectorBuilder::new().with_native_roots().unwrap_or_else(|error| {
            tracing::warn!(%error, "no certificate authorities are installed, so no https webhook can be called");
            let nobody = RootCertStore::empty();
            let config = ClientConfig::builder().with_root_certificates(nobody);
            HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
        });
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { metrics, failed: Mutex::default(), client }
    }

    /// Makes one attempt. Redirects are not followed.
    async fn send(&self, notice: &Notice, now: Wall) -> Result<(), String> {
        let body = body(notice).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&*notice.terms.url)
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature(&notice.terms.secret, &body, now))
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let answered = timeout(ATTEMPT_TIMEOUT, self.client.request(request)).await;
        let answer = answered.map_err(|_| "no answer in time".to_owned())?;
        let status = answer.map_err(|error| reason(&error))?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the answer is {status}")) }
    }

    /// Counts an attempt.
    fn count(&self, notice: &Notice, result: &Result<(), String>, now: Wall) {
        let outcome = match result {
            Ok(()) => "sent",
            Err(_) if notice.attempt < ATTEMPTS_MAX => "failed",
            Err(_) => "given_up",
        };
        self.metrics.notice(outcome);
        let mut failed = self.failed();
        if outcome == "failed" {
            failed.insert(notice.workspace.clone(), now);
        } else {
            failed.remove(&notice.workspace);
        }
    }

    /// Shows how many notices are tried again.
    fn show_pending(&self, now: Wall) {
        let mut failed = self.failed();
        failed.retain(|_, tried| tried.plus(FORGOTTEN_AFTER) > now);
        self.metrics.notices_pending(i64::try_from(failed.len()).unwrap_or(i64::MAX));
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<Id, Wall>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what there is to tell until it is aborted.
pub async fn run(engine: Engine, sender: Sender) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell_all(&engine, &sender).await;
    }
}

/// Tries every notice that is due.
async fn tell_all(engine: &Engine, sender: &Sender) {
    match engine.due_notices().await {
        Ok(notices) => {
            let telling = stream::iter(notices);
            let one = |notice| async move { tell(engine, sender, &notice).await };
            telling.for_each_concurrent(ATTEMPTS_AT_ONCE, one).await;
        }
        Err(error) => tracing::warn!(%error, "whether a balance is low is not known"),
    }
    sender.show_pending(engine.wall());
}

/// Tries one notice. The address is not logged: it may hold a secret of its own.
async fn tell(engine: &Engine, sender: &Sender, notice: &Notice) {
    let (workspace, attempt) = (&notice.workspace, notice.attempt);
    let now = engine.wall();
    let result = sender.send(notice, now).await;
    sender.count(notice, &result, now);
    if let Err(reason) = result {
        tracing::warn!(%workspace, attempt, reason, "a low balance could not be told");
        return;
    }
    tracing::info!(%workspace, attempt, balance = %notice.crossing.balance, "a low balance was told");
    if let Err(error) = engine.notice_told(notice).await {
        tracing::warn!(%workspace, %error, "a low balance was told and may be told again");
    }
}

/// An error with what caused it: the outermost says only that it failed.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
