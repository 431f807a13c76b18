//! Budgets: changed in the store first, then in force on this replica before the caller hears of it.

use std::sync::Arc;

use super::{Engine, Shared, State};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, Id};
use crate::domain::money::NanoUsd;
use crate::domain::period::Window;
use crate::store::{BudgetFilter, Cursor, Page, StoreError};

/// A budget's settled spend in its current window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumption {
    /// Label of the window.
    pub label: Arc<str>,
    /// Settled money, summed over the accounts of a `*` budget.
    pub cost: NanoUsd,
    /// Settled tokens, likewise.
    pub tokens: i64,
    /// Requests in the last 60 seconds, as this replica knows them.
    pub requests: u64,
}

impl Engine {
    /// A fresh budget id: a ULID of the current time.
    #[must_use]
    pub fn new_budget_id(&self) -> BudgetId {
        let random = self.shared.state().entropy.bits().unwrap_or_default();
        let ms = u64::try_from(self.wall().as_ms()).unwrap_or(0);
        BudgetId(ulid::Ulid::from_parts(ms, random).0)
    }

    /// Records a budget and puts it in force.
    ///
    /// # Errors
    /// `Conflict` names the budget that covers the scope already.
    pub async fn create_budget(&self, budget: Budget) -> Result<Budget, StoreError> {
        self.shared.store.create_budget(&budget).await?;
        self.put(budget.clone());
        Ok(budget)
    }

    /// Replaces a budget and puts it in force. A changed schedule makes a new generation, whose window starts with what was
    /// spent in it; the caller leaves `generation` as it read it.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget.
    pub async fn replace_budget(&self, budget: Budget) -> Result<Budget, StoreError> {
        let stored = self.shared.store.budget(&budget.workspace, budget.id).await?;
        let stored = stored.ok_or(StoreError::NotFound)?;
        let mut budget = budget;
        if stored.limits.schedule == budget.limits.schedule {
            self.shared.store.replace_budget(&budget, None).await?;
        } else {
            budget.generation = stored.generation.saturating_add(1);
            self.flush(&budget.workspace).await?;
            let window = self.window(&budget);
            self.shared.store.replace_budget(&budget, window.as_ref()).await?;
        }
        self.put(budget.clone());
        Ok(budget)
    }

    /// Deletes a budget, with its counters.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget.
    pub async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        self.shared.store.delete_budget(workspace, id).await?;
        let now = self.shared.now();
        let mut state = self.shared.state();
        if let Some(room) = state.rooms.get_mut(workspace) {
            room.ledger.remove_budget(id, now);
            room.deliver();
        }
        Ok(())
    }

    /// One budget.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.shared.store.budget(workspace, id).await
    }

    /// One page of a workspace's budgets.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.shared.store.list_budgets(workspace, filter, cursor, limit).await
    }

    /// A budget's settled spend now; everything settled on this replica before the call is included.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn consumption(&self, budget: &Budget) -> Result<Consumption, StoreError> {
        self.flush(&budget.workspace).await?;
        let label = self.window(budget).map_or_else(|| Arc::from(""), |window| window.label);
        let accounts = self.shared.store.accounts(budget, &label).await?;
        let spent = |dimension| {
            let of_dimension = accounts.iter().filter(|(key, _)| key.dimension == dimension);
            of_dimension.fold(0i64, |sum, (_, account)| {
                sum.saturating_add(account.spent.minus(account.base).get())
            })
        };
        let (cost, tokens) = (NanoUsd::new(spent(Dimension::Cost)), spent(Dimension::Tokens));
        let now = self.shared.now();
        let mut state = self.shared.state();
        let room = state.rooms.get_mut(&budget.workspace);
        let requests = room.map_or(0, |room| room.ledger.requests_in_window(budget.id, now));
        Ok(Consumption { label, cost, tokens, requests })
    }

    /// Starts the budget's counters anew, on this replica before it returns.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget.
    pub async fn reset_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        self.flush(&budget.workspace).await?;
        let label = self.window(budget).map_or_else(|| Arc::from(""), |window| window.label);
        self.shared.store.reset_budget(budget, &label).await?;
        {
            let mut state = self.shared.state();
            if let Some(room) = state.rooms.get_mut(&budget.workspace) {
                room.ledger.reset_budget(budget.id);
                self.shared.work.notify_one();
            }
        }
        self.flush(&budget.workspace).await
    }

    fn put(&self, budget: Budget) {
        let mut state = self.shared.state();
        state.put_budget(&self.shared, budget);
        self.shared.work.notify_one();
    }

    /// The window that a budget is in; `None` without a period limit.
    fn window(&self, budget: &Budget) -> Option<Window> {
        Some(budget.limits.schedule.as_ref()?.window_at(self.shared.now().wall))
    }
}

impl State {
    /// Puts a budget in force.
    pub(super) fn put_budget(&mut self, shared: &Shared, budget: Budget) {
        let now = shared.now();
        if let Some(room) = self.room(shared, &budget.workspace.clone()) {
            room.ledger.put_budget(budget, now);
            room.deliver();
        }
    }
}
