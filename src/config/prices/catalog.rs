//! Reads the catalog that ships: genai-prices' providers and models as `scripts/update-prices` cuts them.

use std::sync::Arc;

use super::sheet::{Sheet, over};
use crate::domain::json::{self, Raw};
use crate::domain::pricing::{
    ByUnit, Catalog, CatalogModel, CatalogProvider, Clause, Entry, Hours, Kind, ModelPrice, Offer,
    Rate, RateError, ServiceTier, Unit, When,
};
use crate::domain::time::Wall;

/// Reads the whole catalog. Only what ships is read, and a test makes sure that all of it is understood.
///
/// # Errors
/// The first thing that is not understood, with its place.
pub(super) fn read(text: &str) -> Result<Catalog, String> {
    let providers = json::elements(text.as_bytes()).map(provider).collect::<Result<_, _>>()?;
    Ok(Catalog { providers })
}

fn provider(value: Raw<'_>) -> Result<CatalogProvider, String> {
    let id = text(value, "id").ok_or("a provider has no id")?;
    let within = |problem: String| format!("{id}: {problem}");
    let matching = |name| member(value, name).map(clause).transpose().map_err(within);
    let models = elements(value, "models").map(|value| model(&id, value)).collect::<Result<_, _>>();
    Ok(CatalogProvider {
        matches: matching("provider_match")?,
        model_matches: matching("model_match")?,
        fallbacks: elements(value, "fallback_model_providers")
            .filter_map(|id| Some(id.as_str()?.into()))
            .collect(),
        models: models.map_err(within)?,
        id: id.into(),
    })
}

fn model(provider: &str, value: Raw<'_>) -> Result<CatalogModel, String> {
    let id = text(value, "id").ok_or("a model has no id")?;
    let within = |problem: String| format!("{id}: {problem}");
    let matches = member(value, "match").ok_or("has no match".to_owned()).and_then(clause);
    let mut price = ModelPrice::new(&format!("{provider}:{id}"), offers(value).map_err(within)?);
    price.max_input_tokens = member(value, "context_window").and_then(Raw::as_u64);
    // Here too a model without any price is one whose price nobody entered.
    let entry = if price.is_free() { Entry::Unpriced } else { Entry::Priced(Arc::new(price)) };
    Ok(CatalogModel { matches: matches.map_err(within)?, entry })
}

/// The standard prices, each from its time on, then those for other ways to be served.
fn offers(model: Raw<'_>) -> Result<Vec<Offer>, String> {
    let prices = member(model, "prices").ok_or("has no prices")?;
    let mut last = Card::default();
    let mut offers = Vec::new();
    if prices.bytes().starts_with(b"{") {
        last = Card::read(prices)?;
        offers.push(last.offer(ServiceTier::Standard, When::default()));
    }
    for conditional in json::elements(prices.bytes()) {
        last = Card::read(member(conditional, "prices").ok_or("has a condition without prices")?)?;
        offers.push(last.offer(ServiceTier::Standard, when(conditional)?));
    }
    for variant in elements(model, "price_variants") {
        let name = text(variant, "service").unwrap_or_default();
        let prices = member(variant, "prices").ok_or("has a variant without prices")?;
        let card = Card::read(prices)?.over(&last);
        offers.push(card.offer(ServiceTier::from_name(&name), when(variant)?));
    }
    Ok(offers)
}

/// One set of prices.
#[derive(Default)]
struct Card {
    sheet: Sheet,
    units: ByUnit<Rate>,
}

impl Card {
    fn read(prices: Raw<'_>) -> Result<Self, String> {
        let mut card = Self::default();
        for (key, value) in json::members(prices.bytes()) {
            let key = key.decoded().unwrap_or_default();
            card.price(&key, value).map_err(|problem| format!("{key} {problem}"))?;
        }
        // Kinds may have different tiers: where one has none of its own, its price is the one of the tier below.
        let mut below = card.sheet.base;
        for tier in card.sheet.tiers.values_mut() {
            below = over(tier, &below);
            *tier = below;
        }
        Ok(card)
    }

    fn price(&mut self, key: &str, value: Raw<'_>) -> Result<(), String> {
        let rate = |value: Raw<'_>, read: fn(&str) -> Result<Rate, RateError>| {
            read(value.scalar().unwrap_or_default()).map_err(|error| error.to_string())
        };
        if let Some((_, unit, read)) = UNITS.into_iter().find(|(known, ..)| *known == key) {
            *self.units.slot(unit) = rate(value, read)?;
            return Ok(());
        }
        let Some((_, kind)) = TOKENS.into_iter().find(|(known, _)| *known == key) else {
            return Err("is a price of nothing that is known".to_owned());
        };
        let per_million = |value| rate(value, Rate::from_usd_per_million).map(Some);
        if !value.bytes().starts_with(b"{") {
            *self.sheet.base.slot(kind) = per_million(value)?;
            return Ok(());
        }
        *self.sheet.base.slot(kind) = per_million(member(value, "base").ok_or("has no base")?)?;
        for tier in elements(value, "tiers") {
            let start =
                member(tier, "start").and_then(Raw::as_u64).ok_or("has a tier without a start")?;
            let price = member(tier, "price").ok_or("has a tier without a price")?;
            *self.sheet.above(start).slot(kind) = per_million(price)?;
        }
        Ok(())
    }

    /// These prices where there are any, otherwise those.
    fn over(self, standard: &Self) -> Self {
        let mut sheet = Sheet { base: over(&self.sheet.base, &standard.sheet.base), ..self.sheet };
        for (above, usual) in &standard.sheet.tiers {
            let own = sheet.tiers.get(above).copied().unwrap_or(self.sheet.base);
            sheet.tiers.insert(*above, over(&own, usual));
        }
        let mut units = standard.units;
        for unit in Unit::ALL {
            if self.units.get(unit) > Rate::ZERO {
                *units.slot(unit) = self.units.get(unit);
            }
        }
        Self { sheet, units }
    }

    fn offer(&self, service: ServiceTier, when: When) -> Offer {
        self.sheet.offer(service, when, &Sheet::default(), self.units)
    }
}

