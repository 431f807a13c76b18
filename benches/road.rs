//! What metering costs the client: it waits for nothing of Bursar's, but Envoy's copying takes its time. Two Envoys on the
//! shipped configuration, over one Bursar and one provider that answers at once: one shows Bursar every response and tells
//! it of every request that is over, the other does neither. They take turns at the same requests, one every five
//! milliseconds. `cargo bench --bench road -- ROUNDS`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark measures time, prints its figures, and may panic"
)]

#[expect(dead_code, unused_imports, reason = "a part of what the tests start is enough here")]
#[path = "../tests/process/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use harness::{Bursar, Envoy, Question, Setup, UNMETERED, Upstream, until};

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

/// The time to the last byte, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Figures {
    p50: f64,
    p99: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args().skip(1).find(|argument| argument != "--bench");
    let rounds = rounds.map_or(Ok(ROUNDS), |rounds| rounds.parse());
    let rounds = rounds.context("the only argument is the number of rounds")?;
    ensure!(rounds > 0, "there must be a round");
    let upstream = Upstream::start().await;
    let mut stages = Vec::new();
    let nice = std::env::var("ROAD_NICE").is_ok();
    for (lines, additions) in [(&[UNMETERED][..], &[UNLOGGED][..]), (&[][..], &[][..])] {
        let directory = tempfile::tempdir()?;
        let bursar = Bursar::start(directory.path(), Setup::config(SETTINGS)).await;
        if nice {
            std::process::Command::new("renice")
                .args(["-n", "19", "-p", &bursar.process.id().to_string()])
                .status()?;
            std::process::Command::new("sh")
                .args([
                    "-c",
                    &format!(
                        "for t in /proc/{}/task/*; do renice -n 19 -p ${{t##*/}} >/dev/null; done",
                        bursar.process.id()
                    ),
                ])
                .status()?;
        }
        let limits = json!({ "period": "BUDGET_PERIOD_MONTHLY", "amount": 1_000_000 });
        let scope = json!({ "identity": { "identity_external_id": "*" } });
        bursar.create_budget(json!({ "scope": scope, "limits": limits })).await;
        let envoy =
            Envoy::start(directory.path(), &upstream, &bursar.socket(), lines, additions).await;
        stages.push((envoy, bursar, directory));
    }
    println!("{rounds} rounds of {REQUESTS} requests, one every {PACE:?}: median [min-max].");
    for asked in [Asked::Json, Asked::Stream] {
        let mut measured: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
        let before: Vec<_> =
            stages.iter().map(|s| (cpu(s.0.process.id()), cpu(s.1.process.id()))).collect();
        for _ in 0..rounds {
            let mut latencies = [Vec::new(), Vec::new()];
            let client = Client::builder().no_proxy().tcp_nodelay(true).build()?;
            let question = asked.question();
            let mut beats = interval(PACE);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for at in 0..WARM_UP + REQUESTS {
                for which in [at % 2, (at + 1) % 2] {
                    beats.tick().await;
                    let began = Instant::now();
                    ask(&client, &question, &stages[which].0).await?;
                    if at >= WARM_UP {
                        latencies[which].push(began.elapsed());
                    }
                }
            }
            for (which, mut latencies) in latencies.into_iter().enumerate() {
                latencies.sort_unstable();
                let percentile =
                    |percent: usize| latencies[REQUESTS * percent / 100].as_secs_f64() * 1e6;
                measured[which].push(Figures { p50: percentile(50), p99: percentile(99) });
            }
        }
        show(asked, &measured);
        tokio::time::sleep(Duration::from_secs(2)).await;
        for (s, b) in stages.iter().zip(before) {
            let n = (rounds * (REQUESTS + WARM_UP)) as f64;
            println!(
                "cpu us/request: envoy {:.0} bursar {:.0}",
                (cpu(s.0.process.id()) - b.0) as f64 / n / 1e3,
                (cpu(s.1.process.id()) - b.1) as f64 / n / 1e3
            );
        }
    }
    for s in &stages {
        settled(&s.1).await;
    }
    Ok(())
}

fn cpu(pid: u32) -> u64 {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let Ok(text) = std::fs::read_to_string(thread.unwrap().path().join("schedstat")) else {
            continue;
        };
        nanoseconds += text.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    nanoseconds
}

/// Waits until nothing is left to do for requests that are over.
async fn settled(bursar: &Bursar) {
    until("all reservations to end", async || {
        (bursar.metric("bursar_open_reservations").await == 0).then_some(())
    })
    .await;
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
type Percentile = fn(&Figures) -> f64;

fn show(asked: Asked, [plain, metered]: &[Vec<Figures>; 2]) {
    let percentiles: [(&str, Percentile); 2] = [("p50", |it| it.p50), ("p99", |it| it.p99)];
    for (name, figure) in percentiles {
        let of = |figures: &[Figures]| spread(figures.iter().map(figure).collect());
        let added =
            plain.iter().zip(metered).map(|(plain, metered)| figure(metered) - figure(plain));
        println!(
            "{asked:?} {name}: {} us without metering, {} us with it, {} us added",
            of(plain),
            of(metered),
            spread(added.collect())
        );
    }
}

fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_unstable_by(f64::total_cmp);
    let (least, most) = (figures[0], figures[figures.len() - 1]);
    let median = figures[figures.len() / 2];
    format!("{median:.0} [{least:.0}-{most:.0}]")
}
