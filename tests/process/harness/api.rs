//! Bursar's HTTP API as a test uses it.

use serde_json::Value;

use super::KEY;
use super::client::{self, Reply};

/// The API of one Bursar. Clones serve clients that run beside the test.
#[derive(Clone)]
pub(crate) struct Api {
    /// Its base. Another one after every start of Bursar.
    pub(crate) url: String,
}

/// Nano-dollars and LLM tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) nano_usd: u64,
    pub(crate) tokens: u64,
}

impl Spent {
    /// What the page of a budget shows.
    fn shown(page: &Value) -> Self {
        let usage = &page["budget"]["usage"];
        let dollars = usage["amount"].as_f64().expect("an amount");
        Self {
            nano_usd: (dollars * 1e9).round() as u64,
            tokens: usage["tokens"].as_u64().expect("tokens"),
        }
    }
}

impl Api {
    /// Creates a budget and returns its id.
    pub(crate) async fn create_budget(&self, budget: Value) -> String {
        let created = self.call("POST", "/v2/budgets", Some(budget)).await;
        created["budget"]["budget_id"].as_str().expect("a budget's id").to_owned()
    }

    /// What a budget has counted: `{cost, tokens, requests_in_window, …}`.
    pub(crate) async fn consumption(&self, budget: &str) -> Value {
        self.call("GET", &format!("/v2/budgets/{budget}/consumption"), None).await
    }

    /// What a budget has spent.
    pub(crate) async fn spent(&self, budget: &str) -> Spent {
        Spent::shown(&self.call("GET", &format!("/v2/budgets/{budget}"), None).await)
    }

    /// What a budget has spent, where the store can be asked.
    pub(crate) async fn spent_if_known(&self, budget: &str) -> Option<Spent> {
        let reply = self.try_call("GET", &format!("/v2/budgets/{budget}"), None).await;
        let known = reply.ok().filter(|reply| reply.status == 200)?;
        Some(Spent::shown(&known.json))
    }

    /// Reports usage, which must be taken.
    pub(crate) async fn report(&self, usage: Value) -> Value {
        self.call("POST", "/v2/usage", Some(usage)).await
    }

    /// A metric, summed over its labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let page = self.try_call("GET", "/metrics", None).await.expect("metrics").text;
        let series = page.lines().filter(|line| line.starts_with(name));
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// A call that must succeed.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let reply = self.try_call(method, path, body).await.expect("an answer");
        assert_eq!(reply.status, 200, "{method} {path} answered {}", reply.text);
        reply.json
    }

    /// A call that may be refused, or not be answered at all.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Reply, reqwest::Error> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let headers = [("authorization", format!("Bearer {KEY}").into_bytes())];
        client::send(method, &format!("{}{path}", self.url), &headers, body.into_bytes()).await
    }
}
