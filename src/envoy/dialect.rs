//! Error bodies in the language of the API that the client speaks, so that its library raises the right exception.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::decision::{RefusalCode, RefusingGate};
use crate::domain::money::Units;
use crate::domain::wording;

/// The API that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's, and whatever is not known to be another.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Google's Gemini.
    Gemini,
}

/// What went wrong, before it is put into words of a dialect.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: &'a str,
    pub(super) gate: Option<&'a RefusingGate>,
    pub(super) retry_after: Option<Duration>,
}

/// The methods of Gemini's API that cost something or count tokens.
const GEMINI_METHODS: [&str; 6] = [
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "batchGenerateContent",
];

impl Dialect {
    /// The dialect of a path. A prefix that a gateway put before it does not matter.
    pub(super) fn of(path: &str) -> Self {
        let method = path.rsplit_once(':').map(|(_, method)| method);
        if method.is_some_and(|method| GEMINI_METHODS.contains(&method)) {
            Self::Gemini
        } else if path.ends_with("/v1/messages") || path.contains("/v1/messages/") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// The body of an error as JSON.
    pub(super) fn body(self, problem: &Problem<'_>) -> String {
        let json = match self {
            Self::OpenAi => serde_json::to_string(&OpenAi { error: OpenAiError::of(problem) }),
            Self::Anthropic => serde_json::to_string(&Anthropic {
                r#type: "error",
                error: AnthropicError::of(problem),
            }),
            Self::Gemini => serde_json::to_string(&Gemini { error: GeminiError::of(problem) }),
        };
        json.unwrap_or_default()
    }
}

/// The gate to blame, in the same words in every dialect; all `null` when there is none.
#[derive(Serialize)]
struct Facts<'a> {
    scope_kind: Option<&'static str>,
    scope_target_id: Option<&'a str>,
    dimension: Option<&'static str>,
    limit: Option<Box<RawValue>>,
    remaining: Option<Box<RawValue>>,
    reset_seconds: Option<u64>,
}

impl<'a> Facts<'a> {
    fn of(gate: Option<&'a RefusingGate>) -> Self {
        let number = |of: fn(&RefusingGate) -> Units| gate.and_then(|gate| exact(gate, of(gate)));
        Self {
            scope_kind: gate.map(|gate| gate.scope_kind.as_str()),
            scope_target_id: gate.map(|gate| gate.target.as_str()),
            dimension: gate.map(|gate| gate.dimension.as_str()),
            limit: number(|gate| gate.info.limit),
            remaining: number(|gate| gate.info.remaining),
            reset_seconds: gate.map(|gate| gate.info.reset_seconds.unwrap_or(0)),
        }
    }
}

/// A JSON number with every digit of the integer that it is made from.
fn exact(gate: &RefusingGate, amount: Units) -> Option<Box<RawValue>> {
    RawValue::from_string(wording::decimal(gate.dimension, amount)).ok()
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: &'static str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

impl<'a> OpenAiError<'a> {
    fn of(problem: &Problem<'a>) -> Self {
        let r#type = match (problem.status, problem.code) {
            (_, code) if code == RefusalCode::CreditsExhausted.as_str() => "insufficient_quota",
            (403, _) => "permission_error",
            (503, _) => "service_unavailable_error",
            _ => "rate_limit_error",
        };
        let facts = Facts::of(problem.gate);
        Self { message: problem.message, r#type, param: None, code: problem.code, facts }
    }
}

#[derive(Serialize)]
struct Anthropic<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
    code: &'static str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

impl<'a> AnthropicError<'a> {
    fn of(problem: &Problem<'a>) -> Self {
        let r#type = match problem.status {
            402 => "billing_error",
            403 => "permission_error",
            503 => "api_error",
            _ => "rate_limit_error",
        };
        Self {
            r#type,
            message: problem.message,
            code: problem.code,
            facts: Facts::of(problem.gate),
        }
    }
}

#[derive(Serialize)]
struct Gemini<'a> {
    error: GeminiError<'a>,
}

/// Gemini's `code` is the HTTP status, so ours goes by `reason`, as in Google's `ErrorInfo`.
#[derive(Serialize)]
struct GeminiError<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
    reason: &'static str,
    #[serde(flatten)]
    facts: Facts<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<RetryInfo>,
}

/// Google's own way to say when to try again; Gemini's libraries read it instead of `retry-after`.
#[derive(Serialize)]
struct RetryInfo {
    #[serde(rename = "@type")]
    r#type: &'static str,
    #[serde(rename = "retryDelay")]
    retry_delay: String,
}

impl<'a> GeminiError<'a> {
    fn of(problem: &Problem<'a>) -> Self {
        let status = match problem.status {
            403 => "PERMISSION_DENIED",
            503 => "UNAVAILABLE",
            _ => "RESOURCE_EXHAUSTED",
        };
        let retry = problem.retry_after.map(|wait| RetryInfo {
            r#type: "type.googleapis.com/google.rpc.RetryInfo",
            retry_delay: format!("{}s", wait.as_nanos().div_ceil(1_000_000_000)),
        });
        Self {
            code: problem.status,
            message: problem.message,
            status,
            reason: problem.code,
            facts: Facts::of(problem.gate),
            details: retry.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_tells_the_dialect_whatever_prefix_it_has() {
        for (path, dialect) in [
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/v1/responses", Dialect::OpenAi),
            ("/v1/messages", Dialect::Anthropic),
            ("/anthropic/v1/messages/count_tokens", Dialect::Anthropic),
            ("/v1/messages_of_mine", Dialect::OpenAi),
            ("/v1beta/models/gemini-2.5-pro:generateContent", Dialect::Gemini),
            ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", Dialect::Gemini),
            ("/v1/models/x:predict", Dialect::OpenAi),
            ("", Dialect::OpenAi),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }
}
