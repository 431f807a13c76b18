//! What a response is billed for, and bills that come with the response.

use crate::domain::money::NanoUsd;
use crate::domain::pricing::{ByKind, ByUnit, Kind, Rate, Rates, Unit};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;

/// All that the price of a response depends on, apart from its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Billable {
    /// Tokens: `input` is all input, `output` all output, the others are parts of them.
    pub tokens: ByKind<u64>,
    /// Whole units other than tokens. The request itself need not be counted: there is always one.
    pub units: ByUnit<u64>,
    /// How the response says that it was served.
    pub service: ServiceTier,
    /// When; without it the price that holds at any hour.
    pub at: Option<Wall>,
}

/// How fast a request was served, for more or less money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ServiceTier {
    /// As usual.
    #[default]
    Standard,
    /// Sooner.
    Priority,
    /// Later.
    Flex,
    /// Within a day.
    Batch,
    /// At higher speed.
    Fast,
    /// At the highest speed.
    Ultrafast,
    /// Between standard and batch.
    Balanced,
    /// For the model's decisions only.
    Decisions,
}

/// A bill that came with a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// How much.
    pub cost: NanoUsd,
    /// Where it stood.
    pub form: BillForm,
}

/// Where a bill stands in a response. Anybody can put such a field there; it counts only from the provider that is
/// documented to bill that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BillForm {
    /// `usage.cost`, a number of dollars: OpenRouter.
    UsageCost,
    /// `usage.cost_in_usd_ticks`: xAI.
    UsdTicks,
    /// `usage.cost.total_cost`, a number of dollars: Perplexity.
    CostObject,
}

impl Billable {
    /// The units that are billed beside tokens at these rates. Where sound and images are paid by the token, a price per second
    /// or per image is the same price told in another way, for responses that count no tokens.
    pub(super) fn units_beside(&self, rates: &Rates) -> [(Unit, u64); Unit::ALL.len()] {
        let units = Self::units_with_request(self.units);
        let by_token = Kind::ALL
            .into_iter()
            .any(|kind| self.tokens.get(kind) > 0 && rates.get(kind) > Rate::ZERO);
        Unit::ALL.map(|unit| match unit {
            Unit::Second | Unit::Image if by_token => (unit, 0),
            _ => (unit, units.get(unit)),
        })
    }

    /// There is always one request.
    pub(super) const fn units_with_request(units: ByUnit<u64>) -> ByUnit<u64> {
        ByUnit { request: 1, ..units }
    }
}

impl ServiceTier {
    /// What a response calls its tier: OpenAI's and Anthropic's `service_tier`, Vertex's `trafficType`. What nobody is known to
    /// charge apart is the standard tier.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        const NAMES: [(&str, ServiceTier); 12] = [
            ("priority", ServiceTier::Priority),
            ("ON_DEMAND_PRIORITY", ServiceTier::Priority),
            ("flex", ServiceTier::Flex),
            ("ON_DEMAND_FLEX", ServiceTier::Flex),
            ("batch", ServiceTier::Batch),
            ("batches", ServiceTier::Batch),
            ("fast", ServiceTier::Fast),
            ("ultrafast", ServiceTier::Ultrafast),
            ("balanced", ServiceTier::Balanced),
            ("decisions", ServiceTier::Decisions),
            ("standard", ServiceTier::Standard),
            ("default", ServiceTier::Standard),
        ];
        let found = NAMES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or(Self::Standard, |(_, tier)| tier)
    }

    /// Its name, as in the audit trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Priority => "priority",
            Self::Flex => "flex",
            Self::Batch => "batch",
            Self::Fast => "fast",
            Self::Ultrafast => "ultrafast",
            Self::Balanced => "balanced",
            Self::Decisions => "decisions",
        }
    }

    /// The tier whose price holds where this one has none of its own.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Standard => None,
            Self::Ultrafast => Some(Self::Fast),
            Self::Fast => Some(Self::Priority),
            Self::Priority | Self::Flex | Self::Batch | Self::Balanced | Self::Decisions => {
                Some(Self::Standard)
            }
        }
    }
}

impl Bill {
    /// Whether the bill counts on a route to this provider.
    #[must_use]
    pub fn counts_at(&self, provider: Option<&str>) -> bool {
        let known: &[&str] = match self.form {
            BillForm::UsageCost => &["openrouter"],
            BillForm::UsdTicks => &["xai", "x-ai"],
            BillForm::CostObject => &["perplexity", "perplexity_ai"],
        };
        provider
            .is_some_and(|provider| known.iter().any(|name| name.eq_ignore_ascii_case(provider)))
    }
}

impl From<&Usage> for Billable {
    fn from(usage: &Usage) -> Self {
        let tokens = ByKind {
            input: usage.input,
            cached: usage.cached,
            cache_write: usage.cache_write,
            cache_write_1h: usage.cache_write_1h,
            output: usage.output,
            reasoning: usage.reasoning,
            ..ByKind::default()
        };
        Self { tokens, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_tells_its_tier_by_many_names() {
        for (name, tier) in [
            ("default", ServiceTier::Standard),
            ("auto", ServiceTier::Standard),
            ("on_demand", ServiceTier::Standard),
            ("priority", ServiceTier::Priority),
            ("ON_DEMAND_FLEX", ServiceTier::Flex),
            ("batch", ServiceTier::Batch),
            ("", ServiceTier::Standard),
        ] {
            assert_eq!(ServiceTier::from_name(name), tier, "{name}");
        }
    }

    #[test]
    fn a_bill_counts_only_from_those_who_are_known_to_send_it() {
        let bill = |form| Bill { cost: NanoUsd::new(1), form };
        for (form, provider, counts) in [
            (BillForm::UsageCost, Some("OpenRouter"), true),
            (BillForm::UsageCost, Some("openai"), false),
            (BillForm::UsageCost, Some("perplexity"), false),
            (BillForm::UsageCost, None, false),
            (BillForm::UsdTicks, Some("xai"), true),
            (BillForm::UsdTicks, Some("x-ai"), true),
            (BillForm::UsdTicks, Some("openrouter"), false),
            (BillForm::CostObject, Some("perplexity"), true),
        ] {
            assert_eq!(bill(form).counts_at(provider), counts, "{form:?} {provider:?}");
        }
    }
}
