//! What metering costs the client. Two Envoys on the shipped configuration, each with a Bursar of its own, over one provider
//! that answers at once: one shows Bursar every response and tells it of every request that is over, the other does neither.
//! They take turns at the same requests, one every five milliseconds. Nobody waits for Bursar there, but it works while the
//! client wants to read: so all is measured a second time with Bursars that give way to everybody else, as they do by
//! themselves where there are processors to spare. What is left then is Envoy's copying. `cargo bench --bench road -- ROUNDS`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark measures time, prints its figures, and may panic"
)]

#[expect(dead_code, unused_imports, reason = "a part of what the tests start is enough here")]
#[path = "../tests/process/harness/mod.rs"]
mod harness;
#[path = "server/processor.rs"]
mod processor;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use rustix::process::{Pid, setpriority_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{MissedTickBehavior, interval};

use harness::{Bursar, Envoy, Question, Setup, UNMETERED, Upstream, until};
use processor::{processor_time, threads};

/// Rounds when the command line names no other number.
const ROUNDS: usize = 9;
/// Requests of one measurement, after some that are not counted.
const REQUESTS: usize = 200;
const WARM_UP: usize = 20;
/// Time between the beginnings of two requests: more than both need, so that no request waits for what the one before it left to do.
const PACE: Duration = Duration::from_millis(5);
/// Nobody settles what the second Envoy's requests set aside.
const SETTINGS: &str = "reservation: {timeout: 1s, on_timeout: release}\nlog: {filter: warn}\n";
/// Keeps entries of the access log from Bursar: no response has this status.
const UNLOGGED: (&str, &str) = (
    "                  - name: envoy.access_loggers.http_grpc",
    "                    filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 999, runtime_key: none } } } }",
);

/// The requests that are measured.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Json,
    Stream,
}

/// An Envoy and its Bursar.
struct Road {
    envoy: Envoy,
    bursar: Bursar,
    /// Where both have their files.
    _directory: TempDir,
}

/// What one round of requests took.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Time to the last byte.
    p50: Duration,
    p99: Duration,
    /// Processor time for each request.
    envoy: Duration,
    bursar: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args().skip(1).find(|argument| argument != "--bench");
    let rounds = rounds.map_or(Ok(ROUNDS), |rounds| rounds.parse());
    let rounds = rounds.context("the only argument is the number of rounds")?;
    ensure!(rounds > 0, "there must be a round");
    let upstream = Upstream::start().await;
    let mut roads = [
        Road::start(&upstream, &[UNMETERED], &[UNLOGGED]).await?,
        Road::start(&upstream, &[], &[]).await?,
    ];
    println!("{rounds} rounds of {REQUESTS} requests, one every {PACE:?}: median [min-max] in us.");
    for give_way in [false, true] {
        if give_way {
            println!("Bursar gives way to all others:");
            for road in &mut roads {
                road.give_way()?;
            }
        }
        for asked in [Asked::Json, Asked::Stream] {
            let mut measured = Vec::new();
            for _ in 0..rounds {
                measured.push(measure(&mut roads, asked).await?);
            }
            show(asked, &measured);
        }
    }
    let watched = roads[1].bursar.metric("bursar_watched_responses_total").await;
    let expected = 4 * rounds * (WARM_UP + REQUESTS);
    ensure!(watched == u64::try_from(expected)?, "{watched} responses were metered of {expected}");
    Ok(())
}

impl Road {
    async fn start(
        upstream: &Upstream,
        lines: &[(&str, &str)],
        additions: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let bursar = Bursar::start(directory.path(), Setup::config(SETTINGS)).await;
        let limits = json!({ "period": "BUDGET_PERIOD_MONTHLY", "amount": 1_000_000 });
        let scope = json!({ "identity": { "identity_external_id": "*" } });
        bursar.create_budget(json!({ "scope": scope, "limits": limits })).await;
        let socket = bursar.socket();
        let envoy = Envoy::start(directory.path(), upstream, &socket, lines, additions).await;
        Ok(Self { envoy, bursar, _directory: directory })
    }

