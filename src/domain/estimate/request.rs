//! What a request's body and path say about its cost: the model, the caps on output, tools and media. All dialects at once,
//! because a path does not tell the dialect.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::domain::estimate::media::{Media, inline_media};
use crate::domain::estimate::reasoning::{WISHES, Wish};
use crate::domain::estimate::{Body, TOOL_TOKENS};
use crate::domain::json::{self, Ending, Raw};

/// What was seen of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    pub(super) model: Option<Cow<'a, str>>,
    /// Whether it names another model too: parsers differ in which they take.
    pub(super) is_ambiguous: bool,
    pub(super) cap: Cap,
    /// How many answers are asked for.
    pub(super) choices: u64,
    /// What tools add to the input.
    pub(super) tool_tokens: u64,
    /// The size of the body without its media.
    pub(super) text_bytes: u64,
    pub(super) media: Media,
    /// What it says of reasoning.
    pub(super) reasoning: Wish,
    pub(super) rest: Rest,
}

/// What is not seen of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing, or as many bytes as its length says.
    Plain,
    /// It is in a content-encoding, so that its length says little.
    Packed,
}

/// The request's cap on the output of one choice. Of several the last in this order counts: an API reads one of them, and
/// nobody here knows which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cap {
    /// None.
    Absent,
    /// So many tokens.
    At(u64),
    /// There may be one behind the cut, or it is a number such as −1 that means what the server wants it to mean.
    Unclear,
}

/// Input that is assumed when nobody says how much there is.
const UNSEEN_BYTES: u64 = 16 * 1024;
/// More answers to one request than any provider gives (OpenAI: 128).
const CHOICES_MAX: u64 = 128;

/// The names of the cap in the dialects, at the top or in one of [`SETTINGS`].
const CAPS: [&str; 10] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "maxOutputTokens",
    "maxTokens",
    "maxTokenCount",
    "num_predict",
];
/// The names of the number of answers.
const CHOICES: [&str; 5] = ["n", "best_of", "candidateCount", "candidate_count", "num_generations"];
/// Objects in which dialects keep such settings.
const SETTINGS: [&str; 9] = [
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "inference_config",
    "textGenerationConfig",
    "options",
    "parameters",
    "additionalModelRequestFields",
    "chat_template_kwargs",
];
const TOOLS: [&str; 4] = ["tools", "functions", "toolConfig", "tool_config"];
const MODELS: [&str; 2] = ["model", "modelId"];

impl<'a> Seen<'a> {
    pub(super) fn of(body: Body<'a>) -> Self {
        let size_of = |seen: &[u8]| u64::try_from(seen.len()).unwrap_or(u64::MAX);
        match body {
            Body::Whole([]) => Self::nothing(0),
            Body::Whole(seen) => Self::read(seen, size_of(seen)),
            Body::Cut { seen, whole_size } => {
                Self::read(seen, size_of(seen).max(whole_size.unwrap_or(0)))
            }
            Body::Unseen { size } => Self::unseen(size.unwrap_or(UNSEEN_BYTES)),
            Body::Packed { seen: [], likely_size } => {
                Self { rest: Rest::Packed, ..Self::unseen(likely_size) }
            }
            Body::Packed { seen, likely_size } => {
                Self { rest: Rest::Packed, ..Self::read(seen, size_of(seen).max(likely_size)) }
            }
        }
    }

    fn unseen(size: u64) -> Self {
        Self { tool_tokens: TOOL_TOKENS, reasoning: Wish::Unclear, ..Self::nothing(size) }
    }

    const fn nothing(size: u64) -> Self {
        let media = Media { items: 0, bytes: 0 };
        Self {
            model: None,
            is_ambiguous: false,
            cap: Cap::Absent,
            choices: 1,
            tool_tokens: 0,
            text_bytes: size,
            media,
            reasoning: Wish::Unsaid,
            rest: Rest::Plain,
        }
    }

    fn read(body: &'a [u8], size: u64) -> Self {
        let media = inline_media(body);
        let mut seen = Self { media, ..Self::nothing(size.saturating_sub(media.bytes)) };
        if seen.settings(body, Depth::Top) != Ending::Closed {
            // Whatever was not seen yet may be behind the cut.
            seen.tool_tokens = TOOL_TOKENS;
            if seen.cap == Cap::Absent {
                seen.cap = Cap::Unclear;
            }
            seen.reasoning = seen.reasoning.max(Wish::Unclear);
        }
        seen
    }

