//! A fleet in a simulation: the real ledgers, the real arithmetic of the store and the real bytes of the journal, in a world in
//! which one seed decides everything that goes wrong. Safety is checked after every step, liveness when the world has healed.
//!
//! `make simulate SEEDS=1000 FIRST_SEED=1` runs more of it.

mod checks;
mod clients;
mod ending;
mod faults;
mod network;
mod plan;
mod random;
mod replica;
mod reports;
mod store;
mod trace;
mod truth;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use self::plan::Plan;
use self::random::Random;
use self::world::{Tally, World};

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

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=3 {
        assert_eq!(run(seed, false).hash, run(seed, true).hash, "seed {seed}");
    }
}

#[test]
fn no_world_overspends_or_loses_anything() {
    let (first, seeds) = (number("FIRST_SEED", 1), number("SEEDS", 20));
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= first + seeds || failed.load(Ordering::SeqCst) < seed {
                    return outcomes;
                }
                let outcome = run(seed, false);
                if outcome.fault.is_some() {
                    failed.fetch_min(seed, Ordering::SeqCst);
                }
                outcomes.push((seed, outcome));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let sum =
        |of: fn(&Outcome) -> u64| outcomes.iter().map(|(_, outcome)| of(outcome)).sum::<u64>();
    println!(
        "{} worlds, {} s of their time, {} events, {} admitted, {} refused, {} undecided, {} commits, {} leases lost, {} starts",
        outcomes.len(),
        sum(|o| o.passed) / 1_000_000_000,
        sum(|o| o.tally.events),
        sum(|o| o.tally.admitted),
        sum(|o| o.tally.refused),
        sum(|o| o.tally.undecided),
        sum(|o| o.commits),
        sum(|o| o.tally.lost_leases),
        sum(|o| o.tally.restarts),
    );
    let failed = failed.into_inner();
    if failed < u64::MAX {
        let outcome = run(failed, true);
        let path = format!("{}/simulation-{failed}.trace", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&path, &outcome.tail).expect("the trace can be written");
        let short = |line: &str| line.chars().take(200).collect::<String>();
        let last = outcome.tail.lines().rev().take(30).map(short).collect::<Vec<_>>();
        last.iter().rev().for_each(|line| println!("{line}"));
        panic!("make simulate FIRST_SEED={failed} SEEDS=1\n{}", outcome.fault.unwrap_or_default());
    }
}
