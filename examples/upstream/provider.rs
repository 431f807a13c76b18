//! The sample provider's HTTP service, for its own program and for tests that run it in process. It speaks OpenAI's chat completions and Anthropic's messages, plain
//! and streamed, says nothing of interest, and keeps a count of its own of what it served, so that a test can hold a
//! budget against it. Token counts follow from the request alone: input is `ceil(body bytes / 4)`, output is the
//! request's cap.
//!
//! `GET /served` tells the counts, `GET /last-headers` and `GET /last-body` the last request to a model as it arrived.
//!
//! With the header `x-sample` it does what providers do on bad days: see [`Behaviour`]. `POST /go-on` ends every wait.

#[path = "zipped.rs"]
mod zipped;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use zipped::Zipped;

/// What a request without a cap gets, in tokens.
const OUTPUT_DEFAULT: u64 = 64;
/// The most that any request gets, so that an enormous cap does not become an enormous reply.
const OUTPUT_MAX: u64 = 4096;
/// How many tokens one piece of a stream brings.
const PIECE_TOKENS: u64 = 16;
/// Above what real providers take, so that a refusal of a large body is Envoy's or Bursar's, never ours.
const BODY_BYTES_MAX: usize = 64 << 20;
/// When every reply says that it was made: replies differ by their request alone.
const CREATED: u64 = 1_767_225_600;

/// Serves until it is dropped. Each piece of a stream goes out at once, as a provider's does.
pub(super) async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Without it a piece is only later.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, routes()).await
}

/// All of it, with a count that starts at nothing.
fn routes() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/messages", post(messages))
        .route("/served", get(tell_served))
        .route("/last-headers", get(tell_last_headers))
        .route("/last-body", get(tell_last_body))
        .route("/go-on", post(go_on))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Shared::default())
}

/// What is shared by all requests.
#[derive(Clone, Default)]
struct Shared {
    served: Arc<Mutex<Served>>,
    /// How often those who wait were told to go on.
    went_on: watch::Sender<u64>,
}

/// What a reply does on its way, by the request's `x-sample` header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// It comes.
    Plain,
    /// `gzip`: it is compressed.
    Gzip,
    /// `wait`: a stream stops in the middle until somebody says `POST /go-on`.
    Wait,
    /// `think`: a stream stops in the same way before its first word.
    Think,
    /// `reset`: a stream stops in the same way and breaks off then.
    Reset,
    /// `busy`: 429.
    Busy,
}

/// What was served so far.
#[derive(Default)]
struct Served {
    models: BTreeMap<String, Counts>,
    last_headers: HeaderMap,
    last_body: Bytes,
}

#[derive(Default, Clone, Copy)]
struct Counts {
    requests: u64,
    input_tokens: u64,
    output_tokens: u64,
}

/// One request to a model, read and counted.
struct Call {
    number: u64,
    model: String,
    input_tokens: u64,
    output_tokens: u64,
    streams: bool,
    wants_usage_chunk: bool,
    behaviour: Behaviour,
}

async fn tell_served(State(shared): State<Shared>) -> Json<Value> {
    let served = shared.served();
    let mut reply = served.total().to_json();
    reply["models"] =
        served.models.iter().map(|(model, counts)| (model.clone(), counts.to_json())).collect();
    Json(reply)
}

async fn tell_last_headers(State(shared): State<Shared>) -> Json<Value> {
    let served = shared.served();
    let headers = &served.last_headers;
    let joined = |name| {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        Value::from(values.join(", "))
    };
    Json(headers.keys().map(|name| (name.to_string(), joined(name))).collect())
}

async fn tell_last_body(State(shared): State<Shared>) -> Bytes {
    shared.served().last_body.clone()
}

async fn go_on(State(shared): State<Shared>) {
    shared.went_on.send_modify(|times| *times += 1);
}

