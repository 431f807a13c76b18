//! What a request had set aside, as text that travels with it: so whoever settles it for a holder that is gone charges the accounts that
//! the holder would have charged, whatever became of the budgets since.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, Id, ReservationId};
use crate::domain::ledger::NamedHold;
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::money::Units;
use crate::domain::subject::{ScopeKind, Subject};
use crate::engine::Engine;
use crate::engine::report::Origin;

/// Holds that are handed over at the most, in some 3 KB. No admission has more than 27: of each scope kind a budget of the target's own
/// and a default, of models one more, each of money and of tokens, and the credits. Of one that had more none are handed over, and
/// whoever settles it goes by the budgets that it knows.
const HOLDS_MAX: usize = 32;
/// Stands for a model's name without its provider.
const BARE_MODEL: &str = "BARE_MODEL";
/// Begins a target that the subject does not say.
const LITERAL: char = '=';

/// A hold in few words: budget, generation, dimension, target, window and amount. The target is the name of the scope kind where the
/// subject says which it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HoldJson(String, u32, String, String, String, i64);

impl Engine {
    /// What to tell of an admitted request to those who see its response. `None` without a fleet, where nobody else settles it.
    #[must_use]
    pub fn origin(&self, workspace: &Id, reservation: ReservationId) -> Option<Origin> {
        if !self.is_in_fleet() {
            return None;
        }
        let state = self.shared.state();
        let ledger = &state.rooms.get(workspace)?.ledger;
        let open = ledger.reservation(reservation)?;
        Some(Origin {
            subject: Arc::clone(&open.subject),
            at: open.made_at.wall,
            estimate: open.estimate,
            holds: Some(ledger.named_holds(open)).filter(|holds| holds.len() <= HOLDS_MAX),
        })
    }
}

impl Origin {
    /// What was set aside, as text. `None` where that is not known.
    #[must_use]
    pub fn holds_text(&self) -> Option<String> {
        serde_json::to_string(&holds_json(self)?).ok()
    }

    /// Reads what [`Origin::holds_text`] has written for a subject. `None` for anything else.
    #[must_use]
    pub fn read_holds(text: &str, subject: &Subject) -> Option<Vec<NamedHold>> {
        read(serde_json::from_str(text).ok()?, subject)
    }
}

pub(super) fn holds_json(origin: &Origin) -> Option<Vec<HoldJson>> {
    let holds = origin.holds.as_ref()?;
    Some(holds.iter().map(|hold| HoldJson::new(hold, &origin.subject)).collect())
}

/// `None` where one of them cannot be read: a part of what was set aside is as good as nothing.
pub(super) fn read(holds: Vec<HoldJson>, subject: &Subject) -> Option<Vec<NamedHold>> {
    if holds.len() > HOLDS_MAX {
        return None;
    }
    holds.into_iter().map(|hold| hold.read(subject)).collect()
}

impl HoldJson {
    fn new(hold: &NamedHold, subject: &Subject) -> Self {
        let NamedHold { account, amount } = hold;
        Self(
            account.budget.to_string(),
            account.generation,
            account.dimension.as_str().to_owned(),
            target_text(&account.target, subject),
            account.window.to_string(),
            amount.get(),
        )
    }

    fn read(self, subject: &Subject) -> Option<NamedHold> {
        let Self(budget, generation, dimension, target, window, amount) = self;
        let account = AccountKey {
            workspace: subject.workspace.clone(),
            budget: BudgetId::parse(&budget).ok()?,
            generation,
            dimension: Dimension::from_name(&dimension)?,
            target: target_of(&target, subject)?,
            window: Arc::from(window),
        };
        Some(NamedHold { account, amount: Units::new(amount) })
    }
}

fn target_text(target: &Id, subject: &Subject) -> String {
    let said = ScopeKind::ALL.into_iter().find(|kind| subject.id(*kind) == Some(target));
    match said {
        Some(kind) => kind.as_str().to_owned(),
        None if subject.bare_model() == Some(target.as_str()) => BARE_MODEL.to_owned(),
        None => format!("{LITERAL}{target}"),
    }
}

fn target_of(text: &str, subject: &Subject) -> Option<Id> {
    match text.strip_prefix(LITERAL) {
        Some(literal) => Id::parse(literal).ok(),
        None if text == BARE_MODEL => Id::parse(subject.bare_model()?).ok(),
        None => subject.id(ScopeKind::from_name(text)?).cloned(),
    }
}
