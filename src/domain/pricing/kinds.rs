//! What a price can be for: the kinds of tokens, and the units that are not tokens.

/// A kind of token that some model has a rate of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Input; what no other kind of input stands for.
    Input,
    /// Input from the provider's cache.
    Cached,
    /// Input written to the provider's cache, for five minutes or as long as the provider likes.
    CacheWrite,
    /// Input written to the provider's cache for an hour.
    CacheWrite1h,
    /// Sound in the input.
    InputAudio,
    /// Sound in the input, from the provider's cache.
    CachedAudio,
    /// Images in the input.
    InputImage,
    /// Output; what no other kind of output stands for.
    Output,
    /// Output that the model kept to itself.
    Reasoning,
    /// Sound in the output.
    OutputAudio,
    /// Images in the output.
    OutputImage,
}

/// One value for each kind of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each field is the kind of its name")]
pub struct ByKind<T> {
    pub input: T,
    pub cached: T,
    pub cache_write: T,
    pub cache_write_1h: T,
    pub input_audio: T,
    pub cached_audio: T,
    pub input_image: T,
    pub output: T,
    pub reasoning: T,
    pub output_audio: T,
    pub output_image: T,
}

/// Something other than tokens that a request is billed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The request itself.
    Request,
    /// A second of sound, heard or spoken.
    Second,
    /// An image made.
    Image,
    /// A search over documents, as rerankers count them.
    Search,
    /// A search of the web.
    WebSearch,
    /// A page of a document read.
    Page,
    /// A character read aloud.
    Character,
}

/// One value for each unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each field is the unit of its name")]
pub struct ByUnit<T> {
    pub request: T,
    pub second: T,
    pub image: T,
    pub search: T,
    pub web_search: T,
    pub page: T,
    pub character: T,
}

impl Kind {
    /// Every kind: input first.
    pub const ALL: [Self; 11] = [
        Self::Input,
        Self::Cached,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::InputAudio,
        Self::CachedAudio,
        Self::InputImage,
        Self::Output,
        Self::Reasoning,
        Self::OutputAudio,
        Self::OutputImage,
    ];

    /// The name of its field, as in the audit trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Cached => "cached",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite1h => "cache_write_1h",
            Self::InputAudio => "input_audio",
            Self::CachedAudio => "cached_audio",
            Self::InputImage => "input_image",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::OutputAudio => "output_audio",
            Self::OutputImage => "output_image",
        }
    }
}

impl<T: Copy> ByKind<T> {
    /// The value of one kind.
    pub const fn get(&self, kind: Kind) -> T {
        match kind {
            Kind::Input => self.input,
            Kind::Cached => self.cached,
            Kind::CacheWrite => self.cache_write,
            Kind::CacheWrite1h => self.cache_write_1h,
            Kind::InputAudio => self.input_audio,
            Kind::CachedAudio => self.cached_audio,
            Kind::InputImage => self.input_image,
            Kind::Output => self.output,
            Kind::Reasoning => self.reasoning,
            Kind::OutputAudio => self.output_audio,
            Kind::OutputImage => self.output_image,
        }
    }

    /// The place of one kind's value.
    pub const fn slot(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Input => &mut self.input,
            Kind::Cached => &mut self.cached,
            Kind::CacheWrite => &mut self.cache_write,
            Kind::CacheWrite1h => &mut self.cache_write_1h,
            Kind::InputAudio => &mut self.input_audio,
            Kind::CachedAudio => &mut self.cached_audio,
            Kind::InputImage => &mut self.input_image,
            Kind::Output => &mut self.output,
            Kind::Reasoning => &mut self.reasoning,
            Kind::OutputAudio => &mut self.output_audio,
            Kind::OutputImage => &mut self.output_image,
        }
    }
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 7] = [
        Self::Request,
        Self::Second,
        Self::Image,
        Self::Search,
        Self::WebSearch,
        Self::Page,
        Self::Character,
    ];

    /// The name of its field, as in the audit trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Second => "second",
            Self::Image => "image",
            Self::Search => "search",
            Self::WebSearch => "web_search",
            Self::Page => "page",
            Self::Character => "character",
        }
    }
}

impl<T: Copy> ByUnit<T> {
    /// The value of one unit.
    pub const fn get(&self, unit: Unit) -> T {
        match unit {
            Unit::Request => self.request,
            Unit::Second => self.second,
            Unit::Image => self.image,
            Unit::Search => self.search,
            Unit::WebSearch => self.web_search,
            Unit::Page => self.page,
            Unit::Character => self.character,
        }
    }

    /// The place of one unit's value.
    pub const fn slot(&mut self, unit: Unit) -> &mut T {
        match unit {
            Unit::Request => &mut self.request,
            Unit::Second => &mut self.second,
            Unit::Image => &mut self.image,
            Unit::Search => &mut self.search,
            Unit::WebSearch => &mut self.web_search,
            Unit::Page => &mut self.page,
            Unit::Character => &mut self.character,
        }
    }
}

impl ByKind<u64> {
    /// Counts of which none is part of another, from counts as providers report them: `input` is all input and `output` all
    /// output. Parts that exceed their whole are clamped to it, because providers do report more reasoning than output.
    #[must_use]
    pub fn apart(&self) -> Self {
        let cached = self.cached.min(self.input);
        let cached_audio = self.cached_audio.min(cached).min(self.input_audio);
        let mut left = Left(self.input.saturating_sub(cached));
        let written = left.take(self.cache_write.max(self.cache_write_1h));
        let cache_write_1h = self.cache_write_1h.min(written);
        let input_audio = left.take(self.input_audio.saturating_sub(cached_audio));
        let input_image = left.take(self.input_image);
        let Left(input) = left;
        let mut left = Left(self.output);
        let reasoning = left.take(self.reasoning);
        let output_audio = left.take(self.output_audio);
        let output_image = left.take(self.output_image);
        let Left(output) = left;
        Self {
            input,
            cached: cached.saturating_sub(cached_audio),
            cache_write: written.saturating_sub(cache_write_1h),
            cache_write_1h,
            input_audio,
            cached_audio,
            input_image,
            output,
            reasoning,
            output_audio,
            output_image,
        }
    }
}

/// What is left of a whole while parts are taken from it.
struct Left(u64);

impl Left {
    fn take(&mut self, part: u64) -> u64 {
        let taken = part.min(self.0);
        self.0 = self.0.saturating_sub(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_taken_from_their_whole() {
        let told = ByKind {
            input: 100,
            cached: 40,
            cache_write: 30,
            cache_write_1h: 10,
            input_audio: 20,
            cached_audio: 5,
            input_image: 3,
            output: 50,
            reasoning: 20,
            output_audio: 7,
            output_image: 1,
        };
        let apart = ByKind {
            input: 12,
            cached: 35,
            cache_write: 20,
            cache_write_1h: 10,
            input_audio: 15,
            cached_audio: 5,
            input_image: 3,
            output: 22,
            reasoning: 20,
            output_audio: 7,
            output_image: 1,
        };
        assert_eq!(told.apart(), apart);
    }

    proptest! {
        #[test]
        fn parts_add_up_to_their_whole_whatever_was_told(counts in prop::array::uniform11(0..=1_000_u64)) {
            let mut told = ByKind::default();
            for (kind, count) in Kind::ALL.into_iter().zip(counts) {
                *told.slot(kind) = count;
            }
            let apart = told.apart();
            let sum: u64 = Kind::ALL.into_iter().map(|kind| apart.get(kind)).sum();
            prop_assert_eq!(sum, told.input + told.output);
        }
    }
}