async fn chat_completions(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = match Call::read(&shared, headers, &body) {
        Ok(call) => call,
        Err(message) => {
            let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": null});
            return (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response();
        }
    };
    match (call.behaviour, call.streams) {
        (Behaviour::Busy, _) => busy(),
        (behaviour, true) => events(call.openai_events(), behaviour, &shared),
        (behaviour, false) => whole(&call.openai_reply(), behaviour),
    }
}

async fn messages(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let call = match Call::read(&shared, headers, &body) {
        Ok(call) => call,
        Err(message) => {
            let error = json!({"type": "invalid_request_error", "message": message});
            return (StatusCode::BAD_REQUEST, Json(json!({"type": "error", "error": error})))
                .into_response();
        }
    };
    match (call.behaviour, call.streams) {
        (Behaviour::Busy, _) => busy(),
        (behaviour, true) => events(call.anthropic_events(), behaviour, &shared),
        (behaviour, false) => whole(&call.anthropic_reply(), behaviour),
    }
}

/// Providers send rate limit headers of their own, which Bursar's must replace.
const OWN_LIMIT: (&str, &str) = ("x-ratelimit-remaining", "9999-upstream");

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("content-type", "text/event-stream");
const GZIP: (&str, &str) = ("content-encoding", "gzip");

fn busy() -> Response {
    let error = json!({"message": "busy", "type": "rate_limit_error", "param": null, "code": null});
    (StatusCode::TOO_MANY_REQUESTS, Json(json!({"error": error}))).into_response()
}

fn whole(reply: &Value, behaviour: Behaviour) -> Response {
    if behaviour == Behaviour::Gzip {
        let mut zipped = Zipped::new();
        let pieces = [zipped.piece(&reply.to_string()), zipped.end()].concat();
        return ([OWN_LIMIT, JSON, GZIP], pieces).into_response();
    }
    ([OWN_LIMIT, JSON], reply.to_string()).into_response()
}

/// Each event goes out as a piece of its own, as a provider's does.
fn events(events: Vec<String>, behaviour: Behaviour, shared: &Shared) -> Response {
    let middle = events.len() / 2;
    match behaviour {
        Behaviour::Gzip => {
            let mut zipped = Zipped::new();
            let mut pieces: Vec<_> = events.iter().map(|event| zipped.piece(event)).collect();
            pieces.push(zipped.end());
            let pieces = stream::iter(pieces.into_iter().map(Ok::<_, io::Error>));
            ([OWN_LIMIT, EVENTS, GZIP], Body::from_stream(pieces)).into_response()
        }
        Behaviour::Wait => {
            let (first, rest) = split(events, middle);
            streamed(first.chain(wait(shared)).chain(rest))
        }
        Behaviour::Think => {
            let (first, rest) = split(events, 1);
            streamed(first.chain(wait(shared)).chain(rest))
        }
        Behaviour::Reset => {
            let (first, _) = split(events, middle);
            let broken = stream::iter([Err(io::Error::other("a bad day"))]);
            streamed(first.chain(wait(shared)).chain(broken))
        }
        Behaviour::Plain | Behaviour::Busy => streamed(split(events, 0).1),
    }
}

fn streamed(pieces: impl Stream<Item = io::Result<String>> + Send + 'static) -> Response {
    ([OWN_LIMIT, EVENTS], Body::from_stream(pieces)).into_response()
}

/// Nothing, once somebody said to go on.
fn wait(shared: &Shared) -> impl Stream<Item = io::Result<String>> + use<> {
    let mut went_on = shared.went_on.subscribe();
    let wait = stream::once(async move {
        // It cannot fail while there are routes to answer on.
        let _ = went_on.changed().await;
    });
    wait.filter_map(|()| async { None })
}

type Pieces = stream::Iter<std::vec::IntoIter<io::Result<String>>>;

fn split(events: Vec<String>, at: usize) -> (Pieces, Pieces) {
    let mut first: Vec<_> = events.into_iter().map(Ok).collect();
    let rest = first.split_off(at);
    (stream::iter(first), stream::iter(rest))
}

impl Shared {
    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Behaviour {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get("x-sample").map(|value| value.as_bytes()) {
            Some(b"gzip") => Self::Gzip,
            Some(b"wait") => Self::Wait,
            Some(b"think") => Self::Think,
            Some(b"reset") => Self::Reset,
            Some(b"busy") => Self::Busy,
            _ => Self::Plain,
        }
    }
}

impl Served {
    fn total(&self) -> Counts {
        self.models.values().fold(Counts::default(), |sum, counts| Counts {
            requests: sum.requests + counts.requests,
            input_tokens: sum.input_tokens + counts.input_tokens,
            output_tokens: sum.output_tokens + counts.output_tokens,
        })
    }
}

impl Counts {
    fn to_json(self) -> Value {
        json!({"requests": self.requests, "input_tokens": self.input_tokens, "output_tokens": self.output_tokens})
    }
}

impl Call {
    /// Reads a request of either dialect and counts it as served.
    fn read(shared: &Shared, headers: HeaderMap, body: &Bytes) -> Result<Self, String> {
        let request: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the body is not JSON: {error}"))?;
        let model = request["model"].as_str().ok_or("`model` is missing")?.to_owned();
        let cap = ["max_completion_tokens", "max_tokens"]
            .into_iter()
            .find_map(|name| request[name].as_u64());
        let input_tokens = u64::try_from(body.len()).unwrap_or(u64::MAX).div_ceil(4);
        let output_tokens = cap.unwrap_or(OUTPUT_DEFAULT).min(OUTPUT_MAX);

        let behaviour = Behaviour::of(&headers);
        let mut served = shared.served();
        served.last_headers = headers;
        served.last_body = body.clone();
        if behaviour != Behaviour::Busy {
            let counts = served.models.entry(model.clone()).or_default();
            counts.requests += 1;
            counts.input_tokens += input_tokens;
            counts.output_tokens += output_tokens;
        }
        Ok(Self {
            number: served.total().requests,
            model,
            input_tokens,
            output_tokens,
            streams: request["stream"] == true,
            wants_usage_chunk: request["stream_options"]["include_usage"] == true,
            behaviour,
        })
    }

    /// As many words as there are output tokens, in pieces.
    fn pieces(&self) -> Vec<String> {
        let full = (0..self.output_tokens / PIECE_TOKENS).map(|_| PIECE_TOKENS);
        let rest = Some(self.output_tokens % PIECE_TOKENS).filter(|rest| *rest > 0);
        full.chain(rest).map(|tokens| (0..tokens).map(|_| "word ").collect()).collect()
    }

    fn openai_usage(&self) -> Value {
        json!({
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        })
    }

    fn openai_reply(&self) -> Value {
        let message =
            json!({"role": "assistant", "content": self.pieces().concat(), "refusal": null});
        json!({
            "id": format!("chatcmpl-{}", self.number),
            "object": "chat.completion",
            "created": CREATED,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
            "usage": self.openai_usage(),
        })
    }

    fn openai_events(&self) -> Vec<String> {
        let chunk = |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": format!("chatcmpl-{}", self.number),
                "object": "chat.completion.chunk",
                "created": CREATED,
                "model": self.model,
                "choices": choices,
            });
            if self.wants_usage_chunk {
                chunk["usage"] = usage;
            }
            format!("data: {chunk}\n\n")
        };
        let delta = |delta: Value, finish: Option<&str>| {
            chunk(
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]),
                Value::Null,
            )
        };
        let mut events = vec![delta(json!({"role": "assistant", "content": ""}), None)];
        events
            .extend(self.pieces().into_iter().map(|piece| delta(json!({"content": piece}), None)));
        events.push(delta(json!({}), Some("stop")));
        if self.wants_usage_chunk {
            events.push(chunk(json!([]), self.openai_usage()));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    /// Anthropic's message; a stream's first event shows it with nothing in it yet.
    fn anthropic_message(
        &self,
        content: &Value,
        stop_reason: Option<&str>,
        output_tokens: u64,
    ) -> Value {
        json!({
            "id": format!("msg_{}", self.number),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": {"input_tokens": self.input_tokens, "output_tokens": output_tokens},
        })
    }

    fn anthropic_reply(&self) -> Value {
        let content = json!([{"type": "text", "text": self.pieces().concat()}]);
        self.anthropic_message(&content, Some("end_turn"), self.output_tokens)
    }

    fn anthropic_events(&self) -> Vec<String> {
        let event = |name: &str, mut data: Value| {
            data["type"] = name.into();
            format!("event: {name}\ndata: {data}\n\n")
        };
        let text =
            |piece: String| json!({"index": 0, "delta": {"type": "text_delta", "text": piece}});
        let mut events = vec![
            event("message_start", json!({"message": self.anthropic_message(&json!([]), None, 1)})),
            event(
                "content_block_start",
                json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
            ),
        ];
        events.extend(
            self.pieces().into_iter().map(|piece| event("content_block_delta", text(piece))),
        );
        events.push(event("content_block_stop", json!({"index": 0})));
        let end = json!({"stop_reason": "end_turn", "stop_sequence": null});
        events.push(event(
            "message_delta",
            json!({"delta": end, "usage": {"output_tokens": self.output_tokens}}),
        ));
        events.push(event("message_stop", json!({})));
        events
    }
}
