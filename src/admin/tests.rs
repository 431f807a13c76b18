//! The HTTP API as clients meet it: the router, over an engine on a memory store and a clock that stands still.

mod credits;
mod forfeits;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use super::testing::{self, CHECK, MANAGE, OPERATOR, WORKSPACE, engine};
use super::*;
use crate::domain::ids::Id;
use crate::domain::ledger::Sharing;
use crate::engine::clock::ManualClock;
use crate::store::memory::MemoryStore;

const UNKNOWN: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// A server, and the key that its calls show.
struct Client {
    router: Router,
    engine: Engine,
    key: Option<&'static str>,
}

impl Client {
    async fn new() -> Self {
        Self::of(testing::settings()).await
    }

    async fn of(settings: Settings) -> Self {
        let metrics = Metrics::new();
        let engine = engine(metrics.clone()).await;
        let router = router(engine.clone(), settings, metrics);
        Self { router, engine, key: Some(MANAGE) }
    }

    /// A replica of a fleet on this store.
    async fn on(store: &MemoryStore, clock: &Arc<ManualClock>) -> Self {
        let (store, metrics) = (Arc::new(store.clone()), Metrics::new());
        let clock = Arc::clone(clock);
        let engine = testing::engine_on(store, Sharing::Fleet, clock, metrics.clone()).await;
        let router = router(engine.clone(), testing::settings(), metrics);
        Self { router, engine, key: Some(MANAGE) }
    }

    fn with(&self, key: Option<&'static str>) -> Self {
        Self { router: self.router.clone(), engine: self.engine.clone(), key }
    }

    async fn raw(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, call: &str, body: impl Into<Body>) -> (u16, Value) {
        let (method, path) = call.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = self.raw(request.body(body.into()).unwrap()).await;
        let status = response.status().as_u16();
        (status, serde_json::from_str(&text(response).await).unwrap_or(Value::Null))
    }

    /// Sends a call that must succeed.
    async fn ok(&self, call: &str, body: Value) -> Value {
        let (status, reply) = self.send(call, body.to_string()).await;
        assert_eq!(status, 200, "{call} {body}: {reply}");
        reply
    }

    /// Sends a call that must be refused in the one shape there is.
    async fn refused(&self, call: &str, body: impl Into<Body>, status: u16, code: i32) -> String {
        let (got, reply) = self.send(call, body).await;
        assert_eq!((got, &reply["code"]), (status, &json!(code)), "{call}: {reply}");
        assert_eq!(reply.as_object().map(serde_json::Map::len), Some(2), "{call}: {reply}");
        reply["message"].as_str().unwrap().to_owned()
    }

