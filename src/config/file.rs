//! Reads the settings one section at a time. Each is the environment's where a variable overrides it, then the file's, then the default.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::env::{self, Environment};
use super::fault::FaultLog;
use super::settings::{
    Listen, Log, LogFormat, RateLimitService, Reply, Settings, StoreLink, StoreUrl,
};
use super::walk::Section;
use super::{estimate, keys, mapping, parse};
use crate::domain::ids::Id;
use crate::domain::ledger::{OnTimeout, Sharing, Terms};

/// The workspace of a Bursar that was told of none.
const DEFAULT_WORKSPACE: &str = "default";
/// Bounds of a lease's life. Below, the exchange with the store cannot keep up; above, a dead replica's share is away too long.
const LEASE_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Bounds of the patience. Nobody holds a request longer for want of a lease: Envoy's own timeout is far shorter.
const PATIENCE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(10));
/// Bounds of the drain. Kubernetes kills what takes longer than its own grace period anyway.
const DRAIN: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3600));
/// Bounds of a reservation's life. The longest stands for the longest response; its journal entry is kept as long.
const RESERVATION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// Reads everything. `None` after a fault without which nothing else makes sense; other faults are in the log.
pub(super) fn settings(
    mut root: Section<'_>,
    environment: &Environment,
    log: &FaultLog,
) -> Option<Settings> {
    let workspace = workspace(&mut root, environment, log)?;
    let (store, link) = store(&mut root, environment, log);
    let keys = keys::read(&mut root, environment, &workspace, log);
    let settings = Settings {
        listen: listen(&mut root, environment, log),
        journal: journal(&mut root, &store),
        terms: terms(&mut root, &store),
        patience: root.read("patience", within(PATIENCE)).unwrap_or(Duration::from_millis(50)),
        drain_timeout: root.read("drain_timeout", within(DRAIN)).unwrap_or(Duration::from_secs(20)),
        estimate: estimate::read(&mut root),
        prices: prices(&mut root),
        mapping: mapping::read(&mut root),
        reply: reply(&mut root),
        rate_limit_service: root
            .read("rate_limit_service", parse::one_of(&RateLimitService::NAMES))
            .unwrap_or_default(),
        log: log_lines(&mut root),
        keys: keys.keys,
        workspace,
        store,
        link,
    };
    root.close();
    environment.warn_of_strangers(&keys.variables, log);
    Some(settings)
}

fn within((least, most): (Duration, Duration)) -> impl Fn(&str) -> Result<Duration, String> {
    parse::duration_within(least, most)
}

fn workspace(root: &mut Section<'_>, environment: &Environment, log: &FaultLog) -> Option<Id> {
    let written = root.read("workspace", parse::id);
    environment
        .read(env::WORKSPACE, log, parse::id)
        .or(written)
        .or_else(|| Id::parse(DEFAULT_WORKSPACE).ok())
}

fn store(
    root: &mut Section<'_>,
    environment: &Environment,
    log: &FaultLog,
) -> (StoreUrl, StoreLink) {
    let default = StoreLink::default();
    let mut section = root.section("store");
    let url = section.read("url", parse::store_url);
    let migration_url = section.read("migration_url", parse::migration_url);
    let link = StoreLink {
        connections: section.read("pool", parse::connections).unwrap_or(default.connections),
        listen: section.read("listen", parse::switch).unwrap_or(default.listen),
        prepared_statements: section
            .read("prepared_statements", parse::switch)
            .unwrap_or(default.prepared_statements),
        migration_url: environment
            .read(env::STORE_MIGRATION_URL, log, parse::migration_url)
            .or(migration_url)
            .unwrap_or(default.migration_url),
    };
    section.close();
    let url = environment.read(env::STORE_URL, log, parse::store_url).or(url).unwrap_or_default();
    (url, link)
}

