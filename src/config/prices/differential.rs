//! Compares prices with the `genai-prices` crate, which reads the same catalog by code of its own and calculates in floating
//! point: once over the whole catalog, once over the models that both tables price equally.

use std::time::{Duration, UNIX_EPOCH};

use genai_prices::{Calculator, PriceRequest, Usage};
use serde_json::{Value, json};

use super::*;
use crate::domain::money::NanoUsd;
use crate::domain::pricing::{
    Billable, ByKind, ByUnit, Catalog, ModelPrice, Offer, ServiceTier, When,
};
use crate::domain::time::Wall;

/// Friday 2026-11-20, at midnight and in the hours in which some are dearer, and a day of 2025 for earlier prices.
const INSTANTS: [u64; 4] = [1_795_132_800, 1_795_140_000, 1_795_165_200, 1_750_000_000];
/// Input, cached, cache write, of it for an hour, output, reasoning; below and above all tiers, and at a bound.
const COUNTS: [[u64; 6]; 5] = [
    [1, 0, 0, 0, 1, 0],
    [1_234, 0, 0, 0, 567, 89],
    [98_765, 43_210, 12_345, 2_345, 6_789, 1_234],
    [200_000, 100_000, 0, 0, 1_000, 0],
    [1_234_567, 345_678, 234_567, 123_456, 65_432, 12_345],
];

#[test]
fn the_catalog_costs_what_its_own_crate_calculates() {
    let oracle = Oracle::of(CATALOG);
    let catalog = catalog::read(CATALOG).unwrap();
    let published: Value = serde_json::from_str(CATALOG).unwrap();
    let (mut compared, mut models) = (0, 0);
    for provider in published.as_array().unwrap() {
        let id = provider["id"].as_str().unwrap();
        for name in provider["models"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|model| literal(&model["match"]))
        {
            let Some(Entry::Priced(price)) = catalog.find(Some(id), &name) else { continue };
            models += 1;
            for (used, at) in usages() {
                compared += oracle.agrees(id, &name, price, used, at);
            }
        }
    }
    println!("{compared} costs of {models} models of the catalog compared");
    assert!(models > 1_900 && compared > 30_000, "{models} models, {compared} costs");
}

#[test]
fn where_both_tables_have_the_same_rates_responses_cost_the_same() {
    let oracle = Oracle::of(CATALOG);
    let catalog = catalog::read(CATALOG).unwrap();
    let table = shipped();
    let (mut compared, mut equal, mut other) = (0, 0, 0);
    for name in table.names() {
        let Some(Entry::Priced(ours)) = table.entry(name) else { continue };
        let Some((provider, bare, theirs)) = in_catalog(&catalog, name) else { continue };
        if !same_rates(ours, theirs) {
            other += 1;
            continue;
        }
        equal += 1;
        for (used, at) in usages() {
            // The catalog leaves out the searches of many models.
            let used = Billable { units: ByUnit::default(), ..used };
            compared += oracle.agrees(provider, bare, ours, used, at);
        }
    }
    println!(
        "{compared} costs of {equal} models compared; {other} are priced differently by the two tables"
    );
    assert!(equal > 300 && compared > 5_000, "{equal} models, {compared} costs");
}

fn usages() -> impl Iterator<Item = (Billable, u64)> {
    INSTANTS.into_iter().flat_map(|at| {
        COUNTS.into_iter().map(move |[input, cached, cache_write, hour, output, reasoning]| {
            let tokens = ByKind {
                input,
                cached,
                cache_write,
                cache_write_1h: hour,
                output,
                reasoning,
                ..ByKind::default()
            };
            let at_ms = i64::try_from(at).unwrap() * 1_000;
            let used = Billable {
                tokens,
                units: ByUnit { web_search: input % 7, ..ByUnit::default() },
                at: Some(Wall::from_ms(at_ms)),
                ..Billable::default()
            };
            (used, at)
        })
    })
}

/// The crate, with the catalog that ships.
struct Oracle(Calculator);

impl Oracle {
    fn of(catalog: &str) -> Self {
        let mut providers: Value = serde_json::from_str(catalog).unwrap();
        for provider in providers.as_array_mut().unwrap() {
            provider["name"] = provider["id"].clone();
            provider["api_pattern"] = json!("x");
            as_published(provider);
        }
        Self(Calculator::from_json(providers.to_string()).unwrap())
    }

