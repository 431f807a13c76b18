//! What a Check costs in processor time: Bursar beside a server that decodes the same request and decides nothing.
//!
//! Both run as processes of their own, on one processor, with the load on another where there are two. They take turns, so
//! that a noisy machine is noisy to both; the ratio is taken within each round. `cargo bench --bench server -- ROUNDS`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark measures time, prints its figures, and may panic"
)]

mod bursar;
mod load;
mod noop;
mod process;
mod processor;
mod requests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use load::{Address, Load, Requests};
use process::{Pinning, Server};

/// Rounds when the command line names no other number.
const ROUNDS: usize = 5;
/// Each measurement begins with this much load that is not counted: leases are fetched, caches filled. Only here may a request
/// be refused, when the store is slow to give its lease.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(2);
/// The first argument of the process that is the no-op server.
const NOOP: &str = "noop";

const LOADS: [Load; 2] =
    [Load { connections: 2, streams: 16 }, Load { connections: 1, streams: 1 }];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [NOOP, socket, ready_file] => noop::run(Path::new(socket), Path::new(ready_file)),
        // Cargo adds `--bench`.
        [] | ["--bench"] => bench(ROUNDS),
        [rounds] | [rounds, "--bench"] | ["--bench", rounds] => {
            bench(rounds.parse().context("the argument is the number of rounds")?)
        }
        _ => bail!("the only argument is the number of rounds"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn bench(rounds: usize) -> Result<()> {
    process::ensure_measurable()?;
    let directory = tempfile::tempdir()?;
    let pinning = Pinning::choose();
    let servers = [
        Contender::noop(pinning, directory.path())?,
        Contender::bursar(pinning, directory.path()).await?,
    ];
    let pool = requests::pool();
    println!(
        "CheckRequest of 30 headers and {} bytes; Bursar passes 6 gates. {rounds} rounds of {MEASURED:?}: median [min-max].",
        pool[0].len() - 5
    );
    if pinning == Pinning::Shared {
        println!("There is no taskset or one processor only: servers and load share processors.");
    }
    println!(
        "{:<20} {:<7} {:>22} {:>20} {:>9} {:>7} {:>7}",
        "load", "server", "CPU us/Check", "ratio", "Checks/s", "p50 us", "p99 us"
    );
    let requests = Requests::new(pool);
    for load in LOADS {
        for way in [Way::Unix, Way::Tcp] {
            let mut measured: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (server, figures) in servers.iter().zip(&mut measured) {
                    figures.push(server.measure(load, way, &requests).await?);
                }
            }
            show(load, way, &measured);
        }
    }
    for server in &servers {
        println!(
            "{} ends with {} MB in memory.",
            server.name,
            server.process.resident()? / 1_000_000
        );
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Unix,
    Tcp,
}

/// A server that is measured.
struct Contender {
    name: &'static str,
    process: Server,
    unix: Address,
    tcp: Address,
}

/// What one measurement found.
#[derive(Debug, Clone, Copy)]
struct Figures {
    cpu_us: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Contender {
    fn noop(pinning: Pinning, directory: &Path) -> Result<Self> {
        let (socket, ready_file) = (directory.join("noop.sock"), directory.join("noop.ready"));
        let mut command = pinning.command(&std::env::current_exe()?);
        let process = Server::start(command.arg(NOOP).arg(&socket).arg(&ready_file), &ready_file)?;
        let tcp = Address::Tcp(process.address("grpc")?);
        Ok(Self { name: "no-op", process, unix: Address::Unix(socket), tcp })
    }

    async fn bursar(pinning: Pinning, directory: &Path) -> Result<Self> {
        let socket = directory.join("bursar.sock");
        let process = bursar::start(pinning, directory, &socket).await?;
        let tcp = Address::Tcp(process.address("grpc")?);
        Ok(Self { name: "Bursar", process, unix: Address::Unix(socket), tcp })
    }

    async fn measure(&self, load: Load, way: Way, requests: &Arc<Requests>) -> Result<Figures> {
        let address = match way {
            Way::Unix => &self.unix,
            Way::Tcp => &self.tcp,
        };
        let connections = load.connect(address).await?;
        load.run(&connections, requests, WARM_UP).await?;
        let before = self.process.cpu()?;
        let served = load.run(&connections, requests, MEASURED).await?;
        let cpu = self.process.cpu()? - before;
        ensure!(served.refused == 0, "{}: {} requests were refused", self.name, served.refused);
        let mut latencies = served.latencies;
        latencies.sort_unstable();
        let count = latencies.len();
        let percentile = |percent: usize| {
            let at = (count * percent / 100).min(count - 1);
            microseconds(latencies[at])
        };
        Ok(Figures {
            cpu_us: microseconds(cpu) / count as f64,
            per_second: count as f64 / served.took.as_secs_f64(),
            p50_us: percentile(50),
            p99_us: percentile(99),
        })
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn show(load: Load, way: Way, [noop, bursar]: &[Vec<Figures>; 2]) {
    let ratios = noop.iter().zip(bursar).map(|(noop, bursar)| bursar.cpu_us / noop.cpu_us);
    let ratios = Spread::of(ratios.collect());
    let Load { connections, streams } = load;
    let load = format!("{way:?}, {connections} x {streams}");
    for (name, figures, ratio) in [("no-op", noop, None), ("Bursar", bursar, Some(ratios))] {
        let of = |figure: fn(&Figures) -> f64| Spread::of(figures.iter().map(figure).collect());
        let cpu = of(|figures| figures.cpu_us);
        println!(
            "{load:<20} {name:<7} {:>22} {:>20} {:>9.0} {:>7.0} {:>7.0}",
            cpu.shown(1),
            ratio.map_or_else(|| "1".to_owned(), |ratio| ratio.shown(2)),
            of(|figures| figures.per_second).median,
            of(|figures| figures.p50_us).median,
            of(|figures| figures.p99_us).median,
        );
    }
}

/// Several measurements of one figure.
#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_unstable_by(f64::total_cmp);
        let last = figures.len() - 1;
        Self { min: figures[0], median: figures[figures.len() / 2], max: figures[last] }
    }

    fn shown(self, digits: usize) -> String {
        let Self { min, median, max } = self;
        format!("{median:.digits$} [{min:.digits$}-{max:.digits$}]")
    }
}
