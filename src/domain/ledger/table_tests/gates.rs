//! Which budgets apply to a request, and what each of them counts.

use super::check;

#[test]
fn a_request_that_no_budget_covers_is_allowed_without_numbers() {
    check(
        "reserve r1 $3 100tok allow no-left
         budget b identity:ann $1 daily
         reserve r2 $3 100tok allow no-left
         as identity=bob
         reserve r3 $3 100tok allow no-left
         accounts 0",
    );
}

#[test]
fn a_reservation_is_counted_at_every_budget_that_applies() {
    check(
        "budget all workspace $10 monthly
         budget team project:red 1000tok daily
         budget ann identity:ann $5 2rpm weekly
         as project=red identity=ann
         reserve r1 $3 100tok allow left=$2 left=900tok left=1rpm
         settle r1 $2 300tok
         spent all $2
         spent team 300tok
         spent ann $2
         reserve r2 $1 0tok allow left=$2 left=700tok left=0rpm",
    );
}

#[test]
fn one_gate_that_refuses_leaves_all_others_uncharged() {
    check(
        "budget all workspace $10 5rpm monthly
         budget ann identity:ann $1 daily
         as identity=ann
         reserve r1 $2 deny request_exceeds_budget by=ann left=$1
         open 0
         as identity=bob
         reserve r2 $10 allow left=$0 left=4rpm",
    );
}

#[test]
fn a_gate_needs_at_least_one_unit_in_hand() {
    check(
        "budget b workspace $1 one_time
         reserve r1 $1 allow left=$0
         reserve r2 $0 deny budget_in_flight
         settle r1 $0.999999999
         reserve r3 $0 allow left=$0.000000001
         settle r3 $0.000000001
         reserve r4 $0 deny cost_budget_exceeded",
    );
}

#[test]
fn a_limit_of_zero_blocks_all() {
    check(
        "budget m model:m $0 daily
         budget t provider:p 0tok daily
         budget r identity:i 0rpm
         as model=m
         reserve r1 $0 deny cost_budget_exceeded by=m
         as provider=p
         reserve r2 $0 deny token_budget_exceeded by=t
         as identity=i
         reserve r3 $0 deny requests_per_minute_exceeded by=r retry=never",
    );
}

#[test]
fn a_limit_of_zero_blocks_even_when_the_store_is_away() {
    check(
        "budget r identity:i 0rpm down=allow
         budget m model:m $0 daily down=allow
         store down
         as identity=i
         reserve r1 $0 deny requests_per_minute_exceeded
         as model=m
         reserve r2 $0 deny cost_budget_exceeded",
    );
}

#[test]
fn each_target_of_a_default_has_an_account_of_its_own() {
    check(
        "budget each identity:* $5 daily
         as identity=ann
         reserve r1 $4 allow left=$1
         as identity=bob
         reserve r2 $4 allow left=$1
         as identity=ann
         reserve r3 $4 deny budget_in_flight by=each for=ann
         settle r2 $1
         settle r1 $1
         spent each $2",
    );
}

#[test]
fn a_budget_of_its_own_lifts_the_default_but_a_shadow_or_one_out_of_force_does_not() {
    check(
        "budget each identity:* $5 daily
         budget rich identity:ann $50 daily
         budget watched identity:bob $50 daily shadow
         budget off identity:cas $50 daily inactive
         budget over identity:dee $50 daily until=2026-11-22T10:00
         budget later identity:eve $50 daily until=2026-11-22T10:01
         as identity=ann
         reserve r1 $20 allow left=$30
         as identity=bob
         reserve r2 $20 deny request_exceeds_budget by=each
         as identity=cas
         reserve r3 $20 deny request_exceeds_budget by=each
         as identity=dee
         reserve r4 $20 deny request_exceeds_budget by=each
         as identity=eve
         reserve r5 $20 allow
         tick 1m
         reserve r6 $20 deny request_exceeds_budget by=each",
    );
}

#[test]
fn a_model_is_covered_by_its_full_and_by_its_bare_name() {
    check(
        "budget full model:openai/gpt-4o $5 daily
         budget bare model:gpt-4o $3 daily
         as provider=openai model=openai/gpt-4o
         reserve r1 $1 allow left=$2
         as provider=openai model=gpt-4o
         reserve r2 $1 allow left=$1
         as provider=azure model=openai/gpt-4o
         reserve r3 $4 allow left=$0",
    );
}

#[test]
fn a_model_under_a_default_has_one_account_however_it_is_named() {
    check(
        "budget each model:* $5 daily
         as provider=openai model=openai/gpt-4o
         reserve r1 $3 allow left=$2
         as provider=openai model=gpt-4o
         reserve r2 $3 deny budget_in_flight for=gpt-4o
         as provider=azure model=openai/gpt-4o
         reserve r3 $3 allow left=$2",
    );
}

#[test]
fn a_rolling_minute_is_exact_to_the_nanosecond_and_does_not_follow_the_calendar() {
    check(
        "budget b workspace 2rpm
         reserve r1 $1 allow left=1rpm
         tick 30s
         reserve r2 $1 allow left=0rpm
         reserve r3 $1 deny requests_per_minute_exceeded retry=30s
         release r1
         reserve r4 $1 deny requests_per_minute_exceeded retry=30s
         tick 29999ms
         reserve r5 $1 deny requests_per_minute_exceeded retry=1ms
         tick 1ms
         reserve r6 $1 allow left=0rpm
         reserve r7 $1 deny requests_per_minute_exceeded retry=30s",
    );
}

#[test]
fn a_withdrawn_request_gives_its_slot_back_and_a_released_one_does_not() {
    check(
        "budget b workspace $10 1rpm daily
         reserve r1 $1 allow left=0rpm left=$9
         withdraw r1
         reserve r2 $1 allow left=0rpm left=$9
         release r2
         reserve r3 $1 deny requests_per_minute_exceeded left=$10
         open 0",
    );
}

#[test]
fn a_request_for_nothing_takes_a_slot_and_sets_nothing_aside() {
    check(
        "budget b workspace $1 2rpm daily
         reserve r1 allow left=$1 left=1rpm
         reserve r2 allow left=$1 left=0rpm
         reserve r3 deny requests_per_minute_exceeded
         open 2",
    );
}

#[test]
fn a_shadow_budget_counts_and_reports_but_never_refuses_nor_waits_nor_shows() {
    check(
        "budget s identity:ann $5 100tok 1rpm daily shadow
         as identity=ann
         store down
         reserve r1 $3 10tok allow no-left shadows=0
         reserve r2 $3 10tok allow no-left shadows=2
         store up
         tick 1s
         lent s $0
         settle r1 $4 20tok
         settle r2 $3 10tok
         spent s $7
         spent s 30tok
         lent s $0
         reserve r3 $1 10tok allow no-left shadows=2
         settle r3 $0 0tok
         spent s $7",
    );
}

#[test]
fn a_shadow_budget_that_is_enforced_from_now_on_counts_what_it_saw() {
    check(
        "budget b workspace $10 daily shadow
         reserve r1 $2 allow
         reserve r2 $3 allow
         settle r1 $4
         uncovered
         change b enforced
         reserve r3 $4 deny budget_in_flight left=$3
         reserve r4 $3 allow left=$0
         settle r2 $1
         settle r4 $3
         reserve r5 $2 allow left=$0
         settle r5 $2
         spent b $10
         change b shadow
         reserve r6 $2 allow shadows=1
         settle r6 $2
         spent b $12",
    );
}
