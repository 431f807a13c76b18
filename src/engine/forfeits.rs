//! What replicas that are gone had on lease: shown, and given back to the pool when nobody can report it any more.

use std::time::Duration;

use super::Engine;
use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, Id};
use crate::domain::ledger::escrow::{Account, AccountKey};
use crate::domain::money::Units;
use crate::store::StoreError;

/// How much longer than a reservation's time limit what was forfeited is kept at the least: for clocks, for the sweep, and for usage
/// that is handed over and untaken.
const SPARE: Duration = Duration::from_secs(60);

impl Engine {
    /// The totals of all accounts of a budget in its current window, in no particular order; everything settled on this replica
    /// before the call is included.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn accounts(
        &self,
        budget: &Budget,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError> {
        self.flush(&budget.workspace).await?;
        let label = self.label(budget);
        self.shared.store.accounts(budget, &label).await
    }

    /// How long ago a lease must have run out for what was forfeited with it to be given back: longer than any reservation under
    /// it lasts.
    #[must_use]
    pub fn forfeits_kept(&self) -> Duration {
        self.shared.terms.reservation_timeout.saturating_add(SPARE)
    }

    /// Gives back to the pool what was forfeited with leases of a budget (of the credits, for [`crate::domain::credits::BUDGET`]) that
    /// ran out this long ago, or [`Engine::forfeits_kept`] if that is longer. A process that comes back later and reports usage under
    /// such a lease is charged all the same, as overdraft. Returns how much it was, for each account.
    ///
    /// # Errors
    /// When the store is away; doing it again is safe.
    pub async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        age: Duration,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        let store = &self.shared.store;
        // Leases run out by the store's clock.
        let stores_now = store.news(&[], self.wall()).await?.upto;
        let before = stores_now.minus(age.max(self.forfeits_kept()));
        let released = store.release_forfeits(workspace, budget, before).await?;
        if !released.is_empty() {
            tracing::info!(%workspace, %budget, accounts = released.len(), "released what was forfeited");
            // What is known of the pool no longer holds.
            let mut state = self.shared.state();
            let now = self.shared.now();
            if let Some(room) = state.rooms.get_mut(workspace) {
                room.ledger.hand_back(budget, now);
            }
            self.shared.work.notify_one();
        }
        Ok(released)
    }
}
