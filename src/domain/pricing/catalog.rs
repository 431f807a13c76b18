//! The second table: providers whose models are recognised by clauses rather than by exact names. It knows what the first has
//! forgotten: retired models, earlier prices, other spellings.

use std::borrow::Cow;

use crate::domain::pricing::Entry;
use crate::domain::pricing::names::digits;

/// Providers with their models, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The providers.
    pub providers: Vec<CatalogProvider>,
}

/// A provider and its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogProvider {
    /// Its name.
    pub id: Box<str>,
    /// Its other names.
    pub matches: Option<Clause>,
    /// Models that are its own when nobody names a provider.
    pub model_matches: Option<Clause>,
    /// Providers whose models it also has, at their prices.
    pub fallbacks: Vec<Box<str>>,
    /// Its models, in the order in which they are tried.
    pub models: Vec<CatalogModel>,
}

/// A model and the names that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogModel {
    /// Its names.
    pub matches: Clause,
    /// What is known of its price.
    pub entry: Entry,
}

/// A rule about a name. All texts are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clause {
    /// It is this.
    Equals(Box<str>),
    /// It begins with this.
    StartsWith(Box<str>),
    /// It ends with this.
    EndsWith(Box<str>),
    /// This is somewhere in it.
    Contains(Box<str>),
    /// It is this, with a digit for every `#` and with anything behind it for a `*` at the end.
    Like(Box<str>),
    /// One of these holds.
    Or(Vec<Clause>),
    /// All of these hold.
    And(Vec<Clause>),
    /// This does not hold.
    Not(Box<Clause>),
}

impl Catalog {
    /// What is known of a model at a provider; without one, at the provider that the name itself tells. Names are in lower case.
    #[must_use]
    pub fn find(&self, provider: Option<&str>, model: &str) -> Option<&Entry> {
        if let Some(provider) = provider.and_then(|name| self.provider(name)) {
            let bare = model.split_once('/').filter(|(first, _)| {
                self.provider(first).is_some_and(|named| named.id == provider.id)
            });
            return self
                .model(provider, model)
                .or_else(|| bare.and_then(|(_, bare)| self.model(provider, bare)));
        }
        if let Some((first, rest)) = model.split_once('/')
            && let Some(provider) = self.provider(first)
        {
            return self.model(provider, rest);
        }
        let owns = |provider: &&CatalogProvider| {
            provider.model_matches.as_ref().is_some_and(|clause| clause.holds(model))
        };
        self.model(self.providers.iter().find(owns)?, model)
    }

    /// The provider with this name, or that also goes by it.
    fn provider(&self, name: &str) -> Option<&CatalogProvider> {
        self.providers.iter().find(|provider| *provider.id == *name).or_else(|| {
            self.providers
                .iter()
                .find(|provider| provider.matches.as_ref().is_some_and(|clause| clause.holds(name)))
        })
    }

    /// The model as it is called, then with its date spelt with dashes.
    fn model<'a>(&'a self, provider: &'a CatalogProvider, name: &str) -> Option<&'a Entry> {
        self.model_called(provider, name).or_else(|| match with_dashed_dates(name) {
            Cow::Owned(dashed) => self.model_called(provider, &dashed),
            Cow::Borrowed(_) => None,
        })
    }

    fn model_called<'a>(&'a self, provider: &'a CatalogProvider, name: &str) -> Option<&'a Entry> {
        let others = provider
            .fallbacks
            .iter()
            .filter_map(|id| self.providers.iter().find(|provider| provider.id == *id));
        let models = std::iter::once(provider).chain(others).flat_map(|provider| &provider.models);
        models.into_iter().find(|model| model.matches.holds(name)).map(|model| &model.entry)
    }
}

impl Clause {
    /// Whether it holds of a name in lower case.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::Equals(text) => name == &**text,
            Self::StartsWith(text) => name.starts_with(&**text),
            Self::EndsWith(text) => name.ends_with(&**text),
            Self::Contains(text) => name.contains(&**text),
            Self::Like(pattern) => is_like(pattern, name),
            Self::Or(clauses) => clauses.iter().any(|clause| clause.holds(name)),
            Self::And(clauses) => clauses.iter().all(|clause| clause.holds(name)),
            Self::Not(clause) => !clause.holds(name),
        }
    }
}

fn is_like(pattern: &str, name: &str) -> bool {
    let alike = |pattern: &str, name: &str| {
        pattern.len() == name.len()
            && pattern.bytes().zip(name.bytes()).all(|(wanted, byte)| match wanted {
                b'#' => byte.is_ascii_digit(),
                _ => byte == wanted,
            })
    };
    match pattern.strip_suffix('*') {
        Some(pattern) => name.get(..pattern.len()).is_some_and(|start| alike(pattern, start)),
        None => alike(pattern, name),
    }
}

