//! Waiting for the store, living without it, and what its answers change.

use super::check;

#[test]
fn what_is_in_hand_is_admitted_without_the_store() {
    check(
        "budget b workspace $100 daily
         reserve r1 $1 allow
         store down
         reserve r2 $1 allow
         reserve r3 $1 allow
         reserve r4 $1 allow
         settle r4 $0.5
         reserve r5 $0.5 allow
         reserve r6 $0.5 starved
         give-up r6 undecided by=b
         open 4",
    );
}

#[test]
fn those_that_wait_are_served_in_order_and_a_small_one_passes_a_head_that_cannot_fit() {
    check(
        "budget b workspace $10 daily
         store down
         reserve r1 $4 starved
         reserve r2 $7 starved
         reserve r3 $5 starved
         reserve r4 $1 starved
         store up
         tick 1ms
         decided r1 allow
         decided r2 deny budget_in_flight
         decided r3 allow
         decided r4 allow left=$0",
    );
}

#[test]
fn a_wait_ends_when_it_is_given_up_or_abandoned() {
    check(
        "budget b workspace $10 daily
         store down
         reserve r1 $4 starved
         reserve r2 $6 starved
         abandon r1
         give-up r2 undecided by=b
         store up
         reserve r3 $10 allow left=$0
         open 1",
    );
}

#[test]
fn a_wait_that_is_given_up_after_all_is_well_is_admitted() {
    check(
        "budget b workspace $10 daily
         reserve r1 $1 allow
         store down
         reserve r2 $5 starved
         release r1
         give-up r2 undecided
         reserve r3 $4 allow
         reserve r4 $4 starved
         settle r3 $0
         give-up r4 allow",
    );
}

#[test]
fn a_wait_ends_when_what_it_waits_for_comes_free_before_the_store_is_asked() {
    check(
        "budget b workspace $100 daily
         reserve r1 $5 allow
         store down
         reserve r2 $16 starved
         release r1
         store up
         tick 1ms
         decided r2 allow left=$84",
    );
}

#[test]
fn a_lease_that_was_not_renewed_is_not_admitted_against() {
    check(
        "budget b workspace $100 daily
         reserve r1 $1 allow
         store down
         tick 9700ms
         reserve r2 $1 allow
         tick 98ms
         reserve r3 $1 starved
         give-up r3 undecided by=b
         store up
         reserve r4 $1 allow left=$97",
    );
}

#[test]
fn when_the_store_is_away_a_budget_may_allow_all_and_records_it() {
    check(
        "budget b workspace $10 1rpm daily down=allow
         uncovered
         store down
         reserve r1 $6 starved
         give-up r1 allow blind
         reserve r2 $6 starved
         give-up r2 allow blind
         settle r1 $5
         store up
         spent b $5
         settle r2 $3
         spent b $8
         tick 1m
         reserve r3 $3 deny request_exceeds_budget left=$2
         reserve r4 $2 allow left=$0",
    );
}

#[test]
fn what_was_admitted_blindly_and_not_used_is_not_admitted_against_again() {
    check(
        "budget b workspace $10 daily down=allow
         uncovered
         reserve r1 $10 allow
         settle r1 $10
         store down
         tick 1m
         reserve r2 $4 starved
         give-up r2 allow blind
         settle r2 $1
         store up
         tick 1s
         spent b $11
         reserve r3 $1 deny cost_budget_exceeded
         reserve r4 $3 deny cost_budget_exceeded
         lent b $0",
    );
}

#[test]
fn a_blind_admission_that_came_to_nothing_leaves_nothing_behind() {
    check(
        "budget b workspace $10 daily down=allow
         uncovered
         store down
         reserve r1 $4 starved
         give-up r1 allow blind
         release r1
         reserve r2 $1 starved
         store up
         tick 1ms
         decided r2 allow left=$9
         lent b $4",
    );
}

#[test]
fn when_the_store_is_away_a_budget_may_allow_up_to_an_amount() {
    check(
        "budget b workspace $10 daily down=$3
         budget t identity:i 100tok daily
         uncovered
         store down
         reserve r1 $2 starved
         give-up r1 allow blind
         reserve r2 $2 starved
         give-up r2 undecided by=b
         reserve r3 $1 starved
         give-up r3 allow blind
         as identity=i
         reserve r4 $0 10tok starved
         give-up r4 undecided
         store up
         tick 1s
         reserve r5 $7 10tok allow left=$0
         settle r1 $2
         settle r3 $1
         spent b $3",
    );
}

#[test]
fn the_allowance_for_an_absent_store_starts_anew_when_it_has_answered() {
    check(
        "budget b workspace $10 daily down=$3
         uncovered
         store down
         reserve r1 $3 starved
         give-up r1 allow blind
         store up
         tick 1s
         reserve r2 $7 allow left=$0
         store down
         tick 1m
         reserve r3 $3 starved
         give-up r3 allow blind
         reserve r4 $1 starved
         give-up r4 undecided",
    );
}

#[test]
fn a_known_exhaustion_costs_the_store_nothing_until_it_may_have_ended() {
    check(
        "budget b workspace $10 daily
         reserve r1 $10 allow
         reserve r2 $1 deny budget_in_flight
         store down
         reserve r3 $1 deny budget_in_flight
         tick 249ms
         reserve r4 $1 deny budget_in_flight
         tick 1s
         reserve r5 $1 starved",
    );
}

