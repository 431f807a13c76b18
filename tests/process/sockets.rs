//! The gRPC services as Envoy reaches them: on a Unix socket and on TCP at once.

use serde_json::json;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::grpc::{check, connect, health};
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
    let mut answers = Vec::new();
    for channel in [&tcp, &unix, &tcp, &unix] {
        answers.push(check(channel, "ada").await);
    }
    let refused = Code::ResourceExhausted;
    assert_eq!(answers, [Code::Ok, Code::Ok, Code::Ok, refused], "one budget behind both sockets");
}