/// Digits in a date such as 20251211.
const DATE_LEN: usize = 8;

/// `gpt-5.2-2025-12-11` for `gpt-5.2-20251211`: routers write dates without dashes.
fn with_dashed_dates(name: &str) -> Cow<'_, str> {
    let is_date = |part: &str| {
        digits(part, DATE_LEN)
            && part.starts_with("20")
            && part.get(4..6).is_some_and(|month| ("01"..="12").contains(&month))
            && part.get(6..8).is_some_and(|day| ("01"..="31").contains(&day))
    };
    let mut dashed = Cow::Borrowed(name);
    for part in name.split(['-', ':']).skip(1).filter(|part| is_date(part)) {
        let (year, day) = part.split_at(4);
        let (month, day) = day.split_at(2);
        dashed =
            Cow::Owned(dashed.replacen(&format!("-{part}"), &format!("-{year}-{month}-{day}"), 1));
    }
    dashed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::{ModelPrice, Rate};
    use std::sync::Arc;

    fn model(name: &str, matches: Clause) -> CatalogModel {
        let one = Rate::per_million(1);
        let price = Arc::new(ModelPrice::flat(name, one, one));
        CatalogModel { matches, entry: Entry::Priced(price) }
    }

    fn catalog() -> Catalog {
        let starts = |text: &str| Clause::StartsWith(text.into());
        let equals = |text: &str| Clause::Equals(text.into());
        let provider =
            |id: &str, matches, model_matches, fallbacks: &[&str], models| CatalogProvider {
                id: id.into(),
                matches,
                model_matches,
                fallbacks: fallbacks.iter().map(|id| (*id).into()).collect(),
                models,
            };
        let like = Clause::Like("gpt-5-####-##-##".into());
        let no_speech = Clause::Not(Box::new(Clause::EndsWith("-tts".into())));
        Catalog {
            providers: vec![
                provider("azure", None, None, &["openai"], vec![model("azure/own", equals("own"))]),
                provider(
                    "openai",
                    Some(Clause::Contains("openai".into())),
                    Some(starts("gpt-")),
                    &[],
                    vec![
                        model("gpt-5", Clause::Or(vec![equals("gpt-5"), like])),
                        model("gpt-4", Clause::And(vec![starts("gpt-4"), no_speech])),
                    ],
                ),
                provider(
                    "openrouter",
                    None,
                    None,
                    &[],
                    vec![model("or/gpt-4", equals("openai/gpt-4"))],
                ),
            ],
        }
    }

    #[test]
    fn a_model_is_recognised_by_its_providers_clauses() {
        let check = |provider, model, expected: Option<&str>| {
            let catalog = catalog();
            let found = match catalog.find(provider, model) {
                Some(Entry::Priced(price)) => Some(&*price.name),
                _ => None,
            };
            assert_eq!(found, expected, "{model} at {provider:?}");
        };
        check(Some("openai"), "gpt-5", Some("gpt-5"));
        check(Some("my-openai"), "openai/gpt-5", Some("gpt-5"));
        check(None, "openai/gpt-5", Some("gpt-5"));
        check(None, "gpt-4-turbo", Some("gpt-4"));
        check(None, "gpt-4-tts", None);
        check(None, "gpt-5-2025-12-11", Some("gpt-5"));
        check(None, "gpt-5-20251211", Some("gpt-5"));
        check(None, "gpt-5-20251399", None);
        check(None, "gpt-5-mini", None);
        check(None, "claude-1", None);
        check(Some("azure"), "gpt-5", Some("gpt-5"));
        check(Some("azure"), "own", Some("azure/own"));
        check(Some("openrouter"), "openai/gpt-4", Some("or/gpt-4"));
        check(Some("openrouter"), "gpt-4", None);
        check(Some("nobody"), "gpt-4", Some("gpt-4"));
        check(None, "", None);
    }

    #[test]
    fn a_pattern_stands_for_digits_and_for_what_follows() {
        for (pattern, name, alike) in [
            ("o#", "o3", true),
            ("o#", "o33", false),
            ("o#*", "o3-mini", true),
            ("o#*", "os", false),
            ("o#*", "ö", false),
            ("a-##", "a-1", false),
        ] {
            assert_eq!(is_like(pattern, name), alike, "{pattern} {name}");
        }
    }
}
