//! What a client of Envoy is told, on an allow and on every kind of refusal.

use serde_json::{Value, json};

use crate::harness::{Question, Reply, Setup, Stage, UNMETERED};

/// A budget of an identity with a limit in the window of a day.
fn daily(identity: &str, limit: Value) -> Value {
    let mut limits = json!({"period": "BUDGET_PERIOD_DAILY"});
    for (name, value) in limit.as_object().expect("limits") {
        limits[name] = value.clone();
    }
    json!({"scope": {"identity": {"identity_external_id": identity}}, "limits": limits})
}

/// A header that holds a whole number of seconds, one at least.
fn seconds(reply: &Reply, header: &str) -> u64 {
    let value = reply.header(header);
    let seconds = value.parse().unwrap_or_else(|_| panic!("{header} is {value:?}"));
    assert!(seconds > 0, "{header} is 0");
    seconds
}

/// A refusal with this status and code, whose body names the gate.
#[track_caller]
fn assert_refused(reply: &Reply, status: u16, code: &str, gate: &Value) {
    assert_eq!((reply.status, reply.code()), (status, code), "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/json");
    assert!(!reply.header("x-request-id").is_empty(), "clients quote it");
    let error = &reply.json["error"];
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with('.')), "{error}");
    for (name, value) in gate.as_object().expect("facts") {
        assert_eq!(&error[name], value, "{name} of {error}");
    }
}

#[tokio::test]
async fn an_allow_shows_every_dimension_and_replaces_what_the_provider_says() {
    let stage = Stage::with(Setup::default(), &[UNMETERED]).await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "amount": 5, "token_limit": 1_000_000});
    let rate_limit = json!({"requests_per_minute": 60});
    let budget = json!({"scope": scope, "limits": limits, "rate_limit": rate_limit});
    stage.bursar.create_budget(budget).await;

    let reply = stage.ask(&Question::of("ada")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json["object"], "chat.completion");
    // The provider's own x-ratelimit-remaining is gone; one-time limits have no reset.
    let expected = [
        "x-ratelimit-limit-cost: 5",
        "x-ratelimit-limit-tokens: 1000000",
        "x-ratelimit-limit: 60",
        "x-ratelimit-remaining-cost: 4.99994425",
        "x-ratelimit-remaining-tokens: 999873",
        "x-ratelimit-remaining: 59",
        "x-ratelimit-reset: 60s",
    ];
    assert_eq!(reply.headers_like("x-ratelimit-"), expected);

    // Where no limit of ours applies, the provider's own numbers are the ones that hold.
    let other = stage.ask(&Question::of("nobody")).await;
    assert_eq!(other.headers_like("x-ratelimit-"), ["x-ratelimit-remaining: 9999-upstream"]);
}

#[tokio::test]
async fn a_spent_budget_tells_when_it_resets_and_that_retrying_does_not_help() {
    let stage = Stage::start().await;
    let cost = stage.bursar.create_budget(daily("ada", json!({"amount": 1}))).await;
    stage.bursar.create_budget(daily("bob", json!({"token_limit": 1000}))).await;
    let usage = json!({"input_tokens": 900, "output_tokens": 100});
    for usage in [
        json!({"settlement_id": "s1", "identity_external_id": "ada", "cost": 1}),
        json!({"settlement_id": "s2", "identity_external_id": "bob", "model": "gpt-4o", "usage": usage}),
    ] {
        stage.bursar.report(usage).await;
    }
    assert_eq!(stage.bursar.consumption(&cost).await["cost"], 1);

    let reply = stage.ask(&Question::of("ada")).await;
    let gate = json!({"scope_kind": "IDENTITY", "scope_target_id": "ada", "dimension": "cost",
        "limit": 1, "remaining": 0, "type": "rate_limit_error"});
    assert_refused(&reply, 429, "cost_budget_exceeded", &gate);
    let reset = seconds(&reply, "retry-after");
    assert!(reset <= 24 * 3600, "{reset}");
    assert_eq!(reply.json["error"]["reset_seconds"], reset);
    assert_eq!(reply.header("x-ratelimit-reset-cost"), format!("{reset}s"));
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(reply.header("x-ratelimit-remaining-cost"), "0");

    let reply = stage.ask(&Question::of("bob")).await;
    let gate =
        json!({"scope_target_id": "bob", "dimension": "tokens", "limit": 1000, "remaining": 0});
    assert_refused(&reply, 429, "token_budget_exceeded", &gate);
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(stage.upstream.served().await["requests"], 0, "a refused request costs nothing");
}

