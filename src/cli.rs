//! Floor 4: the command line. Reads arguments, runs a command and tells its outcome: 0 when it did what was asked, 1 with one
//! message on standard error when it could not, 2 when the arguments make no sense.

mod meter;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::config::{self, Environment, LogFormat, Settings};
use crate::serve::{self, Listeners, Stop};
use crate::telemetry::logging;

/// Bursar decides, beside your Envoy, whether an LLM request can be paid for.
///
/// Envoy asks it through ext_authz before a request goes out. Bursar checks every budget that
/// applies, and answers OK, or 429 with the reason.
#[derive(Debug, Parser)]
#[command(name = "bursar", version, verbatim_doc_comment, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Start with `bursar serve`: it needs no file. Then set a budget over HTTP:
  curl -H \"Authorization: Bearer $BURSAR_MANAGEMENT_KEY\" http://127.0.0.1:9192/v2/budgets";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run Bursar until SIGTERM or Ctrl-C
    ///
    /// Without a file it listens for Envoy on 127.0.0.1:9191 (gRPC) and for you on 127.0.0.1:9192
    /// (HTTP), and keeps its data in bursar.db. The first signal drains: whoever is connected is
    /// still answered, for at most `drain_timeout`. The second ends at once. Either way nothing is
    /// lost.
    #[command(verbatim_doc_comment, after_long_help = VARIABLES)]
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Write the addresses here as JSON once Bursar is ready: {"grpc", "http", "unix"}
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Say what is wrong with a configuration, or what it means
    ///
    /// Reads the file and the environment as `bursar serve` would. Prints every fault at once, or
    /// all settings as understood.
    #[command(verbatim_doc_comment)]
    CheckConfig {
        /// The YAML file; none for the defaults and the environment alone
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Say what a response used and what it costs
    ///
    /// Reads a provider's response body on standard input, exactly as it came, and prints one line of JSON: to ask what a response would
    /// cost, or to check a bill. The framing is told by the bytes; the options help where they cannot tell.
    Meter(meter::Arguments),
    /// Ask the Bursar of this machine whether it is ready (exit 0) or not (exit 1)
    ///
    /// For a container's health check: asks /readyz at the HTTP address that the configuration names.
    Healthcheck {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The YAML file of settings; deploy/bursar.yaml shows them all
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

const VARIABLES: &str = "\
Variables that override the file:
  BURSAR_LISTEN_GRPC     where Envoy asks, such as 127.0.0.1:9191, or off
  BURSAR_LISTEN_UNIX     the same on a Unix socket, such as /run/bursar/bursar.sock
  BURSAR_LISTEN_HTTP     the HTTP API, such as 127.0.0.1:9192
  BURSAR_STORE_URL       where data is kept, such as sqlite:bursar.db
  BURSAR_WORKSPACE       the workspace of requests that name none
  BURSAR_MANAGEMENT_KEY  a key to that workspace's HTTP API";

/// Runs the program with the process's own arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Nobody is left to tell when standard error itself is gone.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let environment = std::env::vars_os().collect();
    match run(cli.command, &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, environment: &Environment) -> Result<()> {
    match command {
        Command::Serve { config, ready_file } => {
            serve(config.file.as_deref(), environment, ready_file)
        }
        Command::CheckConfig { file } => check_config(file.as_deref(), environment),
        Command::Meter(arguments) => {
            say(&meter::run(&arguments, std::io::stdin().lock(), environment)?);
            Ok(())
        }
        Command::Healthcheck { config } => healthcheck(config.file.as_deref(), environment),
    }
}

fn serve(
    file: Option<&Path>,
    environment: &Environment,
    ready_file: Option<PathBuf>,
) -> Result<()> {
    let loaded = config::load(file, environment)?;
    let format = match loaded.settings.log.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(format, &loaded.settings.log.filter)?;
    runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let stop = Stop::default();
        tokio::spawn(obey(
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            stop.clone(),
        ));
        let listeners = Listeners::bind(&loaded.settings.listen).await?;
        serve::run(loaded, listeners, ready_file, stop).await
    })
}

/// The first signal drains, the second ends.
async fn obey(mut terminate: Signal, mut interrupt: Signal, stop: Stop) {
    for asked in [&stop.drain, &stop.end] {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("got {name}");
        asked.cancel();
    }
}

fn check_config(file: Option<&Path>, environment: &Environment) -> Result<()> {
    let loaded = config::load(file, environment)?;
    say(&loaded.settings.to_string());
    say(&format!("prices in force:                {}", loaded.prices.version()));
    loaded.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    Ok(())
}

/// How long a health check waits for an answer. Container runtimes give up after seconds, too.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer to a health check that is read: one line.
const HEALTH_BYTES_MAX: usize = 4096;

fn healthcheck(file: Option<&Path>, environment: &Environment) -> Result<()> {
    let address = reachable(&config::load(file, environment)?.settings)?;
    let asked = async { tokio::time::timeout(HEALTH_TIMEOUT, ask(address)).await };
    let answer = runtime::Builder::new_current_thread().enable_all().build()?.block_on(asked);
    say(answer
        .with_context(|| format!("{address} did not answer in {HEALTH_TIMEOUT:?}"))??
        .trim_end());
    Ok(())
}

/// The HTTP address as this machine itself reaches it.
fn reachable(settings: &Settings) -> Result<SocketAddr> {
    let mut address = settings.listen.http;
    if address.port() == 0 {
        bail!(
            "listen.http: port 0 is another port at every start; a health check needs a fixed one"
        );
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// What `/readyz` says when it is ready.
async fn ask(address: SocketAddr) -> Result<String> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let page = format!("http://{address}/readyz").parse()?;
    let reply = client.get(page).await.with_context(|| format!("nobody answers at {address}"))?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), HEALTH_BYTES_MAX).collect().await;
    let body = body
        .map_err(|cause| anyhow::anyhow!("cannot read the answer of {address}: {cause}"))?
        .to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { Ok(text) } else { bail!("not ready ({status}): {}", text.trim_end()) }
}

fn say(text: &str) {
    // Whoever reads may have seen enough, as `head` does; that is no fault to panic about.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

#[expect(clippy::print_stderr, reason = "the one message of a command that failed")]
fn complain(failure: &anyhow::Error) {
    eprintln!("bursar: {failure:#}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_health_check_asks_this_machine() {
        let at = |http: &str| {
            let settings =
                config::settings(&format!("listen: {{http: '{http}'}}"), &Environment::default());
            reachable(&settings.unwrap().0).map(|address| address.to_string())
        };
        assert_eq!(at("0.0.0.0:80").unwrap(), "127.0.0.1:80");
        assert_eq!(at("[::]:80").unwrap(), "[::1]:80");
        assert_eq!(at("10.0.0.1:80").unwrap(), "10.0.0.1:80");
        assert!(at("127.0.0.1:0").unwrap_err().to_string().contains("port 0"));
    }
}
