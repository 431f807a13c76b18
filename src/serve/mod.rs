//! Floor 4: the composition root. Turns settings into a running Bursar, and ends it so that nothing is lost.

mod connections;
mod listeners;
mod prices;
mod ready_file;
mod translate;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::serve::ListenerExt;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::admin;
use crate::config::{Loaded, RateLimitService, Settings, StoreUrl};
use crate::engine::clock::SystemClock;
use crate::engine::{self, Engine};
use crate::envoy::authorize::Authorizer;
use crate::envoy::settling::Settler;
use crate::envoy::{access_log, process, rate_limit};
use crate::notify;
use crate::store::Store;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::telemetry::Metrics;
use connections::Connections;
use ready_file::ReadyFile;

pub use listeners::{Addresses, Listeners};

/// How long open streams have to end when nobody may ask any more. An answer takes well under a second; what still lasts
/// then is somebody who watches.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the engine has to write down what it knows. With [`STREAMS_TIMEOUT`] it makes the hard stop, five seconds after the
/// drain. What it could not write is in the journal.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a silent gRPC connection is asked whether it is alive, and how long it has to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The names under which gRPC health is asked for; the first stands for all.
const HEALTH_NAMES: [&str; 3] = ["", "envoy.service.auth.v3.Authorization", "bursar.v1.Budgets"];

/// Asks a running Bursar to end. Clones ask together.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Not ready any more; ends when nobody is connected or the drain takes too long.
    pub drain: CancellationToken,
    /// Ends now, with everything written down all the same.
    pub end: CancellationToken,
}

/// How a server learns of its end.
#[derive(Clone)]
struct Life {
    /// Everybody who is connected by gRPC.
    connections: Connections,
    /// Cancelled when Bursar is not ready any more.
    draining: CancellationToken,
    /// Cancelled when nobody may ask any more.
    ended: CancellationToken,
}

impl Life {
    fn until(stop: &Stop) -> Self {
        Self {
            connections: Connections::new(),
            draining: stop.drain.clone(),
            ended: CancellationToken::new(),
        }
    }
}

/// Runs Bursar on these sockets until it is asked to stop.
///
/// # Errors
/// When it cannot start, a server breaks off, or the end could not be written down in time.
pub async fn run(
    loaded: Loaded,
    listeners: Listeners,
    ready_file: Option<PathBuf>,
    stop: Stop,
) -> Result<()> {
    let Loaded { settings, prices, warnings } = loaded;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    let metrics = Metrics::new();
    let store = open_store(&settings).await?;
    let (prices, prices_in_force) = watch::channel(Arc::new(prices));
    let engine = start_engine(&settings, &store, prices_in_force, &metrics).await?;
    let _following = settings.prices.clone().map(|file| prices::follow(file, prices, &metrics));
    let api = Api { settings: &settings, engine: &engine, metrics: &metrics };
    let telling = tokio::spawn(notify::run(engine.clone(), notify::Sender::new(metrics.clone())));
    let served = answer(api, listeners, ready_file, stop).await;
    // A notice that is cut off comes again: it is on record.
    telling.abort();
    flush(&engine, &store).await?;
    info!("ended; everything is written down");
    served
}

/// What the services are made of.
struct Api<'a> {
    settings: &'a Settings,
    engine: &'a Engine,
    metrics: &'a Metrics,
}

/// Answers from the moment everything is ready until nobody may ask any more.
async fn answer(
    api: Api<'_>,
    listeners: Listeners,
    ready_file: Option<PathBuf>,
    stop: Stop,
) -> Result<()> {
    let addresses = listeners.addresses()?;
    let life = Life::until(&stop);
    let (health, services) = services(&api, &life).await?;
    let mut servers = serve(listeners, services, pages(&api, &life), &life);
    let _told = ready_file.map(|path| ReadyFile::write(&path, &addresses)).transpose()?;
    say_ready(api.settings, &addresses);
    let broken = tokio::select! {
        () = stop.drain.cancelled() => None,
        () = stop.end.cancelled() => None,
        ended = servers.join_next() => ended,
    };
    if broken.is_none() {
        drain(api.settings.drain_timeout, &health, &life, &stop).await;
    }
    end_streams(health, &life, &mut servers).await;
    match broken {
        None => Ok(()),
        Some(Ok(Ok(()))) => Err(anyhow!("a server ended by itself")),
        Some(Ok(Err(cause))) => Err(cause),
        Some(Err(cause)) => Err(cause).context("a server broke off"),
    }
}

async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>> {
    match &settings.store {
        StoreUrl::Sqlite { url, .. } => {
            let store = SqliteStore::open(url, settings.terms.lease_ttl).await;
            Ok(Arc::new(store.context("store.url")?))
        }
        StoreUrl::Postgres { url } => {
            let store = PostgresStore::open(&translate::postgres(settings, url)).await;
            Ok(Arc::new(store.context("store")?))
        }
    }
}

async fn start_engine(
    settings: &Settings,
    store: &Arc<dyn Store>,
    prices: engine::Prices,
    metrics: &Metrics,
) -> Result<Engine> {
    let own = engine::Settings {
        terms: settings.terms,
        journal: Some(settings.journal.clone()),
        unpriced: settings.estimate.unpriced.clone(),
    };
    Engine::start(own, Arc::clone(store), prices, Arc::new(SystemClock), metrics.clone()).await
}

