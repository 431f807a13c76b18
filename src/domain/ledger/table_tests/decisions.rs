//! What a refusal says, and which of several is said.

use super::check;

#[test]
fn each_refusal_says_what_the_client_can_do() {
    check(
        "budget b workspace $10 1000tok 10rpm daily
         reserve r1 $8 100tok allow left=$2 left=900tok
         reserve r2 $8 100tok deny budget_in_flight retry=1s by=b in=cost left=$2
         settle r1 $8 100tok
         reserve r3 $8 100tok deny request_exceeds_budget retry=never left=$2
         reserve r4 $2 100tok allow left=$0
         settle r4 $2 100tok
         reserve r5 $0 100tok deny cost_budget_exceeded retry=14h left=$0 left=800tok
         change b $20
         reserve r6 $1 800tok allow left=$9 left=0tok
         settle r6 $1 800tok
         reserve r7 $1 1tok deny token_budget_exceeded retry=14h in=tokens left=$9",
    );
}

#[test]
fn a_one_time_budget_never_comes_back_unless_it_ends() {
    check(
        "budget b workspace $1 one_time
         reserve r1 $1 allow
         settle r1 $1
         tick 9000h
         reserve r2 $1 deny cost_budget_exceeded retry=never
         budget e identity:ann $1 one_time until=2028-01-01T00:00
         change b $10
         as identity=ann
         reserve r3 $1 allow
         settle r3 $1
         reserve r4 $1 deny cost_budget_exceeded by=e
         at 2028-01-01T00:00
         reserve r5 $1 allow left=$7",
    );
}

#[test]
fn the_refusal_that_stands_longest_is_said() {
    check(
        "budget day workspace $10 daily
         budget month project:p $10 monthly
         budget ever identity:i $10 one_time
         budget minute model:m 1rpm
         as project=p identity=i model=m
         reserve r1 $10 allow
         reserve r2 $1 deny requests_per_minute_exceeded by=minute retry=60s
         settle r1 $10
         reserve r3 $1 deny cost_budget_exceeded by=ever retry=never
         change ever $90
         reserve r4 $1 deny cost_budget_exceeded by=month
         change month $90
         reserve r5 $1 deny cost_budget_exceeded by=day retry=14h
         change day $90
         reserve r6 $1 deny requests_per_minute_exceeded by=minute
         tick 1m
         reserve r7 $1 allow",
    );
}

#[test]
fn among_refusals_that_stand_equally_long_the_wider_scope_is_said_then_the_older_budget() {
    check(
        "budget model model:m $1 daily
         budget key api_key:k $1 daily
         budget long model:p/m $1 daily
         as provider=p model=p/m api_key=k
         reserve r1 $1 allow
         settle r1 $1
         reserve r2 $1 deny cost_budget_exceeded by=key
         change key $9
         reserve r3 $1 deny cost_budget_exceeded by=model
         change model $9
         reserve r4 $1 deny cost_budget_exceeded by=long",
    );
}

#[test]
fn within_a_budget_cost_is_said_before_tokens() {
    check(
        "budget b workspace 10tok $1 daily
         reserve r1 $1 10tok allow
         reserve r2 $1 10tok deny budget_in_flight in=cost
         settle r1 $1 10tok
         reserve r3 $1 10tok deny cost_budget_exceeded in=cost",
    );
}

#[test]
fn a_shorter_wait_of_a_fraction_of_a_second_is_not_mistaken_for_the_longer_one() {
    check(
        "budget rpm workspace 1rpm
         budget cost identity:i $1 daily
         as identity=i
         reserve r1 $1 allow
         tick 58500ms
         reserve r2 $1 deny requests_per_minute_exceeded by=rpm retry=1500ms
         tick 1s
         reserve r3 $1 deny budget_in_flight by=cost retry=1s",
    );
}

#[test]
fn a_model_without_a_price_is_refused_where_money_is_counted_before_anything_else() {
    check(
        "budget b workspace 10tok 1rpm daily
         as model=m
         reserve r1 5tok no-price allow
         budget m model:m $0 daily
         reserve r2 no-price deny model_not_priced left=5tok
         change m shadow
         tick 1m
         reserve r3 5tok no-price allow shadows=1",
    );
}

#[test]
fn the_most_restrictive_gate_of_each_dimension_fills_the_numbers() {
    check(
        "budget a workspace $10 100tok daily
         budget b identity:i $20 50tok daily
         as identity=i
         reserve r1 $1 1tok allow left=$9 left=49tok
         change b $5
         reserve r2 $1 1tok allow left=$3 left=48tok",
    );
}