const TOKENS: [(&str, Kind); 11] = [
    ("input_mtok", Kind::Input),
    ("cache_read_mtok", Kind::Cached),
    ("cache_write_mtok", Kind::CacheWrite),
    ("cache_write_1h_mtok", Kind::CacheWrite1h),
    ("input_audio_mtok", Kind::InputAudio),
    ("cache_audio_read_mtok", Kind::CachedAudio),
    ("input_image_mtok", Kind::InputImage),
    ("output_mtok", Kind::Output),
    ("output_reasoning_mtok", Kind::Reasoning),
    ("output_audio_mtok", Kind::OutputAudio),
    ("output_image_mtok", Kind::OutputImage),
];

/// How a price of units is read.
type Read = fn(&str) -> Result<Rate, RateError>;

const UNITS: [(&str, Unit, Read); 6] = [
    ("audio_hours", Unit::Second, Rate::from_usd_per_hour),
    ("input_audio_hours", Unit::Second, Rate::from_usd_per_hour),
    ("input_document_kpages", Unit::Page, Rate::from_usd_per_thousand),
    ("input_mchars", Unit::Character, Rate::from_usd_per_million),
    ("requests_kcount", Unit::Request, Rate::from_usd_per_thousand),
    ("web_searches_kcount", Unit::WebSearch, Rate::from_usd_per_thousand),
];

/// `{"equals": …}` and the like. Names are compared in lower case.
fn clause(value: Raw<'_>) -> Result<Clause, String> {
    let mut members = json::members(value.bytes());
    let Some((key, value)) = members.next() else {
        return Err(format!("has the empty rule {value:?}"));
    };
    let key = key.decoded().unwrap_or_default();
    let text = || value.as_str().unwrap_or_default().to_lowercase().into_boxed_str();
    let clauses = || json::elements(value.bytes()).map(clause).collect::<Result<Vec<_>, _>>();
    Ok(match &*key {
        "equals" => Clause::Equals(text()),
        "starts_with" => Clause::StartsWith(text()),
        "ends_with" => Clause::EndsWith(text()),
        "contains" => Clause::Contains(text()),
        "like" => Clause::Like(text()),
        "or" => Clause::Or(clauses()?),
        "and" => Clause::And(clauses()?),
        "not" => Clause::Not(Box::new(clause(value)?)),
        _ => return Err(format!("has a rule {key:?} that is not known")),
    })
}

/// `{"start_date": "2026-01-01"}` or `{"start_time": "01:00:00Z", "end_time": "04:00:00Z"}`, in UTC.
fn when(value: Raw<'_>) -> Result<When, String> {
    let Some(constraint) = member(value, "constraint") else { return Ok(When::default()) };
    if let Some(date) = text(constraint, "start_date") {
        let midnight = date
            .parse::<jiff::civil::Date>()
            .ok()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
        let since = midnight.ok_or_else(|| format!("has the start {date:?}"))?;
        let since = Some(Wall::from_ms(since.timestamp().as_millisecond()));
        return Ok(When { since, hours: None });
    }
    let second = |name| {
        let time = text(constraint, name)?.strip_suffix('Z')?.parse::<jiff::civil::Time>().ok()?;
        u32::try_from(i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60).ok()
    };
    let hours = second("start_time").zip(second("end_time"));
    let (from, until) = hours.ok_or("has a condition that is not known")?;
    Ok(When { since: None, hours: Some(Hours { from, until, days: Hours::EVERY_DAY }) })
}

fn member<'a>(value: Raw<'a>, name: &str) -> Option<Raw<'a>> {
    match json::find(value.bytes(), &[name]) {
        json::Found::Value(value) => Some(value),
        json::Found::Absent | json::Found::Cut | json::Found::Malformed => None,
    }
}

fn text(value: Raw<'_>, name: &str) -> Option<String> {
    Some(member(value, name)?.as_str()?.into_owned())
}

fn elements<'a>(value: Raw<'a>, name: &str) -> impl Iterator<Item = Raw<'a>> + use<'a> {
    member(value, name).into_iter().flat_map(|array| json::elements(array.bytes()))
}
