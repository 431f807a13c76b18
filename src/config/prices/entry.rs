//! One entry of a price table: from LiteLLM's many fields to the price of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Fault;
use super::field::Field;
use super::off_peak::{self, OffPeak};
use super::sheet::Sheet;
use crate::domain::json::{self, Raw};
use crate::domain::pricing::{
    ByUnit, Entry, Kind, ModelPrice, Offer, Rate, RateError, Reasons, ServiceTier, Unit, When,
};

/// What is in the names of models that can reason and do so only when they are asked to: Anthropic's.
const REASONS_WHEN_ASKED: &str = "claude";

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
    let mut draft = Draft { bound: Bound::of(name), ..Draft::default() };
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
    sheets: BTreeMap<ServiceTier, Sheet>,
    units: ByUnit<Rate>,
    /// The price of an image in the input, which in an image model's entry is one that it makes.
    input_image: Option<Rate>,
    off_peak: Option<OffPeak>,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    /// LiteLLM's older field; counts where `max_output_tokens` is missing.
    max_tokens: Option<u64>,
    kind: ModelKind,
    /// Whether it can reason.
    reasons: bool,
    origin: Origin,
    bound: Bound,
    /// Field and problem.
    faults: Vec<(String, String)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ModelKind {
    #[default]
    Writes,
    /// An embedding or a reranking: there is no output to be paid for.
    ReadsOnly,
    MakesImages,
    Free,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Origin {
    #[default]
    Operator,
    Published,
}

/// Where a tier begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// With the first token more.
    #[default]
    Above,
    /// With that token: so xAI counts.
    At,
}

impl Bound {
    fn of(name: &str) -> Self {
        if name.starts_with("xai/") { Self::At } else { Self::Above }
    }
}

impl Draft {
    fn read(&mut self, entry: Raw<'_>) {
        for (key, value) in json::members(entry.bytes()) {
            let key = key.decoded().unwrap_or_default();
            if value.is_null() {
                continue;
            }
            match &*key {
                "max_input_tokens" => self.max_input_tokens = self.limit(&key, value),
                "max_output_tokens" => self.max_output_tokens = self.limit(&key, value),
                "max_tokens" => self.max_tokens = self.limit(&key, value),
                "mode" => self.mode(value),
                "litellm_provider" => self.origin = Origin::Published,
                "free" => {
                    if self.is_true(&key, value) {
                        self.kind = ModelKind::Free;
                    }
                }
                "supports_reasoning" => self.reasons = self.is_true(&key, value),
                "tiered_pricing" => self.ranges(value),
                "search_context_cost_per_query" => self.web_searches(value),
                "off_peak_pricing" => match off_peak::read(value) {
                    Ok(read) => self.off_peak = read,
                    Err(problem) => self.fault(&key, &problem),
                },
                _ => self.price(&key, value),
            }
        }
    }

    fn mode(&mut self, mode: Raw<'_>) {
        let is = |name| mode.as_text().is_some_and(|mode| mode.is(name));
        if is("embedding") || is("rerank") {
            self.kind = ModelKind::ReadsOnly;
        } else if is("image_generation") || is("image_edit") {
            self.kind = ModelKind::MakesImages;
        }
    }

    /// A price, if the field is one that matters here.
    fn price(&mut self, key: &str, value: Raw<'_>) {
        let Some(field) = Field::of_name(key) else { return };
        let read = match field {
            Field::Tokens(..) => Rate::from_usd_per_token,
            Field::Units(_) | Field::InputImage => Rate::from_usd_per_unit,
        };
        let Some(rate) = self.rate(key, value, read) else { return };
        match field {
            Field::Tokens(kind, above, service) => {
                let above = self.bound(above);
                *self.sheets.entry(service).or_default().above(above).slot(kind) = Some(rate);
            }
            Field::Units(unit) => {
                let slot = self.units.slot(unit);
                *slot = (*slot).max(rate);
            }
            Field::InputImage => self.input_image = Some(rate),
        }
    }

    /// `{"search_context_size_medium": 0.01, …}`: the size that is used when nobody asks for another.
    fn web_searches(&mut self, sizes: Raw<'_>) {
        if let json::Found::Value(price) =
            json::find(sizes.bytes(), &["search_context_size_medium"])
        {
            let field = "search_context_cost_per_query.search_context_size_medium";
            self.units.web_search =
                self.rate(field, price, Rate::from_usd_per_unit).unwrap_or_default();
        }
    }

