//! The canonical record of one response.

use crate::domain::money::NanoUsd;
use crate::domain::pricing::{Billable, ByKind, ByUnit, ServiceTier};
use crate::domain::usage::Usage;

/// What the meter found in a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metered {
    /// The provider's own final numbers.
    Exact(Record),
    /// A lower bound: the response ended before its final numbers.
    AtLeast(Record),
    /// No numbers, or none that a response can have. The caller estimates, or books nothing for an error.
    None,
}

/// What one response used, whoever answered it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The tokens that the provider states. As it states them: more reasoning than output has been seen, and
    /// [`Usage::checked`] clamps it.
    pub usage: Usage,
    /// The parts of `usage` that are sound or images, which some models bill at rates of their own.
    pub media: MediaTokens,
    /// What is billed beside tokens.
    pub extras: Extras,
    /// The sub-calls that the provider made and bills, where it lists them: Anthropic's compaction, advisor and fallback calls, some of
    /// another model's and not in `usage`. Empty where `usage` is all there is. Read it through [`Record::billable`].
    pub parts: Vec<Part>,
    /// What the provider says that it charges for all of it; only where the route's provider is one that is documented to say so.
    pub bill: Option<NanoUsd>,
    /// The model that answered, as the response names it.
    pub model: Option<Box<str>>,
    /// The service tier that it was answered in, in the provider's words: `priority`, `flex`, `ON_DEMAND_FLEX`.
    pub service_tier: Option<Box<str>>,
    /// The provider's id of the response, by which one that is read twice is booked once.
    pub response_id: Option<Box<str>>,
}

/// One call to one model within a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its model, where it is not the response's.
    pub model: Option<Box<str>>,
    /// Its tokens.
    pub usage: Usage,
}

/// Tokens of sound and images. Each is a part of input or output, and cached sound a part of what is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MediaTokens {
    /// Sound in the input.
    pub input_audio: u64,
    /// Sound in the input, from the provider's cache.
    pub cached_audio: u64,
    /// Images in the input.
    pub input_image: u64,
    /// Sound in the output.
    pub output_audio: u64,
    /// Images in the output.
    pub output_image: u64,
}

/// What is billed by other units than tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Seconds of audio, begun ones whole.
    pub seconds: u64,
    /// Searches of a reranker.
    pub search_units: u64,
    /// Searches of the web that the model made.
    pub web_searches: u64,
    /// Images.
    pub images: u64,
    /// Pages of a document.
    pub pages: u64,
    /// Characters of text.
    pub characters: u64,
}

impl Record {
    /// Every call that is billed, with its model: the parts, or else the whole.
    pub fn billable(&self) -> impl Iterator<Item = (Option<&str>, &Usage)> {
        let whole = self.parts.is_empty().then_some((self.model.as_deref(), &self.usage));
        let parts = self.parts.iter();
        whole
            .into_iter()
            .chain(parts.map(|part| (part.model.as_deref().or(self.model.as_deref()), &part.usage)))
    }

    /// The same with all that their price depends on. What is billed beside tokens goes with the last call, which answers.
    pub fn calls(&self) -> impl Iterator<Item = (Option<&str>, Billable)> {
        let service = self.service_tier.as_deref().map(ServiceTier::from_name).unwrap_or_default();
        let last = self.parts.len().saturating_sub(1);
        self.billable().enumerate().map(move |(index, (model, usage))| {
            let mut call = Billable { service, ..Billable::from(usage) };
            if index == last {
                self.add_media(&mut call.tokens);
                call.units = self.extras.into();
            }
            (model, call)
        })
    }

    fn add_media(&self, tokens: &mut ByKind<u64>) {
        tokens.input_audio = self.media.input_audio;
        tokens.cached_audio = self.media.cached_audio;
        tokens.input_image = self.media.input_image;
        tokens.output_audio = self.media.output_audio;
        tokens.output_image = self.media.output_image;
    }

    /// The tokens of all calls that are billed: what counts against a token budget.
    #[must_use]
    pub fn total(&self) -> Usage {
        self.billable().fold(Usage::default(), |sum, (_, usage)| sum.plus(*usage))
    }
}

impl From<Extras> for ByUnit<u64> {
    fn from(extras: Extras) -> Self {
        Self {
            second: extras.seconds,
            search: extras.search_units,
            web_search: extras.web_searches,
            image: extras.images,
            page: extras.pages,
            character: extras.characters,
            ..Self::default()
        }
    }
}

impl Extras {
    /// Each by its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("seconds", self.seconds),
            ("search_units", self.search_units),
            ("web_searches", self.web_searches),
            ("images", self.images),
            ("pages", self.pages),
            ("characters", self.characters),
        ]
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
