//! Budgets: changed in the store first, then in force on this replica before the caller hears of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::{Engine, Shared, State};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, Id};
use crate::domain::money::NanoUsd;
use crate::domain::period::Window;
use crate::store::{BudgetFilter, Cursor, Page, StoreError};

/// How long a change may take. Others wait for it, and so do the news.
const CHANGE_PATIENCE: Duration = Duration::from_secs(15);

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
        self.change(async move |engine| {
            engine.shared.store.create_budget(&budget).await?;
            engine.put(budget.clone());
            Ok(budget)
        })
        .await
    }

    /// Replaces a budget and puts it in force. A changed schedule makes a new generation, whose window starts with what was
    /// spent in it; the store says which it is, and how often the counters were started anew.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget; `Changed` when it was made of what was `read`, and that is no longer on record.
    pub async fn replace_budget(
        &self,
        budget: Budget,
        read: Option<Budget>,
    ) -> Result<Budget, StoreError> {
        self.change(async move |engine| engine.replace(budget, read.as_ref()).await).await
    }

    async fn replace(&self, budget: Budget, read: Option<&Budget>) -> Result<Budget, StoreError> {
        let stored = self.stored(&budget).await?;
        if stored.limits.schedule != budget.limits.schedule {
            // What was settled here is among what the new window starts with.
            self.flush(&budget.workspace).await?;
        }
        let window = self.window(&budget);
        let replaced = self.shared.store.replace_budget(&budget, read, window.as_ref()).await?;
        self.put(replaced.clone());
        Ok(replaced)
    }

    /// Deletes a budget, with its counters.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget.
    pub async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        let workspace = workspace.clone();
        self.change(async move |engine| {
            engine.shared.store.delete_budget(&workspace, id).await?;
            engine.shared.state().remove_budget(&engine.shared, &workspace, id);
            Ok(())
        })
        .await
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
        let label = self.label(budget);
        let accounts = self.accounts(budget).await?;
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
        let budget = budget.clone();
        self.change(async move |engine| engine.reset(&budget).await).await
    }

    async fn reset(&self, budget: &Budget) -> Result<(), StoreError> {
        self.flush(&budget.workspace).await?;
        let mut done = self.reset_stored(budget).await;
        if matches!(done, Err(StoreError::Changed)) {
            done = self.reset_stored(&self.stored(budget).await?).await;
        }
        done?;
        self.put(self.stored(budget).await?);
        self.flush(&budget.workspace).await
    }

    async fn reset_stored(&self, budget: &Budget) -> Result<(), StoreError> {
        self.shared.store.reset_budget(budget, &self.label(budget)).await
    }

    /// The budget as it is on record.
    async fn stored(&self, budget: &Budget) -> Result<Budget, StoreError> {
        let stored = self.shared.store.budget(&budget.workspace, budget.id).await?;
        stored.ok_or(StoreError::NotFound)
    }

    /// Makes a change to its end, though whoever asked for it may leave: half of it would be on record and not in force.
    async fn change<T, F>(&self, change: impl FnOnce(Self) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let engine = self.clone();
        let change = change(self.clone());
        let made = tokio::spawn(async move {
            let _turn = engine.shared.administering.lock().await;
            let made = timeout(CHANGE_PATIENCE, change).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable("the change was not confirmed in time".to_owned()))
            });
            if let Err(StoreError::Unavailable(_)) = made {
                engine.shared.budgets_in_doubt.store(true, Ordering::SeqCst);
                engine.shared.ask_news.notify_one();
            }
            made
        });
        made.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    fn put(&self, budget: Budget) {
        let mut state = self.shared.state();
        state.put_budget(&self.shared, budget);
        self.shared.work.notify_one();
    }

    /// The label of the window that a budget is in; empty without a period limit.
    pub(super) fn label(&self, budget: &Budget) -> Arc<str> {
        self.window(budget).map_or_else(|| Arc::from(""), |window| window.label)
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

    fn remove_budget(&mut self, shared: &Shared, workspace: &Id, id: BudgetId) {
        let now = shared.now();
        if let Some(room) = self.rooms.get_mut(workspace) {
            room.ledger.remove_budget(id, now);
            room.deliver();
        }
    }

    /// Puts these budgets in force and no others.
    pub(super) fn put_exactly(&mut self, shared: &Shared, budgets: Vec<Budget>) {
        let kept: BTreeSet<(Id, BudgetId)> =
            budgets.iter().map(|budget| (budget.workspace.clone(), budget.id)).collect();
        let in_force = self.rooms.iter().flat_map(|(workspace, room)| {
            room.ledger.budgets().map(|budget| (workspace.clone(), budget.id))
        });
        let gone: Vec<_> = in_force.filter(|name| !kept.contains(name)).collect();
        for (workspace, id) in gone {
            self.remove_budget(shared, &workspace, id);
        }
        for budget in budgets {
            self.put_if_new(shared, budget);
        }
    }

    /// Puts a budget of a workspace in force as it was changed; `None` when it was deleted.
    pub(super) fn put_changed(
        &mut self,
        shared: &Shared,
        workspace: &Id,
        id: BudgetId,
        budget: Option<Budget>,
    ) {
        match budget {
            Some(budget) => self.put_if_new(shared, budget),
            None => self.remove_budget(shared, workspace, id),
        }
    }

    /// What is in force already stays as it is: to put it there again would hand back what it has on lease.
    fn put_if_new(&mut self, shared: &Shared, budget: Budget) {
        let room = self.rooms.get(&budget.workspace);
        if room.and_then(|room| room.ledger.budget(budget.id)) != Some(&budget) {
            self.put_budget(shared, budget);
        }
    }
}
