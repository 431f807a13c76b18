//! What one response used: the canonical record that every provider's answer is brought to.

use thiserror::Error;

use crate::domain::money::Tokens;

/// LLM tokens of one response. `cached` and `cache_write` are parts of `input`, `reasoning` is a part of `output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All billable input, cache reads and writes included.
    pub input: u64,
    /// Input that was served from the provider's cache.
    pub cached: u64,
    /// Input that was written to the provider's cache.
    pub cache_write: u64,
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
    /// Which count: `input`, `cached`, `cache_write`, `output` or `reasoning`.
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
            ("output", self.output),
            ("reasoning", self.reasoning),
        ];
        if let Some((field, count)) = counts.into_iter().find(|(_, count)| *count > TOKENS_MAX) {
            return Err(TooManyTokens { field, count });
        }
        let cached = self.cached.min(self.input);
        Ok(Self {
            cached,
            cache_write: self.cache_write.min(self.input.saturating_sub(cached)),
            reasoning: self.reasoning.min(self.output),
            ..self
        })
    }

    /// Input and output together: what counts against a token budget.
    #[must_use]
    pub fn total(&self) -> Tokens {
        Tokens::new(i64::try_from(self.input.saturating_add(self.output)).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_clamped_to_their_whole_and_absurd_counts_refused() {
        let odd = Usage { input: 10, cached: 8, cache_write: 5, output: 10, reasoning: 11 };
        let clamped = Usage { cache_write: 2, reasoning: 10, ..odd };
        assert_eq!(odd.checked(), Ok(clamped));
        assert_eq!(clamped.checked(), Ok(clamped));
        let absurd = Usage { output: TOKENS_MAX + 1, ..odd };
        assert_eq!(
            absurd.checked().map_err(|e| e.to_string()),
            Err("output is 100000001; a response has at most 100000000 tokens".to_owned())
        );
    }
}
