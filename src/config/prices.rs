//! Reads price tables in LiteLLM's format: the one that ships, and the operator's own entries on top.
//!
//! An entry is an object of prices in USD per token, a string (another entry's name whose price it shares), or
//! null (the model is known and has no price). Numbers are taken from their decimal text. A price of zero is one that nobody
//! entered, so a model that costs nothing says `"free": true`.

mod entry;

use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use crate::domain::json;
use crate::domain::pricing::{Entries, Entry, PriceTable};

/// The table that ships, cut from LiteLLM's by `scripts/update-prices`.
const SHIPPED: &str = include_str!("../../pricing/litellm.json");
/// The release that it was cut from.
const SHIPPED_VERSION: &str = include_str!("../../pricing/VERSION");

/// What is wrong with one value of a price table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands, such as `gpt-4o.input_cost_per_token`; empty for the text as a whole.
    pub path: String,
    /// What is wrong, and what is accepted.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.path, self.problem)
    }
}

/// The table that ships. A test makes sure that it has no faults.
#[must_use]
pub fn shipped() -> PriceTable {
    let (entries, _) = read(SHIPPED, &PriceTable::new("", Entries::new()));
    PriceTable::new(SHIPPED_VERSION.trim(), entries)
}

/// The same table below the operator's own entries, which replace those of the same name as a whole.
///
/// # Errors
/// Every fault of the text at once.
pub fn with_overrides(table: PriceTable, text: &str) -> Result<PriceTable, Vec<Fault>> {
    let (entries, faults) = read(text, &table);
    if !faults.is_empty() {
        return Err(faults);
    }
    let version = format!("{}+{:08x}", table.version(), crc32fast::hash(text.as_bytes()));
    Ok(table.with_operator(&version, entries))
}

/// Entries of LiteLLM's table that explain its format or steer LiteLLM itself.
const NOTES: [&str; 2] = ["sample_spec", "fallback_generalizations"];

/// The entries of a text, with aliases resolved among them and then in the table below.
fn read(text: &str, below: &PriceTable) -> (Entries, Vec<Fault>) {
    let mut entries = Entries::new();
    let mut aliases = HashMap::new();
    let mut faults = Vec::new();
    if let Err(fault) = check_syntax(text) {
        return (entries, vec![fault]);
    }
    for (name, value) in json::members(text.as_bytes()) {
        let name = name.decoded().unwrap_or_default().into_owned();
        if entries.contains_key(&*name) || aliases.contains_key(&name) {
            faults.push(Fault { path: name, problem: "is there twice".to_owned() });
        } else if let Some(target) = value.as_str() {
            aliases.insert(name, target.into_owned());
        } else if !NOTES.contains(&&*name) {
            match entry::read(&name, value) {
                Ok(entry) => drop(entries.insert(name.into(), entry)),
                Err(found) => faults.extend(found),
            }
        }
    }
    let mut resolved = Vec::with_capacity(aliases.len());
    for (name, target) in aliases {
        match entries.get(&*target).or_else(|| below.entry(&target)) {
            Some(entry @ Entry::Priced(_)) => resolved.push((name.into(), entry.clone())),
            Some(Entry::Unpriced) | None => {
                let problem = format!("is an alias of {target:?}, which is no entry with a price");
                faults.push(Fault { path: name, problem });
            }
        }
    }
    entries.extend(resolved);
    faults.sort_by(|a, b| a.path.cmp(&b.path));
    (entries, faults)
}

