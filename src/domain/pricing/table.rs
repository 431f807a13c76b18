//! Finds a model's price under the many names that callers and providers have for it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::ids::ID_BYTES_MAX;
use crate::domain::pricing::{ModelPrice, Rate};

/// Table entries by name, such as `gpt-4o` or `azure/gpt-4o`.
pub type Entries = HashMap<Box<str>, Entry>;

/// What a table says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It is paid by the token.
    Priced(Arc<ModelPrice>),
    /// It is on record, but without a price for tokens. It must not be taken for another model with a similar name.
    Unpriced,
}

/// All known prices: the operator's own entries over the table that ships.
#[derive(Debug, Clone)]
pub struct PriceTable {
    version: Arc<str>,
    operator: Entries,
    shipped: Entries,
    free: ModelPrice,
}

impl PriceTable {
    /// A table of one layer.
    #[must_use]
    pub fn new(version: &str, shipped: Entries) -> Self {
        let free = ModelPrice::flat("free", Rate::ZERO, Rate::ZERO);
        Self { version: version.into(), operator: Entries::new(), shipped, free }
    }

    /// The same table below the operator's own entries.
    #[must_use]
    pub fn with_operator(self, version: &str, operator: Entries) -> Self {
        Self { version: version.into(), operator, ..self }
    }

    /// Names the table and the operator's changes to it, such as `litellm-1.106.2+5d41402a`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The entry of exactly this name; the operator's before the shipped one.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.operator.get(name).or_else(|| self.shipped.get(name))
    }

    /// The price of a model as a caller or a response names it, at a provider where it is known. Names are tried from the
    /// exact one to ever looser readings of it, each with the provider's prefix first; the last resort is the longest known
    /// name that it continues. An entry without a price ends the search.
    #[must_use]
    pub fn lookup(&self, provider: Option<&str>, model: &str) -> Option<&ModelPrice> {
        if model.is_empty() || model.len() > ID_BYTES_MAX {
            return None;
        }
        let prefix = provider.map(|provider| prefix_of(&provider.to_ascii_lowercase()).to_owned());
        let prefix = prefix.as_deref();
        if is_free_on_purpose(prefix, model) {
            return Some(&self.free);
        }
        let found = self.at(prefix, model).or_else(|| {
            let name = model.to_ascii_lowercase();
            let name = without_path(prefix, &name);
            self.loosely(prefix, name).or_else(|| self.loosely(prefix, without_region(name)?))
        });
        match found? {
            Entry::Priced(price) => Some(price),
            Entry::Unpriced => None,
        }
    }

    /// Under the name itself, then without what marks a version of it, then under the longest known name that it continues.
    fn loosely(&self, prefix: Option<&str>, name: &str) -> Option<&Entry> {
        let mut shorter = Some(name);
        while let Some(name) = shorter {
            if let Some(entry) = self.at(prefix, name) {
                return Some(entry);
            }
            shorter = without_version(name);
        }
        let stems = name
            .rmatch_indices(['-', ':', '@'])
            .filter_map(|(at, _)| name.get(..at))
            .take(STEMS_MAX);
        // Without a digit it is a family such as `gpt`, not a model.
        stems
            .take_while(|stem| stem.bytes().any(|b| b.is_ascii_digit()))
            .find_map(|stem| self.at(prefix, stem))
    }

    /// Under exactly this name, in the operator's entries first, with the provider's prefix before without.
    fn at(&self, prefix: Option<&str>, name: &str) -> Option<&Entry> {
        let prefixed = prefix.map(|prefix| format!("{prefix}/{name}"));
        [&self.operator, &self.shipped].into_iter().find_map(|layer| {
            prefixed.as_deref().and_then(|name| layer.get(name)).or_else(|| layer.get(name))
        })
    }
}

/// No published name goes on for longer than this behind the model's own; more is an attempt to keep the search busy.
const STEMS_MAX: usize = 16;

/// The table's prefixes of providers that are also known by other names.
const PROVIDER_PREFIXES: [(&str, &str); 18] = [
    ("alibaba", "dashscope"),
    ("aws", "bedrock"),
    ("aws-bedrock", "bedrock"),
    ("azure-openai", "azure"),
    ("azure_openai", "azure"),
    ("fireworks", "fireworks_ai"),
    ("gcp-vertex-ai", "vertex_ai"),
    ("google", "gemini"),
    ("google-ai-studio", "gemini"),
    ("google-vertex", "vertex_ai"),
    ("googleai", "gemini"),
    ("mistralai", "mistral"),
    ("moonshotai", "moonshot"),
    ("together", "together_ai"),
    ("togetherai", "together_ai"),
    ("vertex", "vertex_ai"),
    ("vertexai", "vertex_ai"),
    ("x-ai", "xai"),
];

