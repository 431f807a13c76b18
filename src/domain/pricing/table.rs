//! Finds a model's price under the many names that callers and providers have for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::ids::ID_BYTES_MAX;
use crate::domain::pricing::names::{
    self, SIBLINGS, is_free_on_purpose, prefix_of, split_region, stems, versions, without_path,
};
use crate::domain::pricing::{Catalog, ModelPrice, Named, Rate};

/// Table entries by name, such as `gpt-4o` or `azure/gpt-4o`.
pub type Entries = HashMap<Box<str>, Entry>;

/// What a table says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// What it costs.
    Priced(Arc<ModelPrice>),
    /// It is on record, but without a price. It must not be taken for another model with a similar name.
    Unpriced,
}

/// A price, and how sure it is that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The price.
    pub price: Arc<ModelPrice>,
    /// How it was found.
    pub how: How,
}

/// How a price was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Under one of the model's names.
    Known,
    /// Under the longest known name that the model's continues. Somebody should look whether that is right.
    Guessed,
}

/// All known prices: the operator's own entries over the table that ships, over the catalog that ships.
#[derive(Debug)]
pub struct PriceTable {
    version: Arc<str>,
    operator: Entries,
    shipped: Entries,
    catalog: Catalog,
    free: Arc<ModelPrice>,
    memo: RwLock<Memo>,
}

/// What earlier searches found, by provider and model.
type Memo = hashbrown::HashMap<(Box<str>, Box<str>), Option<Found>, foldhash::fast::RandomState>;

/// Names that are remembered; a deployment uses a few dozen. When somebody invents more, all are forgotten, which costs a
/// search each.
const MEMO_MAX: usize = 4_096;

/// Stands in the memo where no provider is known. It is not empty, because comparing empty texts is slow: their addresses belong
/// to no memory.
const NO_PROVIDER: &str = "*";

impl PriceTable {
    /// A table of one layer.
    #[must_use]
    pub fn new(version: &str, shipped: Entries) -> Self {
        Self {
            version: version.into(),
            operator: Entries::new(),
            shipped,
            catalog: Catalog::default(),
            free: Arc::new(ModelPrice::flat("free", Rate::ZERO, Rate::ZERO)),
            memo: RwLock::default(),
        }
    }

    /// The same table over a catalog that is asked for what the table does not know.
    #[must_use]
    pub fn over(self, catalog: Catalog) -> Self {
        Self { catalog, memo: RwLock::default(), ..self }
    }

    /// The same table below the operator's own entries.
    #[must_use]
    pub fn with_operator(self, version: &str, operator: Entries) -> Self {
        Self { version: version.into(), operator, memo: RwLock::default(), ..self }
    }