fn listen(root: &mut Section<'_>, environment: &Environment, log: &FaultLog) -> Listen {
    let default = Listen::default();
    let mut section = root.section("listen");
    let grpc = section.read("grpc", parse::optional_address);
    let unix = section.read("unix", parse::optional_path);
    let http = section.read("http", parse::address);
    section.close();
    let listen = Listen {
        grpc: environment
            .read(env::LISTEN_GRPC, log, parse::optional_address)
            .or(grpc)
            .unwrap_or(default.grpc),
        unix: environment
            .read(env::LISTEN_UNIX, log, parse::optional_path)
            .or(unix)
            .unwrap_or(default.unix),
        http: environment
            .read(env::LISTEN_HTTP, log, parse::address)
            .or(http)
            .unwrap_or(default.http),
    };
    check_listeners(&listen, log);
    listen
}

fn check_listeners(listen: &Listen, log: &FaultLog) {
    if listen.grpc.is_none() && listen.unix.is_none() {
        log.fault(
            None,
            "listen",
            "has neither grpc nor unix, so that Envoy cannot ask; set one of them",
        );
    }
    let Some(grpc) = listen.grpc else { return };
    if grpc == listen.http && grpc.port() != 0 {
        log.fault(
            None,
            "listen",
            format!("has {grpc} for both grpc and http; give each a port of its own"),
        );
    }
    if !is_loopback(grpc.ip()) {
        log.warning(
            None,
            "listen.grpc",
            format!("{grpc} can be reached from other machines, and whoever reaches it can report usage; prefer listen.unix"),
        );
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn journal(root: &mut Section<'_>, store: &StoreUrl) -> PathBuf {
    let mut section = root.section("journal");
    let path = section.node("path");
    section.close();
    let journal =
        path.as_ref().and_then(|path| path.read(parse::path)).unwrap_or_else(|| store.journal());
    if let (StoreUrl::Sqlite { file, .. }, Some(path)) = (store, path)
        && *file == journal
    {
        path.fault("is the store's own file; the journal needs one of its own");
    }
    journal
}

fn terms(root: &mut Section<'_>, store: &StoreUrl) -> Terms {
    let mut lease = root.section("lease");
    let mut reservation = root.section("reservation");
    let terms = Terms {
        lease_ttl: lease.read("ttl", within(LEASE_TTL)).unwrap_or(Duration::from_secs(10)),
        reservation_timeout: reservation
            .read("timeout", within(RESERVATION))
            .unwrap_or(Duration::from_secs(600)),
        on_timeout: reservation.read("on_timeout", parse::one_of(&ON_TIMEOUT)).unwrap_or_default(),
        sharing: match store {
            StoreUrl::Sqlite { .. } => Sharing::Alone,
            StoreUrl::Postgres { .. } => Sharing::Fleet,
        },
    };
    lease.close();
    reservation.close();
    terms
}

/// How each end of an unsettled reservation is written.
pub(super) const ON_TIMEOUT: [(&str, OnTimeout); 2] =
    [("charge", OnTimeout::Charge), ("release", OnTimeout::Release)];

fn prices(root: &mut Section<'_>) -> Option<PathBuf> {
    let mut section = root.section("prices");
    let file = section.read("file", parse::path);
    section.close();
    file
}

fn reply(root: &mut Section<'_>) -> Reply {
    let default = Reply::default();
    let mut section = root.section("reply");
    let reply = Reply {
        credits_status: section
            .read("credits_status", parse::one_of(&[("429", 429), ("402", 402)]))
            .unwrap_or(default.credits_status),
        openai_headers: section
            .read("openai_headers", parse::switch)
            .unwrap_or(default.openai_headers),
        ietf_headers: section.read("ietf_headers", parse::switch).unwrap_or(default.ietf_headers),
    };
    section.close();
    reply
}

fn log_lines(root: &mut Section<'_>) -> Log {
    let default = Log::default();
    let mut section = root.section("log");
    let lines = Log {
        format: section.read("format", parse::one_of(&LogFormat::NAMES)).unwrap_or(default.format),
        filter: section.read("filter", log_filter).unwrap_or(default.filter),
    };
    section.close();
    lines
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|cause| {
        format!("{text:?} is not a filter such as info or info,bursar::engine=debug: {cause}")
    })
}
