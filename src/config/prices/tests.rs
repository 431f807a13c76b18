//! Tests of the price tables: what ships, what an operator writes, and recorded responses.

use std::sync::LazyLock;

use super::*;
use crate::domain::pricing::{
    Billable, ByUnit, Extent, Named, Rate, Rates, Reasons, ServiceTier, Tier,
};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;

/// The table that ships, read once for all tests.
fn table() -> PriceTable {
    static TABLE: LazyLock<PriceTable> = LazyLock::new(shipped);
    TABLE.clone()
}

fn overridden(text: &str) -> PriceTable {
    with_overrides(table(), text).unwrap()
}

fn faults(text: &str) -> Vec<String> {
    with_overrides(table(), text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_table_that_ships_has_no_faults_and_thousands_of_prices() {
    let (entries, faults) = read(SHIPPED, &PriceTable::new("", Entries::new()));
    assert_eq!(faults.first(), None);
    let priced = entries.values().filter(|entry| matches!(entry, Entry::Priced(_))).count();
    assert!(priced > 3_600, "{priced}");
    assert!(table().version().starts_with("litellm-"));
    let catalog = catalog::read(CATALOG).unwrap();
    let models: usize = catalog.providers.iter().map(|provider| provider.models.len()).sum();
    assert!(models > 2_200, "{models}");
}

#[test]
fn the_tables_biggest_models_have_the_prices_that_were_published() {
    let table = table();
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
    assert_eq!(cost("gpt-4o-transcribe", 5, 0).as_deref(), Some("0.0000125"));
    assert_eq!(cost("openai/sora-2", 5, 0), None);
}

#[test]
fn the_table_tells_which_models_reason() {
    let table = overridden(
        r#"{"mine": {"input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "supports_reasoning": true}}"#,
    );
    let reasons = |model| table.lookup(None, model).map(|price| price.reasons);
    for model in ["o3", "gpt-5-mini", "gemini-2.5-pro", "deepseek-reasoner", "mine"] {
        assert_eq!(reasons(model), Some(Reasons::ByItself), "{model}");
    }
    assert_eq!(reasons("claude-sonnet-4-5"), Some(Reasons::WhenAsked));
    assert_eq!(reasons("gpt-4o"), Some(Reasons::Never));
    let text = r#"{"mine": {"input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "supports_reasoning": "yes"}}"#;
    assert_eq!(faults(text), ["mine.supports_reasoning: is neither true nor false"]);
}

#[test]
fn every_kind_of_rate_is_read() {
    let table = overridden(
        r#"{"m-1": {"input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "cache_read_input_token_cost": 5e-07,
            "cache_creation_input_token_cost": 2.5e-06, "cache_creation_input_token_cost_above_1hr": 4e-06,
            "input_cost_per_token_above_200k_tokens": 3e-06, "output_cost_per_token_above_200k_tokens": 9e-06,
            "input_cost_per_token_priority": 3.5e-06, "output_cost_per_token_flex": 1e-06,
            "input_cost_per_audio_token": 4.5e-05, "input_cost_per_request": 0.005,
            "search_context_cost_per_query": {"search_context_size_low": 1, "search_context_size_medium": 0.01},
            "output_cost_per_reasoning_token": 1e-05, "max_output_tokens": 100, "max_input_tokens": 1000.0}}"#,
    );
    let price = table.lookup(None, "m-1").unwrap();
    let rate = Rate::per_million;
    let rates = Rates {
        cached: rate(500_000_000),
        cache_write: rate(2_500_000_000),
        cache_write_1h: rate(4_000_000_000),
        input_audio: rate(45_000_000_000),
        cached_audio: rate(45_000_000_000),
        reasoning: rate(10_000_000_000),
        ..Rates::flat(rate(2_000_000_000), rate(8_000_000_000))
    };
    let [standard, priority, flex] = price.offers() else { panic!("{:?}", price.offers()) };
    assert_eq!(standard.rates, rates);
    let above = Rates {
        input: rate(3_000_000_000),
        input_image: rate(3_000_000_000),
        output: rate(9_000_000_000),
        output_audio: rate(9_000_000_000),
        output_image: rate(9_000_000_000),
        ..rates
    };
    assert_eq!(*standard.tiers, [Tier { above: 200_000, rates: above }]);
    assert_eq!(
        (standard.units.request, standard.units.web_search),
        (Rate::from_usd_per_unit("0.005").unwrap(), Rate::from_usd_per_unit("0.01").unwrap())
    );
    assert_eq!(
        (priority.service, priority.rates.input.get()),
        (ServiceTier::Priority, 3_500_000_000)
    );
    assert_eq!((priority.rates.output, priority.rates.cached), (rates.output, rates.cached));
    assert_eq!((flex.service, flex.rates.output.get()), (ServiceTier::Flex, 1_000_000_000));
    assert_eq!((price.max_input_tokens, price.max_output_tokens), (Some(1000), Some(100)));
    let most = price.cost_at_most(&Extent { input: 1_000, output: 1_000, ..Extent::default() });
    assert_eq!(most.to_string(), "0.019");
}

#[test]
fn ranges_of_input_are_tiers() {
    let price = table().lookup(Some("dashscope"), "qwen-flash").unwrap();
    let input = |input| price.rates_for(&Usage { input, ..Usage::default() }).input.get();
    assert_eq!((input(256_000), input(256_001)), (50_000_000, 250_000_000));
}

