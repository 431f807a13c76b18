//! Refusals in plain sentences that a person can act on, the same on every wire.

use std::fmt;

use crate::domain::budget::Dimension;
use crate::domain::credits;
use crate::domain::decision::{Refusal, RefusalCode, RefusingGate};
use crate::domain::ids::BudgetId;
use crate::domain::money::{NanoUsd, Units};
use crate::domain::subject::ScopeKind;

/// The code of an answer that could not be made, beside [`RefusalCode::as_str`].
pub const BUDGET_UNAVAILABLE: &str = "budget_unavailable";

impl Refusal {
    /// What happened, which limit is to blame and what helps: one or two sentences without a line break.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.gate {
            Some(gate) => self.message_of(gate),
            None => without_gate(self.code).to_owned(),
        }
    }

    fn message_of(&self, gate: &RefusingGate) -> String {
        let owner = Owner(gate);
        let limit = Shown(gate.dimension, gate.info.limit);
        match self.code {
            RefusalCode::CostBudgetExceeded | RefusalCode::TokenBudgetExceeded => {
                let kind = budget_kind(gate.dimension);
                format!("The {kind} of {owner} is used up: its limit is {limit}. {}", reset(gate))
            }
            RefusalCode::RequestsPerMinuteExceeded if gate.info.limit <= Units::ZERO => {
                format!(
                    "The limit of {owner} is {limit} per minute, so none is admitted. Ask for a higher limit."
                )
            }
            RefusalCode::RequestsPerMinuteExceeded => {
                format!(
                    "The limit of {owner} is {limit} per minute, and they are used up. {}",
                    self.retry()
                )
            }
            RefusalCode::BudgetInFlight if gate.budget == credits::BUDGET => {
                let retry = self.retry();
                format!(
                    "Requests in flight hold what is left of the prepaid credits of {owner}. {retry}"
                )
            }
            RefusalCode::BudgetInFlight => {
                let kind = budget_kind(gate.dimension);
                let retry = self.retry();
                format!(
                    "Requests in flight hold what is left of the {kind} of {owner} (limit {limit}). {retry}"
                )
            }
            RefusalCode::RequestExceedsBudget => too_large(gate),
            RefusalCode::CreditsExhausted => {
                format!(
                    "The prepaid credits of {owner} are used up. Add credits, then send the request again."
                )
            }
            RefusalCode::ModelNotPriced => {
                format!(
                    "A cost budget of {owner} applies (limit {limit}), and no price is known for the requested model. Name a model that has a price, or have one added."
                )
            }
            RefusalCode::UnknownSubject | RefusalCode::ScopeMismatch | RefusalCode::UnknownKey => {
                without_gate(self.code).to_owned()
            }
        }
    }

    /// When to try again.
    fn retry(&self) -> String {
        match self.retry_after {
            Some(wait) => {
                let part_of_a_second = u64::from(wait.subsec_nanos() > 0);
                format!("Retry in {}.", InWords(wait.as_secs().saturating_add(part_of_a_second)))
            }
            None => "Waiting does not help; ask for a higher limit.".to_owned(),
        }
    }
}

/// What to say when a decision could not be made.
#[must_use]
pub fn undecided(budget: Option<BudgetId>) -> String {
    match budget {
        Some(credits::BUDGET) => "The prepaid credits cannot be checked right now, and requests are refused until they can. Retry soon.".to_owned(),
        Some(id) => format!(
            "Budget {id} cannot be checked right now, and it refuses requests until it can. Retry soon."
        ),
        None => "The budgets cannot be checked right now. Retry soon.".to_owned(),
    }
}

/// An amount as an exact decimal number, without its unit: dollars for cost, whole numbers otherwise. It is a JSON
/// number as it stands.
#[must_use]
pub fn decimal(dimension: Dimension, amount: Units) -> String {
    match dimension {
        Dimension::Cost => NanoUsd::new(amount.get()).to_string(),
        Dimension::Tokens | Dimension::Requests => amount.get().to_string(),
    }
}

