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
