//! Real usage comes back by itself: what the provider said in its responses is what a budget has spent.

use serde_json::{Value, json};

use crate::harness::{Question, Setup, Spent, Stage, until};

const NOTHING: Spent = Spent { nano_usd: 0, tokens: 0 };

/// A budget of $5 for this identity, which is more than these tests spend.
async fn budget_of(stage: &Stage, identity: &str) -> String {
    let budget = json!({
        "scope": {"identity": {"identity_external_id": identity}},
        "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "amount": 5, "token_limit": 1_000_000},
    });
    stage.bursar.create_budget(budget).await
}

/// What a budget has spent once so many responses were watched to their end.
async fn spent_after(stage: &Stage, budget: &str, responses: u64) -> Spent {
    watched(stage, responses).await;
    stage.bursar.spent(budget).await
}

async fn watched(stage: &Stage, responses: u64) {
    until("the end of all responses", async || {
        (stage.bursar.metric("bursar_watched_responses_total").await >= responses).then_some(())
    })
    .await;
}

/// How many streams one of Envoy's filters has opened to Bursar.
async fn streams_to_bursar(stage: &Stage, filter: &str) -> u64 {
    let name = format!("http.llm.ext_proc.bursar_{filter}.streams_started");
    stage.envoy.statistic(&name).await.expect("a statistic of the filter")
}

#[tokio::test]
async fn a_budget_has_spent_what_the_provider_said_to_the_nano_dollar() {
    // Longer than the test: Bursar itself must end what Envoy keeps open for it.
    let stage = Stage::with(Setup::default(), &[("METERING_TIMEOUT", "600s")]).await;
    let budget = budget_of(&stage, "ada").await;
    let questions = [
        Question::of("ada"),
        Question::streamed("ada"),
        Question::of("ada").header("x-sample", "gzip"),
        Question::streamed("ada").header("x-sample", "gzip"),
        Question::to_claude("ada", false),
        Question::to_claude("ada", true),
        Question::to_claude("ada", true).header("x-sample", "gzip"),
    ];
    for question in &questions {
        let reply = stage.ask(question).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let spent = spent_after(&stage, &budget, 7).await;
    assert_eq!(spent, stage.upstream.billed().await);
    assert!(spent.nano_usd > 0);
    stage.all_responses_metered().await;
}

#[tokio::test]
async fn a_stream_is_asked_for_its_usage_and_every_other_request_arrives_as_it_was_sent() {
    let stage = Stage::start().await;
    let question = Question::streamed("ada");
    let sent = String::from_utf8(question.body.clone()).expect("text");
    let reply = stage.ask(&question).await;
    assert!(reply.text.contains("\"usage\":{"), "{}", reply.text);
    let arrived = stage.upstream.last_body().await;
    let asking = "{\"stream_options\":{\"include_usage\":true},";
    assert_eq!(arrived, sent.replacen('{', asking, 1));
    let length = stage.upstream.last_headers().await["content-length"].clone();
    assert_eq!(length, arrived.len().to_string(), "a length that fits, and no chunks");

    let long = |bytes: usize| {
        let messages = json!([{"role": "user", "content": "word ".repeat(bytes / 5)}]);
        let body =
            json!({"model": "gpt-4o-mini", "max_tokens": 5, "stream": true, "messages": messages});
        Question::streamed("ada").body(body.to_string())
    };
    let large = long(900_000);
    assert_eq!(stage.ask(&large).await.status, 200);
    assert_eq!(stage.upstream.last_body().await.len(), large.body.len() + asking.len() - 1);

    for untouched in [Question::of("ada"), Question::to_claude("ada", true), long(10_000_000)] {
        assert_eq!(stage.ask(&untouched).await.status, 200);
        let arrived = stage.upstream.last_body().await;
        assert!(arrived.as_bytes() == untouched.body, "{} bytes", untouched.body.len());
    }
    // The first two of them were known to need nothing, and did not wait for another look.
    assert_eq!(streams_to_bursar(&stage, "asking").await, 3);
    assert_eq!(question.send_in_chunks(&stage.envoy.url).await, 200);
    assert_eq!(stage.upstream.last_body().await, sent);
}

#[tokio::test]
async fn a_stream_without_usage_is_estimated_from_its_text() {
    let stage = Stage::start().await;
    let budget = budget_of(&stage, "ada").await;
    assert_eq!(Question::streamed("ada").send_in_chunks(&stage.envoy.url).await, 200);
    let (spent, billed) = (spent_after(&stage, &budget, 1).await, stage.upstream.billed().await);
    assert!(spent.tokens >= billed.tokens, "{spent:?} is not below {billed:?}");
    assert!(spent.tokens < 4 * billed.tokens, "{spent:?} is near {billed:?}");
    assert_eq!(stage.bursar.metric("bursar_estimated_settlements_total").await, 1);
}

#[tokio::test]
async fn responses_that_fail_cost_nothing() {
    let stage = Stage::start().await;
    let budget = budget_of(&stage, "ada").await;
    let first = stage.ask(&Question::of("ada").header("x-sample", "busy")).await;
    assert_eq!(first.status, 429);
    let left_to_first = first.header("x-ratelimit-remaining-tokens");
    assert_eq!(stage.ask(&Question::streamed("ada").header("x-sample", "busy")).await.status, 429);
    assert_eq!(stage.ask(&Question::of("ada").path("/v1/nowhere")).await.status, 404);
    assert_eq!(spent_after(&stage, &budget, 3).await, NOTHING);
    let next = stage.ask(&Question::of("ada")).await;
    assert_eq!(next.header("x-ratelimit-remaining-tokens"), left_to_first, "all is given back");
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_costs_what_was_seen_of_it() {
    let stage = Stage::with(Setup::default(), &[("METERING_TIMEOUT", "0.1s")]).await;
    let budget = budget_of(&stage, "ada").await;
    let mut reply =
        Question::streamed("ada").header("x-sample", "wait").begin(&stage.envoy.url).await;
    let mut seen = 0;
    while seen < 3 {
        let piece = reply.chunk().await.expect("a stream").expect("more of it");
        seen += String::from_utf8_lossy(&piece).matches("word word").count();
    }
    drop(reply);
    let (spent, whole) = (spent_after(&stage, &budget, 1).await, stage.upstream.billed().await);
    assert!(spent.nano_usd > 0 && spent.tokens < whole.tokens + 200, "{spent:?} of {whole:?}");
}

#[tokio::test]
async fn a_model_that_may_have_reasoned_unseen_costs_what_was_set_aside_when_its_client_leaves() {
    let stage = Stage::with(Setup::default(), &[("METERING_TIMEOUT", "0.1s")]).await;
    let mut responses = 0;
    for (model, reasons) in [("gpt-5-mini", true), ("gpt-4o-mini", false)] {
        let budget = budget_of(&stage, model).await;
        let messages = json!([{"role": "user", "content": "Think of a word."}]);
        let body = json!({"model": model, "max_tokens": 100, "stream": true, "messages": messages});
        let question = Question::streamed(model).body(body.to_string());
        let mut reply = question.header("x-sample", "think").begin(&stage.envoy.url).await;
        let left = reply.headers()["x-ratelimit-remaining-tokens"].to_str().expect("text");
        let reserved = 1_000_000 - left.parse::<u64>().expect("a count");
        reply.chunk().await.expect("a stream").expect("its beginning, without a word");
        drop(reply);
        responses += 1;
        let spent = spent_after(&stage, &budget, responses).await;
        assert_eq!(spent.tokens == reserved, reasons, "{model}: {spent:?} of {reserved}");
        assert!(spent.nano_usd > 0 && spent.tokens <= reserved, "{model}: {spent:?}");
    }
}

#[tokio::test]
async fn a_stream_that_its_provider_breaks_off_costs_what_was_seen_of_it() {
    let stage = Stage::with(Setup::default(), &[("METERING_TIMEOUT", "0.1s")]).await;
    let budget = budget_of(&stage, "ada").await;
    let messages = json!([{"role": "user", "content": "Say many words."}]);
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 2000, "stream": true, "messages": messages});
    let reset = Question::to_claude("ada", true).body(body.to_string()).header("x-sample", "reset");
    let mut reply = reset.begin(&stage.envoy.url).await;
    reply.chunk().await.expect("a stream").expect("its beginning");
    stage.upstream.go_on().await;
    while let Ok(piece) = reply.chunk().await {
        piece.expect("no end, for it is cut");
    }
    let (spent, whole) = (spent_after(&stage, &budget, 1).await, stage.upstream.billed().await);
    assert!(spent.nano_usd > 0 && spent.nano_usd < whole.nano_usd, "{spent:?} of {whole:?}");
}

