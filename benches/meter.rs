//! How fast the meter reads, in MB/s: beside a pass of `memchr` over the same bytes, which is the least that reading can cost, and
//! `serde_json` parsing every document of them, which is what the meter is there to avoid. `cargo bench --bench meter -- ROUNDS`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark measures time, prints its figures, and may panic"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bursar::domain::usage::{Hints, Meter, Metered};
use serde_json::Value;

/// Rounds when the command line names no other number.
const ROUNDS: usize = 21;
/// Every contender reads each body so often in one round that this many bytes went by.
const BYTES_PER_ROUND: usize = 8 << 20;
/// What Envoy hands over at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A way to read a body.
type Reader = fn(&[u8]);

const CONTENDERS: [(&str, Reader); 3] =
    [("memchr", memchr_pass), ("meter", meter_pass), ("serde_json", parse_pass)];

fn main() {
    let rounds = std::env::args().find_map(|text| text.parse().ok()).unwrap_or(ROUNDS);
    println!(
        "{:<28}{:>9}{:>12}{:>12}{:>12}   MB/s, median of {rounds}",
        "", "bytes", "memchr", "meter", "serde_json"
    );
    for (name, body) in bodies() {
        ensure_metered(name, &body);
        let medians = interleaved(&body, rounds).map(|time| megabytes_per_second(&body, time));
        let [memchr, meter, serde] = medians;
        println!("{name:<28}{:>9}{memchr:>12.0}{meter:>12.0}{serde:>12.0}", body.len());
    }
}

/// The median time of each contender, who take turns, so that a noisy machine is noisy to all.
fn interleaved(body: &[u8], rounds: usize) -> [Duration; CONTENDERS.len()] {
    let mut times = [const { Vec::new() }; CONTENDERS.len()];
    for _ in 0..rounds {
        for ((_, read), times) in CONTENDERS.iter().zip(&mut times) {
            let begun = Instant::now();
            (0..repetitions(body)).for_each(|_| read(black_box(body)));
            times.push(begun.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

fn repetitions(body: &[u8]) -> usize {
    BYTES_PER_ROUND.div_ceil(body.len())
}

fn megabytes_per_second(body: &[u8], time: Duration) -> f64 {
    (body.len() * repetitions(body)) as f64 / 1e6 / time.as_secs_f64()
}

fn meter_pass(body: &[u8]) {
    black_box(metered(body));
}

fn metered(body: &[u8]) -> Metered {
    let mut meter = Meter::new(Hints::default());
    body.chunks(CHUNK_BYTES).for_each(|chunk| meter.push(chunk));
    meter.finish()
}

/// Finds every line.
fn memchr_pass(body: &[u8]) {
    black_box(memchr::memchr_iter(b'\n', body).count());
}

/// Parses every document: the body, or the data of each event.
fn parse_pass(body: &[u8]) {
    if body.starts_with(b"{") {
        black_box(serde_json::from_slice::<Value>(body).expect("the body is JSON"));
        return;
    }
    for line in body.split(|byte| *byte == b'\n') {
        if let Some(data) = line.strip_prefix(b"data: ").filter(|data| data.starts_with(b"{")) {
            black_box(serde_json::from_slice::<Value>(data).expect("the data is JSON"));
        }
    }
}

fn ensure_metered(name: &str, body: &[u8]) {
    assert!(matches!(metered(body), Metered::Exact(_)), "{name} is not metered");
}

/// Bodies of the sizes and shapes that there are.
fn bodies() -> [(&'static str, Vec<u8>); 5] {
    let usage = r#""usage":{"prompt_tokens":1200,"completion_tokens":800,"total_tokens":2000,"prompt_tokens_details":{"cached_tokens":1024}}"#;
    let text = "The quick brown fox\\njumps over the \\\"lazy\\\" dog. ".repeat(80);
    let chat = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],{usage}}}"#
    );
    let embeddings = format!(
        r#"{{"object":"list","data":[{{"embedding":[{}0.5]}}],"model":"text-embedding-3-small",{usage}}}"#,
        "-0.0123456789,".repeat(75_000)
    );
    let image = format!(
        r#"{{"created":1,"data":[{{"b64_json":"{}"}}],{usage}}}"#,
        "iVBORw0KGgoAAAAN".repeat(320_000)
    );
    let chunk = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1770770843,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" quick"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
    let last = format!(r#"{{"id":"chatcmpl-1","model":"gpt-4o-2024-08-06","choices":[],{usage}}}"#);
    let openai =
        format!("{}data: {last}\n\ndata: [DONE]\n\n", format!("data: {chunk}\n\n").repeat(1000));
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" quick brown fox\"}}\n\n";
    let anthropic = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"m\",\"model\":\"claude-sonnet-4-5\",\"usage\":{{\"input_tokens\":10,\"output_tokens\":1}}}}}}\n\n{}event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{{\"output_tokens\":3000}}}}\n\n",
        delta.repeat(1000)
    );
    [
        ("chat, JSON", chat.into_bytes()),
        ("embedding, JSON", embeddings.into_bytes()),
        ("image, JSON", image.into_bytes()),
        ("chat, OpenAI events", openai.into_bytes()),
        ("chat, Anthropic events", anthropic.into_bytes()),
    ]
}
