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
        "                      store operations     waited   store operations    used at the first   refused  idle then   stranded     over-"
    );
    println!(
        "replicas     limit   per admitted request  for it  per refused, then       false refusal   falsely  at most    at the end     spent"
    );
    println!("           (means)    to 99 %     to 100 %  to 99 %");
    for means in [100_000, 10_000, 1_000] {
        for replicas in [1, 8, 50, 200] {
            run(replicas, means);
        }
    }
}

fn run(replicas: usize, means: i64) {
    let limit = means * ESTIMATE;
    let plan = Plan { replicas, limit, rate: RATE, estimate: ESTIMATE, seed: 1 };
    show(&plan, &World::new(&plan).run());
}

fn show(plan: &Plan, outcome: &Outcome) {
    let share = |part: i64| to_f64(part) / to_f64(plan.limit) * 100.0;
    let refused = outcome.refused - outcome.refused_to_last;
    println!(
        "{:>8} {:>9} {:>10.3} {:>12.3} {:>8} {:>17.3} {:>19} {:>9} {:>8} {:>12} {:>9}",
        plan.replicas,
        plan.limit / plan.estimate,
        ratio(outcome.operations_to_99, outcome.admitted_to_99),
        ratio(outcome.operations_to_last, outcome.admitted),
        format!("{:.2} %", ratio(outcome.waited_to_99, outcome.admitted_to_99) * 100.0),
        ratio(outcome.operations - outcome.operations_to_last, refused),
        outcome.first_false.map_or("none".to_owned(), |used| format!("{:.3} %", share(used))),
        outcome.falsely,
        format!("{:.2} %", share(outcome.idle_most)),
        format!("{:.4} %", share(plan.limit - outcome.spent)),
        outcome.spent.saturating_sub(plan.limit).max(0),
    );
}

fn ratio(of: u64, to: u64) -> f64 {
    to_f64(i64::try_from(of).unwrap()) / to_f64(i64::try_from(to).unwrap())
}

fn to_f64(number: i64) -> f64 {
    // Far below the 2^53 up to which a double is exact.
    i32::try_from(number / 1_000).map_or(f64::INFINITY, |thousands| {
        f64::from(thousands) * 1_000.0 + f64::from(i32::try_from(number % 1_000).unwrap())
    })
}