#[tokio::test]
async fn a_client_does_not_notice_that_bursar_is_killed_and_what_it_used_is_charged() {
    let setup = Setup::config("reservation: {timeout: 1s}\n");
    let mut stage = Stage::with(setup, &[]).await;
    let budget = budget_of(&stage, "ada").await;
    let question = Question::streamed("ada").header("x-sample", "wait");
    let mut reply = question.begin(&stage.envoy.url).await;
    let mut text = String::new();
    while !text.contains("word word") {
        let piece = reply.chunk().await.expect("a stream").expect("more of it");
        text += &String::from_utf8_lossy(&piece);
    }
    stage.bursar.process().kill();
    stage.upstream.go_on().await;
    while let Some(piece) = reply.chunk().await.expect("a stream that goes on") {
        text += &String::from_utf8_lossy(&piece);
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    stage.bursar.start_again().await;
    let spent = until("the charge of what was open", async || {
        let spent = stage.bursar.spent(&budget).await;
        (spent != NOTHING).then_some(spent)
    })
    .await;
    let whole = stage.upstream.billed().await;
    assert!(spent.nano_usd >= whole.nano_usd, "{spent:?} covers {whole:?}");
}

#[tokio::test]
async fn a_budget_refuses_after_real_spend_and_the_refusal_costs_nothing() {
    let stage = Stage::start().await;
    let budget = json!({
        "scope": {"identity": {"identity_external_id": "ada"}},
        "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": 400},
    });
    let budget = stage.bursar.create_budget(budget).await;
    let mut replies: Vec<(u16, Value)> = Vec::new();
    while replies.last().is_none_or(|(status, _)| *status == 200) && replies.len() < 20 {
        let reply = stage.ask(&Question::of("ada")).await;
        replies.push((reply.status, reply.json));
        let passed = replies.iter().filter(|(status, _)| *status == 200).count();
        watched(&stage, u64::try_from(passed).expect("a few")).await;
    }
    let (status, refusal) = replies.last().expect("a reply");
    assert_eq!((*status, replies.len() > 2), (429, true), "{refusal}");
    let passed = u64::try_from(replies.len() - 1).expect("a few");
    assert_eq!(streams_to_bursar(&stage, "metering").await, passed, "a refusal is not metered");
    // A budget without a limit on cost counts none.
    assert_eq!(stage.bursar.spent(&budget).await.tokens, stage.upstream.billed().await.tokens);
}
