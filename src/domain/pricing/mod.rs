//! What tokens cost: the rates of a model, and what a response or an estimate comes to.

mod rate;
mod table;

use std::fmt::Write as _;

use crate::domain::money::{Amounts, NanoUsd};
use crate::domain::usage::Usage;

pub use rate::{Rate, RateError};
pub use table::{Entries, Entry, PriceTable};

/// The prices and limits of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// The entry of the table that it comes from.
    pub name: Box<str>,
    /// What a request costs that no tier applies to.
    pub rates: Rates,
    /// Other rates for requests with more input, in ascending order.
    pub tiers: Box<[Tier]>,
    /// The dearest rates that can apply to a request, for an estimate.
    pub dearest: Dearest,
    /// The most input it reads, where known.
    pub max_input_tokens: Option<u64>,
    /// The most output it writes in one choice, where known; zero for a model that only reads.
    pub max_output_tokens: Option<u64>,
}

/// What each kind of token costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Input.
    pub input: Rate,
    /// Input from the provider's cache; the input rate where the table says nothing else.
    pub cached: Rate,
    /// Input written to the provider's cache; likewise.
    pub cache_write: Rate,
    /// Output.
    pub output: Rate,
    /// Reasoning; the output rate where the table says nothing else.
    pub reasoning: Rate,
}

/// Rates that hold for the whole of a request with more input than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// More input tokens than this, cache included.
    pub above: u64,
    /// The rates then.
    pub rates: Rates,
}

/// The dearest rates over all tiers, service tiers and cache writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dearest {
    /// Input.
    pub input: Rate,
    /// Output, reasoning included.
    pub output: Rate,
}

impl Rates {
    /// The same rate for every token of input, and another for every token of output.
    #[must_use]
    pub const fn flat(input: Rate, output: Rate) -> Self {
        Self { input, cached: input, cache_write: input, output, reasoning: output }
    }
}

impl ModelPrice {
    /// A price without tiers and limits, such as a default price.
    #[must_use]
    pub fn flat(name: &str, input: Rate, output: Rate) -> Self {
        Self {
            name: name.into(),
            rates: Rates::flat(input, output),
            tiers: Box::default(),
            dearest: Dearest { input, output },
            max_input_tokens: None,
            max_output_tokens: None,
        }
    }

    /// What a response cost: one sum, rounded up once to a whole nano-USD. Parts that exceed their whole are clamped to
    /// it, because providers do report more reasoning than output.
    #[must_use]
    pub fn cost_of(&self, usage: &Usage) -> NanoUsd {
        let rates = self.rates_for(usage.input);
        let cached = usage.cached.min(usage.input);
        let cache_write = usage.cache_write.min(usage.input.saturating_sub(cached));
        let plain = usage.input.saturating_sub(cached).saturating_sub(cache_write);
        let reasoning = usage.reasoning.min(usage.output);
        cost([
            (plain, rates.input),
            (cached, rates.cached),
            (cache_write, rates.cache_write),
            (usage.output.saturating_sub(reasoning), rates.output),
            (reasoning, rates.reasoning),
        ])
    }

    /// What a response used, in both counted dimensions.
    #[must_use]
    pub fn amounts_of(&self, usage: &Usage) -> Amounts {
        Amounts { cost: self.cost_of(usage), tokens: usage.total() }
    }

    /// The most that a request of this size can cost.
    #[must_use]
    pub fn cost_at_most(&self, input_tokens: u64, output_tokens: u64) -> NanoUsd {
        cost([(input_tokens, self.dearest.input), (output_tokens, self.dearest.output)])
    }

    /// The rates that hold for a request with this much input.
    #[must_use]
    pub fn rates_for(&self, input_tokens: u64) -> &Rates {
        let tier = self.tiers.iter().rev().find(|tier| input_tokens > tier.above);
        tier.map_or(&self.rates, |tier| &tier.rates)
    }

    /// The table's version, the entry and the rates that priced a request with this much input, for the audit trail:
    /// `litellm-1.106.2 gpt-4o input=2500000000 output=10000000000`, in nano-USD per million tokens. Rates that are the same as
    /// input or output are left out.
    #[must_use]
    pub fn rates_text(&self, version: &str, input_tokens: u64) -> String {
        let rates = self.rates_for(input_tokens);
        let mut text =
            format!("{version} {} input={} output={}", self.name, rates.input, rates.output);
        let others = [
            ("cached", rates.cached, rates.input),
            ("cache_write", rates.cache_write, rates.input),
            ("reasoning", rates.reasoning, rates.output),
        ];
        for (kind, rate, usual) in others {
            if rate != usual {
                // Writing to a String cannot fail.
                let _ = write!(text, " {kind}={rate}");
            }
        }
        text
    }
}

/// Tokens in the unit of a rate.
const TOKENS_PER_RATE: u128 = 1_000_000;

