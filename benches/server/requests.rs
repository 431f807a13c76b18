//! The requests of the load: 30 headers and about 1.6 KB each, as Envoy describes a call of OpenAI's client library.

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as RequestAttributes,
};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use hyper::body::Bytes;
use prost::Message;

/// Different requests, so that no cache holds them all ready at once.
const POOL: usize = 4_096;
/// End users, each with an account of its own.
const IDENTITIES: usize = 1_024;
/// Projects, likewise.
const PROJECTS: usize = 64;
/// API keys, likewise.
pub(crate) const KEYS: usize = 16;

/// What stands in every request beside its ids.
const HEADERS: [(&str, &str); 25] = [
    (":authority", "llm-gateway.internal.example.com"),
    (":method", "POST"),
    (":path", "/v1/chat/completions"),
    (":scheme", "https"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("content-length", "1184"),
    ("content-type", "application/json"),
    ("user-agent", "OpenAI/Python 2.8.1"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-bursar-model", "gpt-4o-mini"),
    ("x-bursar-provider", "openai"),
    ("x-envoy-attempt-count", "1"),
    ("x-envoy-expected-rq-timeout-ms", "600000"),
    ("x-envoy-external-address", "203.0.113.195"),
    ("x-forwarded-for", "203.0.113.195"),
    ("x-forwarded-proto", "https"),
    ("x-stainless-arch", "x64"),
    (
        "x-forwarded-client-cert",
        "By=spiffe://cluster.local/ns/gateway/sa/envoy;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;\
         Subject=\"\";URI=spiffe://cluster.local/ns/apps/sa/assistant",
    ),
    (
        "tracestate",
        "vendor=t61rcWkgMzE,rojo=00f067aa0ba902b7,congo=lZWRzIHRoNhcm5hbCBwbGVhc3VyZS4,other=8f3a2b1c9d0e4f5a",
    ),
    ("x-stainless-lang", "python"),
    ("x-stainless-package-version", "2.8.1"),
    ("x-stainless-read-timeout", "600"),
    ("x-stainless-runtime", "CPython"),
    ("x-stainless-runtime-version", "3.13.9"),
];

/// The secret of one of the registered API keys.
pub(crate) fn secret(key: usize) -> String {
    format!("bsr_{key:040}")
}

/// All requests, each as one gRPC message with its frame.
pub(crate) fn pool() -> Vec<Bytes> {
    (0..POOL).map(|at| framed(&check_request(at))).collect()
}

fn framed(request: &CheckRequest) -> Bytes {
    let length = u32::try_from(request.encoded_len()).expect("a request has under 4 GB");
    let mut message = Vec::from([0]);
    message.extend_from_slice(&length.to_be_bytes());
    request.encode(&mut message).expect("a vector grows");
    message.into()
}

fn check_request(at: usize) -> CheckRequest {
    let own = [
        ("authorization", format!("Bearer {}", secret(at % KEYS))),
        ("x-orq-identity-id", format!("customer-{:08}", at % IDENTITIES)),
        ("x-orq-project-id", format!("project-{:04}", at % PROJECTS)),
        ("x-request-id", format!("7c9e6679-7425-40de-944b-{at:012x}")),
        ("x-stainless-retry-count", "0".to_owned()),
    ];
    let fixed = HEADERS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers = own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(fixed);
    let http = HttpRequest {
        id: at.to_string(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        host: "llm-gateway.internal.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        headers: headers.collect(),
        size: 1184,
        ..HttpRequest::default()
    };
    let request = RequestAttributes { http: Some(http), ..RequestAttributes::default() };
    let peer = |principal: &str| Peer { principal: principal.to_owned(), ..Peer::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("spiffe://cluster.local/ns/apps/sa/assistant")),
            destination: Some(peer("spiffe://cluster.local/ns/gateway/sa/envoy")),
            request: Some(request),
            ..AttributeContext::default()
        }),
    }
}
