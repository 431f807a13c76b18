//! How reservations end: settled, released, overdue or corrected.

use super::check;
use super::language::Table;
use crate::domain::ledger::OnTimeout;

#[test]
fn the_actual_amount_replaces_what_was_set_aside() {
    check(
        "budget b workspace $10 1000tok daily
         reserve r1 $5 500tok allow left=$5 left=500tok
         settle r1 $1 900tok
         spent b $1
         spent b 900tok
         reserve r2 $9 100tok allow left=$0 left=0tok
         release r2
         reserve r3 $9 100tok allow
         open 1",
    );
}

#[test]
fn what_a_settlement_exceeds_its_reservation_by_is_counted_in_full() {
    check(
        "budget b workspace $10 daily
         reserve r1 $5 allow
         reserve r2 $5 allow left=$0
         settle r1 $7
         spent b $7
         settle r2 $5
         spent b $12
         reserve r3 $0 deny cost_budget_exceeded left=$0
         change b $13
         reserve r4 $1 allow left=$0
         settle r4 $1
         spent b $13",
    );
}

#[test]
fn an_excess_is_covered_by_what_the_lease_has_in_hand_first() {
    check(
        "budget b workspace $100 daily
         reserve r1 $5 allow
         lent b $20
         store down
         settle r1 $12
         reserve r2 $8 allow
         reserve r3 $1 starved
         store up
         spent b $12
         decided r3 allow left=$79",
    );
}

#[test]
fn a_reservation_settles_into_the_window_in_which_it_was_made() {
    check(
        "budget b workspace $10 daily
         at 2026-11-22T23:59
         reserve r1 $6 allow left=$4
         at 2026-11-23T00:00
         reserve r2 $6 allow left=$4
         settle r1 $5
         reserve r3 $5 deny budget_in_flight left=$4
         settle r2 $6
         reserve r4 $4 allow left=$0
         settle r4 $1
         spent b $12
         tick 20s
         tend
         leases 0
         accounts 0",
    );
}

#[test]
fn a_window_that_passed_goes_on_exchanging_until_its_reservations_are_gone() {
    check(
        "budget b workspace $10 daily
         at 2026-11-22T23:59
         reserve r1 $6 allow
         reserve r2 $2 allow
         tick 2m
         reserve r3 $1 allow left=$9
         settle r1 $4
         leases 2
         tick 5m
         tend
         sweep
         spent b $4
         settle r2 $3
         spent b $7
         leases 1
         accounts 1",
    );
}

#[test]
fn a_reservation_that_nobody_settles_is_charged_in_full_when_its_time_is_up() {
    check(
        "budget b workspace $10 daily
         reserve r1 $2 allow
         tick 1s
         reserve r2 $3 allow
         reserve r3 $1 allow
         settle r3 $1
         tick 598999ms
         overdue
         tick 1ms
         overdue r1
         spent b $3
         tick 1s
         overdue r2
         spent b $6
         open 0",
    );
}

#[test]
fn a_reservation_that_nobody_settles_is_given_back_where_the_terms_say_so() {
    Table::new(OnTimeout::Release).run(
        "budget b workspace $10 1rpm daily
         reserve r1 $10 allow left=$0
         tick 10m
         overdue r1
         spent b $0
         reserve r2 $10 allow",
    );
}

#[test]
fn a_later_report_replaces_the_earlier_by_the_difference() {
    check(
        "budget b workspace $10 100tok daily
         reserve r1 $5 50tok allow
         settle r1 $5 50tok
         adjust r1 $2 60tok
         spent b $2
         spent b 60tok
         reserve r2 $8 40tok allow left=$0 left=0tok
         settle r2 $8 40tok
         adjust r2 $1 40tok
         adjust r1 $2 60tok
         spent b $3
         reserve r3 $1 1tok deny token_budget_exceeded left=$7",
    );
}

#[test]
fn what_a_correction_gives_back_can_be_used_at_once() {
    check(
        "budget b workspace $10 daily
         reserve r1 $10 allow
         settle r1 $10
         reserve r2 $1 deny cost_budget_exceeded
         adjust r1 $4
         reserve r3 $6 allow left=$0",
    );
}

#[test]
fn a_correction_of_a_passed_window_lands_there() {
    check(
        "budget b workspace $10 daily
         reserve r1 $5 allow
         settle r1 $5
         at 2026-11-23T00:00
         reserve r2 $1 allow left=$9
         adjust r1 $7
         reserve r3 $9 allow left=$0
         spent b $7",
    );
}

#[test]
fn usage_that_was_not_asked_about_is_booked_to_its_own_window() {
    check(
        "budget b workspace $10 1rpm daily
         budget m identity:* 100tok monthly
         as identity=ann
         book $3 30tok
         spent b $3
         book $2 20tok at=2026-11-21T10:00
         spent b $5
         reserve r1 $7 50tok allow left=$0 left=0tok left=0rpm
         book $9 10tok at=2026-10-31T10:00
         spent b $14
         spent m 60tok",
    );
}
