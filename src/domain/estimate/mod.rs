//! What a request may cost before it is made.

mod appraisal;
mod learned;
mod media;
mod models;
mod reasoning;
mod request;
#[cfg(test)]
mod tests;

pub use appraisal::{Appraisal, appraise};
pub use learned::{LEARNED_MAX, Learned, Usual};
pub use reasoning::Reasoning;
pub use request::model_in_path;

use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::pricing::{ByUnit, Extent, Media, ModelPrice, PriceTable};

use models::Models;
use request::{Cap, Rest, Seen};

/// What a reservation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The most that the response should cost.
    pub amounts: Amounts,
    /// Whether the cost is known.
    pub priced: Priced,
    /// What later estimates learn from the response.
    pub lesson: Lesson,
}

impl Estimate {
    /// Of a bare check: nothing is set aside.
    pub const NOTHING: Self = Self::of(Amounts { cost: NanoUsd::ZERO, tokens: Tokens::ZERO });

    /// What somebody else says that a request may cost.
    #[must_use]
    pub const fn of(amounts: Amounts) -> Self {
        Self { amounts, priced: Priced::Yes, lesson: Lesson::Nothing }
    }
}

/// What later estimates learn from a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lesson {
    /// Nothing: estimates do not learn, or this was none of ours.
    #[default]
    Nothing,
    /// How long requests are. A capped answer says nothing of how long others are.
    Input,
    /// How long requests are, and how long answers are without a cap.
    InputAndOutput,
}

/// Whether a request's cost can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priced {
    /// From the price table, a default price or the price of an unknown model.
    Yes,
    /// No price, and the policy is to count tokens only.
    TokensOnly,
    /// No price, and the policy is to refuse where a cost gate applies.
    No,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The provider that the request goes to.
    pub provider: Option<&'a str>,
    /// The model as a trusted source outside of the body names it.
    pub model: Option<&'a str>,
    /// The request's path, which names the model in some APIs.
    pub path: &'a str,
    /// What can be seen of the body.
    pub body: Body<'a>,
    /// What earlier requests of the same key and model used.
    pub usual: Usual,
}

/// What can be seen of a request's body.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its first part.
    Cut {
        /// That part.
        seen: &'a [u8],
        /// The size of the whole, from `content-length`.
        whole_size: Option<u64>,
    },
    /// Nothing.
    Unseen {
        /// Its size, from `content-length`.
        size: Option<u64>,
    },
    /// The first part, or nothing, of one in a content-encoding: nobody can tell what the rest of it unpacks to.
    Packed {
        /// That part, unpacked.
        seen: &'a [u8],
        /// What the whole unpacks to in all likelihood at the most.
        likely_size: u64,
    },
}

/// How requests are estimated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How much is set aside.
    pub mode: Mode,
    /// Whether estimates learn from responses.
    pub learn: Learn,
    /// What is set aside when nothing names the model.
    pub unknown_model: Amounts,
    /// What happens when the model has no price.
    pub unpriced: Unpriced,
}

/// How much is set aside for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// An upper bound: a token for every byte, and the model's maximum where the request has no cap.
    Strict,
    /// What it will cost in all likelihood.
    #[default]
    Estimate,
    /// Nothing: a request is admitted while anything is left, and pays when it is over.
    Postpaid,
}

impl Mode {
    /// `strict`, `estimate` or `postpaid`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Estimate => "estimate",
            Self::Postpaid => "postpaid",
        }
    }

    /// The mode with this name, as [`Mode::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Strict, Self::Estimate, Self::Postpaid]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// Whether estimates learn from responses. Only [`Mode::Estimate`] does; the others do not depend on what is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Learn {
    /// They do.
    #[default]
    On,
    /// The defaults hold for good.
    Off,
}

/// What happens to a request for a model without a price.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unpriced {
    /// It is refused where a cost gate applies.
    #[default]
    Deny,
    /// It is priced like this.
    DefaultPrice(Box<ModelPrice>),
    /// Its tokens are counted, its cost is not.
    CountTokensOnly,
}

