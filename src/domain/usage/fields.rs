//! What a usage object says, under all the names that providers have for it.

use crate::domain::json::{Raw, elements, members};
use crate::domain::money::NanoUsd;
use crate::domain::usage::bill;
use crate::domain::usage::names::{
    COUNTS, Field, GROUPS, HEADERS, MODALITIES, NATIVE, Table, field,
};
use crate::domain::usage::{Part, TOKENS_MAX, shape};

/// One number of a usage object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Count {
    #[default]
    Absent,
    Is(u32),
    /// Negative, fractional, too large or no number.
    Invalid,
}

/// The numbers of one usage object. Names that providers use for the same number share a field; where an object has several of them
/// they are the same tokens, so that the largest counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    /// OpenAI's chat: `prompt_tokens` and so on. Input includes what is cached.
    pub(super) prompt: Count,
    pub(super) completion: Count,
    /// The total, in the shapes of OpenAI.
    pub(super) total: Count,
    /// Parts of input, in the shapes of OpenAI.
    pub(super) cached: Count,
    pub(super) cache_write: Count,
    /// Part of output.
    pub(super) reasoning: Count,
    /// `input_tokens` and `output_tokens`: OpenAI's Responses or Anthropic.
    pub(super) input: Count,
    pub(super) output: Count,
    /// There are `input_tokens_details`, which only OpenAI has.
    pub(super) has_input_details: bool,
    /// Anthropic's cache, beside its input.
    pub(super) cache_read: Count,
    pub(super) cache_creation: Count,
    pub(super) cache_creation_5m: Count,
    pub(super) cache_creation_1h: Count,
    /// Bedrock Converse; its cache stands beside its input.
    pub(super) converse_input: Count,
    pub(super) converse_output: Count,
    pub(super) converse_read: Count,
    pub(super) converse_write: Count,
    pub(super) converse_write_1h: Count,
    /// Gemini; tool prompts and thoughts stand beside prompt and candidates.
    pub(super) gemini_prompt: Count,
    pub(super) gemini_tool_prompt: Count,
    pub(super) gemini_candidates: Count,
    pub(super) gemini_thoughts: Count,
    pub(super) gemini_cached: Count,
    pub(super) gemini_total: Count,
    /// Gemini's Interactions, likewise.
    pub(super) interaction_input: Count,
    pub(super) interaction_tools: Count,
    pub(super) interaction_output: Count,
    pub(super) interaction_thoughts: Count,
    pub(super) interaction_cached: Count,
    /// Cohere: what is billed, which is not what was counted.
    pub(super) has_billed_units: bool,
    pub(super) billed_input: Count,
    pub(super) billed_output: Count,
    /// Models that answer in their own shape: Ollama, Llama and Titan on Bedrock.
    pub(super) native_input: Count,
    pub(super) native_output: Count,
    /// Sound and images within input and output.
    pub(super) input_audio: Count,
    pub(super) cached_audio: Count,
    pub(super) input_image: Count,
    pub(super) output_audio: Count,
    pub(super) output_image: Count,
    /// Beside tokens.
    pub(super) seconds: Count,
    pub(super) search_units: Count,
    pub(super) web_searches: Count,
    pub(super) images: Count,
    pub(super) pages: Count,
    pub(super) characters: Count,
    /// The service tier that stands beside the numbers.
    pub(super) service_tier: Option<Box<str>>,
    /// Sub-calls that are billed on their own.
    pub(super) parts: Vec<Part>,
    /// A number is none that a response can have, or there are more sub-calls than are read.
    pub(super) is_invalid: bool,
    /// OpenRouter's or Perplexity's charge.
    pub(super) cost: Option<NanoUsd>,
    /// What the provider behind OpenRouter charges to the caller's own key.
    pub(super) upstream_cost: Option<NanoUsd>,
    /// The caller has its own key there.
    pub(super) is_byok: bool,
    /// xAI's charge.
    pub(super) xai_cost: Option<NanoUsd>,
}

/// More sub-calls in one response than any provider makes.
const PARTS_MAX: usize = 128;
/// No service tier has a longer name.
const TIER_BYTES_MAX: usize = 64;

impl Fields {
    /// Reads a usage object. Anything else says nothing, as `null` does.
    pub(super) fn read(text: &[u8]) -> Self {
        let mut fields = Self::default();
        for (key, value) in members(text) {
            let name = if key.bytes().contains(&b'\\') { key.decoded() } else { None };
            let name = name.as_ref().map_or(key.bytes(), |name| name.as_bytes());
            fields.member(name, value);
        }
        fields
    }

    /// Notes a number at the top of a document.
    pub(super) fn native(&mut self, name: &str, text: &[u8]) {
        if let Some(field) = field(NATIVE, name.as_bytes()) {
            self.note(field, count(text));
        }
    }

    /// Notes one of several results of a Titan model.
    pub(super) fn native_result(&mut self, text: &[u8]) {
        let count = count(text);
        self.is_invalid |= count == Count::Invalid;
        self.native_output.add(count);
    }

    /// Notes one of the response's headers, if it is one in which Bedrock counts.
    pub(super) fn header(&mut self, name: &str, value: &str) {
        let known = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some((_, field)) = known {
            self.note(*field, count(value.trim().as_bytes()));
        }
    }

