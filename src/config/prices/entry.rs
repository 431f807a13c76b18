//! One entry of a price table: from LiteLLM's many fields to the rates of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::prices::Fault;
use crate::domain::json::{self, Raw};
use crate::domain::pricing::{Dearest, Entry, ModelPrice, Rate, Rates, Tier};

/// Reads one entry.
///
/// # Errors
/// Every fault of the entry. One that was published (`litellm_provider`) may lack a price: it is [`Entry::Unpriced`].
pub(super) fn read(name: &str, value: Raw<'_>) -> Result<Entry, Vec<Fault>> {
    let fault = |field: &str, problem: &str| Fault {
        path: format!("{name}{field}"),
        problem: problem.to_owned(),
    };
    if value.is_null() {
        return Ok(Entry::Unpriced);
    }
    if !value.bytes().starts_with(b"{") {
        return Err(vec![fault(
            "",
            "is neither an object of prices, nor the name of another entry, nor null",
        )]);
    }
    let mut draft = Draft::default();
    draft.read(value);
    if !draft.faults.is_empty() {
        let placed =
            draft.faults.into_iter().map(|(field, problem)| fault(&format!(".{field}"), &problem));
        return Err(placed.collect());
    }
    match (draft.missing(), draft.origin) {
        (None, _) => Ok(Entry::Priced(Arc::new(draft.into_price(name)))),
        (Some(_), Origin::Published) => Ok(Entry::Unpriced),
        (Some((field, problem)), Origin::Operator) => {
            Err(vec![fault(&format!(".{field}"), problem)])
        }
    }
}

/// What an entry says, field by field.
#[derive(Debug, Default)]
struct Draft {
    base: Partial,
    tiers: BTreeMap<u64, Partial>,
    /// Rates that only make an estimate dearer: service tiers, the longer cache.
    surcharges: Dearest,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    /// LiteLLM's older field; counts where `max_output_tokens` is missing.
    max_tokens: Option<u64>,
    kind: Kind,
    origin: Origin,
    /// Field and problem.
    faults: Vec<(String, String)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[default]
    Writes,
    /// An embedding or a reranking: there is no output to be paid for.
    ReadsOnly,
    Free,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Origin {
    #[default]
    Operator,
    Published,
}

/// Rates as far as they are given.
#[derive(Debug, Default, Clone, Copy)]
struct Partial {
    input: Option<Rate>,
    cached: Option<Rate>,
    cache_write: Option<Rate>,
    output: Option<Rate>,
    reasoning: Option<Rate>,
}

impl Draft {
    fn read(&mut self, entry: Raw<'_>) {
        let members = json::members(entry.bytes());
        for (key, value) in members {
            let key = key.decoded().unwrap_or_default();
            if value.is_null() {
                continue;
            }
            match &*key {
                "max_input_tokens" => self.max_input_tokens = self.limit(&key, value),
                "max_output_tokens" => self.max_output_tokens = self.limit(&key, value),
                "max_tokens" => self.max_tokens = self.limit(&key, value),
                "mode" if is_reading(value) => self.kind = Kind::ReadsOnly,
                "litellm_provider" => self.origin = Origin::Published,
                "free" => match value.as_bool() {
                    Some(true) => self.kind = Kind::Free,
                    Some(false) => {}
                    None => self.fault(&key, "is neither true nor false"),
                },
                "tiered_pricing" => self.ranges(value),
                _ => self.price(&key, value),
            }
        }
    }

    /// A price, if the field is one that matters here.
    fn price(&mut self, key: &str, value: Raw<'_>) {
        let Some((token, suffix)) = TokenKind::of_field(key) else { return };
        let Some(place) = Place::of_suffix(suffix) else { return };
        let Some(rate) = self.rate(key, value) else { return };
        match place {
            Place::Base => *token.slot(&mut self.base) = Some(rate),
            Place::Above(tokens) => *token.slot(self.tiers.entry(tokens).or_default()) = Some(rate),
            Place::Surcharge if token.is_input() => {
                self.surcharges.input = self.surcharges.input.max(rate)
            }
            Place::Surcharge => self.surcharges.output = self.surcharges.output.max(rate),
        }
    }

    /// `[{"range": [0, 256000], "input_cost_per_token": …}, …]`
    fn ranges(&mut self, value: Raw<'_>) {
        for (index, range) in json::elements(value.bytes()).enumerate() {
            let at = format!("tiered_pricing[{index}]");
            let mut partial = None;
            for (key, value) in json::members(range.bytes()) {
                let key = key.decoded().unwrap_or_default();
                if let Some((token, "")) = TokenKind::of_field(&key) {
                    *token.slot(partial.get_or_insert_default()) =
                        self.rate(&format!("{at}.{key}"), value);
                }
            }
            // Searches have ranges of results, and no price for tokens in them.
            let Some(partial) = partial else { continue };
            let from = match json::find(range.bytes(), &["range", "0"]) {
                json::Found::Value(from) => whole_number(from),
                json::Found::Absent | json::Found::Cut | json::Found::Malformed => None,
            };
            let Some(from) = from else {
                self.fault(&format!("{at}.range"), "does not begin with a whole number of tokens");
                continue;
            };
            if from == 0 {
                self.base = partial;
            } else {
                self.tiers.insert(from, partial);
            }
        }
    }

    fn rate(&mut self, field: &str, value: Raw<'_>) -> Option<Rate> {
        match Rate::from_usd_per_token(value.scalar().unwrap_or_default()) {
            Ok(rate) => Some(rate),
            Err(error) => {
                self.fault(field, &error.to_string());
                None
            }
        }
    }

