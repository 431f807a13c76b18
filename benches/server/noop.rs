//! The server that Bursar is held against: the stock recipe of tonic and envoy-types, which decodes each request in full and
//! answers OK with six headers, without a decision.

use std::path::Path;

use anyhow::Result;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, OkHttpResponse};
use envoy_types::pb::google::rpc;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

struct Noop;

#[tonic::async_trait]
impl Authorization for Noop {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let headers = [
            ("x-ratelimit-limit", "1000000"),
            ("x-ratelimit-remaining", "999999"),
            ("x-ratelimit-reset", "60s"),
            ("x-ratelimit-limit-cost", "1000000"),
            ("x-ratelimit-remaining-cost", "999999.984625"),
            ("x-ratelimit-reset-cost", "1299257s"),
        ];
        let response = OkHttpResponse {
            response_headers_to_add: headers.map(|(name, value)| header(name, value)).into(),
            ..OkHttpResponse::default()
        };
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status::default()),
            http_response: Some(HttpResponse::OkResponse(response)),
            ..CheckResponse::default()
        }))
    }
}

fn header(name: &str, value: &str) -> HeaderValueOption {
    let header =
        HeaderValue { key: name.to_owned(), value: value.to_owned(), ..HeaderValue::default() };
    HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// Serves on a Unix socket and on a free TCP port, which it writes into the ready file as Bursar does. Never returns.
pub(crate) fn run(socket: &Path, ready_file: &Path) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let unix = UnixListener::bind(socket)?;
        let ready = serde_json::json!({ "grpc": tcp.local_addr()?.to_string() });
        let temporary = ready_file.with_extension("new");
        std::fs::write(&temporary, ready.to_string())?;
        std::fs::rename(&temporary, ready_file)?;
        let service = || Server::builder().add_service(AuthorizationServer::new(Noop));
        let tcp = TcpIncoming::from(tcp).with_nodelay(Some(true));
        tokio::try_join!(
            service().serve_with_incoming(tcp),
            service().serve_with_incoming(UnixListenerStream::new(unix)),
        )?;
        Ok(())
    })
}