    /// `[{"range": [0, 256000], "input_cost_per_token": …}, …]`
    fn ranges(&mut self, value: Raw<'_>) {
        for (index, range) in json::elements(value.bytes()).enumerate() {
            let at = format!("tiered_pricing[{index}]");
            let mut rates = Vec::new();
            for (key, value) in json::members(range.bytes()) {
                let key = key.decoded().unwrap_or_default();
                if let Some(Field::Tokens(kind, 0, service)) = Field::of_name(&key)
                    && let Some(rate) =
                        self.rate(&format!("{at}.{key}"), value, Rate::from_usd_per_token)
                {
                    rates.push((kind, service, rate));
                }
            }
            // Searches have ranges of results, and no price for tokens in them.
            if rates.is_empty() {
                continue;
            }
            let from = match json::find(range.bytes(), &["range", "0"]) {
                json::Found::Value(from) => whole_number(from),
                json::Found::Absent | json::Found::Cut | json::Found::Malformed => None,
            };
            let Some(from) = from else {
                self.fault(&format!("{at}.range"), "does not begin with a whole number of tokens");
                continue;
            };
            let above = self.bound(from);
            for (kind, service, rate) in rates {
                *self.sheets.entry(service).or_default().above(above).slot(kind) = Some(rate);
            }
        }
    }

    const fn bound(&self, tokens: u64) -> u64 {
        match self.bound {
            Bound::Above => tokens,
            Bound::At => tokens.saturating_sub(1),
        }
    }

    fn rate(
        &mut self,
        field: &str,
        value: Raw<'_>,
        read: fn(&str) -> Result<Rate, RateError>,
    ) -> Option<Rate> {
        match read(value.scalar().unwrap_or_default()) {
            Ok(rate) => Some(rate),
            Err(error) => {
                self.fault(field, &error.to_string());
                None
            }
        }
    }

    fn is_true(&mut self, field: &str, value: Raw<'_>) -> bool {
        let said = value.as_bool();
        if said.is_none() {
            self.fault(field, "is neither true nor false");
        }
        said == Some(true)
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
        let base =
            self.sheets.get(&ServiceTier::Standard).map(|sheet| sheet.base).unwrap_or_default();
        let paid = |kinds: &[Kind]| kinds.iter().any(|kind| base.get(*kind) > Some(Rate::ZERO));
        let by_unit = Unit::ALL.into_iter().any(|unit| self.units.get(unit) > Rate::ZERO)
            || (self.kind == ModelKind::MakesImages && self.input_image > Some(Rate::ZERO));
        let reads = paid(&[Kind::Input, Kind::InputAudio]);
        let writes = paid(&[Kind::Output, Kind::OutputAudio, Kind::OutputImage]);
        match self.kind {
            ModelKind::Free => None,
            _ if !reads && by_unit => None,
            _ if !reads => Some((
                "input_cost_per_token",
                "is missing or zero; a model that costs nothing has \"free\": true",
            )),
            ModelKind::Writes if !writes => Some((
                "output_cost_per_token",
                "is missing or zero; a model without output has \"mode\": \"embedding\"",
            )),
            ModelKind::ReadsOnly | ModelKind::MakesImages | ModelKind::Writes => None,
        }
    }

    fn into_price(mut self, name: &str) -> ModelPrice {
        if let (ModelKind::MakesImages, Some(image)) = (self.kind, self.input_image) {
            self.units.image = self.units.image.max(image);
        }
        let standard = self.sheets.remove(&ServiceTier::Standard).unwrap_or_default();
        let usual = standard.offer(ServiceTier::Standard, When::default(), &standard, self.units);
        let off_peak =
            self.off_peak.as_ref().map(|off_peak| off_peak.offers(&standard, self.units));
        let others = self
            .sheets
            .iter()
            .map(|(service, sheet)| sheet.offer(*service, When::default(), &standard, self.units));
        let offers: Vec<Offer> =
            std::iter::once(usual).chain(off_peak.into_iter().flatten()).chain(others).collect();
        let mut price = ModelPrice::new(name, offers);
        price.max_input_tokens = self.max_input_tokens;
        price.reasons = match (self.reasons, name.contains(REASONS_WHEN_ASKED)) {
            (false, _) => Reasons::Never,
            (true, true) => Reasons::WhenAsked,
            (true, false) => Reasons::ByItself,
        };
        price.max_output_tokens = match self.kind {
            ModelKind::ReadsOnly => Some(0),
            ModelKind::Writes | ModelKind::MakesImages | ModelKind::Free => {
                self.max_output_tokens.or(self.max_tokens)
            }
        };
        price
    }
}

/// A number of tokens, also when it went through a double: `256000.0`.
fn whole_number(value: Raw<'_>) -> Option<u64> {
    let text = value.scalar()?;
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}