    fn limit(&mut self, field: &str, value: Raw<'_>) -> Option<u64> {
        let limit = whole_number(value);
        if limit.is_none() {
            self.fault(field, "is not a whole number of tokens");
        }
        limit
    }

    fn fault(&mut self, field: &str, problem: &str) {
        self.faults.push((field.to_owned(), problem.to_owned()));
    }

    /// The price that is missing, and what to do about it.
    fn missing(&self) -> Option<(&'static str, &'static str)> {
        let paid = |rate: Option<Rate>| rate.is_some_and(|rate| rate > Rate::ZERO);
        match self.kind {
            Kind::Free => None,
            Kind::ReadsOnly | Kind::Writes if !paid(self.base.input) => Some((
                "input_cost_per_token",
                "is missing or zero; a model that costs nothing has \"free\": true",
            )),
            Kind::Writes if !paid(self.base.output) => Some((
                "output_cost_per_token",
                "is missing or zero; a model without output has \"mode\": \"embedding\"",
            )),
            Kind::ReadsOnly | Kind::Writes => None,
        }
    }

    fn into_price(self, name: &str) -> ModelPrice {
        let rates = self.base.over(&Partial::default());
        let tiers: Box<[Tier]> = self
            .tiers
            .iter()
            .map(|(above, tier)| Tier { above: *above, rates: tier.over(&self.base) })
            .collect();
        let mut dearest = self.surcharges;
        for rates in tiers.iter().map(|tier| &tier.rates).chain([&rates]) {
            dearest.input = dearest.input.max(rates.input).max(rates.cached).max(rates.cache_write);
            dearest.output = dearest.output.max(rates.output).max(rates.reasoning);
        }
        let max_output_tokens = match self.kind {
            Kind::ReadsOnly => Some(0),
            Kind::Writes | Kind::Free => self.max_output_tokens.or(self.max_tokens),
        };
        ModelPrice {
            name: name.into(),
            rates,
            tiers,
            dearest,
            max_input_tokens: self.max_input_tokens,
            max_output_tokens,
        }
    }
}

impl Partial {
    /// Complete rates: what is missing is taken from `base`, and what is missing there too from input or output.
    fn over(&self, base: &Self) -> Rates {
        let input = self.input.or(base.input).unwrap_or_default();
        let output = self.output.or(base.output).unwrap_or_default();
        Rates {
            input,
            cached: self.cached.or(base.cached).unwrap_or(input),
            cache_write: self.cache_write.or(base.cache_write).unwrap_or(input),
            output,
            reasoning: self.reasoning.or(base.reasoning).unwrap_or(output),
        }
    }
}

/// Which tokens a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Input,
    Cached,
    CacheWrite,
    Output,
    Reasoning,
}

impl TokenKind {
    /// The kind that a field is named after, and the rest of its name.
    fn of_field(field: &str) -> Option<(Self, &str)> {
        let fields = [
            ("input_cost_per_token", Self::Input),
            ("output_cost_per_token", Self::Output),
            ("output_cost_per_reasoning_token", Self::Reasoning),
            ("cache_read_input_token_cost", Self::Cached),
            ("cache_creation_input_token_cost", Self::CacheWrite),
        ];
        fields.into_iter().find_map(|(name, kind)| Some((kind, field.strip_prefix(name)?)))
    }

    const fn is_input(self) -> bool {
        matches!(self, Self::Input | Self::Cached | Self::CacheWrite)
    }

    const fn slot(self, rates: &mut Partial) -> &mut Option<Rate> {
        match self {
            Self::Input => &mut rates.input,
            Self::Cached => &mut rates.cached,
            Self::CacheWrite => &mut rates.cache_write,
            Self::Output => &mut rates.output,
            Self::Reasoning => &mut rates.reasoning,
        }
    }
}

/// When a price applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Base,
    Above(u64),
    Surcharge,
}

/// Ways to be served faster for more money, and the cache that lasts an hour.
const SURCHARGES: [&str; 5] = ["_priority", "_ultrafast", "_balanced", "_decisions", "_above_1hr"];
/// Ways to be served later for less.
const DISCOUNTS: [&str; 2] = ["_batches", "_flex"];
/// Tokens in the `k` of `_above_200k_tokens`.
const TOKENS_PER_K: u64 = 1_000;

impl Place {
    /// `None` for a discount and for suffixes of other units.
    fn of_suffix(suffix: &str) -> Option<Self> {
        if suffix.is_empty() {
            return Some(Self::Base);
        }
        if DISCOUNTS.iter().any(|discount| suffix.ends_with(discount)) {
            return None;
        }
        if SURCHARGES
            .iter()
            .any(|surcharge| suffix.starts_with(surcharge) || suffix.ends_with(surcharge))
        {
            return Some(Self::Surcharge);
        }
        let thousands: u64 =
            suffix.strip_prefix("_above_")?.strip_suffix("k_tokens")?.parse().ok()?;
        Some(Self::Above(thousands.checked_mul(TOKENS_PER_K)?))
    }
}

fn is_reading(mode: Raw<'_>) -> bool {
    mode.as_text().is_some_and(|mode| mode.is("embedding") || mode.is("rerank"))
}

/// A number of tokens, also when it went through a double: `256000.0`.
fn whole_number(value: Raw<'_>) -> Option<u64> {
    let text = value.scalar()?;
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}
