//! Tests of what usage comes to at a price.

use proptest::prelude::*;

use super::*;
use crate::domain::time::Wall;

fn rate(nano_usd: u64) -> Rate {
    Rate::per_million(nano_usd)
}

/// $3 and $15 per million tokens; $6 and $22.50 with more than 200,000 of input; twice that for priority.
fn price() -> ModelPrice {
    let standard = Offer {
        rates: Rates {
            cached: rate(300_000_000),
            cache_write: rate(3_750_000_000),
            cache_write_1h: rate(6_000_000_000),
            input_audio: rate(40_000_000_000),
            reasoning: rate(16_000_000_000),
            ..Rates::flat(rate(3_000_000_000), rate(15_000_000_000))
        },
        tiers: [Tier {
            above: 200_000,
            rates: Rates::flat(rate(6_000_000_000), rate(22_500_000_000)),
        }]
        .into(),
        units: ByUnit { web_search: rate(10_000_000_000_000), ..ByUnit::default() },
        ..Offer::default()
    };
    let priority = Offer::flat(ServiceTier::Priority, rate(6_000_000_000), rate(30_000_000_000));
    ModelPrice::new("claude-9", vec![standard, priority])
}

/// Input, cached, cache write, output, reasoning.
fn used([input, cached, cache_write, output, reasoning]: [u64; 5]) -> Billable {
    let tokens = ByKind { input, cached, cache_write, output, reasoning, ..ByKind::default() };
    Billable { tokens, ..Billable::default() }
}

#[test]
fn each_kind_of_token_has_its_rate_and_the_sum_is_rounded_up_once() {
    let check = |counts, cost: &str| {
        assert_eq!(price().cost_of(used(counts)).to_string(), cost, "{counts:?}")
    };
    check([0, 0, 0, 0, 0], "0");
    check([1_000, 0, 0, 100, 0], "0.0045");
    check([1_000, 900, 50, 100, 40], "0.0021475");
    check([200_000, 0, 0, 0, 0], "0.6");
    check([200_001, 0, 0, 1, 0], "1.2000285");
    let fine = ModelPrice::flat("fine-1", rate(82_500), rate(1));
    assert_eq!(fine.cost_of(used([1, 0, 0, 1, 0])), NanoUsd::new(1));
    assert_eq!(fine.cost_of(used([1_000_000, 0, 0, 1, 0])), NanoUsd::new(82_501));
}

#[test]
fn parts_larger_than_their_whole_cost_no_more_than_it() {
    let check =
        |counts, same| assert_eq!(price().cost_of(used(counts)), price().cost_of(used(same)));
    check([10, 20, 30, 40, 50], [10, 10, 0, 40, 40]);
    check([10, 4, 30, 0, 50], [10, 4, 6, 0, 0]);
}

#[test]
fn what_is_not_text_or_not_a_token_has_its_own_price() {
    let plain = used([1_000, 0, 0, 100, 0]);
    let check = |used: Billable, cost: &str| assert_eq!(price().cost_of(used).to_string(), cost);
    let tokens = |change: fn(&mut ByKind<u64>)| {
        let mut used = plain;
        change(&mut used.tokens);
        used
    };
    check(tokens(|tokens| tokens.input_audio = 100), "0.0082");
    check(tokens(|tokens| (tokens.cache_write, tokens.cache_write_1h) = (100, 40)), "0.004665");
    check(Billable { units: ByUnit { web_search: 2, ..ByUnit::default() }, ..plain }, "0.0245");
    check(Billable { service: ServiceTier::Priority, ..plain }, "0.009");
    check(Billable { service: ServiceTier::Flex, ..plain }, "0.0045");
    check(Billable { service: ServiceTier::Ultrafast, ..plain }, "0.009");
}

#[test]
fn sound_that_is_paid_by_the_token_is_not_paid_by_the_second_too() {
    let offer = Offer {
        units: ByUnit { second: rate(100_000_000_000), ..ByUnit::default() },
        ..Offer::flat(ServiceTier::Standard, rate(2_500_000_000), rate(10_000_000_000))
    };
    let price = ModelPrice::new("hear-1", vec![offer]);
    let units = ByUnit { second: 60, ..ByUnit::default() };
    let both = Billable { units, ..used([1_000, 0, 0, 0, 0]) };
    assert_eq!(price.cost_of(both).to_string(), "0.0025");
    assert_eq!(price.cost_of(Billable { units, ..Billable::default() }).to_string(), "0.006");
    assert_eq!(price.rates_text("t-1", both), "t-1 hear-1 input=2500000000 output=10000000000");
}

#[test]
fn a_price_holds_from_its_date_on() {
    let from = |day: i64, input| Offer {
        when: When { since: Some(Wall::from_ms(day * 86_400_000)), hours: None },
        ..Offer::flat(ServiceTier::Standard, rate(input), rate(0))
    };
    let price = ModelPrice::new("m-1", vec![from(100, 40), from(200, 10), from(300, 2)]);
    let input = |at: Option<i64>| {
        let at = at.map(|day| Wall::from_ms(day * 86_400_000));
        price.rates_for(Billable { at, ..Billable::default() }).input.get()
    };
    assert_eq!(
        [50, 100, 199, 200, 300].map(|day| input(Some(day))),
        [40, 40, 40, 10, 2],
        "before the first date the first price holds"
    );
    assert_eq!(input(None), 2);
    let million = Extent { input: 1_000_000, ..Extent::default() };
    assert_eq!(price.cost_at_most(&million).get(), 10, "of the last two");
}

