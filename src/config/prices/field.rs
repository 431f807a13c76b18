//! What the fields of a LiteLLM entry are called: a kind of token or a unit, how much input, which tier of service.

use crate::domain::pricing::{Kind, ServiceTier, Unit};

/// What a field is the price of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Of tokens: of a kind, above this much input, at a tier of service.
    Tokens(Kind, u64, ServiceTier),
    /// Of units.
    Units(Unit),
    /// Of images, as a request for them is billed and as older entries of image models put it.
    InputImage,
}

const TOKENS: [(&str, Kind); 11] = [
    // The longer name first: it begins like the other.
    ("cache_creation_input_token_cost_above_1hr", Kind::CacheWrite1h),
    ("cache_creation_input_token_cost", Kind::CacheWrite),
    ("cache_read_input_token_cost", Kind::Cached),
    ("cache_read_input_audio_token_cost", Kind::CachedAudio),
    ("input_cost_per_token", Kind::Input),
    ("input_cost_per_audio_token", Kind::InputAudio),
    ("input_cost_per_image_token", Kind::InputImage),
    ("output_cost_per_token", Kind::Output),
    ("output_cost_per_reasoning_token", Kind::Reasoning),
    ("output_cost_per_audio_token", Kind::OutputAudio),
    ("output_cost_per_image_token", Kind::OutputImage),
];

/// A second is heard or spoken; an entry that has both prices says the same twice, so the dearer counts.
const UNITS: [(&str, Unit); 7] = [
    ("input_cost_per_request", Unit::Request),
    ("input_cost_per_second", Unit::Second),
    ("output_cost_per_second", Unit::Second),
    ("output_cost_per_image", Unit::Image),
    ("input_cost_per_query", Unit::Search),
    ("ocr_cost_per_page", Unit::Page),
    ("input_cost_per_character", Unit::Character),
];

const SERVICES: [(&str, ServiceTier); 6] = [
    ("_priority", ServiceTier::Priority),
    ("_flex", ServiceTier::Flex),
    ("_batches", ServiceTier::Batch),
    ("_ultrafast", ServiceTier::Ultrafast),
    ("_balanced", ServiceTier::Balanced),
    ("_decisions", ServiceTier::Decisions),
];

/// Tokens in the `k` of `_above_200k_tokens`.
const TOKENS_PER_K: u64 = 1_000;

impl Field {
    /// The field of this name, if it is a price that counts here.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        if let Some((_, unit)) = UNITS.into_iter().find(|(known, _)| *known == name) {
            return Some(Self::Units(unit));
        }
        if name == "input_cost_per_image" {
            return Some(Self::InputImage);
        }
        let (kind, rest) =
            TOKENS.into_iter().find_map(|(known, kind)| Some((kind, name.strip_prefix(known)?)))?;
        let (rest, service) = SERVICES
            .into_iter()
            .find_map(|(suffix, service)| Some((rest.strip_suffix(suffix)?, service)))
            .unwrap_or((rest, ServiceTier::Standard));
        Some(Self::Tokens(kind, above(rest)?, service))
    }
}

/// `_above_200k_tokens`, or nothing.
fn above(suffix: &str) -> Option<u64> {
    if suffix.is_empty() {
        return Some(0);
    }
    let thousands: u64 = suffix.strip_prefix("_above_")?.strip_suffix("k_tokens")?.parse().ok()?;
    thousands.checked_mul(TOKENS_PER_K)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fields_name_says_what_it_is_the_price_of() {
        use ServiceTier::{Batch, Priority, Standard};
        let check = |name, field| assert_eq!(Field::of_name(name), field, "{name}");
        let tokens = |kind, above, service| Some(Field::Tokens(kind, above, service));
        check("input_cost_per_token", tokens(Kind::Input, 0, Standard));
        check("output_cost_per_token_batches", tokens(Kind::Output, 0, Batch));
        check(
            "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
            tokens(Kind::CacheWrite1h, 200_000, Standard),
        );
        check(
            "cache_read_input_token_cost_above_272k_tokens_priority",
            tokens(Kind::Cached, 272_000, Priority),
        );
        check("input_cost_per_second", Some(Field::Units(Unit::Second)));
        check("input_cost_per_token_cache_hit", None);
        check("input_cost_per_image_above_128k_tokens", None);
        check("cache_read_input_image_token_cost", None);
        check("max_tokens", None);
    }
}
