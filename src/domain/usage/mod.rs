//! What one response used: the canonical record that every provider's answer is brought to, and the meter that finds it in
//! the bytes of a response.
//!
//! A byte's way through the [`Meter`]: `meter` tells the framing by the first bytes; `sse` and `event_stream` take the framing
//! off; `scan` finds the few places of `places` in the JSON that is left, without keeping it; `document` notes what stood there,
//! `fields` what a usage object says under the many
//! names of `names`; `tally` puts the documents of a stream together; `shape` brings the result to a [`Usage`].

mod base64;
mod bill;
mod document;
mod event_stream;
mod fields;
mod key;
mod meter;
mod names;
mod places;
mod record;
mod scan;
mod shape;
mod sse;
mod tally;

use thiserror::Error;

use crate::domain::money::Tokens;

pub use meter::{Hints, Meter};
pub use record::{Extras, MediaTokens, Metered, Part, Record};

/// LLM tokens of one response. `cached` and `cache_write` are parts of `input`, `reasoning` is a part of `output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All billable input, cache reads and writes included.
    pub input: u64,
    /// Input that was served from the provider's cache.
    pub cached: u64,
    /// Input that was written to the provider's cache.
    pub cache_write: u64,
    /// The part of `cache_write` that is kept for an hour, which costs more.
    pub cache_write_1h: u64,
    /// All billable output, reasoning included.
    pub output: u64,
    /// Output that the model kept to itself.
    pub reasoning: u64,
}

/// More tokens than any one response has; a larger count is a mistake or an attack.
pub const TOKENS_MAX: u64 = 100_000_000;

/// A token count that no response has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{field} is {count}; a response has at most 100000000 tokens")]
pub struct TooManyTokens {
    /// Which count, by the name that it has in [`Usage`].
    pub field: &'static str,
    /// What it said.
    pub count: u64,
}

impl Usage {
    /// The same usage, if every count is one that a response can have, with parts that exceed their whole clamped to it:
    /// providers do report more reasoning than output.
    ///
    /// # Errors
    /// [`TooManyTokens`] names the first count above [`TOKENS_MAX`].
    pub fn checked(self) -> Result<Self, TooManyTokens> {
        let counts = [
            ("input", self.input),
            ("cached", self.cached),
            ("cache_write", self.cache_write),
            ("cache_write_1h", self.cache_write_1h),
            ("output", self.output),
            ("reasoning", self.reasoning),
        ];
        if let Some((field, count)) = counts.into_iter().find(|(_, count)| *count > TOKENS_MAX) {
            return Err(TooManyTokens { field, count });
        }
        let cached = self.cached.min(self.input);
        let cache_write = self.cache_write.min(self.input.saturating_sub(cached));
        Ok(Self {
            cached,
            cache_write,
            cache_write_1h: self.cache_write_1h.min(cache_write),
            reasoning: self.reasoning.min(self.output),
            ..self
        })
    }

    /// Both together, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }

    /// Input and output together: what counts against a token budget.
    #[must_use]
    pub fn total(&self) -> Tokens {
        Tokens::new(i64::try_from(self.input.saturating_add(self.output)).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests;
