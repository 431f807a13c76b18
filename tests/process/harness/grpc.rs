//! The gRPC services without Envoy.

use std::collections::HashMap;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
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
    decide(channel, identity).await.expect("an answer").code
}

/// A decision, as Envoy sees it.
pub(crate) struct Decided {
    pub(crate) code: Code,
    /// What is to be settled, where something was set aside.
    pub(crate) reservation: Option<String>,
}

/// Asks for an identity as Envoy does, of a Bursar that may end before it answers.
pub(crate) async fn decide(channel: &Channel, identity: &str) -> Result<Decided, Status> {
    let headers = HashMap::from([("x-orq-identity-id".to_owned(), identity.to_owned())]);
    let http = HttpRequest { method: "POST".to_owned(), headers, ..HttpRequest::default() };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let request = CheckRequest { attributes: Some(attributes) };
    let reply = AuthorizationClient::new(channel.clone()).check(request).await?.into_inner();
    let metadata = reply.dynamic_metadata.unwrap_or_default().fields;
    let reservation = match metadata.get("reservation_id").and_then(|value| value.kind.clone()) {
        Some(Kind::StringValue(id)) => Some(id),
        _ => None,
    };
    Ok(Decided { code: Code::from(reply.status.expect("a status").code), reservation })
}