    fn member(&mut self, name: &[u8], value: Raw<'_>) {
        if let Some(field) = field(COUNTS, name) {
            self.note(field, count(value.bytes()));
            return;
        }
        if let Some((_, table)) = GROUPS.iter().find(|(group, _)| group.as_bytes() == name) {
            self.group(name, table, value);
            return;
        }
        if let Some((_, audio, image)) =
            MODALITIES.iter().find(|(list, _, _)| list.as_bytes() == name)
        {
            self.modalities(value, *audio, *image);
            return;
        }
        match name {
            b"seconds" | b"prompt_audio_seconds" => {
                self.note(|f| &mut f.seconds, begun(value.bytes()));
            }
            b"service_tier" | b"serviceTier" | b"trafficType" => {
                let tier = value.as_str().filter(|tier| tier.len() <= TIER_BYTES_MAX);
                self.service_tier = tier.map(Into::into).or(self.service_tier.take());
            }
            b"iterations" => self.iterations(value),
            b"cacheDetails" => self.cache_details(value),
            b"cost" => self.cost = bill::cost(value),
            b"cost_details" => self.upstream_cost = bill::upstream(value),
            b"is_byok" => self.is_byok = value.as_bool() == Some(true),
            b"cost_in_usd_ticks" => self.xai_cost = bill::ticks(value),
            _ => {}
        }
    }

    fn group(&mut self, name: &[u8], table: Table, value: Raw<'_>) {
        if !value.bytes().starts_with(b"{") {
            return;
        }
        self.has_input_details |= name == b"input_tokens_details";
        self.has_billed_units |= name == b"billed_units";
        for (key, value) in members(value.bytes()) {
            let name = key.decoded().unwrap_or_default();
            if let Some(field) = field(table, name.as_bytes()) {
                self.note(field, count(value.bytes()));
            }
        }
    }

    /// Gemini's list of tokens by what they stand for. A kind may stand in it more than once.
    fn modalities(&mut self, value: Raw<'_>, audio: Option<Field>, image: Option<Field>) {
        for element in elements(value.bytes()) {
            let (mut field, mut tokens) = (None, Count::Absent);
            for (key, value) in members(element.bytes()) {
                if key.is("modality") {
                    field = match value.as_str().unwrap_or_default().as_ref() {
                        "AUDIO" => audio,
                        "IMAGE" => image,
                        _ => None,
                    };
                } else if key.is("tokenCount") {
                    tokens = count(value.bytes());
                }
            }
            if let Some(field) = field {
                self.is_invalid |= tokens == Count::Invalid;
                field(self).add(tokens);
            }
        }
    }

    /// Anthropic's sub-calls, in the shape of its usage object with a model.
    fn iterations(&mut self, value: Raw<'_>) {
        for iteration in elements(value.bytes()) {
            let (fields, model) = Self::iteration(iteration);
            match shape::usage_of(&fields, shape::Route::Other) {
                Some(usage) if !fields.is_invalid && self.parts.len() < PARTS_MAX => {
                    self.parts.push(Part { model, usage });
                }
                _ => self.is_invalid = true,
            }
        }
    }

    fn iteration(value: Raw<'_>) -> (Self, Option<Box<str>>) {
        let mut fields = Self::default();
        let mut model = None;
        for (key, value) in members(value.bytes()) {
            match key.decoded().unwrap_or_default().as_ref() {
                "model" => model = value.as_str().map(Into::into),
                // Iterations have none of their own, and reading them would nest.
                "iterations" => {}
                name => fields.member(name.as_bytes(), value),
            }
        }
        (fields, model)
    }

    /// Bedrock's cache writes by the time that they are kept.
    fn cache_details(&mut self, value: Raw<'_>) {
        for detail in elements(value.bytes()) {
            let (mut is_hour, mut tokens) = (false, Count::Absent);
            for (key, value) in members(detail.bytes()) {
                if key.is("ttl") {
                    is_hour = value.as_str().as_deref() == Some("1h");
                } else if key.is("inputTokens") {
                    tokens = count(value.bytes());
                }
            }
            if is_hour {
                self.note(|f| &mut f.converse_write_1h, tokens);
            }
        }
    }

    fn note(&mut self, field: Field, count: Count) {
        self.is_invalid |= count == Count::Invalid;
        field(self).note(count);
    }
}

impl Count {
    /// Its value; nothing where it is absent.
    pub(super) fn get(self) -> u64 {
        match self {
            Self::Is(count) => u64::from(count),
            Self::Absent | Self::Invalid => 0,
        }
    }

    pub(super) fn is_there(self) -> bool {
        self != Self::Absent
    }

    /// Takes in another name's value for the same number.
    fn note(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Invalid, _) | (_, Self::Invalid) => Self::Invalid,
            (Self::Is(one), Self::Is(other)) => Self::Is(one.max(other)),
            (Self::Absent, known) | (known, Self::Absent) => known,
        };
    }

    /// Takes in another part of the same number.
    fn add(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::Invalid, _) | (_, Self::Invalid) => Self::Invalid,
            (Self::Is(one), Self::Is(other)) => Self::Is(one.saturating_add(other)),
            (Self::Absent, known) | (known, Self::Absent) => known,
        };
    }
}

/// Reads a number of tokens: a whole one, even if it is written as `3.0` or `1e3`.
fn count(text: &[u8]) -> Count {
    number(text, bill::Decimal::whole)
}

/// Reads a number of which a begun one counts whole.
fn begun(text: &[u8]) -> Count {
    number(text, bill::Decimal::rounded_up)
}

fn number(text: &[u8], read: fn(bill::Decimal) -> Option<u128>) -> Count {
    if text == b"null" {
        return Count::Absent;
    }
    let number = bill::Decimal::parse(text).and_then(read);
    match number.filter(|number| *number <= u128::from(TOKENS_MAX)).map(u32::try_from) {
        Some(Ok(number)) => Count::Is(number),
        Some(Err(_)) | None => Count::Invalid,
    }
}