    /// Names the tables and the operator's changes to them, such as `litellm-1.106.2,genai-prices-0.2.3+5d41402a`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The entry of exactly this name; the operator's before the shipped one.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.operator.get(name).or_else(|| self.shipped.get(name))
    }

    /// Every name with an entry of its own, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.operator.keys().chain(self.shipped.keys()).map(|name| &**name)
    }

    /// The price of a response's model: the first of its names that is known, otherwise the first that can be guessed.
    #[must_use]
    pub fn find_named(&self, named: &Named<'_>) -> Option<Found> {
        let mut guessed = None;
        for name in named.in_order() {
            match self.find(named.provider, name) {
                Some(found) if found.how == How::Known => return Some(found),
                found => guessed = guessed.or(found),
            }
        }
        guessed
    }

    /// The price of a model as a caller or a response names it, at a provider where it is known.
    #[must_use]
    pub fn lookup(&self, provider: Option<&str>, model: &str) -> Option<Arc<ModelPrice>> {
        self.find(provider, model).map(|found| found.price)
    }

    /// The price of a model, and how sure it is. Names are tried from the exact one to ever looser readings of it, each with
    /// the provider's prefix first; then the catalog is asked; the last resort is the longest known name that it continues. An
    /// entry without a price ends the search.
    #[must_use]
    pub fn find(&self, provider: Option<&str>, model: &str) -> Option<Found> {
        if model.is_empty() || model.len() > ID_BYTES_MAX {
            return None;
        }
        let provider = provider.filter(|name| !name.is_empty() && *name != NO_PROVIDER);
        let key = MemoKey(provider.unwrap_or(NO_PROVIDER), model);
        if key.0.len() > ID_BYTES_MAX {
            return None;
        }
        if let Some(found) = self.memo.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return found.clone();
        }
        let found = self.search(provider, model);
        let mut memo = self.memo.write().unwrap_or_else(PoisonError::into_inner);
        if memo.len() >= MEMO_MAX {
            memo.clear();
        }
        memo.insert((key.0.into(), model.into()), found.clone());
        found
    }

    fn search(&self, provider: Option<&str>, model: &str) -> Option<Found> {
        let provider = provider.map(str::to_ascii_lowercase);
        let provider = provider.as_deref();
        let prefix = provider.map(prefix_of);
        if is_free_on_purpose(prefix, model) {
            return Some(Found { price: Arc::clone(&self.free), how: How::Known });
        }
        let lower = model.to_ascii_lowercase();
        let name = without_path(prefix, &lower);
        let known = self
            .at(prefix, model)
            .or_else(|| self.at_region(names::region_of_arn(&lower)?, name))
            .or_else(|| self.at_version(prefix, name))
            .or_else(|| self.at_sibling(prefix, name))
            .or_else(|| self.in_catalog(provider, &lower));
        if let Some(entry) = known {
            return found(entry, How::Known);
        }
        let bare = split_region(name).map_or(name, |(_, bare)| bare);
        let guessed = stems(bare).find_map(|stem| self.at(prefix, stem));
        found(guessed?, How::Guessed)
    }

    /// Under the name itself, then without what marks a version of it.
    fn at_version(&self, prefix: Option<&str>, name: &str) -> Option<&Entry> {
        versions(name).find_map(|name| self.at(prefix, name))
    }

    /// In this region, whose prices may differ.
    fn at_region(&self, region: &str, name: &str) -> Option<&Entry> {
        let name = format!("bedrock/{region}/{name}");
        self.entry(&name)
    }

    /// A profile of a region that is not on record costs what those of other regions cost, which may be more than the
    /// model without a region.
    fn at_sibling(&self, prefix: Option<&str>, name: &str) -> Option<&Entry> {
        let (region, bare) = split_region(name)?;
        let mut siblings = SIBLINGS.iter().filter(|_| SIBLINGS.contains(&region));
        siblings
            .find_map(|sibling| self.at(prefix, &format!("{sibling}.{bare}")))
            .or_else(|| self.at_version(prefix, bare))
    }

    fn in_catalog(&self, provider: Option<&str>, name: &str) -> Option<&Entry> {
        let name = name.strip_prefix("models/").unwrap_or(name);
        let tail = without_path(None, name);
        let known = self.catalog.find(provider, name);
        known.or_else(|| self.catalog.find(provider.map(prefix_of), tail))
    }

    /// Under exactly this name, in the operator's entries first, with the provider's prefix before without.
    fn at(&self, prefix: Option<&str>, name: &str) -> Option<&Entry> {
        let prefixed = prefix.map(|prefix| format!("{prefix}/{name}"));
        [&self.operator, &self.shipped].into_iter().find_map(|layer| {
            prefixed.as_deref().and_then(|name| layer.get(name)).or_else(|| layer.get(name))
        })
    }
}

fn found(entry: &Entry, how: How) -> Option<Found> {
    match entry {
        Entry::Priced(price) => Some(Found { price: Arc::clone(price), how }),
        Entry::Unpriced => None,
    }
}

/// A key of the memo that is only borrowed. It hashes like the pair that is kept.
#[derive(Hash)]
struct MemoKey<'a>(&'a str, &'a str);

impl hashbrown::Equivalent<(Box<str>, Box<str>)> for MemoKey<'_> {
    fn equivalent(&self, key: &(Box<str>, Box<str>)) -> bool {
        *key.0 == *self.0 && *key.1 == *self.1
    }
}

impl Clone for PriceTable {
    fn clone(&self) -> Self {
        Self {
            version: Arc::clone(&self.version),
            operator: self.operator.clone(),
            shipped: self.shipped.clone(),
            catalog: self.catalog.clone(),
            free: Arc::clone(&self.free),
            memo: RwLock::default(),
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::Billable;

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
            let found = table.lookup(provider, model).map(|price| price.name.clone());
            assert_eq!(found.as_deref(), expected, "{model} at {provider:?}");
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
        check(Some("aws"), "eu.amazon.nova-lite-v1:0", Some("us.amazon.nova-lite-v1:0"));
        check(Some("aws"), "global.amazon.nova-lite-v1:0", Some("amazon.nova-lite-v1:0"));
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
            table
                .lookup(provider, model)
                .is_some_and(|p| p.rates_for(Billable::default()).input == Rate::ZERO)
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
        let name = |provider, model| table.lookup(provider, model).map(|price| price.name.clone());
        assert_eq!(name(Some("azure"), "gpt-4o").as_deref(), Some("own"));
        assert_eq!(name(None, "gpt-5").as_deref(), Some("gpt-5"));
        assert_eq!(table.version(), "test-1+own");
    }
}