/// Σ tokens × rate, rounded up once.
fn cost<const N: usize>(items: [(u64, Rate); N]) -> NanoUsd {
    let sum = items.into_iter().fold(0_u128, |sum, (tokens, rate)| {
        sum.saturating_add(u128::from(tokens).saturating_mul(u128::from(rate.get())))
    });
    NanoUsd::new(i64::try_from(sum.div_ceil(TOKENS_PER_RATE)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price() -> ModelPrice {
        let rate = Rate::per_million;
        ModelPrice {
            rates: Rates {
                input: rate(3_000_000_000),
                cached: rate(300_000_000),
                cache_write: rate(3_750_000_000),
                output: rate(15_000_000_000),
                reasoning: rate(16_000_000_000),
            },
            tiers: [Tier {
                above: 200_000,
                rates: Rates::flat(rate(6_000_000_000), rate(22_500_000_000)),
            }]
            .into(),
            ..ModelPrice::flat("claude-9", rate(3_000_000_000), rate(15_000_000_000))
        }
    }

    fn usage([input, cached, cache_write, output, reasoning]: [u64; 5]) -> Usage {
        Usage { input, cached, cache_write, output, reasoning, ..Usage::default() }
    }

    #[test]
    fn each_kind_of_token_has_its_rate_and_the_sum_is_rounded_up_once() {
        let check = |counts, cost: &str| {
            assert_eq!(price().cost_of(&usage(counts)).to_string(), cost, "{counts:?}")
        };
        check([0, 0, 0, 0, 0], "0");
        check([1_000, 0, 0, 100, 0], "0.0045");
        check([1_000, 900, 50, 100, 40], "0.0021475");
        check([200_000, 0, 0, 0, 0], "0.6");
        check([200_001, 0, 0, 1, 0], "1.2000285");
        let fine = ModelPrice::flat("fine-1", Rate::per_million(82_500), Rate::per_million(1));
        assert_eq!(fine.cost_of(&usage([1, 0, 0, 1, 0])), NanoUsd::new(1));
        assert_eq!(fine.cost_of(&usage([1_000_000, 0, 0, 1, 0])), NanoUsd::new(82_501));
    }

    #[test]
    fn parts_larger_than_their_whole_cost_no_more_than_it() {
        let check = |counts, same| {
            assert_eq!(price().cost_of(&usage(counts)), price().cost_of(&usage(same)))
        };
        check([10, 20, 30, 40, 50], [10, 10, 0, 40, 40]);
        check([10, 4, 30, 0, 50], [10, 4, 6, 0, 0]);
    }

    #[test]
    fn the_rates_of_a_settlement_can_be_read_years_later() {
        let expected = "t-1 claude-9 input=3000000000 output=15000000000 cached=300000000 cache_write=3750000000 \
                        reasoning=16000000000";
        assert_eq!(price().rates_text("t-1", 200_000), expected);
        assert_eq!(
            price().rates_text("t-1", 200_001),
            "t-1 claude-9 input=6000000000 output=22500000000"
        );
    }

    fn counts() -> impl Strategy<Value = [u64; 5]> {
        prop::array::uniform5(0..=200_000_000_u64)
    }

    proptest! {
        #[test]
        fn more_tokens_never_cost_less(counts in counts(), more in 0..1_000_000_u64, output in any::<bool>()) {
            let [input, cached, cache_write, out, reasoning] = counts;
            let larger = if output {
                [input, cached, cache_write, out + more, reasoning]
            } else {
                [input + more, cached, cache_write, out, reasoning]
            };
            // A tier changes the rate of the whole request, so that only flat prices are comparable over it.
            let flat = ModelPrice { tiers: Box::default(), ..price() };
            // Parts that exceed their whole are dearer or cheaper tokens, not more of them.
            let [a, b] = [usage(counts), usage(larger)].map(|u| Usage { cached: 0, cache_write: 0, reasoning: 0, ..u });
            prop_assert!(flat.cost_of(&a) <= flat.cost_of(&b));
        }

        #[test]
        fn the_cost_is_less_than_a_nano_dollar_above_the_exact_sum(input in 0..1_000_000_u64, output in 0..1_000_000_u64,
            rates in prop::array::uniform2(0..10_000_000_000_000_u64)) {
            let price = ModelPrice::flat("m-1", Rate::per_million(rates[0]), Rate::per_million(rates[1]));
            let exact = u128::from(input) * u128::from(rates[0]) + u128::from(output) * u128::from(rates[1]);
            let cost = price.cost_of(&Usage { input, output, ..Usage::default() });
            let cost = u128::try_from(cost.get()).unwrap() * TOKENS_PER_RATE;
            prop_assert!(cost >= exact && cost - exact < TOKENS_PER_RATE);
        }

        #[test]
        fn no_usage_makes_a_cost_overflow(counts in prop::array::uniform5(any::<u64>())) {
            prop_assert!(price().cost_of(&usage(counts)) >= NanoUsd::ZERO);
        }
    }
}
