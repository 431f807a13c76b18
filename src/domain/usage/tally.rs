//! Puts the documents of a response together. The last usage that says something counts and nothing is ever added up: streams
//! repeat themselves. Only Anthropic's comes in two halves, of which the second replaces what it names.

use crate::domain::usage::document::{Document, Kind};
use crate::domain::usage::fields::{Count, Fields};
use crate::domain::usage::places::Source;
use crate::domain::usage::shape::{Route, extras_of, media_of, usage_of};
use crate::domain::usage::{Metered, Part, Record, Usage};

/// What a response said so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    route: Route,
    /// The last usage that says something.
    usage: Option<Fields>,
    /// Anthropic's second half came, so that a `message_start` is a repetition.
    has_delta: bool,
    /// The last usage has numbers that no response has.
    is_spoiled: bool,
    /// Bedrock's own numbers, which count where the model's answer has none.
    metrics: Option<Fields>,
    /// The response told its end.
    is_ended: bool,
    model: String,
    response_id: String,
    service_tier: String,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was one JSON text, seen whole.
    Whole,
    /// It was a stream, or it was cut: whether it told its end is for its documents to say.
    Open,
    /// It was one JSON text and was cut.
    Cut,
}

impl Tally {
    pub(super) fn new(route: Route) -> Self {
        Self { route, ..Self::default() }
    }

    pub(super) fn response_id(&self) -> Option<&str> {
        Some(self.response_id.as_str()).filter(|id| !id.is_empty())
    }

    /// Takes in a document.
    pub(super) fn add(&mut self, document: &mut Document) {
        for (target, text) in [
            (&mut self.model, &document.model),
            (&mut self.response_id, &document.response_id),
            (&mut self.service_tier, &document.service_tier),
        ] {
            if !text.is_empty() && target != text {
                target.clone_from(text);
            }
        }
        self.is_ended |= document.is_finished;
        if let Some(native) = native_of(document) {
            self.replace(Source::Chunk, native);
        }
        let (kind, has_choice) = (document.kind, document.has_choice);
        for (source, fields) in document.usages.drain(..) {
            if fields.is_invalid {
                self.is_spoiled = true;
            } else if self.says_something(&fields) {
                self.is_ended |= match source {
                    Source::Chunk | Source::MessageStart => false,
                    Source::Document => !has_choice,
                    Source::Response | Source::Meta | Source::Metadata | Source::Metrics => true,
                };
                if (source, kind) == (Source::Document, Kind::MessageDelta) {
                    self.go_on(fields);
                } else {
                    self.replace(source, fields);
                }
            } else if let Some(tier) = fields.service_tier {
                self.service_tier = tier.into();
            }
        }
    }

    /// Notes that the stream said that nothing follows.
    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    fn replace(&mut self, source: Source, fields: Fields) {
        if source == Source::Metrics {
            self.metrics = Some(fields);
        } else if source != Source::MessageStart || !self.has_delta {
            self.is_spoiled = false;
            self.usage = Some(fields);
        }
    }

    /// Anthropic's second half. What it does not name, or names as zero input, stands as the first half said.
    fn go_on(&mut self, delta: Fields) {
        self.has_delta = true;
        self.is_spoiled = false;
        self.usage = Some(match self.usage.take() {
            Some(start) => merged(start, delta),
            None => delta,
        });
    }

    fn says_something(&self, fields: &Fields) -> bool {
        let usage = usage_of(fields, self.route).unwrap_or_default();
        usage != Usage::default()
            || !extras_of(fields).is_empty()
            || self.route.bill(fields).is_some_and(|bill| bill.get() > 0)
    }

    /// The result. `counted` is what the headers say, where they do.
    pub(super) fn finish(self, ending: Ending, counted: Option<Fields>) -> Metered {
        let is_final = match ending {
            Ending::Whole => true,
            Ending::Open => self.is_ended,
            Ending::Cut => false,
        };
        let is_exact = is_final && !self.is_spoiled;
        let body = self.usage.as_ref().and_then(|fields| self.record(fields));
        let metrics = self.metrics.as_ref().or(counted.as_ref());
        let metrics = metrics.and_then(|fields| self.record(fields));
        match (body, metrics) {
            (Some(record), _) if is_exact => Metered::Exact(record),
            (_, Some(record)) => Metered::Exact(record),
            (Some(record), None) => Metered::AtLeast(record),
            (None, None) => Metered::None,
        }
    }

    fn record(&self, fields: &Fields) -> Option<Record> {
        let usage = usage_of(fields, self.route).unwrap_or_default();
        if fields.is_invalid || usage.checked().is_err() || !self.says_something(fields) {
            return None;
        }
        let text = |text: &str| (!text.is_empty()).then(|| text.into());
        let tier = fields.service_tier.clone();
        Some(Record {
            usage,
            media: media_of(fields),
            extras: extras_of(fields),
            parts: parts_of(fields, usage),
            bill: self.route.bill(fields),
            model: text(&self.model),
            service_tier: tier.or_else(|| text(&self.service_tier)),
            response_id: text(&self.response_id),
        })
    }
}

/// Counts at the top of a document: final in Ollama's last line and in every other's whole answer.
fn native_of(document: &mut Document) -> Option<Fields> {
    let mut native = document.native.take()?;
    if document.is_running {
        return None;
    }
    if document.is_blocked {
        native.native_output = Count::Absent;
    }
    Some(native)
}

/// The sub-calls, if they hold all that the response states; a list that holds less is not a list of what is billed.
fn parts_of(fields: &Fields, whole: Usage) -> Vec<Part> {
    let sum = fields.parts.iter().fold(Usage::default(), |sum, part| sum.plus(part.usage));
    if sum.input < whole.input || sum.output < whole.output {
        return Vec::new();
    }
    fields.parts.clone()
}

/// Anthropic's usage after its `message_delta`. Input and cache are one group, for what was input at first may turn out to have been
/// cached; an input without a word on the cache corrects the input alone, unless it is as large as all there was.
fn merged(start: Fields, delta: Fields) -> Fields {
    let input = |f: &Fields| usage_of(f, Route::Other).unwrap_or_default().input;
    let has_cache = delta.cache_read.is_there() || delta.cache_creation.is_there();
    let mut merged = start.clone();
    if input(&delta) == 0 {
        // Nothing was said of the input.
    } else if has_cache || input(&delta) >= input(&start) {
        merged.input = delta.input;
        merged.cache_read = delta.cache_read;
        if delta.cache_creation != start.cache_creation || delta.cache_creation_5m.is_there() {
            merged.cache_creation_5m = delta.cache_creation_5m;
            merged.cache_creation_1h = delta.cache_creation_1h;
        }
        merged.cache_creation = delta.cache_creation;
    } else {
        merged.input = delta.input;
    }
    if delta.output.get() > 0 {
        merged.output = delta.output;
    }
    for (target, new) in
        [(&mut merged.reasoning, delta.reasoning), (&mut merged.web_searches, delta.web_searches)]
    {
        if new.is_there() {
            *target = new;
        }
    }
    if !delta.parts.is_empty() {
        merged.parts = delta.parts;
    }
    merged.service_tier = delta.service_tier.or(merged.service_tier);
    merged
}
