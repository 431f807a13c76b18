//! What a request may cost before it is made.

use crate::domain::money::Amounts;

/// What a reservation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The most that the response should cost.
    pub amounts: Amounts,
    /// Whether the cost is known.
    pub priced: Priced,
}

/// Whether a request's cost can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priced {
    /// From the price table, a default price or the price of an unknown model.
    Yes,
    /// No price, and the policy is to count tokens only.
    TokensOnly,
    /// No price, and the policy is to refuse where a cost gate applies.
    No,
}