fn prefix_of(provider: &str) -> &str {
    let known = PROVIDER_PREFIXES.iter().find(|(name, _)| *name == provider);
    known.map_or(provider, |(_, prefix)| prefix)
}

/// OpenRouter serves `…:free` for nothing. Elsewhere the suffix is a client's own invention.
fn is_free_on_purpose(prefix: Option<&str>, model: &str) -> bool {
    model.ends_with(":free") && (prefix == Some("openrouter") || model.starts_with("openrouter/"))
}

/// Prefixes that callers write and the table does not: its names of these providers' models are bare.
const BARE_PROVIDERS: [&str; 5] = ["openai", "anthropic", "cohere", "bedrock", "vertex_ai"];

/// Without what leads to a name: `models/`, an ARN, the provider.
fn without_path<'a>(prefix: Option<&str>, name: &'a str) -> &'a str {
    let name = match name.strip_prefix("arn:") {
        Some(arn) => arn.rsplit('/').next().unwrap_or(arn),
        None => name,
    };
    let name = name.strip_prefix("models/").unwrap_or(name);
    match name.split_once('/') {
        Some((first, rest))
            if prefix == Some(prefix_of(first)) || BARE_PROVIDERS.contains(&first) =>
        {
            rest
        }
        _ => name,
    }
}

/// Bedrock's cross-region inference profiles.
const REGIONS: [&str; 7] = ["us", "eu", "apac", "jp", "au", "global", "us-gov"];

fn without_region(name: &str) -> Option<&str> {
    let (region, rest) = name.split_once('.')?;
    REGIONS.contains(&region).then_some(rest)
}

/// One step less specific: `ft:BASE:…` becomes `ft:BASE`; `-latest`, `-v1:0`, `:0`, `@001` and dates are taken off the end.
fn without_version(name: &str) -> Option<&str> {
    if let Some(tuned) = name.strip_prefix("ft:") {
        let (base, _) = tuned.split_once(':')?;
        return name.get(..base.len().saturating_add("ft:".len()));
    }
    if let Some(name) = name.strip_suffix("-latest") {
        return Some(name);
    }
    let (rest, last) = name.rsplit_once(['-', ':', '@'])?;
    let is_version = last.strip_prefix('v').unwrap_or(last).parse::<u8>().is_ok();
    match name.as_bytes().get(rest.len()) {
        Some(b'-') if digits(last, 8) || digits(last, 4) => Some(rest),
        Some(b'-') if digits(last, 2) => without_dashed_date(rest),
        Some(b'-') if last.starts_with('v') && is_version => Some(rest),
        Some(b':') if is_version => Some(rest),
        Some(b'@') => Some(rest),
        _ => None,
    }
}

/// `gpt-4o` for `gpt-4o-2024-08`: what is left of a date whose day is gone.
fn without_dashed_date(name: &str) -> Option<&str> {
    let (rest, month) = name.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(month, 2) && digits(year, 4)).then_some(rest)
}

