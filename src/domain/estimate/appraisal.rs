//! An estimate, together with what its response is judged by.

use crate::domain::estimate::models::Models;
use crate::domain::estimate::request::Seen;
use crate::domain::estimate::{
    Estimate, Mode, Policy, Reasoning, RequestFacts, estimate_of, input_tokens, usual,
};
use crate::domain::pricing::PriceTable;

/// An estimate with what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appraisal {
    /// What to set aside.
    pub estimate: Estimate,
    /// How many input tokens the request has in all likelihood, for a response that ends before it says so.
    pub input_tokens: u64,
    /// Whether its response may cost what nobody sees of it.
    pub reasoning: Reasoning,
    /// Whether its body names two models, of which nobody here knows the one that counts.
    pub is_ambiguous: bool,
}

/// The same as [`estimate`](super::estimate), with what its response is judged by.
#[must_use]
pub fn appraise(request: &RequestFacts<'_>, prices: &PriceTable, policy: &Policy) -> Appraisal {
    let seen = Seen::of(request.body);
    let usual = usual(request, policy);
    let input_tokens = usual.input.unwrap_or_else(|| input_tokens(&seen, Mode::Estimate));
    let models = Models::of(&seen, request, prices);
    Appraisal {
        estimate: estimate_of(&seen, usual, &models, policy),
        input_tokens,
        reasoning: seen.reasoning.granted_by(models.reasons()),
        is_ambiguous: seen.is_ambiguous,
    }
}
