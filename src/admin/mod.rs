//! Floor 3: the HTTP API for people and applications, and the gRPC service `bursar.v1.Budgets`. Both are thin skins over
//! one set of functions. Wire shapes stop here: the domain knows neither JSON nor protobuf.
//!
//! `access` says who may call, `call` and `json` read requests, `fault` is how every refusal looks; then one file for each
//! thing that can be done.

mod access;
mod budgets;
mod call;
mod check;
mod credits;
mod fault;
mod forfeits;
mod grpc;
mod json;
mod keys;
mod number;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::sync::Mutex;

pub use access::{AdminKey, Role, Settings};
pub use grpc::{BudgetsService, proto, service};

use crate::engine::Engine;
use crate::telemetry::{self, Metrics};
use fault::Fault;

/// What every handler works with.
#[derive(Clone)]
struct Api {
    engine: Engine,
    settings: Arc<Settings>,
    metrics: Metrics,
    /// Held while something is read, changed and written back, so that updates by this replica do not come in each other's way.
    updates: Arc<Mutex<()>>,
}

/// The HTTP API: everything under `/v2` with a key, and `/healthz`, `/readyz` and `/metrics` without.
pub fn router(engine: Engine, settings: Settings, metrics: Metrics) -> Router {
    let api =
        Api { engine, settings: Arc::new(settings), metrics, updates: Arc::new(Mutex::new(())) };
    Router::new()
        .route("/v2/budgets", get(budgets::list).post(budgets::create))
        .route("/v2/budgets/check", post(check::http))
        .route(
            "/v2/budgets/{budget_id}",
            get(budgets::read).patch(budgets::update).delete(budgets::remove),
        )
        .route("/v2/budgets/{budget_id}/consumption", get(budgets::consumption))
        .route("/v2/budgets/{budget_id}/reset-consumption", post(budgets::reset))
        .route("/v2/budgets/{budget_id}/accounts", get(forfeits::accounts))
        .route("/v2/budgets/{budget_id}/release-forfeits", post(forfeits::release))
        .route("/v2/credits", get(credits::read))
        .route("/v2/credits/release-forfeits", post(forfeits::release_credits))
        .route("/v2/credits/grants", post(credits::grant))
        .route("/v2/credits/transactions", get(credits::transactions))
        .route("/v2/credits/statement", get(credits::statement))
        .route(
            "/v2/credits/alert",
            get(credits::read_alert).put(credits::set_alert).delete(credits::remove_alert),
        )
        .route("/v2/usage", post(usage::http))
        .route("/v2/api-keys", get(keys::list).post(keys::create))
        .route("/v2/api-keys/{api_key_id}", delete(keys::remove))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_page))
        .fallback(|| async { Fault::not_found("no such path") })
        .method_not_allowed_fallback(|| async {
            Fault::invalid_as(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        })
        .layer(DefaultBodyLimit::max(call::BODY_BYTES_MAX))
        .with_state(api)
}

async fn ready(State(api): State<Api>) -> Response {
    match api.engine.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics_page(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], api.metrics.encode()).into_response()
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
