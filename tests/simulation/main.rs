//! A fleet in a simulation: the real ledgers, the real arithmetic of the store and the real bytes of the journal, in a world in
//! which one seed decides everything that goes wrong. Safety is checked after every step, liveness when the world has healed.
//!
//! `make simulate SEEDS=1000 FIRST_SEED=1` runs more of it.
//!
//! People change budgets, their calendars and what they do without the store, and pay for credits that are over some time later.
//! Some worlds have up to three workspaces, in which everything has the same names: what is done in one changes nothing in another.
//!
//! The store here loses nothing that it has confirmed, as PostgreSQL with `synchronous_commit` on and, where it fails over, a synchronous
//! standby. One that loses its last transactions when it fails over breaks I7: leases that were lent in them are lent once more, up to what
//! was lent in the time that is lost; and acknowledged reports of that time are gone.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most of what may arrive is nothing to whoever waits for something else"
)]

mod checks;
mod clients;
mod credits;
mod driver;
mod ending;
mod faults;
mod handoffs;
mod life;
mod network;
mod paid;
mod plan;
mod random;
mod replica;
mod reports;
mod room;
mod store;
mod trace;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bursar::engine::clock::{Clock as _, SystemClock};

use self::plan::Plan;
use self::random::Random;
use self::world::{Tally, World};

/// Seeds that found something once, and a few more.
const FOUND: [u64; 8] = [1, 7, 65, 113, 214, 272, 374, 500];

/// What one seed came to.
struct Outcome {
    fault: Option<String>,
    hash: u64,
    tally: Tally,
    /// Time that passed in the world, in nanoseconds.
    passed: u64,
    commits: u64,
    tail: String,
}

fn run(seed: u64, in_words: bool) -> Outcome {
    let mut random = Random::new(seed);
    let plan = Plan::new(&mut random);
    let mut world = World::new(plan, random, in_words);
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    let fault = match lived {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(panic) => Some(format!("panicked: {:?}", panic.downcast_ref::<String>())),
    };
    Outcome {
        fault,
        hash: world.trace.hash(),
        tally: world.tally,
        passed: world.now,
        commits: world.store.commits,
        tail: world.trace.tail(),
    }
}

/// What the environment says, or else a few: `make test` and `make simulate` say how many.
fn seeds() -> Vec<u64> {
    let said = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    match said("SEEDS") {
        Some(count) => {
            let first = said("FIRST_SEED").unwrap_or(1);
            (first..first + count).collect()
        }
        None => FOUND.to_vec(),
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=3 {
        assert_eq!(run(seed, false).hash, run(seed, true).hash, "seed {seed}");
    }
}

#[test]
fn no_world_overspends_or_loses_anything() {
    let seeds = seeds();
    let began = SystemClock.now().mono;
    let outcomes = run_all(&seeds);
    say(&outcomes, SystemClock.now().mono.since(began));
    let failed = outcomes.iter().filter(|(_, outcome)| outcome.fault.is_some());
    let Some(seed) = failed.map(|(seed, _)| *seed).min() else { return };
    let again = run(seed, true);
    let path = format!("{}/simulation-{seed}.trace", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, &again.tail).expect("the trace can be written");
    say_tail(&again.tail);
    let fault = again.fault.unwrap_or_default();
    panic!("make simulate FIRST_SEED={seed} SEEDS=1\n{fault}\nThe trace is in {path}.");
}

/// Runs all seeds on all processors, and none after one that failed.
fn run_all(seeds: &[u64]) -> Vec<(u64, Outcome)> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut outcomes = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
            let outcome = run(*seed, false);
            if outcome.fault.is_some() {
                next.store(seeds.len(), Ordering::SeqCst);
            }
            outcomes.push((*seed, outcome));
        }
        outcomes
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker ends well")).collect()
    })
}

#[expect(clippy::print_stdout, reason = "the figures are what a person runs it for")]
fn say(outcomes: &[(u64, Outcome)], took: Duration) {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, world)| of(world)).sum::<u64>();
    let passed = Duration::from_nanos(sum(|world| world.passed));
    println!(
        "{} worlds lived {} s in {:.1} s: {:.0} times real time. {} events, {} requests admitted, {} refused, {} undecided, {} blind, \
         {} transactions, {} leases lost, {} starts.",
        outcomes.len(),
        passed.as_secs(),
        took.as_secs_f64(),
        passed.as_secs_f64() / took.as_secs_f64(),
        sum(|world| world.tally.events),
        sum(|world| world.tally.admitted),
        sum(|world| world.tally.refused),
        sum(|world| world.tally.undecided),
        sum(|world| world.tally.blind),
        sum(|world| world.commits),
        sum(|world| world.tally.lost_leases),
        sum(|world| world.tally.restarts),
    );
}

#[expect(clippy::print_stdout, reason = "the end of a failed world is what a person looks for")]
fn say_tail(trace: &str) {
    let lines: Vec<_> = trace.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(30)) {
        println!("{}", line.chars().take(200).collect::<String>());
    }
}
