//! Starts what a test needs, each in a directory of its own and on ports of its own, and ends it with the test. Nothing
//! here waits for a fixed time: see [`until`].

mod api;
mod bursar;
mod client;
mod envoy;
pub(crate) mod grpc;
mod postgres;
mod process;
mod provider;
mod proxy;
mod upstream;

use std::time::Duration;

use tempfile::TempDir;

pub(crate) use api::{Api, Spent};
pub(crate) use bursar::{Bursar, KEY, Setup, open_database};
pub(crate) use client::{Question, Reply};
pub(crate) use envoy::{Envoy, FILTERS, ROUTE, tool, usage_to_metadata};
pub(crate) use postgres::Postgres;
pub(crate) use process::Process;
pub(crate) use provider::{ESTIMATE, Provider};
pub(crate) use proxy::Proxy;
pub(crate) use upstream::Upstream;

/// How long anything may take that happens by itself, on a machine that is very busy. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`until`] looks.
const POLL: Duration = Duration::from_millis(10);

/// Looks until there is something to see, and returns that.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(seen) => seen,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Responses go by unseen, so that what is set aside for a request stays so until somebody reports it.
pub(crate) const UNMETERED: (&str, &str) = ("METERING", "SKIP");

/// A provider, Bursar, and an Envoy that asks it over its Unix socket. Envoy ends first, so that nobody is cut off.
pub(crate) struct Stage {
    pub(crate) envoy: Envoy,
    pub(crate) bursar: Bursar,
    pub(crate) upstream: Upstream,
    pub(crate) directory: TempDir,
}

impl Stage {
    /// Waits until Envoy shows Bursar no response any more. The stream of its access log lasts.
    pub(crate) async fn all_responses_metered(&self) {
        until("the end of all streams to Bursar", async || {
            let open = self.envoy.statistic("cluster.bursar_metering.upstream_rq_active").await;
            open.is_some_and(|open| open <= 1).then_some(())
        })
        .await;
    }

    /// All as it comes.
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default(), &[]).await
    }

    /// With another set-up of Bursar, and other values on the lines of Envoy's configuration that have these names.
    pub(crate) async fn with(setup: Setup, lines: &[(&str, &str)]) -> Self {
        Self::extended(setup, lines, &[]).await
    }

    /// The same with more lines in Envoy's configuration, each behind a line that is there.
    pub(crate) async fn extended(
        setup: Setup,
        lines: &[(&str, &str)],
        additions: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let upstream = Upstream::start().await;
        let bursar = Bursar::start(directory.path(), setup).await;
        let envoy =
            Envoy::start(directory.path(), &upstream, &bursar.socket(), lines, additions).await;
        Self { envoy, bursar, upstream, directory }
    }

    /// Sends a question through Envoy.
    pub(crate) async fn ask(&self, question: &Question) -> Reply {
        question.send(&self.envoy.url).await
    }
}
