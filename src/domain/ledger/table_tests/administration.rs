//! Changes of budgets while requests are in flight.

use super::check;

#[test]
fn a_lowered_limit_is_in_force_with_the_next_decision() {
    check(
        "budget b workspace $100 daily
         reserve r1 $5 allow
         settle r1 $5
         change b $6
         reserve r2 $2 deny request_exceeds_budget left=$1
         reserve r3 $1 allow left=$0
         change b $3
         settle r3 $1
         reserve r4 $0 deny cost_budget_exceeded left=$0
         spent b $6",
    );
}

#[test]
fn a_limit_that_is_lowered_while_an_answer_is_under_way_is_in_force_when_it_arrives() {
    check(
        "budget b workspace $100 daily
         store down
         reserve r1 $5 starved
         send
         change b $4
         answer
         decided r1 starved
         store up
         tick 1ms
         decided r1 deny request_exceeds_budget left=$4
         lent b $0",
    );
}

#[test]
fn a_lowered_request_limit_is_in_force_with_the_next_decision() {
    check(
        "budget b workspace 10rpm
         reserve r1 allow left=9rpm
         tick 1s
         reserve r2 allow
         tick 1s
         reserve r3 allow
         tick 1s
         reserve r4 allow left=6rpm
         change b 2rpm
         reserve r5 deny requests_per_minute_exceeded left=0rpm retry=59s
         tick 58s
         reserve r6 deny requests_per_minute_exceeded
         tick 1s
         reserve r7 allow left=0rpm
         change b 4rpm
         reserve r8 allow left=1rpm
         lent b 4rpm",
    );
}

#[test]
fn a_reset_starts_the_counters_anew_and_keeps_open_reservations_right() {
    check(
        "budget b workspace $10 2rpm daily
         reserve r1 $4 allow
         reserve r2 $6 allow left=$0 left=0rpm
         settle r1 $4
         reset b
         spent b $0
         reserve r3 $5 deny budget_in_flight left=$4 left=2rpm
         reserve r4 $4 allow left=$0 left=1rpm
         settle r2 $6
         spent b $6
         settle r4 $5
         spent b $11
         reserve r5 $0 deny cost_budget_exceeded",
    );
}

#[test]
fn a_reset_while_an_answer_is_under_way_is_not_undone_by_it() {
    check(
        "budget b workspace $10 daily
         reserve r1 $10 allow
         store down
         settle r1 $10
         send
         reset b
         answer
         reserve r2 $1 starved
         store up
         tick 1ms
         decided r2 allow left=$9",
    );
}

#[test]
fn another_schedule_counts_anew_and_old_reservations_settle_where_they_were_made() {
    check(
        "budget b workspace $10 daily
         reserve r1 $6 allow left=$4
         change b weekly
         reserve r2 $6 allow left=$4
         settle r1 $5
         settle r2 $6
         spent b $11
         reserve r3 $4 allow left=$0
         leases 1",
    );
}

#[test]
fn another_schedule_does_not_empty_the_rolling_minute() {
    check(
        "budget b workspace $10 2rpm daily
         reserve r1 $1 allow
         reserve r2 $1 allow left=0rpm
         change b weekly
         change b monthly
         reserve r3 $1 deny requests_per_minute_exceeded left=0rpm
         tick 1m
         reserve r4 $1 allow left=1rpm",
    );
}

#[test]
fn a_deleted_budget_is_out_of_force_and_its_reservations_settle_at_the_others() {
    check(
        "budget b workspace $10 5rpm daily
         budget c identity:i $10 daily
         as identity=i
         reserve r1 $4 allow
         reserve r2 $4 allow
         reserve r3 $4 deny budget_in_flight
         delete b
         settle r1 $3
         spent c $3
         reserve r4 $3 allow left=$0 left=$0
         release r2
         settle r4 $2
         spent c $5
         accounts 1
         leases 1",
    );
}

#[test]
fn a_budget_that_is_made_again_starts_anew() {
    check(
        "budget b workspace $10 daily
         reserve r1 $4 allow
         reserve r2 $6 allow
         store down
         settle r1 $4
         send
         delete b
         budget b workspace $10 daily
         reserve r3 $1 starved
         answer
         store up
         tick 1ms
         decided r3 allow left=$9
         settle r2 $6
         spent b $0
         settle r3 $1
         spent b $1
         accounts 1",
    );
}

#[test]
fn a_budget_that_was_made_again_before_the_old_one_is_taken_out_stays_in_force() {
    check(
        "budget old identity:* $10 daily
         budget own identity:bob $10 daily
         budget new identity:* $5 daily
         budget new-own identity:bob $4 daily
         delete old
         delete own
         as identity=ann
         reserve r1 $6 deny request_exceeds_budget by=new
         as identity=bob
         reserve r2 $5 deny request_exceeds_budget by=new-own",
    );
}

#[test]
fn a_budget_out_of_force_counts_nothing_and_back_in_force_knows_what_was_spent() {
    check(
        "budget b workspace $10 daily
         reserve r1 $4 allow
         change b inactive
         settle r1 $4
         reserve r2 $50 allow no-left
         tick 1m
         tend
         change b active
         reserve r3 $7 deny request_exceeds_budget left=$6
         settle r2 $50
         spent b $4",
    );
}

#[test]
fn a_limit_that_is_taken_away_no_longer_refuses_and_an_added_one_counts_from_now_on() {
    check(
        "budget b workspace $10 daily
         reserve r1 $10 50tok allow
         change b 100tok
         reserve r2 $0 50tok deny budget_in_flight in=cost
         change b $100
         reserve r3 $1 100tok allow left=0tok
         settle r1 $10 50tok
         settle r3 $1 100tok
         spent b 100tok",
    );
}

#[test]
fn those_that_wait_are_decided_by_the_budgets_as_they_are_then() {
    check(
        "budget b workspace $10 daily
         store down
         reserve r1 $5 starved
         delete b
         decided r1 allow no-left
         budget c workspace $10 daily
         reserve r2 $5 starved
         change c $1
         store up
         tick 1ms
         decided r2 deny request_exceeds_budget",
    );
}
