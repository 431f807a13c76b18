//! What a whole response is charged: every call in it at its own model's price, or the provider's own bill.

use crate::domain::money::NanoUsd;
use crate::domain::pricing::{
    Billable, ByKind, ByUnit, Found, How, Named, PriceTable, ServiceTier, rounded_up,
};
use crate::domain::time::Wall;
use crate::domain::usage::{Record, Usage};

/// What a response is charged, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// How much.
    pub cost: NanoUsd,
    /// The table's version and the rates, for the audit trail; several calls are separated by `; `.
    pub rates: String,
    /// How sure the prices are: as sure as the least sure.
    pub how: How,
}

/// Stands for rates where the provider itself says what it charges.
const BILLED: &str = "the provider's own bill";

impl PriceTable {
    /// What a response is charged, in one sum that is rounded up once. `None` when a call in it has no price, or one that says
    /// nothing of what was used. Without an instant the price that holds at any hour counts.
    #[must_use]
    pub fn charge(&self, record: &Record, named: &Named<'_>, at: Option<Wall>) -> Option<Charge> {
        if let Some(cost) = record.bill {
            return Some(Charge { cost, rates: BILLED.to_owned(), how: How::Known });
        }
        let service =
            record.service_tier.as_deref().map_or(ServiceTier::Standard, ServiceTier::from_name);
        // What is counted for the whole response is charged with its first call.
        let mut whole = Billable { at, service, ..beside_tokens(record) };
        let (mut sum, mut texts, mut how) = (0_u128, Vec::new(), How::Known);
        for (model, usage) in record.billable() {
            let used = with_tokens(whole, usage);
            let found = self.find_named(&names_of_call(named, record, model))?;
            let Found { price, how: sure } = found;
            if !price.covers(used) {
                return None;
            }
            sum = sum.saturating_add(price.femto_usd(&used));
            texts.push(price.rates_text(self.version(), used));
            how = how.max(sure);
            whole = Billable { at, service, ..Billable::default() };
        }
        Some(Charge { cost: rounded_up(sum), rates: texts.join("; "), how })
    }
}

/// A call of another model than the response's goes by that model's name alone.
fn names_of_call<'a>(named: &Named<'a>, record: &Record, model: Option<&'a str>) -> Named<'a> {
    if model.is_some() && model != record.model.as_deref() {
        return Named { provider: named.provider, response: model, path: None, request: None };
    }
    Named { response: model.or(named.response), ..*named }
}

fn beside_tokens(record: &Record) -> Billable {
    let (media, extras) = (record.media, record.extras);
    let tokens = ByKind {
        input_audio: media.input_audio,
        cached_audio: media.cached_audio,
        input_image: media.input_image,
        output_audio: media.output_audio,
        output_image: media.output_image,
        ..ByKind::default()
    };
    let units = ByUnit {
        request: 1,
        second: extras.seconds,
        image: extras.images,
        search: extras.search_units,
        web_search: extras.web_searches,
        page: extras.pages,
        character: extras.characters,
    };
    Billable { tokens, units, ..Billable::default() }
}

fn with_tokens(whole: Billable, usage: &Usage) -> Billable {
    let Billable { tokens: counted, .. } = Billable::from(usage);
    let tokens = ByKind {
        input: counted.input,
        cached: counted.cached,
        cache_write: counted.cache_write,
        cache_write_1h: counted.cache_write_1h,
        output: counted.output,
        reasoning: counted.reasoning,
        ..whole.tokens
    };
    Billable { tokens, ..whole }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::pricing::{Entries, Entry, ModelPrice, Offer, Rate};
    use crate::domain::usage::{Extras, MediaTokens, Part};

    /// $1 and $10 per million tokens, $40 for sound, a cent for a search; `big-1` ten times the tokens' price.
    fn table() -> PriceTable {
        let dollars = |amount: u64| Rate::per_million(amount * 1_000_000_000);
        let mut small = Offer::flat(ServiceTier::Standard, dollars(1), dollars(10));
        small.rates.input_audio = dollars(40);
        small.units.web_search = Rate::from_usd_per_unit("0.01").unwrap();
        let flex = Offer::flat(ServiceTier::Flex, Rate::per_million(1), Rate::per_million(1));
        let prices = [
            ModelPrice::new("small-1", vec![small, flex]),
            ModelPrice::flat("big-1", dollars(10), dollars(100)),
            ModelPrice::new(
                "draw-1",
                vec![Offer {
                    units: ByUnit { image: dollars(40_000), ..ByUnit::default() },
                    ..Offer::default()
                }],
            ),
        ];
        let entry = |price: ModelPrice| (price.name.clone(), Entry::Priced(Arc::new(price)));
        PriceTable::new("t-1", prices.into_iter().map(entry).collect::<Entries>())
    }

    fn tokens(input: u64, output: u64) -> Usage {
        Usage { input, output, ..Usage::default() }
    }

    fn record(model: &str) -> Record {
        Record { model: Some(model.into()), usage: tokens(1_000, 100), ..Record::default() }
    }

    fn cost(record: &Record, request: Option<&str>) -> Option<String> {
        let named = Named { request, ..Named::default() };
        table().charge(record, &named, None).map(|charge| charge.cost.to_string())
    }

    #[test]
    fn a_response_is_charged_at_its_models_price() {
        let small = record("small-1");
        let check = |record: Record, expected: &str| {
            assert_eq!(cost(&record, None).as_deref(), Some(expected), "{record:?}");
        };
        check(small.clone(), "0.002");
        check(Record { bill: Some(NanoUsd::new(7)), ..small.clone() }, "0.000000007");
        check(Record { service_tier: Some("flex".into()), ..small.clone() }, "0.000000001");
        let extras = Extras { web_searches: 2, ..Extras::default() };
        check(Record { extras, ..small.clone() }, "0.022");
        let media = MediaTokens { input_audio: 100, ..MediaTokens::default() };
        check(Record { media, ..small.clone() }, "0.0059");
        assert_eq!(cost(&record("nobody"), Some("small-1")).as_deref(), Some("0.002"));
        assert_eq!(cost(&record("nobody"), None), None);
    }

    #[test]
    fn every_call_in_it_is_charged_at_its_own_models_price_and_searches_once() {
        let part =
            |model: Option<&str>| Part { model: model.map(Into::into), usage: tokens(1_000, 100) };
        let extras = Extras { web_searches: 1, ..Extras::default() };
        let parts = vec![part(None), part(Some("big-1")), part(None)];
        let advised = Record { parts, extras, ..record("small-1") };
        assert_eq!(cost(&advised, Some("small-1")).as_deref(), Some("0.034"));
        let charge = table().charge(&advised, &Named::default(), None).unwrap();
        assert_eq!(charge.rates.matches("; ").count(), 2, "{}", charge.rates);
        let parts = vec![part(None), part(Some("nobody"))];
        assert_eq!(cost(&Record { parts, ..record("small-1") }, Some("small-1")), None);
    }

    #[test]
    fn what_a_price_says_nothing_of_is_not_given_away() {
        assert_eq!(cost(&record("draw-1"), None), None);
        let extras = Extras { images: 2, ..Extras::default() };
        let drawn = Record { extras, usage: Usage::default(), ..record("draw-1") };
        assert_eq!(cost(&drawn, None).as_deref(), Some("0.08"));
    }
}
