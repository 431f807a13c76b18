//! The answers to "can this request be paid for?".

use std::time::Duration;

use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, Id, ReservationId};
use crate::domain::money::Units;
use crate::domain::subject::ScopeKind;

/// Why a request is refused. Each asks something else of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalCode {
    /// The money of the window is spent.
    CostBudgetExceeded,
    /// The tokens of the window are spent.
    TokenBudgetExceeded,
    /// The rolling minute is full.
    RequestsPerMinuteExceeded,
    /// There is enough left, but requests in flight hold it.
    BudgetInFlight,
    /// Something is left, but less than this request may need.
    RequestExceedsBudget,
    /// The prepaid balance is gone.
    CreditsExhausted,
    /// A cost gate applies and nobody knows the model's price.
    ModelNotPriced,
    /// A required id is missing.
    UnknownSubject,
    /// A header disagrees with the API key.
    ScopeMismatch,
    /// A key of ours that is not on record.
    UnknownKey,
}

impl RefusalCode {
    /// All codes.
    pub const ALL: [Self; 10] = [
        Self::CostBudgetExceeded,
        Self::TokenBudgetExceeded,
        Self::RequestsPerMinuteExceeded,
        Self::BudgetInFlight,
        Self::RequestExceedsBudget,
        Self::CreditsExhausted,
        Self::ModelNotPriced,
        Self::UnknownSubject,
        Self::ScopeMismatch,
        Self::UnknownKey,
    ];

    /// The code on the wire, such as `cost_budget_exceeded`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CostBudgetExceeded => "cost_budget_exceeded",
            Self::TokenBudgetExceeded => "token_budget_exceeded",
            Self::RequestsPerMinuteExceeded => "requests_per_minute_exceeded",
            Self::BudgetInFlight => "budget_in_flight",
            Self::RequestExceedsBudget => "request_exceeds_budget",
            Self::CreditsExhausted => "credits_exhausted",
            Self::ModelNotPriced => "model_not_priced",
            Self::UnknownSubject => "unknown_subject",
            Self::ScopeMismatch => "scope_mismatch",
            Self::UnknownKey => "unknown_key",
        }
    }
}

/// The numbers of the most restrictive gate of one dimension, in the dimension's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DimensionInfo {
    /// What the budget allows.
    pub limit: Units,
    /// What can still be admitted, as this replica knows it; never negative.
    pub remaining: Units,
    /// Seconds until something comes back, rounded up; `None` when nothing ever does.
    pub reset_seconds: Option<u64>,
}

/// The numbers of all dimensions that an applicable budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Money.
    pub cost: Option<DimensionInfo>,
    /// LLM tokens.
    pub tokens: Option<DimensionInfo>,
    /// Requests in the rolling minute.
    pub requests: Option<DimensionInfo>,
}

impl Standing {
    /// The numbers of one dimension.
    #[must_use]
    pub const fn of(&self, dimension: Dimension) -> Option<DimensionInfo> {
        match dimension {
            Dimension::Cost => self.cost,
            Dimension::Tokens => self.tokens,
            Dimension::Requests => self.requests,
        }
    }
}

/// The gate that refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusingGate {
    /// Its budget.
    pub budget: BudgetId,
    /// The budget's kind of scope.
    pub scope_kind: ScopeKind,
    /// The target whose account is short; for a `*` budget the asking target.
    pub target: Id,
    /// What is short.
    pub dimension: Dimension,
    /// Its own numbers, which need not be the most restrictive of the dimension.
    pub info: DimensionInfo,
    /// What this request asked of it.
    pub asked: Units,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Which gate; `None` for refusals before any gate was asked (the 403s).
    pub gate: Option<RefusingGate>,
    /// When a retry can succeed; `None` when waiting does not help.
    pub retry_after: Option<Duration>,
    /// The numbers of all dimensions.
    pub standing: Standing,
}

/// An admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// What to settle or release; `None` when nothing was set aside (a bare check).
    pub reservation: Option<ReservationId>,
    /// The numbers after this request was counted.
    pub standing: Standing,
    /// Whether a gate could not be asked and its budget says to admit all the same.
    pub unavailable: bool,
    /// Shadow gates that would have refused.
    pub shadow_refusals: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead.
    Allow(Admission),
    /// No.
    Deny(Refusal),
    /// The store could not be asked in time and the budget says to refuse then: `budget_unavailable`.
    Undecided {
        /// The budget that could not be asked, when one gate is to blame.
        budget: Option<BudgetId>,
    },
}