#[test]
fn xai_counts_the_token_at_the_bound_to_the_tier() {
    let text = r#"{"xai/m-1": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_token_above_200k_tokens": 2e-06},
                   "m-2": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "input_cost_per_token_above_200k_tokens": 2e-06}}"#;
    let table = overridden(text);
    let input = |model, input| {
        let price = table.lookup(Some("xai"), model).unwrap();
        price.rates_for(&Usage { input, ..Usage::default() }).input.get()
    };
    assert_eq!((input("m-1", 199_999), input("m-1", 200_000)), (1_000_000_000, 2_000_000_000));
    assert_eq!((input("m-2", 200_000), input("m-2", 200_001)), (1_000_000_000, 2_000_000_000));
}

#[test]
fn other_units_than_tokens_are_priced() {
    let table = table();
    let cost = |provider, model, units| {
        let price = table.lookup(Some(provider), model).unwrap();
        price.cost_of(Billable { units, ..Billable::default() }).to_string()
    };
    let none = ByUnit::default();
    assert_eq!(cost("openai", "whisper-1", ByUnit { second: 60, ..none }), "0.006");
    assert_eq!(cost("cohere", "rerank-english-v3.0", ByUnit { search: 1, ..none }), "0.002");
    assert_eq!(cost("mistral", "mistral-ocr-latest", ByUnit { page: 10, ..none }), "0.04");
    assert_eq!(cost("openai", "tts-1", ByUnit { character: 1_000, ..none }), "0.015");
    assert_eq!(cost("anthropic", "claude-sonnet-4-5", ByUnit { web_search: 3, ..none }), "0.03");
    assert_eq!(cost("mistral", "voxtral-mini-latest", ByUnit { second: 36, ..none }), "0.0018");
}

#[test]
fn a_price_per_image_says_nothing_of_tokens() {
    let table =
        overridden(r#"{"draw-1": {"output_cost_per_image": 0.04}, "free-1": {"free": true}}"#);
    let tokens = Usage { input: 5, ..Usage::default() };
    let price = table.lookup(None, "draw-1").unwrap();
    assert!(!price.covers(&tokens));
    assert!(price.covers(Billable {
        units: ByUnit { image: 1, ..ByUnit::default() },
        ..Billable::default()
    }));
    assert!(price.covers(Billable::default()));
    assert!(table.lookup(None, "free-1").unwrap().covers(&tokens));
}

#[test]
fn a_provider_is_cheaper_in_its_quiet_hours() {
    let price = table().lookup(Some("deepseek"), "deepseek-v4-flash").unwrap();
    // 2026-11-20 was a Friday.
    let at = |text: &str| {
        let at = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        price.rates_for(Billable { at: Some(Wall::from_ms(at)), ..Billable::default() }).input.get()
    };
    assert_eq!(at("2026-11-20T03:59:59Z"), 300_000_000);
    assert_eq!(at("2026-11-20T04:00:00Z"), 150_000_000);
    assert_eq!(at("2026-11-20T06:00:00Z"), 300_000_000);
    assert_eq!(at("2026-11-21T06:00:00Z"), 150_000_000);
    assert_eq!(price.rates_for(Billable::default()).input.get(), 300_000_000);
}

#[test]
fn the_catalog_knows_retired_models_and_earlier_prices() {
    let table = table();
    let name = |provider, model| {
        table.find(provider, model).map(|found| (found.price.name.to_string(), found.how))
    };
    let known = |name: &str| Some((name.to_owned(), How::Known));
    assert_eq!(name(Some("anthropic"), "claude-v1"), known("anthropic:claude-v1"));
    assert_eq!(
        name(Some("arcee"), "deepseek/deepseek-v4.1-flash-1017"),
        known("arcee:deepseek/deepseek-v4.1-flash-1017")
    );
    let price = table.lookup(Some("cohere"), "command-a-03-2025").unwrap();
    assert_eq!(&*price.name, "command-a-03-2025", "the table comes before the catalog");
}

#[test]
fn a_model_is_free_only_when_the_entry_says_so() {
    let table = overridden(
        r#"{"llama-9": {"free": true},
            "gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0}, "o1": null}"#,
    );
    assert_eq!(
        table.lookup(None, "llama-9").map(|p| p.rates_for(Billable::default())),
        Some(Rates::default())
    );
    assert_eq!(table.lookup(None, "gpt-4o"), None);
    assert_eq!(table.lookup(None, "o1"), None);
}

#[test]
fn an_alias_shares_the_price_of_its_target() {
    let table =
        overridden(r#"{"prod-chat": "azure/gpt-4o", "mine": {"free": true}, "ours": "mine"}"#);
    assert_eq!(
        table.lookup(Some("azure"), "prod-chat").map(|p| p.name.to_string()).as_deref(),
        Some("azure/gpt-4o")
    );
    assert_eq!(table.lookup(None, "ours").map(|p| p.name.to_string()).as_deref(), Some("mine"));
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
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/usage/index.json");

#[test]
fn recorded_responses_cost_what_the_published_table_says() {
    let Ok(text) = std::fs::read_to_string(FIXTURES) else { return };
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let table = table();
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
            let named = Named {
                provider: case["provider"].as_str(),
                path: None,
                response: case["model_response"].as_str(),
                request: case["model_request"].as_str(),
            };
            let found = table.find_named(&named).map(|found| found.price);
            assert_eq!(found.as_ref().map(|price| &*price.name), Some(name), "{}", case["id"]);
            let found = found.map(|price| price.cost_of(&usage).to_string());
            assert_eq!(found.as_deref(), cost.as_str(), "{}", case["id"]);
            compared += 1;
        }
    }
    assert!(compared >= 40, "{compared}");
}