    fn settings(&mut self, object: &'a [u8], depth: Depth) -> Ending {
        let mut members = json::members(object);
        for (key, value) in members.by_ref() {
            let Some(key) = key.decoded() else { continue };
            match (&*key, depth) {
                (key, _) if CAPS.contains(&key) => self.cap = self.cap.max(Cap::of(value)),
                (key, _) if CHOICES.contains(&key) => {
                    self.choices = self.choices.max(value.as_u64().unwrap_or(1).min(CHOICES_MAX));
                }
                (key, _) if WISHES.contains(&key) => {
                    self.reasoning = self.reasoning.max(Wish::of(value));
                }
                (key, Depth::Top) if MODELS.contains(&key) => self.name(value.as_str()),
                (key, Depth::Top) if TOOLS.contains(&key) && !is_empty(value) => {
                    self.tool_tokens = TOOL_TOKENS
                }
                (key, Depth::Top) if SETTINGS.contains(&key) => {
                    // Where these are cut, so is the object around them.
                    let _ = self.settings(value.bytes(), Depth::Settings);
                }
                _ => {}
            }
        }
        members.ending()
    }

    fn name(&mut self, model: Option<Cow<'a, str>>) {
        self.is_ambiguous |= self.model.is_some() && model.is_some() && self.model != model;
        self.model = model.or_else(|| self.model.take());
    }
}

/// Where settings are read.
#[derive(Debug, Clone, Copy)]
enum Depth {
    Top,
    Settings,
}

impl Cap {
    fn of(value: Raw<'_>) -> Self {
        match value.as_u64() {
            // Some clients send zero for "not set".
            Some(0) => Self::Absent,
            Some(cap) => Self::At(cap),
            None if value.is_null() => Self::Absent,
            None => Self::Unclear,
        }
    }
}

fn is_empty(value: Raw<'_>) -> bool {
    value.is_null() || value.bytes().iter().all(|b| b"[]{} \t\r\n".contains(b))
}

