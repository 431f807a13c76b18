//! Where in a document something is read that matters. Everything else is the model's output or the caller's data echoed, and may
//! look like usage as much as it likes.

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A usage object.
    Usage(Source),
    /// A count at the top of the document, by its name: Ollama, Titan, Llama.
    Count(&'static str),
    /// The output of one of several results of a Titan model.
    Result,
    /// The model that answered.
    Model,
    /// The response's id.
    ResponseId,
    /// The service tier.
    ServiceTier,
    /// What kind of event the document is.
    Kind,
    /// Why the model stopped; null until it does.
    FinishReason,
    /// Whether Ollama is done.
    Done,
    /// That there is a choice with content in it.
    Choice,
    /// Bedrock's guardrail: `INTERVENED` when it wrote the text itself.
    Guardrail,
    /// A JSON document in base64, in Bedrock's invoke streams.
    Bytes,
}

/// Whose a usage object is: that of …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// … a whole response, a chunk or Anthropic's `message_delta`.
    Document,
    /// … a chunk of Gemini's, which all have one.
    Chunk,
    /// … the response within an event. It is there only when it is final.
    Response,
    /// … Cohere v1's, which counts only where it holds `billed_units`.
    Meta,
    /// … Anthropic's `message_start`.
    MessageStart,
    /// … Bedrock's `metadata`, which elsewhere is the caller's own.
    Metadata,
    /// … Bedrock's last word on an invoke stream, beside the model's own.
    Metrics,
}

/// A container on the way to a place, or the place.
#[derive(Debug)]
pub(super) enum Node {
    /// Read here.
    Leaf(Place),
    /// An object with members that matter.
    Object(&'static [(&'static str, Node)]),
    /// An array, each of whose elements is such an object.
    Array(&'static [(&'static str, Node)]),
}

/// The longest way to a place: `response.meta`, `candidates[].finishReason`.
pub(super) const DEPTH_MAX: usize = 3;
/// The longest key on the way to one.
pub(super) const KEY_BYTES_MAX: usize = 40;

use Node::{Array, Leaf, Object};

/// The top of a document.
pub(super) static DOCUMENT: [(&str, Node); 40] = [
    ("usage", Leaf(Place::Usage(Source::Document))),
    ("usageMetadata", Leaf(Place::Usage(Source::Chunk))),
    ("usage_metadata", Leaf(Place::Usage(Source::Chunk))),
    // Mistral's reader of documents.
    ("usage_info", Leaf(Place::Usage(Source::Document))),
    ("meta", Leaf(Place::Usage(Source::Meta))),
    ("amazon-bedrock-invocationMetrics", Leaf(Place::Usage(Source::Metrics))),
    ("response", Object(&RESPONSE)),
    // Gemini's Interactions.
    ("interaction", Object(&RESPONSE)),
    ("message", Object(&MESSAGE)),
    ("delta", Object(&DELTA)),
    ("metadata", Object(&[("usage", Leaf(Place::Usage(Source::Metadata)))])),
    ("x_groq", Object(&[("usage", Leaf(Place::Usage(Source::Response)))])),
    ("choices", Array(&CHOICE)),
    ("candidates", Array(&[("finishReason", Leaf(Place::FinishReason))])),
    ("promptFeedback", Object(&[("blockReason", Leaf(Place::FinishReason))])),
    ("results", Array(&[("tokenCount", Leaf(Place::Result))])),
    ("model", Leaf(Place::Model)),
    ("modelVersion", Leaf(Place::Model)),
    ("id", Leaf(Place::ResponseId)),
    ("responseId", Leaf(Place::ResponseId)),
    ("response_id", Leaf(Place::ResponseId)),
    ("service_tier", Leaf(Place::ServiceTier)),
    ("type", Leaf(Place::Kind)),
    ("event_type", Leaf(Place::Kind)),
    ("done", Leaf(Place::Done)),
    ("is_finished", Leaf(Place::Done)),
    ("finish_reason", Leaf(Place::FinishReason)),
    ("stop_reason", Leaf(Place::FinishReason)),
    ("prompt_eval_count", Leaf(Place::Count("prompt_eval_count"))),
    ("eval_count", Leaf(Place::Count("eval_count"))),
    ("inputTextTokenCount", Leaf(Place::Count("inputTextTokenCount"))),
    ("totalOutputTextTokenCount", Leaf(Place::Count("totalOutputTextTokenCount"))),
    ("prompt_token_count", Leaf(Place::Count("prompt_token_count"))),
    ("generation_token_count", Leaf(Place::Count("generation_token_count"))),
    ("amazon-bedrock-guardrailAction", Leaf(Place::Guardrail)),
    ("bytes", Leaf(Place::Bytes)),
    ("messageStop", Object(&[("stopReason", Leaf(Place::FinishReason))])),
    ("stopReason", Leaf(Place::FinishReason)),
    ("completionReason", Leaf(Place::FinishReason)),
    ("generation_id", Leaf(Place::ResponseId)),
];

/// A whole response inside of an event.
static RESPONSE: [(&str, Node); 7] = [
    ("usage", Leaf(Place::Usage(Source::Response))),
    ("usageMetadata", Leaf(Place::Usage(Source::Chunk))),
    ("meta", Leaf(Place::Usage(Source::Meta))),
    ("model", Leaf(Place::Model)),
    ("modelVersion", Leaf(Place::Model)),
    ("id", Leaf(Place::ResponseId)),
    ("service_tier", Leaf(Place::ServiceTier)),
];

static MESSAGE: [(&str, Node); 3] = [
    ("usage", Leaf(Place::Usage(Source::MessageStart))),
    ("model", Leaf(Place::Model)),
    ("id", Leaf(Place::ResponseId)),
];

static DELTA: [(&str, Node); 3] = [
    // Cohere v2's `message-end`.
    ("usage", Leaf(Place::Usage(Source::Response))),
    ("stop_reason", Leaf(Place::FinishReason)),
    ("finish_reason", Leaf(Place::FinishReason)),
];

static CHOICE: [(&str, Node); 3] = [
    // Moonshot.
    ("usage", Leaf(Place::Usage(Source::Document))),
    ("finish_reason", Leaf(Place::FinishReason)),
    ("index", Leaf(Place::Choice)),
];

impl Node {
    /// The member of that name, if it matters.
    pub(super) fn member(
        members: &'static [(&'static str, Self)],
        key: &[u8],
    ) -> Option<&'static Self> {
        let is_key = |name: &[u8]| {
            // The first byte tells most of them apart, which is faster than comparing whole names.
            name.len() == key.len() && name.first() == key.first() && name == key
        };
        members.iter().find(|(name, _)| is_key(name.as_bytes())).map(|(_, node)| node)
    }
}

impl Place {
    /// The longest text of the place that is kept. A longer one counts as unreadable, which for usage means none.
    pub(super) const fn bytes_max(self) -> usize {
        match self {
            Self::Usage(_) => USAGE_BYTES_MAX,
            Self::Count(_)
            | Self::Result
            | Self::ServiceTier
            | Self::Kind
            | Self::FinishReason
            | Self::Done
            | Self::Choice
            | Self::Guardrail => SHORT_BYTES_MAX,
            Self::Model | Self::ResponseId => NAME_BYTES_MAX,
            Self::Bytes => 0,
        }
    }
}

/// A usage object with a hundred sub-calls has 30 KB.
const USAGE_BYTES_MAX: usize = 64 * 1024;
/// As long as an id may be, with its quotes and escapes.
const NAME_BYTES_MAX: usize = 1024;
/// Words and numbers of the provider's own.
const SHORT_BYTES_MAX: usize = 512;
