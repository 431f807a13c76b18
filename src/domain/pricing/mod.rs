//! What usage costs: the rates of a model, and what a response or an estimate comes to.

mod billable;
mod catalog;
mod charge;
mod kinds;
mod names;
mod offer;
mod rate;
mod table;

use std::fmt::Write as _;

use crate::domain::money::NanoUsd;

pub use billable::{Billable, ServiceTier};
pub use catalog::{Catalog, CatalogModel, CatalogProvider, Clause};
pub use charge::Charge;
pub use kinds::{ByKind, ByUnit, Kind, Unit};
pub use names::Named;
pub use offer::{Hours, Offer, Rates, Tier, When};
pub use rate::{Rate, RateError};
pub use table::{Entries, Entry, Found, How, PriceTable};

/// The prices and limits of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// The entry of the table that it comes from.
    pub name: Box<str>,
    /// The most input it reads, where known.
    pub max_input_tokens: Option<u64>,
    /// The most output it writes in one choice, where known; zero for a model that only reads.
    pub max_output_tokens: Option<u64>,
    /// Whether it thinks before it answers.
    pub reasons: Reasons,
    /// What it is offered for; of several that hold, the last counts.
    offers: Box<[Offer]>,
    /// The dearest of all offers, by input, in ascending order; the first holds from the first token.
    ceilings: Box<[Ceiling]>,
}

/// Whether a model thinks before it answers, in output that is billed and that most providers hide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Reasons {
    /// Nothing says so.
    #[default]
    Never,
    /// When its request asks for it.
    WhenAsked,
    /// Unless its request declines.
    ByItself,
}

/// The dearest rates over all offers that can apply to a request with more input than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ceiling {
    above: u64,
    /// Input that is text.
    input: Rate,
    /// Input that may be sound or images.
    input_media: Rate,
    /// Output of any kind.
    output: Rate,
}

/// How large a request may become, for an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Input tokens.
    pub input: u64,
    /// Output tokens, of all choices.
    pub output: u64,
    /// Whether there may be sound or images in the input.
    pub media: Media,
    /// Units other than tokens.
    pub units: ByUnit<u64>,
}

/// Whether there may be sound or images in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Media {
    /// There are none.
    #[default]
    Absent,
    /// There may be some.
    Possible,
}

impl ModelPrice {
    /// The price of a model with these offers. The last that holds counts, so the plain one comes first.
    #[must_use]
    pub fn new(name: &str, offers: Vec<Offer>) -> Self {
        Self {
            name: name.into(),
            max_input_tokens: None,
            max_output_tokens: None,
            reasons: Reasons::default(),
            ceilings: ceilings(&offers),
            offers: offers.into(),
        }
    }

    /// A price without tiers and limits, such as a default price.
    #[must_use]
    pub fn flat(name: &str, input: Rate, output: Rate) -> Self {
        Self::new(name, vec![Offer::flat(ServiceTier::Standard, input, output)])
    }

    /// What a response cost: one sum, rounded up once to a whole nano-USD.
    #[must_use]
    pub fn cost_of(&self, used: impl Into<Billable>) -> NanoUsd {
        rounded_up(self.femto_usd(&used.into()))
    }

    /// The same before it is rounded up, in femto-USD.
    fn femto_usd(&self, used: &Billable) -> u128 {
        let Some(offer) = self.offer_for(used) else { return 0 };
        let rates = offer.rates_for(used.tokens.input);
        let tokens = used.tokens.apart();
        let tokens = Kind::ALL.into_iter().map(|kind| (tokens.get(kind), rates.get(kind)));
        let units = used.units_beside(rates).into_iter();
        sum(tokens.chain(units.map(|(unit, count)| (count, offer.units.get(unit)))))
    }

    /// Whether this price says what such a response costs. A price per image says nothing of tokens: taking the cost for zero
    /// then would be giving the response away.
    #[must_use]
    pub fn covers(&self, used: impl Into<Billable>) -> bool {
        let used = used.into();
        let nothing = Billable { service: used.service, at: used.at, ..Billable::default() };
        self.is_free() || used == nothing || self.cost_of(used) > NanoUsd::ZERO
    }