/// The codes that no gate is to blame for.
const fn without_gate(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::CostBudgetExceeded => "A cost budget is used up.",
        RefusalCode::TokenBudgetExceeded => "A token budget is used up.",
        RefusalCode::RequestsPerMinuteExceeded => "Too many requests in the last minute.",
        RefusalCode::BudgetInFlight => {
            "Requests in flight hold what is left of a budget. Retry soon."
        }
        RefusalCode::RequestExceedsBudget => "This request may need more than is left of a budget.",
        RefusalCode::CreditsExhausted => {
            "The prepaid credits are used up. Add credits, then send the request again."
        }
        RefusalCode::ModelNotPriced => {
            "A cost budget applies, and no price is known for the requested model."
        }
        RefusalCode::UnknownSubject => "The request does not say whose it is.",
        RefusalCode::ScopeMismatch => {
            "A header of the request names another scope than its API key does."
        }
        RefusalCode::UnknownKey => {
            "The API key of the request is not known. Use a key that was registered here."
        }
    }
}

/// A request that cannot fit, and what would make it fit.
fn too_large(gate: &RefusingGate) -> String {
    let asked = Shown(gate.dimension, gate.asked);
    let left = Shown(gate.dimension, gate.info.remaining);
    let limit = Shown(gate.dimension, gate.info.limit);
    let owner = Owner(gate);
    if gate.budget == credits::BUDGET {
        return format!(
            "This request may need up to {asked}, but {left} is left of the prepaid credits of {owner}. Lower its output cap (max_tokens), shorten it, or add credits."
        );
    }
    let kind = budget_kind(gate.dimension);
    let reset = reset(gate);
    format!(
        "This request may need up to {asked}, but {left} is left of the {kind} of {owner} (limit {limit}). Lower its output cap (max_tokens) or shorten it. {reset}"
    )
}

/// When the limit starts anew.
fn reset(gate: &RefusingGate) -> String {
    match gate.info.reset_seconds {
        Some(seconds) if gate.info.limit > Units::ZERO => {
            format!("It resets in {}.", InWords(seconds))
        }
        Some(_) => "A limit of zero admits nothing; ask for a higher limit.".to_owned(),
        None => "It does not reset; ask for a higher limit.".to_owned(),
    }
}

const fn budget_kind(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Cost => "cost budget",
        Dimension::Tokens => "token budget",
        Dimension::Requests => "request limit",
    }
}

/// Whose limit it is: `identity 'customer-42'`.
struct Owner<'a>(&'a RefusingGate);

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.scope_kind {
            ScopeKind::Workspace => "workspace",
            ScopeKind::Project => "project",
            ScopeKind::Identity => "identity",
            ScopeKind::ApiKey => "API key",
            ScopeKind::Provider => "provider",
            ScopeKind::Model => "model",
        };
        write!(f, "{kind} '{}'", self.0.target)
    }
}

/// An amount with its unit: `$5`, `1000 tokens`, `1 request`.
struct Shown(Dimension, Units);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = decimal(self.0, self.1);
        let plural = if self.1 == Units::ONE { "" } else { "s" };
        match self.0 {
            Dimension::Cost => write!(f, "${number}"),
            Dimension::Tokens => write!(f, "{number} token{plural}"),
            Dimension::Requests => write!(f, "{number} request{plural}"),
        }
    }
}

