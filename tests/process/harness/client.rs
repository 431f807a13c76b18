//! The HTTP client: requests to a model as an application sends them, and replies as a test looks at them.

use std::convert::Infallible;
use std::sync::LazyLock;

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

/// Nothing here goes through a proxy that the environment names. Without a pool, so that a client can outlive the runtime of
/// the test that used it first.
static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
    client.build().expect("a client")
});

/// A reply, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// The body; null when it is no JSON.
    pub(crate) json: Value,
}

/// Sends a request.
pub(super) async fn send(
    method: &str,
    url: &str,
    headers: &[(&'static str, Vec<u8>)],
    body: Vec<u8>,
) -> Result<Reply, reqwest::Error> {
    let response = request(method, url, headers).body(body).send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await?;
    let json = serde_json::from_str(&text).unwrap_or_default();
    Ok(Reply { status, headers, text, json })
}

fn request(method: &str, url: &str, headers: &[(&'static str, Vec<u8>)]) -> RequestBuilder {
    let method = method.parse().expect("a method");
    let request = CLIENT.request(method, url).header("content-type", "application/json");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, value.as_slice()))
}

impl Reply {
    /// A header's value; empty when there is none. Several are joined.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        let values: Vec<_> =
            values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        values.join(", ")
    }

    /// All headers whose names start so, as `name: value`, in the order of their names.
    pub(crate) fn headers_like(&self, prefix: &str) -> Vec<String> {
        let names = self.headers.keys().filter(|name| name.as_str().starts_with(prefix));
        let mut lines: Vec<String> =
            names.map(|name| format!("{name}: {}", self.header(name.as_str()))).collect();
        lines.sort();
        lines
    }

    /// The refusal's code; empty when it is none.
    pub(crate) fn code(&self) -> &str {
        let error = &self.json["error"];
        error["code"].as_str().or(error["reason"].as_str()).unwrap_or_default()
    }
}

/// A request to a model.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) path: &'static str,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Question {
    /// What Bursar sets aside for [`Question::of`]: its input by its bytes, and its output cap.
    pub(crate) const TOKENS: i64 = 127;

    /// A chat completion by this identity, of a model with a price and an output of 32 tokens at the most.
    pub(crate) fn of(identity: &str) -> Self {
        let body = json!({
            "model": "gpt-4o-mini",
            "max_tokens": 32,
            "messages": [{"role": "user", "content": "Say a word."}],
        });
        let headers = vec![
            ("x-orq-identity-id", identity.as_bytes().to_owned()),
            ("x-bursar-provider", b"openai".to_vec()),
        ];
        Self { path: "/v1/chat/completions", headers, body: body.to_string().into_bytes() }
    }

    /// The same kind, streamed, without asking for its usage.
    pub(crate) fn streamed(identity: &str) -> Self {
        let messages = json!([{"role": "user", "content": "Say a word."}]);
        let body = json!({"model": "gpt-4o-mini", "max_tokens": 100, "stream": true, "messages": messages});
        Self::of(identity).body(body.to_string())
    }

    /// A message to Claude.
    pub(crate) fn to_claude(identity: &str, stream: bool) -> Self {
        let messages = json!([{"role": "user", "content": "Say a word."}]);
        let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 50, "stream": stream, "messages": messages});
        let mut question = Self::of(identity).path("/v1/messages").body(body.to_string());
        question.headers.retain(|(name, _)| *name != "x-bursar-provider");
        question.header("x-bursar-provider", "anthropic")
    }

    /// The same with one more header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same to another path.
    pub(crate) fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// The same with another body.
    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Sends it to Envoy, which must answer.
    pub(crate) async fn send(&self, envoy: &str) -> Reply {
        self.try_send(envoy).await.expect("an answer from Envoy")
    }

    /// Sends it in chunks, without telling its length.
    pub(crate) async fn send_in_chunks(&self, envoy: &str) -> u16 {
        let half = self.body.len() / 2;
        let (first, rest) = self.body.split_at(half);
        let pieces = [first, rest].map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
        let pieces = futures_util::stream::iter(pieces.map(|piece: Result<_, Infallible>| piece));
        let request = request("POST", &format!("{envoy}{}", self.path), &self.headers);
        let response = request.body(reqwest::Body::wrap(StreamBody::new(pieces))).send().await;
        response.expect("an answer from Envoy").status().as_u16()
    }

    /// Sends it and returns when the reply begins, to read it piece by piece or to leave.
    pub(crate) async fn begin(&self, envoy: &str) -> reqwest::Response {
        let request = request("POST", &format!("{envoy}{}", self.path), &self.headers);
        request.body(self.body.clone()).send().await.expect("the beginning of a reply")
    }

    /// Sends it.
    pub(crate) async fn try_send(&self, envoy: &str) -> Result<Reply, reqwest::Error> {
        let url = format!("{envoy}{}", self.path);
        send("POST", &url, &self.headers, self.body.clone()).await
    }
}

/// What a page says, when it is there.
pub(super) async fn get(url: &str) -> Option<Reply> {
    send("GET", url, &[], Vec::new()).await.ok().filter(|reply| reply.status == 200)
}
