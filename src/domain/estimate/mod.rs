//! What a request may cost before it is made.

use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::pricing::{ModelPrice, PriceTable};

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

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The provider that the request goes to.
    pub provider: Option<&'a str>,
    /// The model as a trusted source outside of the body names it.
    pub model: Option<&'a str>,
    /// The request's path, which names the model in some APIs.
    pub path: &'a str,
    /// What can be seen of the body.
    pub body: Body<'a>,
}

/// What can be seen of a request's body.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its first part.
    Cut {
        /// That part.
        seen: &'a [u8],
        /// The size of the whole, from `content-length`.
        whole_size: Option<u64>,
    },
    /// Nothing.
    Unseen {
        /// Its size, from `content-length`.
        size: Option<u64>,
    },
}

/// How requests are estimated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How much is set aside.
    pub mode: Mode,
    /// What is set aside when nothing names the model.
    pub unknown_model: Amounts,
    /// What happens when the model has no price.
    pub unpriced: Unpriced,
}

/// How much is set aside for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// An upper bound: a token for every byte, and the model's maximum where the request has no cap.
    Strict,
    /// What it will cost in all likelihood.
    #[default]
    Estimate,
    /// Nothing: a request is admitted while anything is left, and pays when it is over.
    Postpaid,
}

/// What happens to a request for a model without a price.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unpriced {
    /// It is refused where a cost gate applies.
    #[default]
    Deny,
    /// It is priced like this.
    DefaultPrice(Box<ModelPrice>),
    /// Its tokens are counted, its cost is not.
    CountTokensOnly,
}

/// Set aside for a request that names no model: 5 cents and 4,096 tokens.
const UNKNOWN_MODEL: Amounts =
    Amounts { cost: NanoUsd::new(50_000_000), tokens: Tokens::new(4_096) };

impl Default for Policy {
    fn default() -> Self {
        Self { mode: Mode::default(), unknown_model: UNKNOWN_MODEL, unpriced: Unpriced::default() }
    }
}

/// What a request may cost.
#[must_use]
pub fn estimate(request: &RequestFacts<'_>, prices: &PriceTable, policy: &Policy) -> Estimate {
    let _ = (request, prices);
    Estimate { amounts: policy.unknown_model, priced: Priced::Yes }
}