#[test]
fn a_known_exhaustion_ends_with_a_release_a_raised_limit_or_a_reset() {
    check(
        "budget b workspace $10 daily
         reserve r1 $10 allow
         reserve r2 $1 deny budget_in_flight
         release r1
         reserve r3 $10 allow
         reserve r4 $1 deny budget_in_flight
         change b $11
         reserve r5 $1 allow left=$0
         settle r3 $10
         settle r5 $1
         reserve r6 $1 deny cost_budget_exceeded
         reset b
         reserve r7 $11 allow left=$0",
    );
}

#[test]
fn an_answer_that_was_lost_is_asked_for_again_and_counts_once() {
    check(
        "budget b workspace $10 daily
         reserve r1 $2 allow
         store down
         settle r1 $1
         send
         reserve r2 $9 starved
         lose
         lose
         answer
         spent b $1
         decided r2 starved
         store up
         tick 1ms
         decided r2 allow left=$0
         lent b $9",
    );
}

#[test]
fn what_happens_while_an_answer_is_under_way_is_told_next() {
    check(
        "budget b workspace $10 daily
         reserve r1 $2 allow
         reserve r2 $2 allow
         store down
         settle r1 $1
         send
         settle r2 $3
         reserve r3 $1 allow
         answer
         spent b $1
         store up
         tick 1ms
         spent b $4
         settle r3 $1
         spent b $5
         reserve r4 $5 allow left=$0",
    );
}

#[test]
fn an_answer_that_nobody_waits_for_is_ignored() {
    use super::world::World;
    use crate::domain::ledger::{Applied, OnTimeout};
    let mut world = World::new(OnTimeout::Charge);
    assert_eq!(world.ledger.apply(&[], world.now), Applied::Stray);
}

#[test]
fn an_idle_lease_is_closed_and_opened_anew_when_it_is_needed() {
    check(
        "budget b workspace $10 5rpm daily
         reserve r1 $2 1tok allow
         settle r1 $2
         leases 2
         tick 11s
         tend
         leases 1
         lent b $0
         tick 50s
         tend
         leases 0
         accounts 0
         reserve r2 $8 allow left=$0
         settle r2 $8
         leases 2
         tick 61s
         tend
         leases 0
         spent b $10
         reserve r3 $0 deny cost_budget_exceeded",
    );
}

#[test]
fn a_lease_with_a_long_request_is_renewed_and_stays() {
    check(
        "budget b workspace $10 daily
         reserve r1 $6 allow
         tick 7s
         tend
         tick 7s
         tend
         sweep
         reserve r2 $4 allow left=$0
         tick 3m
         sweep
         reserve r3 $1 deny budget_in_flight
         settle r1 $6
         settle r2 $4
         spent b $10",
    );
}

#[test]
fn a_request_during_the_closing_of_its_lease_waits_for_the_next() {
    check(
        "budget b workspace $10 daily
         reserve r1 $2 allow
         settle r1 $2
         tick 11s
         store down
         tend
         send
         reserve r2 $1 starved
         store up
         tick 1ms
         decided r2 allow left=$7",
    );
}

#[test]
fn usage_that_comes_during_the_closing_of_its_lease_is_carried_into_the_next() {
    check(
        "budget b workspace $10 daily
         reserve r1 $2 allow
         settle r1 $2
         tick 11s
         store down
         tend
         send
         book $3
         answer
         store up
         tick 1ms
         spent b $5
         tick 11s
         tend
         leases 0
         accounts 0",
    );
}

#[test]
fn a_lost_lease_carries_what_was_consumed_and_set_aside_into_the_next() {
    check(
        "budget b workspace $100 daily
         budget c identity:i $100 daily
         as identity=i
         reserve r1 $5 allow
         reserve r2 $5 allow
         store down
         settle r1 $4
         lose-leases b
         tick 7s
         tend
         send
         store up
         tick 1ms
         settle r2 $5
         spent c $9
         reserve r3 $1 allow",
    );
}

#[test]
fn an_expired_lease_is_taken_up_again_when_its_holder_comes_back() {
    check(
        "budget b workspace $10 daily
         reserve r1 $4 allow
         reserve r2 $1 allow
         store down
         tick 13s
         sweep
         leases 0
         settle r1 $3
         store up
         tick 1ms
         leases 1
         spent b $3
         reserve r3 $6 allow left=$0",
    );
}

#[test]
fn near_exhaustion_what_is_left_is_found_to_the_last_unit() {
    check(
        "budget b workspace $1 daily
         reserve r1 $0.3 allow
         reserve r2 $0.3 allow
         reserve r3 $0.3 allow
         reserve r4 $0.3 deny budget_in_flight left=$0.1
         settle r1 $0.1
         reserve r5 $0.3 allow left=$0
         settle r2 $0.299999999
         settle r3 $0.3
         reserve r6 $0.000000002 deny budget_in_flight
         reserve r7 $0.000000001 allow left=$0
         settle r5 $0.3
         settle r7 $0.000000001
         spent b $1
         reserve r8 $0 deny cost_budget_exceeded",
    );
}