impl Unpriced {
    /// `deny`, `default_price` or `count_tokens_only`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::DefaultPrice(_) => "default_price",
            Self::CountTokensOnly => "count_tokens_only",
        }
    }
}

/// Set aside for a request that names no model: 5 cents and 4,096 tokens.
const UNKNOWN_MODEL: Amounts =
    Amounts { cost: NanoUsd::new(50_000_000), tokens: Tokens::new(4_096) };

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            learn: Learn::default(),
            unknown_model: UNKNOWN_MODEL,
            unpriced: Unpriced::default(),
        }
    }
}

/// Bytes of request text per input token: 18% of recorded requests have fewer without the constants below, 1% with them.
const BYTES_PER_TOKEN: u64 = 3;
/// Input that providers add to every request.
const OVERHEAD_TOKENS: u64 = 64;
/// Input that providers add to a request with tools: their hidden prompts have 350 to 800 tokens.
const TOOL_TOKENS: u64 = 900;
/// Input that one image or document comes to, whatever its bytes.
const MEDIA_TOKENS: u64 = 1_600;
/// Output of a request without a cap, until more is known of its like: 99% of recorded answers have less than half of it.
const OUTPUT_TOKENS: u64 = 4_096;
/// Bounds the cap of a request where the model's own maximum is not on record; few models write more.
const OUTPUT_TOKENS_MAX: u64 = 131_072;

/// Bytes in a second of sound, at 16 kbit/s; what is sent to be transcribed has more.
const BYTES_PER_SECOND: u64 = 2_000;
/// Bytes in a page of a document; a page of a scan has more.
const BYTES_PER_PAGE: u64 = 2_000;

/// What a request may cost: the dearest of the models that its header, body and path name, because nobody here knows which
/// of them the provider reads.
#[must_use]
pub fn estimate(request: &RequestFacts<'_>, prices: &PriceTable, policy: &Policy) -> Estimate {
    appraise(request, prices, policy).estimate
}

fn estimate_of(seen: &Seen<'_>, usual: Usual, models: &Models, policy: &Policy) -> Estimate {
    let at = |price: Option<&ModelPrice>| amounts(seen, usual, price, policy.mode);
    let dearest = (models.priced.iter())
        .map(|price| at(Some(price)))
        .reduce(|a, b| Amounts { cost: a.cost.max(b.cost), tokens: a.tokens.max(b.tokens) });
    let (amounts, priced) = match (dearest, &policy.unpriced) {
        (Some(amounts), _) => (amounts, Priced::Yes),
        (None, _) if !models.is_named => (unknown_model(seen, usual, policy), Priced::Yes),
        (None, Unpriced::DefaultPrice(price)) => (at(Some(price)), Priced::Yes),
        (None, Unpriced::CountTokensOnly) => (at(None), Priced::TokensOnly),
        (None, Unpriced::Deny) => (at(None), Priced::No),
    };
    match policy.mode {
        Mode::Strict | Mode::Estimate => {
            Estimate { amounts, priced, lesson: lesson(seen.cap, policy) }
        }
        Mode::Postpaid => Estimate { amounts: Amounts::default(), priced, lesson: Lesson::Nothing },
    }
}

/// What is set aside where nothing names the model: no fewer tokens than what is known of the length says.
fn unknown_model(seen: &Seen<'_>, usual: Usual, policy: &Policy) -> Amounts {
    let input = usual.input.unwrap_or_else(|| input_tokens(seen, policy.mode));
    let input = Tokens::new(i64::try_from(input).unwrap_or(i64::MAX));
    Amounts { tokens: policy.unknown_model.tokens.max(input), ..policy.unknown_model }
}

