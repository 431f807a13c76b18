//! The gRPC services without Envoy.

use std::collections::HashMap;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A connection to an address, such as `unix:///run/bursar.sock`.
pub(crate) async fn connect(address: String) -> Channel {
    Endpoint::try_from(address).expect("an address").connect().await.expect("a connection")
}

/// What gRPC health says of a service.
pub(crate) async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let reply = HealthClient::new(channel.clone()).check(request).await;
    reply.map(|reply| reply.into_inner().status()).map_err(|status| status.code())
}

/// Asks for an identity as Envoy does. The status of the decision.
pub(crate) async fn check(channel: &Channel, identity: &str) -> Code {
    let headers = HashMap::from([("x-orq-identity-id".to_owned(), identity.to_owned())]);
    let http = HttpRequest { method: "POST".to_owned(), headers, ..HttpRequest::default() };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let request = CheckRequest { attributes: Some(attributes) };
    let reply = AuthorizationClient::new(channel.clone()).check(request).await.expect("an answer");
    Code::from(reply.into_inner().status.expect("a status").code)
}
