//! What a start after a crash brings back.

use super::check;

#[test]
fn a_restart_forfeits_nothing_and_open_reservations_settle_as_usual() {
    check(
        "budget b workspace $10 100tok daily
         reserve r1 $4 40tok allow
         reserve r2 $3 30tok allow
         settle r1 $2 20tok
         restart
         open 1
         reserve r3 $5 50tok allow left=$0 left=0tok
         settle r2 $3 30tok
         spent b $5
         spent b 50tok
         reserve r4 $1 1tok deny budget_in_flight
         leases 2",
    );
}

#[test]
fn a_settlement_that_the_store_did_not_get_before_a_crash_leaves_the_reservation_open() {
    check(
        "budget b workspace $10 daily
         reserve r1 $4 allow
         store down
         settle r1 $2
         restart
         open 1
         store up
         settle r1 $3
         spent b $3
         reserve r2 $7 allow left=$0",
    );
}

#[test]
fn an_answer_that_was_lost_in_a_crash_leaves_what_the_store_has() {
    check(
        "budget b workspace $10 daily
         reserve r1 $4 allow
         store down
         settle r1 $2
         tick 2s
         reserve r2 $9 starved
         send
         restart
         open 0
         store up
         tick 1ms
         spent b $2
         reserve r3 $8 allow left=$0",
    );
}

#[test]
fn a_rolling_minute_is_as_full_after_a_restart_as_before() {
    check(
        "budget b workspace 3rpm
         reserve r1 allow
         tick 10s
         reserve r2 allow
         reserve r3 allow left=0rpm
         withdraw r3
         release r2
         restart
         reserve r4 allow left=0rpm
         reserve r5 deny requests_per_minute_exceeded retry=50s
         tick 50s
         reserve r6 allow left=0rpm",
    );
}

#[test]
fn a_rolling_minute_survives_a_change_of_schedule_and_a_restart() {
    check(
        "budget b workspace $10 2rpm daily
         reserve r1 $1 allow
         reserve r2 $1 allow
         change b weekly
         restart
         reserve r3 $1 deny requests_per_minute_exceeded",
    );
}

#[test]
fn a_restart_after_the_window_has_passed_settles_into_that_window() {
    check(
        "budget b workspace $10 daily
         at 2026-11-22T23:59
         reserve r1 $6 allow
         reserve r2 $1 allow
         at 2026-11-23T00:01
         sweep
         restart
         reserve r3 $10 allow left=$0
         settle r1 $5
         settle r2 $1
         settle r3 $10
         spent b $16
         leases 1",
    );
}

#[test]
fn a_restart_after_a_change_of_schedule_or_a_deletion_settles_what_is_left() {
    check(
        "budget b workspace $10 daily
         budget c identity:i $10 daily
         as identity=i
         reserve r1 $6 allow
         change b weekly
         delete c
         restart
         reserve r2 $10 allow left=$0
         settle r1 $4
         spent b $4
         settle r2 $10
         spent b $14",
    );
}

#[test]
fn reservations_that_come_back_time_out_when_they_would_have() {
    check(
        "budget b workspace $10 daily
         reserve r1 $1 allow
         tick 1m
         reserve r2 $2 allow
         restart
         tick 9m
         overdue r1
         tick 1m
         overdue r2
         spent b $3",
    );
}

#[test]
fn a_shadow_reservation_comes_back_without_a_lease() {
    check(
        "budget b workspace $10 daily shadow
         reserve r1 $6 allow
         reserve r2 $6 allow
         restart
         tick 1s
         lent b $0
         settle r1 $4
         settle r2 $1
         spent b $5
         lent b $0",
    );
}

#[test]
fn a_blind_admission_before_a_crash_is_charged_when_it_settles() {
    check(
        "budget b workspace $10 daily down=allow
         uncovered
         store down
         reserve r1 $20 starved
         give-up r1 allow blind
         restart
         store up
         tick 1s
         settle r1 $15
         spent b $15
         reserve r2 $0 deny cost_budget_exceeded",
    );
}