fn digits(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 17] = [
        "gpt-4o",
        "gpt-4o-2024-08-06",
        "azure/gpt-4o",
        "gpt-5",
        "groq/openai/gpt-oss-120b",
        "claude-sonnet-4-5",
        "gemini/gemini-2.5-flash",
        "gemini-2.5-pro",
        "ft:gpt-4o-2024-08-06",
        "ft:gpt-3.5-turbo",
        "amazon.nova-lite-v1:0",
        "us.amazon.nova-lite-v1:0",
        "anthropic.claude-3-haiku-20240307-v1:0",
        "mistral/mistral-small",
        "mistral/mistral-small-latest",
        "together_ai/Qwen/Qwen3-32B",
        "o1",
    ];

    fn table() -> PriceTable {
        let one = Rate::per_million(1);
        let entry =
            |name: &str| (name.into(), Entry::Priced(Arc::new(ModelPrice::flat(name, one, one))));
        let mut entries: Entries = NAMES.into_iter().map(entry).collect();
        entries.insert("gpt-4o-realtime".into(), Entry::Unpriced);
        PriceTable::new("test-1", entries)
    }

    #[test]
    fn a_model_is_found_under_the_names_that_people_use() {
        let table = table();
        let check = |provider: Option<&str>, model: &str, expected: Option<&str>| {
            let found = table.lookup(provider, model).map(|price| &*price.name);
            assert_eq!(found, expected, "{model} at {provider:?}");
        };
        check(None, "gpt-4o", Some("gpt-4o"));
        check(Some("openai"), "openai/gpt-4o", Some("gpt-4o"));
        check(None, "openai/GPT-4o", Some("gpt-4o"));
        check(Some("azure"), "gpt-4o", Some("azure/gpt-4o"));
        check(Some("Azure-OpenAI"), "gpt-4o-2024-11-20", Some("azure/gpt-4o"));
        check(None, "azure/gpt-4o", Some("azure/gpt-4o"));
        check(None, "gpt-4o-2024-08-06", Some("gpt-4o-2024-08-06"));
        check(Some("groq"), "openai/gpt-oss-120b", Some("groq/openai/gpt-oss-120b"));
        check(None, "claude-sonnet-4-5-20250929", Some("claude-sonnet-4-5"));
        check(None, "claude-sonnet-4-5@20250929", Some("claude-sonnet-4-5"));
        check(None, "claude-sonnet-4-5-latest", Some("claude-sonnet-4-5"));
        check(Some("google"), "models/gemini-2.5-flash", Some("gemini/gemini-2.5-flash"));
        check(Some("vertex"), "gemini-2.5-pro@001", Some("gemini-2.5-pro"));
        check(None, "ft:gpt-4o-2024-08-06:acme::x1", Some("ft:gpt-4o-2024-08-06"));
        check(None, "ft:gpt-3.5-turbo:acme:name:x1", Some("ft:gpt-3.5-turbo"));
        check(None, "ft:gpt-4o:acme::x1", None);
        check(Some("bedrock"), "us.amazon.nova-lite-v1:0", Some("us.amazon.nova-lite-v1:0"));
        check(Some("aws"), "eu.amazon.nova-lite-v1:0", Some("amazon.nova-lite-v1:0"));
        let arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-3-haiku-20240307-v1:0";
        check(None, arn, Some("anthropic.claude-3-haiku-20240307-v1:0"));
        check(Some("mistral"), "mistral-small-latest", Some("mistral/mistral-small-latest"));
        check(Some("mistral"), "mistral-small-2603", Some("mistral/mistral-small"));
        check(Some("together"), "Qwen/Qwen3-32B", Some("together_ai/Qwen/Qwen3-32B"));
        check(None, "o1:extended", Some("o1"));
    }

    #[test]
    fn a_similar_name_is_not_the_same_model() {
        let table = table();
        for other in [
            "",
            "gpt",
            "gpt-6",
            "gpt-5.7",
            "gpt-5.7-mini",
            "gpt-4omni",
            "claude-opus-9",
            "-",
            "::",
            "ft:",
        ] {
            assert_eq!(table.lookup(None, other), None, "{other}");
        }
        assert_eq!(table.lookup(None, &"gpt-4o-".repeat(100)), None, "too long for a name");
    }

    #[test]
    fn an_entry_without_a_price_is_never_taken_for_its_family() {
        assert_eq!(table().lookup(None, "gpt-4o-realtime-2025-06-03"), None);
        assert!(table().lookup(None, "gpt-4o-special").is_some());
    }

    #[test]
    fn a_free_suffix_is_free_only_where_it_means_something() {
        let table = table();
        let is_free = |provider, model| {
            table.lookup(provider, model).is_some_and(|p| p.rates.input == Rate::ZERO)
        };
        assert!(is_free(Some("openrouter"), "minimax/minimax-m2:free"));
        assert!(is_free(None, "openrouter/minimax/minimax-m2:free"));
        assert!(!is_free(Some("openai"), "gpt-4o:free"));
        assert!(!is_free(None, "gpt-4o:free"));
    }

    #[test]
    fn the_operators_entries_come_first() {
        let own = ModelPrice::flat("own", Rate::per_million(2), Rate::per_million(2));
        let own = Entries::from([("gpt-4o".into(), Entry::Priced(Arc::new(own)))]);
        let table = table().with_operator("test-1+own", own);
        assert_eq!(table.lookup(Some("azure"), "gpt-4o").map(|price| &*price.name), Some("own"));
        assert_eq!(table.lookup(None, "gpt-5").map(|price| &*price.name), Some("gpt-5"));
        assert_eq!(table.version(), "test-1+own");
    }
}
