//! The sample provider of the demo, in process. It ends with the test's runtime.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpListener;

use super::{Spent, client};

#[path = "../../../examples/upstream/provider.rs"]
mod provider;

/// Nano-dollars per LLM token of input and of output, of the models that are billed.
const RATES: [(&str, [u64; 2]); 2] =
    [("gpt-4o-mini", [150, 600]), ("claude-sonnet-4-5", [3_000, 15_000])];

/// A running provider.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
}

impl Upstream {
    /// Starts it.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        tokio::spawn(provider::serve(listener));
        Self { address }
    }

    /// What it has served, by its own count: `{requests, input_tokens, output_tokens, models}`.
    pub(crate) async fn served(&self) -> Value {
        self.page("served").await
    }

    /// What all its replies of the models above cost.
    pub(crate) async fn billed(&self) -> Spent {
        let served = self.served().await;
        let mut bill = Spent { nano_usd: 0, tokens: 0 };
        for (model, [input_rate, output_rate]) in RATES {
            let count = |name: &str| served["models"][model][name].as_u64().unwrap_or(0);
            let (input, output) = (count("input_tokens"), count("output_tokens"));
            bill.nano_usd += input * input_rate + output * output_rate;
            bill.tokens += input + output;
        }
        bill
    }

    /// The headers of the last request to a model, as they arrived.
    pub(crate) async fn last_headers(&self) -> Value {
        self.page("last-headers").await
    }

    /// The body of the last request to a model, as it arrived.
    pub(crate) async fn last_body(&self) -> String {
        client::get(&format!("http://{}/last-body", self.address)).await.expect("a page").text
    }

    /// Lets streams go on that wait.
    pub(crate) async fn go_on(&self) {
        let url = format!("http://{}/go-on", self.address);
        client::send("POST", &url, &[], Vec::new()).await.expect("an answer");
    }

    async fn page(&self, name: &str) -> Value {
        client::get(&format!("http://{}/{name}", self.address)).await.expect("a page").json
    }
}