    /// Asserts that both come to the same cost, within what a floating point number and the last nano-dollar can differ. Returns
    /// how many costs were compared: none where the crate refuses, as it does with counts that its units cannot express.
    fn agrees(
        &self,
        provider: &str,
        name: &str,
        price: &ModelPrice,
        used: Billable,
        at: u64,
    ) -> u64 {
        let tokens = used.tokens;
        let usage: Usage = [
            ("input_tokens", tokens.input),
            ("cache_read_tokens", tokens.cached),
            ("cache_write_tokens", tokens.cache_write),
            ("cache_write_1h_tokens", tokens.cache_write_1h),
            ("output_tokens", tokens.output),
            ("output_reasoning_tokens", tokens.reasoning),
            ("web_searches", used.units.web_search),
        ]
        .map(|(key, count)| (key, f64::from(u32::try_from(count).unwrap())))
        .into_iter()
        .collect();
        let request = PriceRequest::new(name, &usage)
            .with_provider_id(provider)
            .with_timestamp(UNIX_EPOCH + Duration::from_secs(at));
        let Ok(theirs) = self.0.calculate(&request) else { return 0 };
        let theirs = theirs.total_price * 1e9;
        let ours = nano(price.cost_of(used));
        let noise = 1.0 + theirs * 1e-9;
        assert!(
            (ours - theirs).abs() <= noise,
            "{name} at {provider} ({}): {ours} here, {theirs} there, of {used:?}",
            price.name
        );
        1
    }
}

fn nano(cost: NanoUsd) -> f64 {
    // Exact: no cost here comes near 2^53 nano-dollars.
    f64::from(u32::try_from(cost.get() >> 32).unwrap()) * 4_294_967_296.0
        + f64::from(u32::try_from(cost.get() & 0xffff_ffff).unwrap())
}

/// Turns what `scripts/update-prices` writes back into the format that the crate reads.
fn as_published(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(as_published),
        Value::Object(members) => {
            if let Some(pattern) = members.remove("like") {
                members.insert("regex".to_owned(), json!(regex_of(pattern.as_str().unwrap())));
            }
            if let Some(Value::Object(rule)) = members.remove("not") {
                let excluded = if rule.contains_key("or") { ".*-tts(?:$|-)" } else { ".*/" };
                members.insert("regex".to_owned(), json!(format!("^(?!{excluded})")));
            }
            if let Some(service) = members.remove("service") {
                members.insert("when".to_owned(), json!({ "service_tier": service }));
            }
            // The crate insists on a price for images from the cache, which here cost what all input from there does.
            if let (true, Some(cached)) =
                (members.contains_key("input_image_mtok"), members.get("cache_read_mtok"))
            {
                let cached = cached.clone();
                members.insert("cache_image_read_mtok".to_owned(), cached);
            }
            members.values_mut().for_each(as_published);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn regex_of(pattern: &str) -> String {
    let text = pattern.trim_end_matches('*');
    let escaped =
        text.replace('.', r"\.").replace('[', r"\[").replace(']', r"\]").replace('#', r"\d");
    format!("^{escaped}{}", if text.len() == pattern.len() { "$" } else { "" })
}

/// A name that a rule holds for, if it names one.
fn literal(rule: &Value) -> Option<String> {
    let own = rule["equals"].as_str().or(rule["starts_with"].as_str());
    own.map(str::to_lowercase)
        .or_else(|| rule["or"].as_array()?.iter().find_map(literal))
        .or_else(|| rule["and"].as_array()?.iter().find_map(literal))
}

/// The provider and the name under which the catalog knows an entry of the table.
fn in_catalog<'a>(
    catalog: &'a Catalog,
    name: &'a str,
) -> Option<(&'a str, &'a str, &'a ModelPrice)> {
    let (provider, bare) = match name.split_once('/') {
        Some((provider, bare)) => (Some(provider), bare),
        None => (None, name),
    };
    if bare.contains('/') || name != name.to_lowercase() {
        return None;
    }
    let Some(Entry::Priced(price)) = catalog.find(provider, bare) else { return None };
    let (owner, _) = price.name.split_once(':')?;
    let provider = catalog.providers.iter().find(|provider| *provider.id == *owner)?;
    Some((&provider.id, bare, price))
}

/// Whether both price tokens alike, at any time. What the catalog prices at certain times only, it prices differently.
fn same_rates(ours: &ModelPrice, theirs: &ModelPrice) -> bool {
    let standard = |price: &ModelPrice| -> Vec<Offer> {
        price
            .offers()
            .iter()
            .filter(|offer| offer.service == ServiceTier::Standard)
            .cloned()
            .collect()
    };
    let ([ours], [theirs]) = (&*standard(ours), &*standard(theirs)) else { return false };
    theirs.when == When::default()
        && ours.rates == theirs.rates
        && ours.tiers == theirs.tiers
        && ours.units.request == theirs.units.request
}