    /// Waits until nothing is left to do for requests that are over.
    async fn settled(&self) {
        until("all reservations to end", async || {
            (self.bursar.metric("bursar_open_reservations").await == 0).then_some(())
        })
        .await;
    }

    /// From now on all threads of Bursar run only where nobody else wants to.
    fn give_way(&mut self) -> Result<()> {
        for thread in threads(self.bursar.process().id())? {
            setpriority_process(Pid::from_raw(i32::try_from(thread)?), 19)?;
        }
        Ok(())
    }

    /// What Envoy and Bursar have used of the processors.
    fn processor_times(&mut self) -> Result<[Duration; 2]> {
        Ok([processor_time(self.envoy.process.id())?, processor_time(self.bursar.process().id())?])
    }
}

/// What each Envoy and Bursar have used of the processors.
fn processor_times([without, with]: &mut [Road; 2]) -> Result<[[Duration; 2]; 2]> {
    Ok([without.processor_times()?, with.processor_times()?])
}

/// One round: what a request takes on each road.
async fn measure(roads: &mut [Road; 2], asked: Asked) -> Result<[Figures; 2]> {
    let client = Client::builder().no_proxy().tcp_nodelay(true).build()?;
    let question = asked.question();
    let before = processor_times(roads)?;
    let mut latencies = [const { Vec::new() }; 2];
    let mut beats = interval(PACE);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for at in 0..WARM_UP + REQUESTS {
        // Whoever comes first now comes second the next time.
        for which in [at % 2, (at + 1) % 2] {
            beats.tick().await;
            let began = Instant::now();
            ask(&client, &question, &roads[which].envoy).await?;
            if at >= WARM_UP {
                latencies[which].push(began.elapsed());
            }
        }
    }
    for road in &*roads {
        road.settled().await;
    }
    let after = processor_times(roads)?;
    Ok([0, 1].map(|which| {
        let of = &mut latencies[which];
        of.sort_unstable();
        let asked = u32::try_from(WARM_UP + REQUESTS).expect("a few");
        let used = |at: usize| (after[which][at] - before[which][at]) / asked;
        let percentile = |percent: usize| of[REQUESTS * percent / 100];
        Figures { p50: percentile(50), p99: percentile(99), envoy: used(0), bursar: used(1) }
    }))
}

async fn ask(client: &Client, question: &Question, envoy: &Envoy) -> Result<()> {
    let mut request = client.post(format!("{}{}", envoy.url, question.path));
    for (name, value) in &question.headers {
        request = request.header(*name, value.as_slice());
    }
    let request = request.header("content-type", "application/json").body(question.body.clone());
    let reply = request.send().await?;
    ensure!(reply.status() == 200, "a request was answered {}", reply.status());
    reply.bytes().await?;
    Ok(())
}

impl Asked {
    /// Of 1,000 tokens of output, which are 63 pieces in a stream.
    fn question(self) -> Question {
        let stream = matches!(self, Self::Stream);
        let messages = json!([{ "role": "user", "content": "Say many words." }]);
        let body = json!({ "model": "gpt-4o-mini", "max_tokens": 1_000, "stream": stream, "messages": messages });
        Question::of("ada").body(body.to_string())
    }
}

/// One of [`Figures`].
type Figure = fn(&Figures) -> Duration;

fn show(asked: Asked, measured: &[[Figures; 2]]) {
    let figures: [(&str, Figure); 4] = [
        ("p50", |it| it.p50),
        ("p99", |it| it.p99),
        ("Envoy's processor time", |it| it.envoy),
        ("Bursar's", |it| it.bursar),
    ];
    for (name, figure) in figures {
        let of = |at: usize| measured.iter().map(move |road| microseconds(figure(&road[at])));
        let added = of(0).zip(of(1)).map(|(without, with)| with - without);
        println!(
            "{asked:?}, {name}: {} without metering, {} with it, {} added",
            spread(of(0).collect()),
            spread(of(1).collect()),
            spread(added.collect())
        );
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_unstable_by(f64::total_cmp);
    let (least, most) = (figures[0], figures[figures.len() - 1]);
    let median = figures[figures.len() / 2];
    format!("{median:.0} [{least:.0}-{most:.0}]")
}