/// All gRPC services, the same on every socket: `bursar.v1` asks for a key wherever it is reached.
async fn services(api: &Api<'_>, life: &Life) -> Result<(HealthReporter, Routes)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let settings = translate::envoy(api.settings)?;
    let mapping = settings.mapping.clone();
    let authorizer = Authorizer::new(api.engine.clone(), settings, api.metrics.clone());
    let settler = Settler::new(api.engine.clone());
    let processor = process::service(settler.clone(), api.metrics.clone(), life.ended.clone());
    let access_log =
        access_log::service(settler.clone(), mapping, api.metrics.clone(), life.ended.clone());
    let budgets = admin::service(api.engine.clone(), translate::admin(api.settings));
    let routes = Routes::new(health_service)
        .add_service(AuthorizationServer::new(authorizer))
        .add_service(processor)
        .add_service(access_log)
        .add_service(budgets);
    let routes = match api.settings.rate_limit_service {
        RateLimitService::Off => routes,
        RateLimitService::On => {
            routes.add_service(rate_limit::service(settler, api.metrics.clone()))
        }
    };
    Ok((health, routes.prepare()))
}

/// The HTTP API, which says that it is not ready while Bursar drains.
fn pages(api: &Api<'_>, life: &Life) -> Router {
    let draining = life.draining.clone();
    let while_draining = move |request: Request, next: Next| {
        let stopping = draining.is_cancelled() && request.uri().path() == "/readyz";
        async move {
            if stopping {
                return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
            }
            next.run(request).await
        }
    };
    let settings = translate::admin(api.settings);
    admin::router(api.engine.clone(), settings, api.metrics.clone())
        .layer(middleware::from_fn(while_draining))
}

/// Starts one server for each socket.
fn serve(
    listeners: Listeners,
    services: Routes,
    pages: Router,
    life: &Life,
) -> JoinSet<Result<()>> {
    let mut servers = JoinSet::new();
    if let Some(listener) = listeners.grpc {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        servers.spawn(grpc(life.connections.counting(incoming), services.clone(), life.clone()));
    }
    if let Some((listener, file)) = listeners.unix {
        let incoming = life.connections.counting(UnixListenerStream::new(listener));
        let server = grpc(incoming, services, life.clone());
        servers.spawn(async move {
            let ended = server.await;
            drop(file);
            ended
        });
    }
    let http = listeners.http.tap_io(|io| {
        // Without it an answer may wait for the client's acknowledgement of the one before.
        let _ = io.set_nodelay(true);
    });
    let ended = life.ended.clone();
    servers.spawn(async move {
        let server = axum::serve(http, pages).with_graceful_shutdown(ended.cancelled_owned());
        server.await.context("the HTTP server")
    });
    servers
}

fn grpc<IO>(
    incoming: impl Stream<Item = io::Result<IO>> + Send + 'static,
    services: Routes,
    life: Life,
) -> impl Future<Output = Result<()>> + Send
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    // An Envoy that is gone without a word would keep its streams open here for ever.
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(services);
    async move {
        let ended = life.ended.cancelled_owned();
        server.serve_with_incoming_shutdown(incoming, ended).await.context("the gRPC server")
    }
}

fn say_ready(settings: &Settings, addresses: &Addresses) {
    let shown = |address: Option<String>| address.unwrap_or_else(|| "off".to_owned());
    info!(
        grpc = shown(addresses.grpc.map(|address| address.to_string())),
        unix = shown(addresses.unix.as_ref().map(|path| path.display().to_string())),
        http = %addresses.http,
        store = %settings.store,
        workspace = %settings.workspace,
        "ready"
    );
    info!(
        headers = settings.mapping.trusted_headers.join(", "),
        "request headers that are trusted to name who is asking; others are not"
    );
    if settings.keys.is_empty() {
        warn!(
            "no key is configured, so that nobody can use the HTTP API; set BURSAR_MANAGEMENT_KEY, or keys in the file"
        );
    }
}

/// Tells everybody that Bursar is going, and keeps answering those who have not gone yet.
async fn drain(at_most: Duration, health: &HealthReporter, life: &Life, stop: &Stop) {
    life.draining.cancel();
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::NotServing).await;
    }
    info!(?at_most, "stopping: no longer ready, still answering whoever is connected");
    tokio::select! {
        () = life.connections.none_left() => {}
        () = tokio::time::sleep(at_most) => info!("some are still connected; ending their streams"),
        () = stop.end.cancelled() => info!("asked again to stop; ending all streams"),
    }
}

/// Ends all servers. Requests that are being answered are finished; who only watches is cut off.
async fn end_streams(mut health: HealthReporter, life: &Life, servers: &mut JoinSet<Result<()>>) {
    life.ended.cancel();
    for name in HEALTH_NAMES {
        health.clear_service_status(name).await;
    }
    let all_ended = async { while servers.join_next().await.is_some() {} };
    if timeout(STREAMS_TIMEOUT, all_ended).await.is_err() {
        warn!("some streams did not end in time and are cut");
        servers.shutdown().await;
    }
}

/// Writes down what the engine knows and gives its leases back.
async fn flush(engine: &Engine, store: &Arc<dyn Store>) -> Result<()> {
    let flushed = async {
        let flushed = engine.shutdown().await;
        store.close().await;
        flushed
    };
    let in_time = timeout(FLUSH_TIMEOUT, flushed).await;
    in_time.context("the store did not take everything in time; the rest is in the journal")
}

#[cfg(test)]
mod tests;