#[test]
fn an_estimate_takes_the_dearest_rates_that_it_can_reach() {
    let check = |input, output, media, cost: &str| {
        let extent = Extent { input, output, media, ..Extent::default() };
        assert_eq!(price().cost_at_most(&extent).to_string(), cost, "{extent:?}");
    };
    check(1_000, 0, Media::Absent, "0.006");
    check(1_000, 0, Media::Possible, "0.04");
    check(0, 1_000, Media::Absent, "0.03");
    check(100_000, 1_000, Media::Absent, "0.63");
    let tiered = ModelPrice::new(
        "m-1",
        vec![Offer {
            tiers: [Tier { above: 1_000, rates: Rates::flat(rate(2_000), rate(3_000)) }].into(),
            ..Offer::flat(ServiceTier::Standard, rate(1_000), rate(4_000))
        }],
    );
    let at_most = |input| {
        let extent = Extent { input, output: 1_000_000, ..Extent::default() };
        tiered.cost_at_most(&extent).get() - 4_000
    };
    assert_eq!((at_most(500), at_most(501)), (1, 2));
}

#[test]
fn the_rates_of_a_settlement_can_be_read_years_later() {
    let text = |used| price().rates_text("t-1", used);
    assert_eq!(
        text(used([1_000, 900, 50, 100, 40])),
        "t-1 claude-9 input=3000000000 cached=300000000 cache_write=3750000000 output=15000000000 \
         reasoning=16000000000"
    );
    let large = Billable {
        units: ByUnit { web_search: 1, ..ByUnit::default() },
        ..used([200_001, 0, 0, 0, 0])
    };
    assert_eq!(
        text(large),
        "t-1 claude-9 input=6000000000 output=22500000000 web_search=10000000000000"
    );
    let priority = Billable { service: ServiceTier::Priority, ..used([1, 0, 0, 1, 0]) };
    assert_eq!(text(priority), "t-1 claude-9 priority input=6000000000 output=30000000000");
}

fn counts() -> impl Strategy<Value = [u64; 5]> {
    prop::array::uniform5(0..=200_000_000_u64)
}

proptest! {
    #[test]
    fn more_tokens_never_cost_less(counts in counts(), more in 0..1_000_000_u64, output in any::<bool>()) {
        let [input, .., out, _] = counts;
        // Parts are dearer or cheaper tokens, not more of them; and a tier changes the rate of the whole request, so that it
        // must be dearer in all for the cost to grow over its bound, as all published ones are.
        let smaller = used([input, 0, 0, out, 0]);
        let larger = if output { used([input, 0, 0, out + more, 0]) } else { used([input + more, 0, 0, out, 0]) };
        prop_assert!(price().cost_of(smaller) <= price().cost_of(larger));
    }

    #[test]
    fn more_units_never_cost_less(unit in 0..Unit::ALL.len(), count in 0..1_000_u64, more in 0..1_000_u64, rates in prop::array::uniform7(0..1_000_000_000_000_u64)) {
        let mut units = ByUnit::default();
        for (unit, value) in Unit::ALL.into_iter().zip(rates) {
            *units.slot(unit) = rate(value);
        }
        let price = ModelPrice::new("m-1", vec![Offer { units, ..Offer::default() }]);
        let cost = |count| {
            let mut units = ByUnit::default();
            *units.slot(Unit::ALL[unit]) = count;
            price.cost_of(Billable { units, ..Billable::default() })
        };
        prop_assert!(cost(count) <= cost(count + more));
    }

    #[test]
    fn the_cost_is_less_than_a_nano_dollar_above_the_exact_sum(input in 0..1_000_000_u64, output in 0..1_000_000_u64,
        rates in prop::array::uniform2(0..10_000_000_000_000_u64)) {
        let price = ModelPrice::flat("m-1", rate(rates[0]), rate(rates[1]));
        let exact = u128::from(input) * u128::from(rates[0]) + u128::from(output) * u128::from(rates[1]);
        let cost = price.cost_of(used([input, 0, 0, output, 0]));
        let cost = u128::try_from(cost.get()).unwrap() * FEMTO_PER_NANO;
        prop_assert!(cost >= exact && cost - exact < FEMTO_PER_NANO);
    }

    #[test]
    fn a_response_within_its_estimate_costs_no_more_than_it(counts in prop::array::uniform5(0..400_000_u64), priority in any::<bool>()) {
        let service = if priority { ServiceTier::Priority } else { ServiceTier::Standard };
        let used = Billable { service, ..used(counts) };
        let extent = Extent { input: counts[0], output: counts[3], ..Extent::default() };
        prop_assert!(price().cost_of(used) <= price().cost_at_most(&extent));
    }

    #[test]
    fn no_usage_makes_a_cost_overflow(counts in prop::array::uniform5(any::<u64>())) {
        prop_assert!(price().cost_of(used(counts)) >= NanoUsd::ZERO);
    }
}
