//! Whether a model may reason before it answers. Providers bill its reasoning and most hide it, so that a response that
//! breaks off says little of what it cost.

use crate::domain::json::{self, Raw};
use crate::domain::pricing::Reasons;

/// Whether a response may cost what nobody sees of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reasoning {
    /// Nothing says that its model reasons.
    #[default]
    Unlikely,
    /// Its request, its response or its model says so.
    Possible,
}

/// What a request says of it. Of several the last in this order counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// Nothing: the model does as it is used to.
    Unsaid,
    /// It wants none.
    Declined,
    /// It may be said behind the cut.
    Unclear,
    /// It wants some.
    Asked,
}

/// The names of the wish in the dialects, at the top or among other settings.
pub(super) const WISHES: [&str; 9] = [
    "reasoning",
    "reasoning_effort",
    "reasoning_config",
    "thinking",
    "thinkingConfig",
    "thinking_config",
    "thinking_budget",
    "enable_thinking",
    "think",
];
/// The members of such a setting that say how much is wanted. Others say how it is shown.
const AMOUNTS: [&str; 8] = [
    "type",
    "effort",
    "enabled",
    "max_tokens",
    "budget_tokens",
    "thinkingBudget",
    "thinking_budget",
    "thinkingLevel",
];
/// Texts that decline.
const NONE: [&str; 3] = ["none", "disabled", "off"];

impl Wish {
    /// The wish that a setting expresses.
    pub(super) fn of(setting: Raw<'_>) -> Self {
        if !setting.bytes().starts_with(b"{") {
            return Self::of_amount(setting);
        }
        json::members(setting.bytes())
            .filter(|(key, _)| key.decoded().is_some_and(|key| AMOUNTS.contains(&&*key)))
            .map(|(_, amount)| Self::of_amount(amount))
            .max()
            .unwrap_or(Self::Unsaid)
    }

    fn of_amount(value: Raw<'_>) -> Self {
        let declines = value.as_bool() == Some(false)
            || value.as_u64() == Some(0)
            || value.as_text().is_some_and(|text| NONE.iter().any(|none| text.is(none)));
        match (value.is_null(), declines) {
            (true, _) => Self::Unsaid,
            (false, true) => Self::Declined,
            (false, false) => Self::Asked,
        }
    }

    /// Whether the model that is asked may reason; `None` for a model that nobody knows.
    pub(super) const fn granted_by(self, model: Option<Reasons>) -> Reasoning {
        match (self, model) {
            (Self::Asked, _)
            | (Self::Unsaid, Some(Reasons::ByItself))
            | (Self::Unclear, Some(Reasons::ByItself | Reasons::WhenAsked) | None) => {
                Reasoning::Possible
            }
            (Self::Declined, _)
            | (Self::Unsaid, Some(Reasons::WhenAsked | Reasons::Never) | None)
            | (Self::Unclear, Some(Reasons::Never)) => Reasoning::Unlikely,
        }
    }
}
