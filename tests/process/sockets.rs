//! The gRPC services as Envoy reaches them: on a Unix socket and on TCP at once.

use std::collections::HashMap;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use serde_json::json;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Bursar, Setup};

#[tokio::test]
async fn both_sockets_serve_the_same_budgets_and_tell_their_health() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bursar = Bursar::start(directory.path(), Setup::default()).await;
    let scope = json!({"identity": {"identity_external_id": "ada"}});
    let rate_limit = json!({"requests_per_minute": 3});
    bursar.create_budget(json!({"scope": scope, "rate_limit": rate_limit})).await;

    let tcp = connect(format!("http://{}", bursar.grpc)).await;
    let unix = connect(format!("unix://{}", bursar.socket().display())).await;
    for channel in [tcp.clone(), unix.clone()] {
        for service in ["", "envoy.service.auth.v3.Authorization", "bursar.v1.Budgets"] {
            assert_eq!(health(&channel, service).await, Ok(ServingStatus::Serving), "{service}");
        }
        assert_eq!(health(&channel, "somebody.else").await, Err(Code::NotFound));
    }
    let answers = [check(&tcp).await, check(&unix).await, check(&tcp).await, check(&unix).await];
    let refused = Code::ResourceExhausted;
    assert_eq!(answers, [Code::Ok, Code::Ok, Code::Ok, refused], "one budget behind both sockets");
}

async fn connect(address: String) -> Channel {
    Endpoint::try_from(address).expect("an address").connect().await.expect("a connection")
}

async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let reply = HealthClient::new(channel.clone()).check(request).await;
    reply.map(|reply| reply.into_inner().status()).map_err(|status| status.code())
}

/// Asks for ada as Envoy does.
async fn check(channel: &Channel) -> Code {
    let headers = HashMap::from([("x-orq-identity-id".to_owned(), "ada".to_owned())]);
    let http = HttpRequest { method: "POST".to_owned(), headers, ..HttpRequest::default() };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let request = CheckRequest { attributes: Some(attributes) };
    let reply = AuthorizationClient::new(channel.clone()).check(request).await.expect("an answer");
    Code::from(reply.into_inner().status.expect("a status").code)
}
