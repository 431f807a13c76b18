//! What a client of Envoy sees.

use serde_json::json;

use crate::harness::{Question, Stage};

#[tokio::test]
async fn an_allowed_request_carries_the_numbers_of_every_dimension_in_place_of_the_providers() {
    let stage = Stage::start().await;
    stage
        .bursar
        .create_budget(json!({
            "scope": {"identity": {"identity_external_id": "ada"}},
            "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "amount": 5, "token_limit": 1_000_000},
            "rate_limit": {"requests_per_minute": 60},
        }))
        .await;
    let reply = stage.ask(&Question::of("ada")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    println!("{:#?}", reply.headers_like("x-ratelimit"));
}
