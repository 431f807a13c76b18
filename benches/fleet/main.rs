//! How a fleet shares one budget, simulated: real ledgers against the store's own arithmetic, in a world of events. Reports
//! what a request costs the store, when the first request was refused that idle allowance somewhere would have paid for, and
//! what is left unspent in the end. Nothing here reads a clock, so that every run gives the same figures.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]

mod random;
mod world;

use world::{Outcome, Plan, World};

/// Requests per second over all replicas.
const RATE: u64 = 400;
/// Mean of what a request sets aside.
const ESTIMATE: i64 = 1_000;

fn main() {
    println!(
        "one budget, {RATE} requests/s over all replicas, 40 % of them at the busiest tenth; estimates are twice the actual"
    );
    println!("use in the mean; requests take 0.5 to 4 s; the store answers after 3 ms");
    println!();
    println!(
        "{:>8} {:>10} {:>12} {:>12} {:>14} {:>14} {:>10} {:>10}",
        "replicas",
        "limit",
        "store ops",
        "the same,",
        "at the first",
        "refused",
        "stranded",
        "overspent"
    );
    println!(
        "{:>8} {:>10} {:>12} {:>12} {:>14} {:>14} {:>10} {:>10}",
        "", "(means)", "/admitted", "to 99 %", "false refusal", "falsely", "at the end", ""
    );
    for means in [10_000, 1_000] {
        for replicas in [1, 8, 50, 200] {
            let plan =
                Plan { replicas, limit: means * ESTIMATE, rate: RATE, estimate: ESTIMATE, seed: 1 };
            show(&plan, &World::new(&plan).run());
        }
    }
}

fn show(plan: &Plan, outcome: &Outcome) {
    let share = |part: i64| to_f64(part) / to_f64(plan.limit) * 100.0;
    let per_admitted = |operations: u64, admitted: u64| {
        to_f64(i64::try_from(operations).unwrap()) / to_f64(i64::try_from(admitted).unwrap())
    };
    println!(
        "{:>8} {:>10} {:>12.3} {:>12.3} {:>14} {:>14} {:>10} {:>10}",
        plan.replicas,
        plan.limit / plan.estimate,
        per_admitted(outcome.operations, outcome.admitted),
        per_admitted(outcome.operations_to_99, outcome.admitted_to_99),
        outcome.first_false.map_or("none".to_owned(), |used| format!("{:.2} %", share(used))),
        format!("{} of {}", outcome.falsely, outcome.refused),
        format!("{:.3} %", share(plan.limit - outcome.spent)),
        outcome.spent.saturating_sub(plan.limit).max(0),
    );
}

fn to_f64(number: i64) -> f64 {
    // Far below the 2^53 up to which a double is exact.
    i32::try_from(number / 1_000).map_or(f64::INFINITY, |thousands| {
        f64::from(thousands) * 1_000.0 + f64::from(i32::try_from(number % 1_000).unwrap())
    })
}
