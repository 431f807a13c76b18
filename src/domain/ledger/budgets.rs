//! Which budgets apply to a subject: an index by scope, so that a decision's cost does not grow with the number of budgets.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::domain::budget::Budget;
use crate::domain::credits;
use crate::domain::ids::{BudgetId, Id};
use crate::domain::ledger::account::BudgetIndex;
use crate::domain::money::{NanoUsd, Units};
use crate::domain::period::Window;
use crate::domain::subject::{ScopeKind, Subject, Target};
use crate::domain::time::Wall;

/// A budget in force, and the window it is in.
#[derive(Debug)]
pub(super) struct Entry {
    /// The rule.
    pub budget: Budget,
    window: Option<Arc<Window>>,
}

/// The budgets of a workspace.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    slots: Vec<Option<Entry>>,
    vacant: Vec<BudgetIndex>,
    by_id: HashMap<BudgetId, BudgetIndex, RandomState>,
    own: [HashMap<Id, BudgetIndex, RandomState>; 6],
    each: [Option<BudgetIndex>; 6],
    /// Prepaid credits, beside whatever budget the workspace has.
    credits: Option<BudgetIndex>,
}

/// A budget that applies, and the target that it counts.
pub(super) type Applicable = SmallVec<[(BudgetIndex, Id); 8]>;

impl Budgets {
    /// Adds or replaces a budget. Gives its place, and the budget that it replaces.
    pub(super) fn put(&mut self, budget: Budget) -> (BudgetIndex, Option<Budget>) {
        if let Some(index) = self.by_id.get(&budget.id).copied() {
            let slot = self.slots.get_mut(place(index)).and_then(Option::as_mut);
            let old =
                slot.map(|entry| std::mem::replace(entry, Entry { budget, window: None }).budget);
            return (index, old);
        }
        let index = self.vacant.pop().unwrap_or_else(|| self.extend());
        self.by_id.insert(budget.id, index);
        let kind = budget.scope.kind;
        match &budget.scope.target {
            Target::One(_) if budget.id == credits::BUDGET => self.credits = Some(index),
            Target::Each => set(&mut self.each, kind, Some(index)),
            Target::One(id) => {
                if let Some(own) = self.own.get_mut(position(kind)) {
                    own.insert(id.clone(), index);
                }
            }
        }
        if let Some(slot) = self.slots.get_mut(place(index)) {
            *slot = Some(Entry { budget, window: None });
        }
        (index, None)
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Takes a budget out.
    pub(super) fn remove(&mut self, id: BudgetId) -> Option<(BudgetIndex, Budget)> {
        let index = self.by_id.remove(&id)?;
        let entry = self.slots.get_mut(place(index))?.take()?;
        let kind = entry.budget.scope.kind;
        match &entry.budget.scope.target {
            // The scope may have passed to a budget that was made again before this one was taken out.
            Target::Each => {
                if self.each.get(position(kind)) == Some(&Some(index)) {
                    set(&mut self.each, kind, None);
                }
            }
            Target::One(id) => {
                if let Some(own) = self.own.get_mut(position(kind))
                    && own.get(id) == Some(&index)
                {
                    own.remove(id);
                }
            }
        }
        self.vacant.push(index);
        Some((index, entry.budget))
    }

    /// The budget at a place.
    pub(super) fn get(&self, index: BudgetIndex) -> Option<&Budget> {
        self.slots.get(place(index))?.as_ref().map(|entry| &entry.budget)
    }

    /// Takes over the limit of credits that the store has told: another replica may have added some. Returns whether it is another.
    pub(super) fn learn_credits(&mut self, limit: Units) -> bool {
        let index = self.credits.map(place);
        let entry = index.and_then(|index| self.slots.get_mut(index)).and_then(Option::as_mut);
        let limit = Some(NanoUsd::new(limit.get()));
        entry.is_some_and(|entry| std::mem::replace(&mut entry.budget.limits.cost, limit) != limit)
    }

    /// All budgets.
    pub(super) fn all(&self) -> impl Iterator<Item = &Budget> {
        self.slots.iter().flatten().map(|entry| &entry.budget)
    }

    /// Where a budget is.
    pub(super) fn index_of(&self, id: BudgetId) -> Option<BudgetIndex> {
        self.by_id.get(&id).copied()
    }

    /// The window that a budget's cost and tokens are counted in at this instant.
    pub(super) fn window(&mut self, index: BudgetIndex, at: Wall) -> Option<&Arc<Window>> {
        let entry = self.slots.get_mut(place(index))?.as_mut()?;
        let holds =
            |window: &Arc<Window>| window.start <= at && window.end.is_none_or(|end| at < end);
        if !entry.window.as_ref().is_some_and(holds) {
            let schedule = entry.budget.limits.schedule.as_ref()?;
            entry.window = Some(Arc::new(schedule.window_at(at)));
        }
        entry.window.as_ref()
    }

    /// All budgets that apply to a subject: the credits, then the others in the order of scope kinds.
    pub(super) fn applicable(&self, subject: &Subject, at: Wall) -> Applicable {
        let mut found = Applicable::new();
        found.extend(self.credits.map(|index| (index, subject.workspace.clone())));
        for kind in ScopeKind::ALL {
            let Some(said) = subject.id(kind) else { continue };
            let bare = match kind {
                ScopeKind::Model => subject.bare_model(),
                ScopeKind::Workspace
                | ScopeKind::Project
                | ScopeKind::Identity
                | ScopeKind::ApiKey
                | ScopeKind::Provider => None,
            };
            self.add_of_kind(&mut found, kind, said, bare, at);
        }
        found
    }

    fn extend(&mut self) -> BudgetIndex {
        let index = BudgetIndex::try_from(self.slots.len()).unwrap_or(BudgetIndex::MAX);
        self.slots.push(None);
        index
    }

    /// Adds the budgets that a target of this kind has of its own, or the default for those that have none. A shadow
    /// budget of its own does not lift the default.
    fn add_of_kind(
        &self,
        found: &mut Applicable,
        kind: ScopeKind,
        said: &Id,
        bare: Option<&str>,
        at: Wall,
    ) {
        let mut has_own = false;
        if let Some(own) = self.own.get(position(kind)) {
            for name in [Some(said.as_str()), bare].into_iter().flatten() {
                if let Some((target, index)) = own.get_key_value(name)
                    && let Some(budget) = self.get(*index).filter(|budget| budget.applies_at(at))
                {
                    has_own |= !budget.shadow;
                    found.push((*index, target.clone()));
                }
            }
        }
        let default = self.each.get(position(kind)).copied().flatten().filter(|_| !has_own);
        if let Some(index) = default
            && self.get(index).is_some_and(|budget| budget.applies_at(at))
        {
            // One account for a model however it is named, so that nobody gets two allowances by naming it twice.
            let target = bare.and_then(|bare| Id::parse(bare).ok()).unwrap_or_else(|| said.clone());
            found.push((index, target));
        }
    }
}

fn place(index: BudgetIndex) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn set(slots: &mut [Option<BudgetIndex>; 6], kind: ScopeKind, value: Option<BudgetIndex>) {
    if let Some(slot) = slots.get_mut(position(kind)) {
        *slot = value;
    }
}

/// Position of a kind in `ScopeKind::ALL`.
fn position(kind: ScopeKind) -> usize {
    match kind {
        ScopeKind::Workspace => 0,
        ScopeKind::Project => 1,
        ScopeKind::Identity => 2,
        ScopeKind::ApiKey => 3,
        ScopeKind::Provider => 4,
        ScopeKind::Model => 5,
    }
}
