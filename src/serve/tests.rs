//! Whole Bursars in this process: how they come up and how they go.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;
use crate::config::{self, Environment};

struct Running {
    folder: TempDir,
    addresses: Addresses,
    stop: Stop,
    ended: JoinHandle<Result<()>>,
}

/// A Bursar in a folder of its own, on free ports and a Unix socket.
fn loaded(folder: &Path, more: &str) -> Loaded {
    let at = folder.display();
    let text = format!(
        "listen: {{grpc: '127.0.0.1:0', http: '127.0.0.1:0', unix: '{at}/b.sock'}}\nstore: {{url: 'sqlite:{at}/b.db'}}\n{more}"
    );
    let (settings, warnings) = config::settings(&text, &Environment::default()).unwrap();
    Loaded { settings, warnings, prices: config::prices::shipped() }
}

async fn start(more: &str) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let loaded = loaded(folder.path(), more);
    let listeners = Listeners::bind(&loaded.settings.listen).await.unwrap();
    let addresses = listeners.addresses().unwrap();
    let stop = Stop::default();
    let ready_file = Some(folder.path().join("ready.json"));
    let ended = tokio::spawn(run(loaded, listeners, ready_file, stop.clone()));
    Running { folder, addresses, stop, ended }
}

impl Running {
    /// A connection by TCP. Whoever has an answer on it knows that Bursar is ready.
    async fn by_tcp(&self) -> HealthClient<Channel> {
        let address = format!("http://{}", self.addresses.grpc.unwrap());
        HealthClient::new(Endpoint::new(address).unwrap().connect().await.unwrap())
    }

    async fn by_socket(&self) -> HealthClient<Channel> {
        let path = self.addresses.unix.clone().unwrap();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://socket").connect_with_connector(connect).await;
        HealthClient::new(channel.unwrap())
    }

    async fn page(&self, path: &str) -> (u16, String) {
        let reply = reqwest::get(format!("http://{}{path}", self.addresses.http)).await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

async fn watch_health(client: &mut HealthClient<Channel>) -> Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest { service: HEALTH_NAMES[1].to_owned() };
    client.watch(request).await.unwrap().into_inner()
}

async fn next_status(watched: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    match watched.message().await.unwrap().unwrap().status {
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        _ => ServingStatus::Unknown,
    }
}

#[tokio::test]
async fn every_socket_answers_and_the_ready_file_says_where() {
    let running = start("").await;
    for name in HEALTH_NAMES {
        for mut client in [running.by_tcp().await, running.by_socket().await] {
            let request = HealthCheckRequest { service: name.to_owned() };
            let status = client.check(request).await.unwrap().into_inner().status;
            assert_eq!(status, 1, "{name} is serving");
        }
    }
    assert_eq!(running.page("/readyz").await, (200, "ready\n".to_owned()));
    assert!(running.page("/metrics").await.1.contains("bursar_build_info"));
    let told = std::fs::read_to_string(running.folder.path().join("ready.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["http"], running.addresses.http.to_string());
    running.stop.drain.cancel();
}

#[tokio::test]
async fn a_draining_bursar_is_not_ready_and_answers_until_nobody_is_connected() {
    let mut running = start("drain_timeout: 1h").await;
    let mut client = running.by_tcp().await;
    let mut watched = watch_health(&mut client).await;
    assert_eq!(next_status(&mut watched).await, ServingStatus::Serving);
    running.stop.drain.cancel();
    assert_eq!(next_status(&mut watched).await, ServingStatus::NotServing);
    assert_eq!(running.page("/readyz").await, (503, "stopping\n".to_owned()));
    assert_eq!(running.page("/healthz").await.0, 200);
    let late = running.by_socket().await.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(
        late.into_inner().status,
        2,
        "new connections are still taken, and told to go elsewhere"
    );
    assert!(!running.ended.is_finished());
    drop((client, watched));
    (&mut running.ended).await.unwrap().unwrap();
    assert_eq!(running.files(), ["b.db", "b.journal", "b.lock"]);
}

#[tokio::test]
async fn a_second_request_to_stop_does_not_wait_for_anybody() {
    let mut running = start("drain_timeout: 1h").await;
    let mut client = running.by_socket().await;
    let mut watched = watch_health(&mut client).await;
    assert_eq!(next_status(&mut watched).await, ServingStatus::Serving);
    running.stop.drain.cancel();
    assert_eq!(next_status(&mut watched).await, ServingStatus::NotServing);
    running.stop.end.cancel();
    (&mut running.ended).await.unwrap().unwrap();
    assert!(
        watched.message().await.is_ok_and(|more| more.is_none()),
        "the stream is ended, not cut"
    );
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_over() {
    let mut running = start("drain_timeout: 0ms").await;
    let mut client = running.by_tcp().await;
    let mut watched = watch_health(&mut client).await;
    assert_eq!(next_status(&mut watched).await, ServingStatus::Serving);
    running.stop.drain.cancel();
    (&mut running.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_is_told_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let refused = async |more: &str| {
        let loaded = loaded(folder.path(), more);
        let listeners = Listeners::bind(&loaded.settings.listen).await.unwrap();
        format!("{:#}", run(loaded, listeners, None, Stop::default()).await.unwrap_err())
    };
    std::fs::write(folder.path().join("b.db"), "this is no database, and long enough to tell")
        .unwrap();
    let told = refused("").await;
    assert!(told.starts_with("store.url: ") && told.contains("b.db"), "{told}");
    std::fs::remove_file(folder.path().join("b.db")).unwrap();
    let told = refused("journal: {path: /dev/null/j}").await;
    assert!(told.contains("journal.path") && told.contains("/dev/null/j"), "{told}");
}

#[tokio::test]
async fn a_database_server_that_is_away_is_named_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let mut loaded = loaded(folder.path(), "");
    loaded.settings.store =
        StoreUrl::Postgres { url: "postgres://u:hunter2@127.0.0.1:1/d".to_owned() };
    let listeners = Listeners::bind(&loaded.settings.listen).await.unwrap();
    let told = format!("{:#}", run(loaded, listeners, None, Stop::default()).await.unwrap_err());
    assert!(told.contains("cannot open the database d on 127.0.0.1:1:"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}
