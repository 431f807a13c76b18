//! Prices as far as a table gives them, and how they are completed: what is missing costs what the more general thing costs.

use std::collections::BTreeMap;

use crate::domain::pricing::{ByKind, ByUnit, Kind, Offer, Rate, Rates, ServiceTier, Tier, When};

/// Rates as far as they are given.
pub(super) type Partial = ByKind<Option<Rate>>;

/// The rates of one tier of service as far as they are given: without much input, and above so many tokens of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Sheet {
    pub(super) base: Partial,
    pub(super) tiers: BTreeMap<u64, Partial>,
}

impl Sheet {
    /// The rates above so much input.
    pub(super) fn above(&mut self, tokens: u64) -> &mut Partial {
        if tokens == 0 { &mut self.base } else { self.tiers.entry(tokens).or_default() }
    }

    /// An offer of these rates. What is missing is taken from the standard sheet; what is missing above so much input, from the
    /// standard rates there or from this sheet's own rates below, whichever is dearer.
    pub(super) fn offer(
        &self,
        service: ServiceTier,
        when: When,
        standard: &Self,
        units: ByUnit<Rate>,
    ) -> Offer {
        let base = over(&self.base, &standard.base);
        let mut bounds: Vec<u64> =
            self.tiers.keys().chain(standard.tiers.keys()).copied().collect();
        bounds.sort_unstable();
        bounds.dedup();
        let empty = Partial::default();
        let mut below = base;
        let tiers = bounds.into_iter().map(|above| {
            let own = self.tiers.get(&above).unwrap_or(&empty);
            let usual = standard.tiers.get(&above).unwrap_or(&empty);
            below = over(own, &dearer(usual, &below));
            Tier { above, rates: complete(&below) }
        });
        Offer { service, when, rates: complete(&base), tiers: tiers.collect(), units }
    }
}

/// What is given, over what is given there.
pub(super) fn over(partial: &Partial, base: &Partial) -> Partial {
    let mut merged = *base;
    for kind in Kind::ALL {
        if let Some(rate) = partial.get(kind) {
            *merged.slot(kind) = Some(rate);
        }
    }
    merged
}

/// The dearer of each.
fn dearer(a: &Partial, b: &Partial) -> Partial {
    let mut merged = *a;
    for kind in Kind::ALL {
        *merged.slot(kind) = a.get(kind).max(b.get(kind));
    }
    merged
}

/// A rate for everything: what is missing costs what the kind does that it is a part of. Where a model that makes or hears
/// nothing but sound or images has no rate for text, its text costs what they do.
fn complete(partial: &Partial) -> Rates {
    let paid = |rate: Option<Rate>| rate.filter(|rate| *rate > Rate::ZERO);
    let first = |rates: [Option<Rate>; 4]| {
        let [own, others @ ..] = rates;
        paid(own).or(others.into_iter().flatten().max()).or(own).unwrap_or_default()
    };
    let input = first([partial.input, partial.input_audio, partial.input_image, None]);
    let output = first([partial.output, partial.output_audio, partial.output_image, None]);
    let cached = partial.cached.unwrap_or(input);
    let cache_write = partial.cache_write.unwrap_or(input);
    Rates {
        input,
        cached,
        cache_write,
        cache_write_1h: partial.cache_write_1h.unwrap_or(cache_write),
        input_audio: partial.input_audio.unwrap_or(input),
        cached_audio: partial.cached_audio.or(partial.input_audio).unwrap_or(cached),
        input_image: partial.input_image.unwrap_or(input),
        output,
        reasoning: partial.reasoning.unwrap_or(output),
        output_audio: partial.output_audio.unwrap_or(output),
        output_image: partial.output_image.unwrap_or(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(Kind, u64)]) -> Partial {
        let mut partial = Partial::default();
        for (kind, rate) in pairs {
            *partial.slot(*kind) = Some(Rate::per_million(*rate));
        }
        partial
    }

    #[test]
    fn what_is_missing_costs_what_the_more_general_thing_costs() {
        use Kind::{
            CacheWrite, CacheWrite1h, Cached, CachedAudio, Input, InputAudio, Output, OutputImage,
            Reasoning,
        };
        let check = |pairs: &[(Kind, u64)], kind, rate| {
            assert_eq!(complete(&given(pairs)).get(kind).get(), rate, "{kind:?} of {pairs:?}");
        };
        check(&[(Input, 5)], Cached, 5);
        check(&[(Input, 5), (CacheWrite, 6)], CacheWrite1h, 6);
        check(&[(Input, 5), (Cached, 1)], CachedAudio, 1);
        check(&[(Input, 5), (Cached, 1), (InputAudio, 9)], CachedAudio, 9);
        check(&[(InputAudio, 9)], Input, 9);
        check(&[(Output, 7)], Reasoning, 7);
        check(&[(Output, 0), (OutputImage, 8)], Output, 8);
        check(&[(Output, 0)], Output, 0);
    }

    #[test]
    fn a_tier_of_service_lacks_what_the_standard_tier_has() {
        let standard = Sheet {
            base: given(&[(Kind::Input, 10), (Kind::Cached, 1), (Kind::Output, 20)]),
            tiers: BTreeMap::from([(200, given(&[(Kind::Input, 15), (Kind::Output, 30)]))]),
        };
        let priority =
            Sheet { base: given(&[(Kind::Input, 40), (Kind::Output, 80)]), tiers: BTreeMap::new() };
        let offer =
            priority.offer(ServiceTier::Priority, When::default(), &standard, ByUnit::default());
        let at = |tokens| {
            let rates = offer.rates_for(tokens);
            [rates.input.get(), rates.cached.get(), rates.output.get()]
        };
        assert_eq!(at(200), [40, 1, 80]);
        assert_eq!(at(201), [40, 1, 80]);
    }
}
