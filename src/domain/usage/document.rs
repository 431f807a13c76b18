//! What one JSON document of a response says: a whole body, an event or a line.

use crate::domain::json::{Extent, Raw};
use crate::domain::usage::fields::Fields;
use crate::domain::usage::places::{Place, Source};

/// What was found in a document so far.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Usage objects by whose they are, the last of each.
    pub(super) usages: Vec<(Source, Fields)>,
    /// Counts at the top of the document.
    pub(super) native: Option<Fields>,
    pub(super) model: String,
    pub(super) response_id: String,
    pub(super) service_tier: String,
    pub(super) kind: Kind,
    /// It says that the model stopped.
    pub(super) is_finished: bool,
    /// It says that the model did not; `done` in Ollama.
    pub(super) is_running: bool,
    /// It brings content, so that its usage may not be the last.
    pub(super) has_choice: bool,
    /// A guardrail wrote the text, which nobody pays for as output.
    pub(super) is_blocked: bool,
}

/// The events that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Anthropic's `message_delta`, whose usage goes on from `message_start`.
    MessageDelta,
    #[default]
    Other,
}

impl Document {
    /// Makes room for the next one.
    pub(super) fn clear(&mut self) {
        self.usages.clear();
        self.native = None;
        self.model.clear();
        self.response_id.clear();
        self.service_tier.clear();
        self.kind = Kind::Other;
        self.is_finished = false;
        self.is_running = false;
        self.has_choice = false;
        self.is_blocked = false;
    }

    /// Notes a value; `None` when it is too long for its place.
    pub(super) fn note(&mut self, place: Place, text: Option<&[u8]>) {
        let raw = Raw::new(text.unwrap_or_default(), Extent::Whole);
        let is_word = |word: &str| raw.as_text().is_some_and(|text| text.is(word));
        match place {
            Place::Usage(source) => self.usage(source, text),
            Place::Count(name) => {
                let native = self.native.get_or_insert_default();
                native.native(name, text.unwrap_or_default());
            }
            Place::Result => {
                self.native.get_or_insert_default().native_result(text.unwrap_or_default());
            }
            Place::Model => set(&mut self.model, raw),
            Place::ResponseId => set(&mut self.response_id, raw),
            Place::ServiceTier => set(&mut self.service_tier, raw),
            Place::Kind if is_word("message_delta") => self.kind = Kind::MessageDelta,
            Place::FinishReason => self.is_finished |= raw.as_text().is_some(),
            Place::Done => match raw.as_bool() {
                Some(true) => self.is_finished = true,
                Some(false) => self.is_running = true,
                None => {}
            },
            Place::Choice => self.has_choice = true,
            Place::Guardrail if is_word("INTERVENED") => {
                self.is_blocked = true;
                self.is_finished = true;
            }
            Place::Kind | Place::Guardrail | Place::Bytes => {}
        }
    }

    fn usage(&mut self, source: Source, text: Option<&[u8]>) {
        let fields = match text {
            Some(text) if text.starts_with(b"{") => Fields::read(text),
            Some(_) => return,
            None => Fields { is_invalid: true, ..Fields::default() },
        };
        if source == Source::Meta && !fields.has_billed_units {
            return;
        }
        match self.usages.iter_mut().find(|(known, _)| *known == source) {
            Some((_, known)) => *known = fields,
            None => self.usages.push((source, fields)),
        }
    }
}

/// Takes over a string that is there.
fn set(target: &mut String, raw: Raw<'_>) {
    if let Some(text) = raw.as_str().filter(|text| !text.is_empty()) {
        target.clear();
        target.push_str(&text);
    }
}