    async fn new_budget(&self, budget: Value) -> String {
        let reply = self.ok("POST /v2/budgets", budget).await;
        reply["budget"]["budget_id"].as_str().unwrap().to_owned()
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

fn customer(limits: &Value) -> Value {
    let mut budget = json!({"scope": {"identity": {"identity_external_id": "customer-1"}}});
    budget.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    budget
}

fn five_dollars() -> Value {
    customer(&json!({"limits": {"period": "BUDGET_PERIOD_MONTHLY", "amount": 5}}))
}

#[tokio::test]
async fn a_budget_is_created_read_changed_and_deleted() {
    let client = Client::new().await;
    let created = client.ok("POST /v2/budgets", five_dollars()).await;
    assert_eq!(created["budget"]["usage"], Value::Null);
    assert_eq!(created["budget"]["workspace_id"], WORKSPACE);
    let id = created["budget"]["budget_id"].as_str().unwrap();

    let mut read = client.ok(&format!("GET /v2/budgets/{id}"), json!({})).await;
    let usage = read["budget"].as_object_mut().unwrap().remove("usage");
    assert_eq!(usage, Some(json!({"amount": 0, "tokens": 0, "requests": 0})));
    assert_eq!(read, created);

    let patch = json!({"limits": {"token_limit": 1000}, "rate_limit": {"requests_per_minute": 6}});
    let updated = client.ok(&format!("PATCH /v2/budgets/{id}"), patch).await;
    assert_eq!(updated["budget"]["limits"]["amount"], 5);
    assert_eq!(updated["budget"]["limits"]["token_limit"], 1000);
    assert_eq!(updated["budget"]["rate_limit"]["requests_per_minute"], 6);

    assert_eq!(client.ok(&format!("DELETE /v2/budgets/{id}"), json!({})).await, json!({}));
    client.refused(&format!("GET /v2/budgets/{id}"), "", 404, 5).await;
}

#[tokio::test]
async fn a_second_budget_for_a_scope_is_refused_with_the_id_of_the_first() {
    let client = Client::new().await;
    let id = client.new_budget(five_dollars()).await;
    let said = client.refused("POST /v2/budgets", five_dollars().to_string(), 409, 6).await;
    assert_eq!(
        said,
        format!(
            "budget {id} covers IDENTITY customer-1 already; update that one, or delete it first"
        )
    );
}

#[tokio::test]
async fn listings_page_through_a_workspace_and_show_usage() {
    let client = Client::new().await;
    for project in ["a", "b", "c"] {
        let scope = json!({"project": {"project_id": project}});
        client.new_budget(json!({"scope": scope, "rate_limit": {"requests_per_minute": 1}})).await;
    }
    let page = client.ok("GET /v2/budgets?limit=2", json!({})).await;
    assert_eq!((&page["object"], &page["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(page["data"][0]["usage"], json!({"amount": 0, "tokens": 0, "requests": 0}));
    let last = page["data"][1]["budget_id"].as_str().unwrap();
    let rest = client.ok(&format!("GET /v2/budgets?starting_after={last}"), json!({})).await;
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    let elsewhere = client.with(Some(OPERATOR));
    let other = elsewhere.ok("GET /v2/budgets?workspace_id=other", json!({})).await;
    assert_eq!(other["data"], json!([]));
}

#[tokio::test]
async fn a_check_counts_requests_until_they_are_used_up_and_a_reset_frees_them() {
    let client = Client::new().await;
    let id = client.new_budget(customer(&json!({"rate_limit": {"requests_per_minute": 1}}))).await;
    let subject = json!({"identity_external_id": "customer-1", "metadata": {}, "headers": {}});
    let check = || client.ok("POST /v2/budgets/check", subject.clone());

    let allowed = check().await;
    assert_eq!(allowed["allowed"], true);
    assert_eq!(allowed["requests"], json!({"limit": 1, "remaining": 0, "reset_seconds": 60}));
    assert_eq!((&allowed["cost"], &allowed["rejection"]), (&Value::Null, &Value::Null));
    let refused = check().await;
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["rejection"]["code"], "requests_per_minute_exceeded");
    assert_eq!(refused["rejection"]["scope_target_id"], "customer-1");

    let consumption = client.ok(&format!("GET /v2/budgets/{id}/consumption"), json!({})).await;
    assert_eq!(consumption["requests_in_window"], 1);
    assert_eq!(consumption["period"], "BUDGET_PERIOD_UNSPECIFIED");
    let (status, _) = client.send(&format!("POST /v2/budgets/{id}/reset-consumption"), "").await;
    assert_eq!(status, 200, "a reset needs no body");
    assert_eq!(check().await["allowed"], true);
}

#[tokio::test]
async fn reported_usage_counts_once_and_exhausts_a_budget() {
    let client = Client::new().await;
    let id = client.new_budget(five_dollars()).await;
    let report = |settlement: &str, cost: &str| {
        format!(
            r#"{{"settlement_id": "{settlement}", "identity_external_id": "customer-1", "cost": {cost}}}"#
        )
    };
    let (_, first) = client.send("POST /v2/usage", report("s1", "4.999999999")).await;
    assert_eq!(first["duplicate"], false, "{first}");
    assert_eq!(first["settlement"]["certainty"], "exact");
    let (_, again) = client.send("POST /v2/usage", report("s1", "\"4.999999999\"")).await;
    assert_eq!((&again["duplicate"], &again["settlement"]), (&json!(true), &first["settlement"]));
    let said = client.refused("POST /v2/usage", report("s1", "5"), 409, 6).await;
    assert!(said.contains("4.999999999"), "{said}");

    let subject = json!({"identity_external_id": "customer-1"});
    let check = || client.ok("POST /v2/budgets/check", subject.clone());
    assert_eq!(check().await["allowed"], true, "a nano-dollar is left");
    client.send("POST /v2/usage", report("s2", "1e-9")).await;
    let refused = check().await;
    assert_eq!(refused["rejection"]["code"], "cost_budget_exceeded", "{refused}");
    let read = client.ok(&format!("GET /v2/budgets/{id}"), json!({})).await;
    assert_eq!(read["budget"]["usage"]["amount"], 5);
}

#[tokio::test]
async fn usage_that_cannot_be_booked_says_why() {
    let client = Client::new().await;
    let reservation = format!("{UNKNOWN}.{UNKNOWN}");
    let unknown = json!({"settlement_id": "s1", "reservation_id": reservation, "cost": 1});
    client.refused("POST /v2/usage", unknown.to_string(), 404, 5).await;
    let unpriced = json!({"settlement_id": "s1", "model": "nobody/knows",
        "usage": {"input_tokens": 1, "output_tokens": 1}});
    let said = client.refused("POST /v2/usage", unpriced.to_string(), 400, 3).await;
    assert!(said.contains("nobody/knows"), "{said}");
}

#[tokio::test]
async fn keys_are_minted_registered_listed_and_deleted() {
    let client = Client::new().await;
    let body = json!({"name": "ci", "project_id": "p"});
    let minted = client.ok("POST /v2/api-keys", body).await;
    let secret = minted["key"].as_str().unwrap();
    assert!(secret.starts_with("bsr_") && secret.len() == 36, "{secret}");
    let hash = Sha256::digest(secret).into();
    let known = client.engine.key_by_hash(&hash).await.unwrap().unwrap();
    assert_eq!(known.project.as_ref().map(Id::as_str), Some("p"));

    let registered = json!({"name": "old", "api_key_id": "k1", "sha256": "ab".repeat(32)});
    let reply = client.ok("POST /v2/api-keys", registered.clone()).await;
    assert_eq!((&reply["key"], &reply["api_key"]["api_key_id"]), (&Value::Null, &json!("k1")));
    client.refused("POST /v2/api-keys", registered.to_string(), 409, 6).await;
    for (body, says) in [
        (json!({}), "name is missing"),
        (json!({"name": "x", "sha256": "ab"}), "sha256 must be the SHA-256"),
        (json!({"name": "x", "secret": "y"}), "secret is not a known field"),
    ] {
        let said = client.refused("POST /v2/api-keys", body.to_string(), 400, 3).await;
        assert!(said.starts_with(says), "{said}");
    }

    let listed = client.ok("GET /v2/api-keys", json!({})).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains(secret), "a secret is shown once");
    client.ok("DELETE /v2/api-keys/k1", json!({})).await;
    client.refused("DELETE /v2/api-keys/k1", "", 404, 5).await;
}

#[tokio::test]
async fn the_bodies_that_the_readme_shows_have_only_known_fields() {
    let client = Client::new().await;
    let calls = include_str!("../../README.md").split("curl http://127.0.0.1:9192").skip(1);
    let mut sent = 0;
    for call in calls {
        let Some((path, body)) = call.split_once(" -d '") else { continue };
        let path = path.split_whitespace().next().unwrap();
        let body = body.split('\'').next().unwrap();
        let (_, reply) = client.send(&format!("POST {path}"), body.to_owned()).await;
        let message = reply["message"].as_str().unwrap_or_default();
        assert!(!message.contains("not a known field"), "{path} {body}: {message}");
        sent += 1;
    }
    assert_eq!(sent, 3, "each call with a body that the README shows is tried");
}

#[tokio::test]
async fn every_call_needs_a_key_with_the_right_role() {
    let client = Client::new().await;
    let budget = format!("/v2/budgets/{UNKNOWN}");
    let manage = [
        "GET /v2/budgets".to_owned(),
        "POST /v2/budgets".to_owned(),
        format!("GET {budget}"),
        format!("PATCH {budget}"),
        format!("DELETE {budget}"),
        format!("GET {budget}/consumption"),
        format!("POST {budget}/reset-consumption"),
        format!("GET {budget}/accounts"),
        format!("POST {budget}/release-forfeits"),
        "POST /v2/credits/release-forfeits".to_owned(),
        "GET /v2/api-keys".to_owned(),
        "POST /v2/api-keys".to_owned(),
        "DELETE /v2/api-keys/k".to_owned(),
    ];
    let unconfigured = Client::of(Settings { keys: Vec::new(), ..testing::settings() }).await;
    for call in &manage {
        client.with(None).refused(call, "{}", 401, 16).await;
        client.with(Some("wrong")).refused(call, "{}", 401, 16).await;
        let said = client.with(Some(CHECK)).refused(call, "{}", 403, 7).await;
        assert_eq!(said, "not authorized for this endpoint");
        let said = unconfigured.refused(call, "{}", 403, 7).await;
        assert!(said.contains("BURSAR_MANAGEMENT_KEY"), "{said}");
    }
    for call in ["POST /v2/budgets/check", "POST /v2/usage"] {
        client.with(None).refused(call, "{}", 401, 16).await;
        client.with(Some("wrong")).refused(call, "{}", 401, 16).await;
        unconfigured.refused(call, "{}", 403, 7).await;
    }
    let answer = client.with(Some(CHECK)).ok("POST /v2/budgets/check", json!({})).await;
    assert_eq!(answer, json!({"allowed": true}));
}

#[tokio::test]
async fn workspaces_are_kept_apart() {
    let client = Client::new().await;
    let id = client.new_budget(five_dollars()).await;
    let operator = client.with(Some(OPERATOR));
    operator.refused(&format!("GET /v2/budgets/{id}?workspace_id=b"), "", 404, 5).await;
    let mut other = five_dollars();
    other["workspace_id"] = json!("b");
    let (status, created) = operator.send("POST /v2/budgets", other.to_string()).await;
    assert_eq!((status, &created["budget"]["workspace_id"]), (200, &json!("b")));
    client.refused("POST /v2/budgets", other.to_string(), 403, 7).await;
    client.refused("GET /v2/budgets?workspace_id=b", "", 403, 7).await;
    client.refused("POST /v2/budgets/check", r#"{"workspace_id": "b"}"#, 403, 7).await;
    client.refused("POST /v2/usage", r#"{"workspace_id": "b"}"#, 403, 7).await;

    let header = |value: &'static [u8]| {
        let request = Request::get("/v2/budgets");
        let request = request.header("authorization", format!("Bearer {OPERATOR}"));
        let value = axum::http::HeaderValue::from_bytes(value).unwrap();
        request.header("x-bursar-workspace", value).body(Body::empty()).unwrap()
    };
    let listed = text(client.raw(header(b"b")).await).await;
    assert!(listed.contains("\"workspace_id\":\"b\""), "{listed}");
    let refused = client.raw(header(b"\xff")).await;
    assert_eq!(refused.status(), 400);
    assert!(text(refused).await.contains("x-bursar-workspace is not UTF-8"));
}

#[tokio::test]
async fn bad_requests_get_a_clear_answer() {
    let client = Client::new().await;
    let id = client.new_budget(five_dollars()).await;
    let budget = format!("/v2/budgets/{id}");
    let limits =
        |limits: &str| format!(r#"{{"scope": {{"workspace": {{}}}}, "limits": {limits}}}"#);
    let deep = limits(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
    let daily = |rest: &str| limits(&format!(r#"{{"period": "BUDGET_PERIOD_DAILY", {rest}}}"#));
    for (call, body, says) in [
        ("POST /v2/budgets", String::new(), "the body is not JSON"),
        ("POST /v2/budgets", "[1]".to_owned(), "the body must be a JSON object"),
        ("POST /v2/budgets", deep, "limits must be a JSON object"),
        ("POST /v2/budgets", "{}".to_owned(), "scope is missing"),
        (
            "POST /v2/budgets",
            r#"{"scope": {"workspace": {}}, "match": {"cel": ""}}"#.to_owned(),
            "match and scope exclude each other",
        ),
        ("POST /v2/budgets", daily(r#""amount": -1"#), "limits.amount must not be negative"),
        ("POST /v2/budgets", daily(r#""amount": NaN"#), "the body is not JSON"),
        ("POST /v2/budgets", daily(r#""amount": 1e99"#), "limits.amount is beyond"),
        ("POST /v2/budgets", daily(r#""amount": 1, "amount": 2"#), "limits.amount is given twice"),
        (
            "POST /v2/budgets",
            daily(r#""amount": 1, "time_zone": "Mars/Olympus""#),
            "limits.time_zone is not a time zone",
        ),
        ("POST /v2/budgets", limits("{}"), "a budget needs at least one of"),
        (&format!("PATCH {budget}"), r#"{"color": 1}"#.to_owned(), "color is not a known field"),
        (&format!("PATCH {budget}"), r#"{"scope": {}}"#.to_owned(), "scope never changes"),
        (
            &format!("PATCH {budget}"),
            r#"{"limits": {"amount": null}}"#.to_owned(),
            "a budget needs at least one of",
        ),
        (
            &format!("POST {budget}/reset-consumption"),
            r#"{"all": true}"#.to_owned(),
            "all is not a known field",
        ),
        ("POST /v2/budgets/check", r#"{"model_id": 5}"#.to_owned(), "model_id must be a string"),
        ("POST /v2/budgets/check", r#"{"model": "x"}"#.to_owned(), "model is not a known field"),
        (
            "POST /v2/budgets/check",
            r#"{"metadata": []}"#.to_owned(),
            "metadata must be a JSON object",
        ),
        ("GET /v2/budgets?limit=0", String::new(), "limit must be a number"),
        ("GET /v2/budgets?page=2", String::new(), "page is not a known query parameter"),
        (&format!("GET {budget}?verbose=1"), String::new(), "verbose is not a known query"),
    ] {
        let said = client.refused(call, body, 400, 3).await;
        assert!(said.starts_with(says), "{call}: {said}");
    }
    let said = client.refused("POST /v2/budgets", vec![b'{', 0xff], 400, 3).await;
    assert_eq!(said, "the body is not UTF-8: byte 1 is wrong");
    let said = client.refused("POST /v2/usage", " ".repeat(1 << 20), 400, 3).await;
    assert!(said.starts_with("the body is not JSON"), "{said}");
    let said = client.refused("POST /v2/usage", " ".repeat((1 << 20) + 1), 413, 3).await;
    assert_eq!(said, "the body is larger than 1048576 bytes");
}

#[tokio::test]
async fn expressions_are_answered_with_not_supported() {
    let client = Client::new().await;
    let id = client.new_budget(five_dollars()).await;
    let cel = r#"{"match": {"cel": "true"}, "rate_limit": {"requests_per_minute": 1}}"#;
    client.refused("POST /v2/budgets", cel, 501, 12).await;
    client.refused(&format!("PATCH /v2/budgets/{id}"), cel, 501, 12).await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let client = Client::new().await;
    for id in [UNKNOWN, "nope", "%ff"] {
        client.refused(&format!("GET /v2/budgets/{id}"), "", 404, 5).await;
        client.refused(&format!("PATCH /v2/budgets/{id}"), "{}", 404, 5).await;
        client.refused(&format!("DELETE /v2/budgets/{id}"), "", 404, 5).await;
        client.refused(&format!("GET /v2/budgets/{id}/consumption"), "", 404, 5).await;
        client.refused(&format!("POST /v2/budgets/{id}/reset-consumption"), "{}", 404, 5).await;
        client.refused(&format!("GET /v2/budgets/{id}/accounts"), "", 404, 5).await;
        client.refused(&format!("POST /v2/budgets/{id}/release-forfeits"), "", 404, 5).await;
    }
    client.refused("GET /v3/budgets", "", 404, 5).await;
    client.refused("PUT /v2/budgets", "", 405, 3).await;
}

#[tokio::test]
async fn health_and_metrics_need_no_key() {
    let client = Client::new().await;
    for (path, holds) in [("/healthz", "ok"), ("/readyz", "ready"), ("/metrics", "# TYPE bursar_")]
    {
        let response = client.raw(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200, "{path}");
        let body = text(response).await;
        assert!(body.contains(holds), "{path}: {body}");
    }
}

#[tokio::test]
async fn of_two_updates_at_once_none_is_lost() {
    let client = Arc::new(Client::new().await);
    let id = client.new_budget(five_dollars()).await;
    let path = format!("PATCH /v2/budgets/{id}");
    let tokens = client.ok(&path, json!({"limits": {"token_limit": 7}}));
    let requests = client.ok(&path, json!({"rate_limit": {"requests_per_minute": 7}}));
    tokio::join!(tokens, requests);
    let read = client.ok(&format!("GET /v2/budgets/{id}"), json!({})).await;
    assert_eq!(read["budget"]["limits"]["token_limit"], 7);
    assert_eq!(read["budget"]["rate_limit"]["requests_per_minute"], 7);
}

#[tokio::test]
async fn of_two_updates_at_once_on_two_replicas_none_is_lost() {
    let store = MemoryStore::new(testing::LEASE_TTL);
    let clock = Arc::new(ManualClock::at(testing::NOW));
    let (one, other) = (Client::on(&store, &clock).await, Client::on(&store, &clock).await);
    let path = format!("PATCH /v2/budgets/{}", one.new_budget(five_dollars()).await);
    let tokens = one.ok(&path, json!({"limits": {"token_limit": 7}}));
    let requests = other.ok(&path, json!({"rate_limit": {"requests_per_minute": 7}}));
    tokio::join!(tokens, requests);
    let read = one.ok(&path.replace("PATCH", "GET"), json!({})).await;
    assert_eq!(read["budget"]["limits"]["token_limit"], 7);
    assert_eq!(read["budget"]["rate_limit"]["requests_per_minute"], 7);
}
