//! Prepaid credits as one more gate.

use super::check;

#[test]
fn a_workspace_without_a_grant_has_no_credits_gate() {
    check(
        "as identity=ann
         reserve r1 $100 allow no-left
         credits $1
         reserve r2 $100 deny request_exceeds_budget by=credits for=acme in=cost left=$1 retry=never",
    );
}

#[test]
fn credits_are_spent_by_whoever_asks_beside_the_budgets_of_the_workspace() {
    check(
        "credits $10
         budget all workspace $5 daily
         as identity=ann
         reserve r1 $3 allow left=$2
         settle r1 $2
         as project=red
         reserve r2 $3 allow left=$0
         settle r2 $3
         spent credits $5
         spent all $5
         at 2026-11-23T10:00
         reserve r3 $5 allow left=$0
         settle r3 $5
         at 2026-11-24T10:00
         reserve r4 $1 deny credits_exhausted by=credits retry=never",
    );
}

#[test]
fn exhausted_credits_admit_as_soon_as_some_are_added() {
    check(
        "credits $1
         reserve r1 $1 allow
         reserve r2 $1 deny budget_in_flight by=credits retry=1s
         settle r1 $1
         reserve r3 $1 deny credits_exhausted left=$0
         store down
         reserve r4 $1 deny credits_exhausted
         store up
         credits $2
         reserve r5 $1 allow left=$0",
    );
}

#[test]
fn credits_that_another_replica_added_are_found_when_what_is_known_is_old() {
    check(
        "credits $0
         reserve r1 $1 deny credits_exhausted
         credits-elsewhere $2
         tick 2s
         reserve r2 $1 allow left=$1
         settle r2 $2
         reserve r3 $1 deny credits_exhausted by=credits",
    );
}

#[test]
fn an_answer_from_before_a_grant_does_not_take_it_back() {
    check(
        "credits $1
         reserve r1 $1 allow
         settle r1 $1
         store down
         tick 2s
         reserve r2 $1 starved
         send
         credits $3
         answer
         store up
         decided r2 allow left=$1",
    );
}

#[test]
fn credits_lowered_below_what_is_lent_are_not_spent_twice() {
    check(
        "credits $10
         reserve r1 $1 allow
         credits $2
         reserve r2 $1 allow left=$0
         reserve r3 $1 deny budget_in_flight
         settle r1 $1
         settle r2 $1
         reserve r4 $0 deny credits_exhausted
         spent credits $2",
    );
}

#[test]
fn a_model_without_a_price_is_refused_where_credits_pay() {
    check(
        "credits $10
         reserve r1 $0 no-price deny model_not_priced",
    );
}

#[test]
fn credits_survive_a_restart() {
    check(
        "credits $3
         reserve r1 $1 allow
         reserve r2 $1 allow
         settle r1 $1
         restart
         reserve r3 $2 deny budget_in_flight by=credits
         settle r2 $0.5
         reserve r4 $1.5 allow left=$0
         spent credits $1.5",
    );
}

#[test]
fn a_late_correction_gives_credits_back() {
    check(
        "credits $3
         reserve r1 $3 allow
         settle r1 $3
         reserve r2 $1 deny credits_exhausted
         adjust r1 $1
         reserve r3 $2 allow left=$0",
    );
}