#[tokio::test]
async fn a_full_minute_tells_when_the_next_slot_is_free() {
    let stage = Stage::start().await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let rate_limit = json!({"requests_per_minute": 2});
    stage.bursar.create_budget(json!({"scope": scope, "rate_limit": rate_limit})).await;
    for left in ["1", "0"] {
        let reply = stage.ask(&Question::of("ada")).await;
        assert_eq!((reply.status, reply.header("x-ratelimit-remaining").as_str()), (200, left));
    }
    let reply = stage.ask(&Question::of("ada")).await;
    let gate = json!({"dimension": "requests", "limit": 2, "remaining": 0});
    assert_refused(&reply, 429, "requests_per_minute_exceeded", &gate);
    let (wait, wait_ms) = (seconds(&reply, "retry-after"), seconds(&reply, "retry-after-ms"));
    assert!(wait <= 60 && wait_ms.div_ceil(1000) == wait, "{wait} s, {wait_ms} ms");
    assert_eq!(reply.header("x-should-retry"), "", "retrying is right, later");
    assert_eq!(stage.upstream.served().await["requests"], 2);
}

#[tokio::test]
async fn what_is_in_flight_is_told_apart_from_what_can_never_fit() {
    let stage = Stage::with(Setup::default(), &[UNMETERED]).await;
    let limit = Question::TOKENS + 10;
    stage.bursar.create_budget(daily("ada", json!({"token_limit": limit}))).await;
    stage.bursar.create_budget(daily("bob", json!({"token_limit": Question::TOKENS - 1}))).await;

    assert_eq!(stage.ask(&Question::of("ada")).await.status, 200);
    let reply = stage.ask(&Question::of("ada")).await;
    let gate = json!({"dimension": "tokens", "limit": limit, "remaining": 10});
    assert_refused(&reply, 429, "budget_in_flight", &gate);
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(reply.header("x-should-retry"), "");

    let reply = stage.ask(&Question::of("bob")).await;
    let left = Question::TOKENS - 1;
    let gate = json!({"dimension": "tokens", "limit": left, "remaining": left});
    assert_refused(&reply, 429, "request_exceeds_budget", &gate);
    assert_eq!(reply.header("retry-after"), "");
    assert_eq!(reply.header("x-should-retry"), "false");
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_where_money_is_counted() {
    let stage = Stage::start().await;
    stage.bursar.create_budget(daily("ada", json!({"amount": 1}))).await;
    let question =
        |identity| Question::of(identity).body(r#"{"model": "nobody-knows-it", "messages": []}"#);
    let reply = stage.ask(&question("ada")).await;
    assert_refused(&reply, 403, "model_not_priced", &json!({"type": "permission_error"}));
    assert_eq!(reply.header("x-should-retry"), "false");
    assert_eq!(stage.ask(&question("bob")).await.status, 200, "no cost budget applies to bob");
}

#[tokio::test]
async fn refusals_speak_the_language_of_the_api() {
    let stage = Stage::start().await;
    stage.bursar.create_budget(daily("ada", json!({"amount": 0}))).await;
    let anthropic = stage.ask(&Question::of("ada").path("/v1/messages")).await;
    assert_refused(&anthropic, 429, "cost_budget_exceeded", &json!({"type": "rate_limit_error"}));
    assert_eq!(anthropic.json["type"], "error");

    let path = "/v1beta/models/gemini-2.5-flash:generateContent";
    let body = r#"{"contents": [{"parts": [{"text": "Say a word."}]}]}"#;
    let gemini = stage.ask(&Question::of("ada").path(path).body(body)).await;
    let gate = json!({"code": 429, "status": "RESOURCE_EXHAUSTED", "dimension": "cost"});
    assert_eq!(gemini.json["error"]["reason"], "cost_budget_exceeded", "{}", gemini.text);
    assert_eq!(gemini.status, 429);
    for (name, value) in gate.as_object().expect("facts") {
        assert_eq!(&gemini.json["error"][name], value);
    }
}

#[tokio::test]
async fn a_body_that_envoy_sends_in_part_is_decided_on_its_length_and_passes_whole() {
    let stage = Stage::with(Setup::default(), &[UNMETERED]).await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": 10_000_000});
    stage.bursar.create_budget(json!({"scope": scope, "limits": limits})).await;
    let messages = json!([{"role": "user", "content": "word ".repeat(50_000)}]).to_string();
    let left = async |body: &str| {
        let reply = stage.ask(&Question::of("ada").body(body)).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        // The provider counts the body's bytes: all of them came through.
        assert_eq!(reply.json["usage"]["prompt_tokens"], body.len().div_ceil(4));
        reply.header("x-ratelimit-remaining-tokens").parse::<usize>().expect("a number")
    };
    let body = format!(r#"{{"model": "gpt-4o-mini", "max_tokens": 32, "messages": {messages}}}"#);
    let after_first = left(&body).await;
    // Tools may stand in the rest, so they are counted; the output cap stands before it.
    assert_eq!(10_000_000 - after_first, body.len().div_ceil(3) + 64 + 900 + 32);
    // Here the model is behind what Envoy sends: the input that the length says is more than what is set aside for a model that
    // nobody can see.
    let body = format!(r#"{{"messages": {messages}, "max_tokens": 32, "model": "gpt-4o-mini"}}"#);
    assert_eq!(after_first - left(&body).await, body.len().div_ceil(3) + 64 + 900);
}