/// What is walked must be JSON, and an object.
fn check_syntax(text: &str) -> Result<(), Fault> {
    let fault = |problem: String| Fault { path: String::new(), problem };
    let value: &RawValue =
        serde_json::from_str(text).map_err(|e| fault(format!("is no JSON: {e}")))?;
    if value.get().starts_with('{') {
        Ok(())
    } else {
        Err(fault("is no object of model names and their prices".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::{ModelPrice, Rates, Tier};
    use crate::domain::usage::Usage;

    fn overridden(text: &str) -> PriceTable {
        with_overrides(shipped(), text).unwrap()
    }

    fn faults(text: &str) -> Vec<String> {
        with_overrides(shipped(), text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_table_that_ships_has_no_faults_and_thousands_of_prices() {
        let (entries, faults) = read(SHIPPED, &PriceTable::new("", Entries::new()));
        assert_eq!(faults.first(), None);
        let priced = entries.values().filter(|entry| matches!(entry, Entry::Priced(_))).count();
        assert!(priced > 3_000, "{priced}");
        assert!(shipped().version().starts_with("litellm-"));
    }

    #[test]
    fn the_tables_biggest_models_have_the_prices_that_were_published() {
        let table = shipped();
        let cost = |model: &str, input, output| {
            table
                .lookup(None, model)
                .map(|p| p.cost_of(&Usage { input, output, ..Usage::default() }).to_string())
        };
        assert_eq!(cost("gpt-4o", 1_000_000, 1_000_000).as_deref(), Some("12.5"));
        assert_eq!(cost("gpt-4o", 1, 0).as_deref(), Some("0.0000025"));
        assert_eq!(cost("claude-sonnet-4-5", 1_000, 1_000).as_deref(), Some("0.018"));
        assert_eq!(cost("gemini-2.5-pro", 200_000, 0).as_deref(), Some("0.25"));
        assert_eq!(cost("gemini-2.5-pro", 200_001, 0).as_deref(), Some("0.5000025"));
        assert_eq!(cost("text-embedding-3-small", 5, 0).as_deref(), Some("0.0000001"));
        assert_eq!(cost("gpt-4o-transcribe", 5, 0), None);
    }

    #[test]
    fn every_kind_of_rate_is_read() {
        let table = overridden(
            r#"{"m-1": {"input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "cache_read_input_token_cost": 5e-07,
                "cache_creation_input_token_cost": 2.5e-06, "cache_creation_input_token_cost_above_1hr": 4e-06,
                "input_cost_per_token_above_200k_tokens": 3e-06, "output_cost_per_token_above_200k_tokens": 9e-06,
                "input_cost_per_token_priority": 3.5e-06, "output_cost_per_token_flex": 1e-06,
                "output_cost_per_reasoning_token": 1e-05, "max_output_tokens": 100, "max_input_tokens": 1000.0}}"#,
        );
        let price: &ModelPrice = table.lookup(None, "m-1").unwrap();
        let rate = crate::domain::pricing::Rate::per_million;
        let rates = Rates {
            input: rate(2_000_000_000),
            cached: rate(500_000_000),
            cache_write: rate(2_500_000_000),
            output: rate(8_000_000_000),
            reasoning: rate(10_000_000_000),
        };
        assert_eq!(price.rates, rates);
        let above = Rates { input: rate(3_000_000_000), output: rate(9_000_000_000), ..rates };
        assert_eq!(*price.tiers, [Tier { above: 200_000, rates: above }]);
        assert_eq!(
            (price.dearest.input, price.dearest.output),
            (rate(4_000_000_000), rate(10_000_000_000))
        );
        assert_eq!((price.max_input_tokens, price.max_output_tokens), (Some(1000), Some(100)));
    }

    #[test]
    fn ranges_of_input_are_tiers() {
        let table = shipped();
        let price = table.lookup(Some("dashscope"), "qwen-flash").unwrap();
        assert_eq!(price.rates_for(256_000).input.get(), 50_000_000);
        assert_eq!(price.rates_for(256_001).input.get(), 250_000_000);
        assert_eq!(price.dearest.output.get(), 2_000_000_000);
    }

    #[test]
    fn a_model_is_free_only_when_the_entry_says_so() {
        let table = overridden(
            r#"{"llama-9": {"free": true},
                "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0}, "o1": null}"#,
        );
        assert_eq!(table.lookup(None, "llama-9").map(|p| p.rates), Some(Rates::default()));
        assert_eq!(table.lookup(None, "gpt-4o"), None);
        assert_eq!(table.lookup(None, "o1"), None);
    }

    #[test]
    fn an_alias_shares_the_price_of_its_target() {
        let table =
            overridden(r#"{"prod-chat": "azure/gpt-4o", "mine": {"free": true}, "ours": "mine"}"#);
        assert_eq!(
            table.lookup(Some("azure"), "prod-chat").map(|p| &*p.name),
            Some("azure/gpt-4o")
        );
        assert_eq!(table.lookup(None, "ours").map(|p| &*p.name), Some("mine"));
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_path() {
        let text = r#"{
            "a": {"input_cost_per_token": -1e-06, "output_cost_per_token": "1e-06", "max_output_tokens": 1.5},
            "b": "no-such-model", "c": 7, "d": {}, "d": {"free": true}, "e": {"input_cost_per_token": 2.5, "output_cost_per_token": 1e-6},
            "f": {"input_cost_per_token": 1e-6}, "g": {"free": "yes"}, "h": {"tiered_pricing": [{"range": ["x", 2], "input_cost_per_token": 1e-6}]}}"#;
        let expected = [
            "a.input_cost_per_token: is negative",
            "a.max_output_tokens: is not a whole number of tokens",
            "a.output_cost_per_token: is not a decimal number of USD per token, such as 0.0000025 or 2.5e-06",
            "b: is an alias of \"no-such-model\", which is no entry with a price",
            "c: is neither an object of prices, nor the name of another entry, nor null",
            "d.input_cost_per_token: is missing or zero; a model that costs nothing has \"free\": true",
            "e.input_cost_per_token: is above 1 USD per token; rates are per single token",
            "f.output_cost_per_token: is missing or zero; a model without output has \"mode\": \"embedding\"",
            "g.free: is neither true nor false",
            "h.tiered_pricing[0].range: does not begin with a whole number of tokens",
        ];
        assert_eq!(faults(text), expected);
        assert_eq!(faults(r#"{"d": {"free": true}, "d": {"free": true}}"#), ["d: is there twice"]);
        assert_eq!(faults("[]"), ["is no object of model names and their prices"]);
        assert!(faults("{").first().is_some_and(|fault| fault.starts_with("is no JSON: EOF")));
    }

    #[test]
    fn a_changed_override_is_another_version() {
        let version = |text: &str| overridden(text).version().to_owned();
        assert_ne!(version(r#"{"a": {"free": true}}"#), version(r#"{"b": {"free": true}}"#));
    }

    /// Recorded responses with the costs that LiteLLM's own table gives, kept outside of this repository.
    const FIXTURES: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/usage/index.json");

    #[test]
    fn recorded_responses_cost_what_the_published_table_says() {
        let Ok(text) = std::fs::read_to_string(FIXTURES) else { return };
        let index: serde_json::Value = serde_json::from_str(&text).unwrap();
        let table = shipped();
        let mut compared = 0;
        for case in index["cases"].as_array().unwrap() {
            let oracles = case["cost_oracles"].as_object().into_iter().flatten();
            let exact = oracles.filter_map(|(by, cost)| {
                Some((by.strip_prefix("litellm-1.106.2 json exact [")?, cost))
            });
            for (name, cost) in exact {
                let name = name.trim_end_matches(']');
                let count = |field: &str| case["expected"][field].as_u64().unwrap();
                let usage = Usage {
                    input: count("input_tokens"),
                    cached: count("cached_input_tokens"),
                    cache_write: count("cache_write_tokens"),
                    output: count("output_tokens"),
                    reasoning: count("reasoning_tokens"),
                    ..Usage::default()
                };
                let provider = case["provider"].as_str();
                let names = [&case["model_response"], &case["model_request"]];
                let found = names.iter().find_map(|name| table.lookup(provider, name.as_str()?));
                assert_eq!(found.map(|price| &*price.name), Some(name), "{}", case["id"]);
                let found = found.map(|price| price.cost_of(&usage).to_string());
                assert_eq!(found.as_deref(), cost.as_str(), "{}", case["id"]);
                compared += 1;
            }
        }
        assert!(compared >= 40, "{compared}");
    }
}
