//! What one response used: the canonical record that every provider's answer is brought to.

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