/// Seconds as a person says them, rounded up to the unit: `58 seconds`, `3 hours`, `16 days`.
struct InWords(u64);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let (count, unit) = match self.0 {
            seconds if seconds < 2 * MINUTE => (seconds, "second"),
            seconds if seconds < 2 * HOUR => (seconds.div_ceil(MINUTE), "minute"),
            seconds if seconds < 2 * DAY => (seconds.div_ceil(HOUR), "hour"),
            seconds => (seconds.div_ceil(DAY), "day"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::domain::decision::{DimensionInfo, Standing};
    use crate::domain::ids::Id;

    fn refusal(
        code: RefusalCode,
        dimension: Dimension,
        numbers: [i64; 3],
        reset_seconds: Option<u64>,
    ) -> Refusal {
        let [limit, remaining, asked] = numbers.map(Units::new);
        Refusal {
            code,
            gate: Some(RefusingGate {
                budget: BudgetId(7),
                scope_kind: ScopeKind::Identity,
                target: Id::parse("customer-42").unwrap(),
                dimension,
                info: DimensionInfo { limit, remaining, reset_seconds },
                asked,
            }),
            retry_after: reset_seconds.map(Duration::from_secs),
            standing: Standing::default(),
        }
    }

    #[test]
    fn a_refusal_names_whose_limit_it_is_its_unit_and_when_it_resets() {
        use Dimension::{Cost, Requests, Tokens};
        use RefusalCode as Code;
        let check = |refusal: Refusal, message: &str| assert_eq!(refusal.message(), message);
        check(
            refusal(Code::CostBudgetExceeded, Cost, [5_000_000_000, 0, 1], Some(1_299_257)),
            "The cost budget of identity 'customer-42' is used up: its limit is $5. It resets in 16 days.",
        );
        check(
            refusal(Code::TokenBudgetExceeded, Tokens, [1000, 0, 1], None),
            "The token budget of identity 'customer-42' is used up: its limit is 1000 tokens. It does not reset; ask for a higher limit.",
        );
        check(
            refusal(Code::RequestsPerMinuteExceeded, Requests, [2, 0, 1], Some(58)),
            "The limit of identity 'customer-42' is 2 requests per minute, and they are used up. Retry in 58 seconds.",
        );
        check(
            refusal(Code::RequestsPerMinuteExceeded, Requests, [0, 0, 1], None),
            "The limit of identity 'customer-42' is 0 requests per minute, so none is admitted. Ask for a higher limit.",
        );
        check(
            refusal(Code::BudgetInFlight, Cost, [5_000_000_000, 0, 1], Some(1)),
            "Requests in flight hold what is left of the cost budget of identity 'customer-42' (limit $5). Retry in 1 second.",
        );
        check(
            refusal(
                Code::RequestExceedsBudget,
                Cost,
                [5_000_000_000, 100_000_000, 320_000_000],
                Some(7200),
            ),
            "This request may need up to $0.32, but $0.1 is left of the cost budget of identity 'customer-42' (limit $5). Lower its output cap (max_tokens) or shorten it. It resets in 2 hours.",
        );
        check(
            refusal(Code::CostBudgetExceeded, Cost, [0, 0, 1], Some(60)),
            "The cost budget of identity 'customer-42' is used up: its limit is $0. A limit of zero admits nothing; ask for a higher limit.",
        );
    }

    #[test]
    fn credits_are_called_by_their_name() {
        let refused = |code| {
            let mut refusal = refusal(code, Dimension::Cost, [9, 1, 2], None);
            refusal.retry_after = Some(Duration::from_secs(1));
            refusal.gate.as_mut().unwrap().budget = credits::BUDGET;
            refusal.message()
        };
        for message in [
            refused(RefusalCode::BudgetInFlight),
            refused(RefusalCode::RequestExceedsBudget),
            refused(RefusalCode::CreditsExhausted),
            undecided(Some(credits::BUDGET)),
        ] {
            assert!(
                message.contains("prepaid credits") && !message.contains("budget"),
                "{message}"
            );
        }
    }

    #[test]
    fn every_code_has_a_sentence_with_and_without_a_gate() {
        for code in RefusalCode::ALL {
            let with = refusal(code, Dimension::Cost, [1, 0, 1], Some(1));
            let without = Refusal { gate: None, ..with.clone() };
            for message in [with.message(), without.message()] {
                assert!(message.ends_with('.') && !message.contains('\n'), "{message}");
            }
        }
    }

    #[test]
    fn a_wait_is_rounded_up_to_the_unit_it_is_said_in() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (121, "3 minutes"),
            (7200, "2 hours"),
            (172_801, "3 days"),
        ] {
            assert_eq!(InWords(seconds).to_string(), words);
        }
    }
}
