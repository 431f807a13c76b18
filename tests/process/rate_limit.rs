//! Usage that others count: Envoy's own rate limit filter reports it when a response is over.

use serde_json::json;

use crate::harness::{FILTERS, Question, ROUTE, Setup, Stage, UNMETERED, until, usage_to_metadata};

/// Reports what the filter before it found.
const RATE_LIMIT: &str = r#"                  - name: envoy.filters.http.ratelimit
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
                      domain: bursar
                      failure_mode_deny: false
                      rate_limit_service:
                        transport_api_version: V3
                        grpc_service:
                          envoy_grpc: { cluster_name: bursar_metering }"#;

/// Hits that are not one for each request can be configured only here.
const PER_ROUTE: &str = r#"                          typed_per_filter_config:
                            envoy.filters.http.ratelimit:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                              rate_limits:"#;

/// A report of one unit: whose it is as ext_authz tells it, and how much as the response does.
fn report(unit: &str) -> String {
    let told = |key: &str| {
        format!(
            "
                                - metadata:
                                    descriptor_key: {key}
                                    metadata_key:
                                      key: envoy.filters.http.ext_authz
                                      path: [{{ key: {key} }}]"
        )
    };
    let (workspace, reservation) = (told("workspace"), told("reservation_id"));
    format!(
        "
                              - actions:{workspace}{reservation}
                                - generic_key: {{ descriptor_key: unit, descriptor_value: {unit} }}
                                hits_addend: {{ format: \"%DYNAMIC_METADATA(gateway.usage:{unit})%\" }}
                                apply_on_stream_done: true"
    )
}

#[tokio::test]
async fn what_a_gateway_counts_and_reports_as_hits_settles_the_reservation() {
    let filters = usage_to_metadata("gateway.usage", "input_tokens", "output_tokens");
    let reports = ["input_tokens", "output_tokens"].map(report).concat();
    let additions = [
        (FILTERS, &*format!("{filters}\n{RATE_LIMIT}")),
        (ROUTE, &*format!("{PER_ROUTE}{reports}")),
    ];
    let setup = Setup::config("rate_limit_service: on\n");
    let stage = Stage::extended(setup, &[UNMETERED], &additions).await;
    let budget = json!({
        "scope": {"identity": {"identity_external_id": "ada"}},
        "limits": {"period": "BUDGET_PERIOD_ONE_TIME", "amount": 5, "token_limit": 1_000_000},
    });
    let budget = stage.bursar.create_budget(budget).await;
    for _ in 0..2 {
        let reply = stage.ask(&Question::of("ada")).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    until("both reports", async || {
        let reports = stage.bursar.metric("bursar_reported_hits_total").await;
        (reports == 2).then_some(())
    })
    .await;
    assert_eq!(stage.bursar.spent(&budget).await, stage.upstream.billed().await);
    until("nothing to be set aside", async || {
        (stage.bursar.metric("bursar_open_reservations").await == 0).then_some(())
    })
    .await;
}