/// The model in paths such as `/v1beta/models/NAME:generateContent`, `/model/NAME/converse` and `/openai/deployments/NAME/…`.
#[must_use]
pub fn model_in_path(path: &str) -> Option<Cow<'_, str>> {
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let mut segments = path.split('/');
    while let Some(segment) = segments.next() {
        let name = match segment {
            "models" => {
                segments.clone().next().and_then(|next| next.rsplit_once(':')).map(|(name, _)| name)
            }
            "model" | "deployments" | "engines" => segments.clone().next(),
            _ => None,
        };
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return percent_decode_str(name).decode_utf8().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(body: &str) -> Seen<'_> {
        Seen::of(Body::Whole(body.as_bytes()))
    }

    #[test]
    fn every_dialects_cap_and_choices_are_seen() {
        let check = |body: &str, cap, choices| {
            assert_eq!((seen(body).cap, seen(body).choices), (Cap::At(cap), choices), "{body}");
        };
        check(r#"{"model":"gpt-4o","max_tokens":100,"n":3}"#, 100, 3);
        check(r#"{"max_completion_tokens":7,"best_of":2,"n":1}"#, 7, 2);
        check(r#"{"input":"hi","max_output_tokens":9}"#, 9, 1);
        check(r#"{"generationConfig":{"maxOutputTokens":11,"candidateCount":4}}"#, 11, 4);
        check(r#"{"generation_config":{"max_output_tokens":11,"candidate_count":4}}"#, 11, 4);
        check(r#"{"inferenceConfig":{"maxTokens":12}}"#, 12, 1);
        check(r#"{"inputText":"x","textGenerationConfig":{"maxTokenCount":13}}"#, 13, 1);
        check(r#"{"prompt":"x","max_gen_len":14}"#, 14, 1);
        check(r#"{"options":{"num_predict":15}}"#, 15, 1);
        check(r#"{"parameters":{"max_new_tokens":16}}"#, 16, 1);
        check(r#"{"m\u0061x_tokens":17}"#, 17, 1);
    }

    #[test]
    fn of_several_caps_the_highest_counts() {
        assert_eq!(
            seen(r#"{"max_tokens":1,"generationConfig":{"maxOutputTokens":60000}}"#).cap,
            Cap::At(60_000)
        );
        assert_eq!(seen(r#"{"max_tokens":9,"max_tokens":1}"#).cap, Cap::At(9));
        assert_eq!(seen(r#"{"max_tokens":9,"max_completion_tokens":-1}"#).cap, Cap::Unclear);
    }

    #[test]
    fn a_cap_that_is_no_number_of_tokens_is_unclear() {
        for odd in ["-1", "1.5", "NaN", "1e9", "\"100\"", "true", "[1]", "{}"] {
            assert_eq!(seen(&format!(r#"{{"max_tokens":{odd}}}"#)).cap, Cap::Unclear, "{odd}");
        }
        for unset in ["null", "0"] {
            assert_eq!(seen(&format!(r#"{{"max_tokens":{unset}}}"#)).cap, Cap::Absent, "{unset}");
        }
    }

    #[test]
    fn only_settings_of_the_request_itself_count() {
        let body = r#"{"messages":[{"content":"{\"max_tokens\":5}","max_tokens":5,"n":9}],"metadata":{"model":"x","tools":[1]}}"#;
        assert_eq!(seen(body), Seen::nothing(u64::try_from(body.len()).unwrap()));
    }

    #[test]
    fn a_body_with_two_models_is_ambiguous() {
        for (body, ambiguous) in [
            (r#"{"model":"a","messages":[],"model":"b"}"#, true),
            (r#"{"model":"a","mod\u0065l":"b"}"#, true),
            (r#"{"model":"a","modelId":"b"}"#, true),
            (r#"{"model":"a","model":"a"}"#, false),
            (r#"{"model":"a","model":null}"#, false),
            (r#"{"model":"a","options":{"model":"b"}}"#, false),
        ] {
            assert_eq!(seen(body).is_ambiguous, ambiguous, "{body}");
        }
    }

    #[test]
    fn hostile_counts_are_bounded() {
        assert_eq!(seen(r#"{"n":18446744073709551615}"#).choices, CHOICES_MAX);
        assert_eq!(seen(r#"{"n":-5,"best_of":1e9}"#).choices, 1);
        assert_eq!(seen(r#"{"max_tokens":99999999999999999999}"#).cap, Cap::Unclear);
    }

    #[test]
    fn tools_count_when_there_are_any() {
        for (body, tokens) in [
            (r#"{"tools":[{"type":"function"}]}"#, TOOL_TOKENS),
            (r#"{"toolConfig":{"tools":[]}}"#, TOOL_TOKENS),
            (r#"{"tools":[ ]}"#, 0),
            (r#"{"tools":null}"#, 0),
        ] {
            assert_eq!(seen(body).tool_tokens, tokens, "{body}");
        }
    }

    #[test]
    fn what_is_behind_a_cut_is_unclear() {
        let cut = |seen: &'static str| {
            Seen::of(Body::Cut { seen: seen.as_bytes(), whole_size: Some(1_000) })
        };
        let early = cut(r#"{"model":"gpt-4o","max_tokens":10,"messages":[{"role":"us"#);
        assert_eq!(
            (early.model.as_deref(), early.cap, early.text_bytes),
            (Some("gpt-4o"), Cap::At(10), 1_000)
        );
        assert_eq!(early.tool_tokens, TOOL_TOKENS);
        let late = cut(r#"{"messages":[{"role":"us"#);
        assert_eq!((late.model, late.cap), (None, Cap::Unclear));
        assert_eq!(cut(r#"{"model":"gpt-4"#).model, None);
        assert_eq!(cut(r#"{"max_tokens":12"#).cap, Cap::Unclear);
        assert_eq!(seen("--boundary").cap, Cap::Unclear);
    }

    #[test]
    fn the_path_names_the_model_in_some_apis() {
        let check = |path: &str, model: Option<&str>| {
            assert_eq!(model_in_path(path).as_deref(), model, "{path}")
        };
        check(
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            Some("gemini-2.5-flash"),
        );
        check(
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:generateContent",
            Some("gemini-2.5-pro"),
        );
        check("/model/us.amazon.nova-lite-v1%3A0/converse", Some("us.amazon.nova-lite-v1:0"));
        check("/openai/deployments/prod%2Dchat/chat/completions?api-version=1", Some("prod-chat"));
        check("/v1/models/gpt-4o", None);
        check("/v1/chat/completions", None);
        check("/model/", None);
        check("/model/%FF/converse", None);
    }
}