    /// Whether everything costs nothing.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let costs_nothing = |offer: &Offer| {
            let Offer { rates, tiers, units, .. } = offer;
            *rates == Rates::default()
                && *units == ByUnit::default()
                && tiers.iter().all(|tier| tier.rates == Rates::default())
        };
        self.offers.iter().all(costs_nothing)
    }

    /// The most that a request can cost, with input twice as long as thought: a longer one may reach dearer rates.
    #[must_use]
    pub fn cost_at_most(&self, extent: &Extent) -> NanoUsd {
        let reach = extent.input.saturating_mul(REACH);
        let Some(ceiling) =
            self.ceilings.iter().rev().find(|ceiling| ceiling.above == 0 || reach > ceiling.above)
        else {
            return NanoUsd::ZERO;
        };
        let input = match extent.media {
            Media::Absent => ceiling.input,
            Media::Possible => ceiling.input_media,
        };
        let tokens = [(extent.input, input), (extent.output, ceiling.output)];
        let units = Billable::units_with_request(extent.units);
        let dearest = |unit| self.offers.iter().map(|offer| offer.units.get(unit)).max();
        let units =
            Unit::ALL.map(|unit| (units.get(unit), dearest(unit).unwrap_or_default())).into_iter();
        rounded_up(sum(tokens.into_iter().chain(units)))
    }

    /// The rates that hold for a response.
    #[must_use]
    pub fn rates_for(&self, used: impl Into<Billable>) -> Rates {
        let used = used.into();
        self.offer_for(&used)
            .map_or_else(Rates::default, |offer| *offer.rates_for(used.tokens.input))
    }

    /// What of it has a price: the offers that it was made of.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The table's version, the entry, the tier of service and the rates that priced a response, for the audit trail:
    /// `litellm-1.106.2 gpt-4o input=2500000000 output=10000000000`, in nano-USD per million tokens or units. Of the other
    /// kinds and units those are named that the response has.
    #[must_use]
    pub fn rates_text(&self, version: &str, used: impl Into<Billable>) -> String {
        let used = used.into();
        let mut text = format!("{version} {}", self.name);
        let Some(offer) = self.offer_for(&used) else { return text };
        if offer.service != ServiceTier::Standard {
            text = format!("{text} {}", offer.service.as_str());
        }
        let rates = offer.rates_for(used.tokens.input);
        let tokens = used.tokens.apart();
        // Writing to a String cannot fail.
        for kind in Kind::ALL {
            if matches!(kind, Kind::Input | Kind::Output) || tokens.get(kind) > 0 {
                let _ = write!(text, " {}={}", kind.as_str(), rates.get(kind));
            }
        }
        for (unit, count) in used.units_beside(rates) {
            if count > 0 && offer.units.get(unit) > Rate::ZERO {
                let _ = write!(text, " {}={}", unit.as_str(), offer.units.get(unit));
            }
        }
        text
    }

    /// The offer that holds: the last at that time for that tier of service, or for the tier below it.
    fn offer_for(&self, used: &Billable) -> Option<&Offer> {
        let holds = |service| {
            self.offers
                .iter()
                .rev()
                .find(|offer| offer.service == service && offer.when.includes(used.at))
        };
        let mut service = Some(used.service);
        while let Some(tier) = service {
            if let Some(offer) = holds(tier) {
                return Some(offer);
            }
            service = tier.below();
        }
        // Before the first date on record, the first price is the best that is known.
        self.offers.first()
    }
}

/// What an estimate of the input is taken times, to see which tier the request can reach.
const REACH: u64 = 2;
/// Femto-USD in a nano-USD.
const FEMTO_PER_NANO: u128 = 1_000_000;

/// Σ count × rate, in femto-USD.
fn sum(items: impl Iterator<Item = (u64, Rate)>) -> u128 {
    items.fold(0_u128, |sum, (count, rate)| {
        sum.saturating_add(u128::from(count).saturating_mul(u128::from(rate.get())))
    })
}

/// Femto-USD as whole nano-USD.
fn rounded_up(femto_usd: u128) -> NanoUsd {
    NanoUsd::new(i64::try_from(femto_usd.div_ceil(FEMTO_PER_NANO)).unwrap_or(i64::MAX))
}

/// The dearest rates for every tier. A tier that is cheaper than the one below it does not lower the ceiling: nobody knows
/// before how long the input will be.
fn ceilings(offers: &[Offer]) -> Box<[Ceiling]> {
    let mut bounds: Vec<u64> =
        offers.iter().flat_map(|offer| offer.tiers.iter().map(|tier| tier.above)).collect();
    bounds.push(0);
    bounds.sort_unstable();
    bounds.dedup();
    let mut ceiling = Ceiling::default();
    let raised = bounds.into_iter().map(|above| {
        for offer in lasting(offers) {
            ceiling = ceiling.raised(offer.rates_for(above.saturating_add(1)));
        }
        ceiling.above = above;
        ceiling
    });
    raised.collect()
}

/// Without the offers that have been replaced more than once since: the last date may still be to come, the one before it holds
/// until then.
fn lasting(offers: &[Offer]) -> impl Iterator<Item = &Offer> {
    offers
        .iter()
        .enumerate()
        .filter(|(at, offer)| {
            let later = offers.iter().skip(at.saturating_add(1));
            let replaced = later.filter(|later| {
                later.service == offer.service
                    && later.when.since.is_some()
                    && later.when.hours.is_none()
            });
            replaced.count() < 2
        })
        .map(|(_, offer)| offer)
}

impl Ceiling {
    fn raised(self, rates: &Rates) -> Self {
        let dearest = |kinds: &[Kind], floor: Rate| {
            kinds.iter().map(|kind| rates.get(*kind)).fold(floor, Rate::max)
        };
        let input =
            dearest(&[Kind::Input, Kind::Cached, Kind::CacheWrite, Kind::CacheWrite1h], self.input);
        Self {
            input,
            input_media: dearest(
                &[Kind::InputAudio, Kind::CachedAudio, Kind::InputImage],
                self.input_media.max(input),
            ),
            output: dearest(
                &[Kind::Output, Kind::Reasoning, Kind::OutputAudio, Kind::OutputImage],
                self.output,
            ),
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
