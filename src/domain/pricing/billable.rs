//! What a response is billed for.

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
            Unit::Second
            | Unit::Image
            | Unit::Request
            | Unit::Search
            | Unit::WebSearch
            | Unit::Page
            | Unit::Character => (unit, units.get(unit)),
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
}
