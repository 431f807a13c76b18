//! What metering never sees: Envoy's access log tells Bursar of it.

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::harness::{FILTERS, Question, Setup, Stage, UNMETERED, until, usage_to_metadata};

/// The value of a series, by its name and labels; zero until it is there.
async fn series(stage: &Stage, name: &str) -> u64 {
    let page = stage.bursar.try_call("GET", "/metrics", None).await.expect("metrics").text;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |count| count.parse().expect("a count"))
}

/// Envoy's own filter that reads the usage of responses.
const AI_PROTOCOL_MANAGER: &str = r#"                  - name: envoy.filters.http.ai_protocol_manager
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager
                      response_handling: { token_usage: { include_unconfigured_routes: true } }"#;

async fn budget_of(stage: &Stage, identity: &str) -> String {
    let budget = json!({
        "scope": {"identity": {"identity_external_id": identity}},
        "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "token_limit": 1_000_000},
    });
    stage.bursar.create_budget(budget).await
}

#[tokio::test]
async fn a_client_that_leaves_before_the_response_begins_costs_what_was_read_and_no_more() {
    // A provider that thinks for ever.
    let provider = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = provider.local_addr().expect("a bound address").port().to_string();
    let stage = Stage::with(Setup::default(), &[("UPSTREAM_PORT", &port)]).await;
    let budget = budget_of(&stage, "ada").await;
    let question = Question::of("ada");
    let answer = question.try_send(&stage.envoy.url);
    let thinking = async {
        let (mut connection, _) = provider.accept().await.expect("a connection");
        connection.read_exact(&mut [0]).await.expect("a request");
        connection
    };
    let _connection = tokio::select! {
        answer = answer => panic!("there is no answer: {answer:?}"),
        connection = thinking => connection,
    };
    // The client has left.
    let settled = "bursar_logged_responses_total{outcome=\"at_least\"}";
    until("the entry of the access log", async || {
        (series(&stage, settled).await == 1).then_some(())
    })
    .await;
    assert_eq!(series(&stage, "bursar_watched_responses_total{outcome=\"at_least\"}").await, 0);
    let spent = stage.bursar.spent(&budget).await.tokens;
    let reserved = u64::try_from(Question::TOKENS).expect("a count");
    assert!(spent > 0 && spent < reserved, "{spent} of {reserved}");
    until("nothing to be set aside", async || {
        (series(&stage, "bursar_open_reservations").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_passed_without_a_decision_is_counted() {
    let lines = [("FAIL_OPEN", "true"), ("DECISION_TIMEOUT", "0.3s"), ("ASKING_TIMEOUT", "0.3s")];
    let mut stage = Stage::with(Setup::default(), &lines).await;
    stage.bursar.process().pause();
    let reply =
        stage.ask(&Question::of("ada").header("x-envoy-auth-failure-mode-allowed", "no")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    stage.bursar.process().go_on();
    let passes = "bursar_undecided_passes_total{usage=\"unknown\"}";
    until("the entry of the access log", async || {
        (series(&stage, passes).await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_other_filters_count_settles_what_nobody_watches() {
    let gateway = usage_to_metadata("io.envoy.ai_gateway", "llm_input_token", "llm_output_token");
    for filter in [gateway.as_str(), AI_PROTOCOL_MANAGER] {
        let additions = [(FILTERS, filter)];
        let stage = Stage::extended(Setup::default(), &[UNMETERED], &additions).await;
        let budget = budget_of(&stage, "ada").await;
        for _ in 0..2 {
            assert_eq!(stage.ask(&Question::of("ada")).await.status, 200);
        }
        until("the entries of the access log", async || {
            let settled = "bursar_logged_responses_total{outcome=\"exact\"}";
            (series(&stage, settled).await == 2).then_some(())
        })
        .await;
        let spent = stage.bursar.spent(&budget).await.tokens;
        assert_eq!(spent, stage.upstream.billed().await.tokens, "{filter}");
        until("nothing to be set aside", async || {
            (series(&stage, "bursar_open_reservations").await == 0).then_some(())
        })
        .await;
    }
}