const fn lesson(cap: Cap, policy: &Policy) -> Lesson {
    match (policy.mode, policy.learn, cap) {
        (Mode::Estimate, Learn::On, Cap::Absent) => Lesson::InputAndOutput,
        (Mode::Estimate, Learn::On, Cap::At(_) | Cap::Unclear) => Lesson::Input,
        (Mode::Strict | Mode::Postpaid, _, _) | (_, Learn::Off, _) => Lesson::Nothing,
    }
}

/// What is known of the request's like, as far as it counts: the input is what was seen, where anything tells how much it is.
const fn usual(request: &RequestFacts<'_>, policy: &Policy) -> Usual {
    match (policy.mode, policy.learn, request.body) {
        (Mode::Estimate, Learn::On, Body::Unseen { size: None }) => request.usual,
        (Mode::Estimate, Learn::On, _) => Usual { input: None, ..request.usual },
        (Mode::Strict | Mode::Postpaid, _, _) | (_, Learn::Off, _) => {
            Usual { input: None, output: None }
        }
    }
}

fn amounts(seen: &Seen<'_>, usual: Usual, price: Option<&ModelPrice>, mode: Mode) -> Amounts {
    let input = usual
        .input
        .unwrap_or_else(|| input_tokens(seen, mode))
        .min(price.and_then(|price| price.max_input_tokens).unwrap_or(u64::MAX));
    let output_max = price.and_then(|price| price.max_output_tokens).unwrap_or(OUTPUT_TOKENS_MAX);
    let output = seen.choices.saturating_mul(output_tokens(seen.cap, usual, mode).min(output_max));
    let media = if seen.media.items > 0 { Media::Possible } else { Media::Absent };
    let extent = Extent { input, output, media, units: units(seen, mode) };
    Amounts {
        cost: price.map_or(NanoUsd::ZERO, |price| price.cost_at_most(&extent)),
        tokens: Tokens::new(i64::try_from(input.saturating_add(output)).unwrap_or(i64::MAX)),
    }
}

/// Units other than tokens that a request may come to, for models that are priced by them: what it asks to be made, and at the
/// most what its bytes can hold.
fn units(seen: &Seen<'_>, mode: Mode) -> ByUnit<u64> {
    let text_bytes = text_bytes(seen, mode);
    let bytes = text_bytes.saturating_add(seen.media.bytes);
    ByUnit {
        request: 1,
        second: bytes.div_ceil(BYTES_PER_SECOND),
        image: seen.choices,
        search: 1,
        web_search: 0,
        page: bytes.div_ceil(BYTES_PER_PAGE),
        character: text_bytes,
    }
}

/// How much text there is. What is packed may unpack to anything: only the model's own maximum is a bound of it.
const fn text_bytes(seen: &Seen<'_>, mode: Mode) -> u64 {
    match (seen.rest, mode) {
        (Rest::Packed, Mode::Strict) => u64::MAX,
        (Rest::Packed | Rest::Plain, _) => seen.text_bytes,
    }
}

fn input_tokens(seen: &Seen<'_>, mode: Mode) -> u64 {
    let media_tokens = seen.media.items.saturating_mul(MEDIA_TOKENS);
    let text_bytes = text_bytes(seen, mode);
    let body_tokens = match mode {
        Mode::Strict => text_bytes.saturating_add(media_tokens.max(seen.media.bytes)),
        Mode::Estimate | Mode::Postpaid => {
            text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(media_tokens)
        }
    };
    body_tokens.saturating_add(OVERHEAD_TOKENS).saturating_add(seen.tool_tokens)
}

/// The output of one choice, before the model's own maximum is applied to it. What is usual is that of whole responses: too
/// much for one of several choices, never too little.
fn output_tokens(cap: Cap, usual: Usual, mode: Mode) -> u64 {
    match (cap, mode) {
        (Cap::At(cap), _) => cap,
        (Cap::Unclear, _) | (Cap::Absent, Mode::Strict) => u64::MAX,
        (Cap::Absent, Mode::Estimate | Mode::Postpaid) => usual.output.unwrap_or(OUTPUT_TOKENS),
    }
}
