//! The part of the port by which replicas that share a store hear of each other. A store that serves one replica has
//! nothing to tell.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::money::Units;
use crate::domain::time::Wall;

/// Usage that reached a replica which does not hold the reservation, on its way to the one that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handoff {
    /// Whose reservation it is.
    pub workspace: Id,
    /// The reservation; it names its holder.
    pub reservation: ReservationId,
    /// The id of the report. There is one handoff for each (workspace, reservation, settlement).
    pub settlement: Id,
    /// The report in the engine's own words, at most [`REPORT_BYTES_MAX`].
    pub report: String,
}

/// The most bytes of a report that is handed over: a settlement's worth, not a response.
pub const REPORT_BYTES_MAX: usize = 64 * 1024;

impl Handoff {
    /// A store refuses what is longer than any report can be.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let bytes = self.report.len();
        if bytes <= REPORT_BYTES_MAX {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!(
            "the report {} has {bytes} bytes; at most {REPORT_BYTES_MAX} are handed over",
            self.settlement
        )))
    }
}

/// What replicas have written for each other since an instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// The store's clock, a little before it looked: what to ask from next time.
    pub upto: Wall,
    /// Workspaces whose budgets, credits or keys were changed, with the last of these changes.
    pub changed: Vec<(Id, Change)>,
    /// Accounts on which the asking holders have active leases and that were recalled, with the number of recalls so far.
    pub recalled: Vec<(AccountKey, u32)>,
    /// Usage for reservations of the asking holders, whenever it was written.
    pub handed_over: Vec<Handoff>,
}

/// A change of a workspace. The default comes before all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// How many there were, with this one.
    pub number: i64,
    /// What no other change has: a store that was set back counts from there anew, and comes to the same numbers again. `None` before
    /// the first change, and of one that is not kept any more.
    pub mark: Option<String>,
}

/// For so long it is known that a budget was deleted, and which change a later one followed.
pub const CHANGES_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Budgets of a workspace that were changed, in the order of their last changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedBudgets {
    /// What is on record of each; `None` for those that were deleted.
    pub budgets: Vec<(BudgetId, Option<Budget>)>,
    /// The last of these changes: what to ask after next time.
    pub upto: Change,
    /// Whether more was changed.
    pub has_more: bool,
}

/// A word from another replica that came by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something of a workspace was changed.
    Changed(Id),
    /// An account was recalled, for the n-th time.
    Recalled(AccountKey, u32),
    /// Usage was handed over for a reservation of this holder.
    HandedOver(HolderId),
    /// Words may have been missed: ask for the news.
    Missed,
}

/// A handoff that its holder has not taken after this time is another replica's to settle.
pub const UNTAKEN_AFTER: Duration = Duration::from_secs(60);

/// Handoffs that a store gives at a time, with others of the same reservations.
pub const HANDOFFS_MAX: usize = 500;

/// What replicas tell each other by way of their store.
#[async_trait]
pub trait FleetStore: Send + Sync + 'static {
    /// What was written since `since`, and a little before it: the same may be told twice.
    ///
    /// # Errors
    /// When the store is away.
    async fn news(&self, holders: &[HolderId], since: Wall) -> Result<News, StoreError> {
        let _ = holders;
        Ok(News { upto: since, ..News::default() })
    }

    /// Every workspace that was ever changed, with its last change, as [`News::changed`] tells it.
    ///
    /// # Errors
    /// When the store is away.
    async fn changes(&self) -> Result<Vec<(Id, Change)>, StoreError> {
        Ok(Vec::new())
    }

    /// The first `limit` budgets of a workspace whose last change came after this one, those that were deleted among them. `None` when
    /// nobody knows any more what came after it: it was followed by another longer than [`CHANGES_KEPT`] ago, or the store lost it.
    /// Then everything is to be read anew. One without a mark is taken at its word.
    ///
    /// # Errors
    /// When the store is away.
    async fn changed_budgets(
        &self,
        workspace: &Id,
        after: &Change,
        limit: usize,
    ) -> Result<Option<ChangedBudgets>, StoreError> {
        let _ = (workspace, limit);
        Ok(Some(ChangedBudgets { upto: after.clone(), ..ChangedBudgets::default() }))
    }

    /// Waits for a word from another replica. A store without such words, or without connection for them, never returns; the
    /// news are the base.
    async fn told(&self) -> Told {
        std::future::pending().await
    }

    /// Writes usage down for the holder of its reservation. Doing it again changes nothing.
    ///
    /// # Errors
    /// When the store is away; then it may or may not be written.
    async fn hand_over(&self, handoff: &Handoff) -> Result<(), StoreError> {
        let _ = handoff;
        Err(unshared())
    }

    /// A handoff is settled: it is not told again. What was charged directly because its holder is gone, `against`, is
    /// taken out of what that holder has forfeited on these accounts, as far as there is any. Doing it again changes nothing. While the
    /// holder has an active lease on one of them nothing is done: it is settled by the holder that is there after all, or it comes
    /// again when the lease has expired.
    ///
    /// # Errors
    /// When the store is away.
    async fn handoff_settled(
        &self,
        handoff: &Handoff,
        against: &[(AccountKey, Units)],
    ) -> Result<(), StoreError> {
        let _ = (handoff, against);
        Err(unshared())
    }

    /// All handoffs of reservations that have one which was written more than [`UNTAKEN_AFTER`] ago: their holder is gone. Only one
    /// replica at a time gets those of a reservation: nobody else does within the next [`UNTAKEN_AFTER`]. Where there are more than
    /// [`HANDOFFS_MAX`], the others come with the next call.
    ///
    /// # Errors
    /// When the store is away.
    async fn untaken_handoffs(&self, now: Wall) -> Result<Vec<Handoff>, StoreError> {
        let _ = now;
        Ok(Vec::new())
    }

    /// Gives back to the pool what holders of a budget's leases (of the credits', for [`crate::domain::credits::BUDGET`])
    /// forfeited and whose lease ran out before an instant. The caller makes sure that it can no longer be reported. Returns the amount
    /// of each account, in the order of their keys. Request slots come back by themselves and are left alone.
    ///
    /// # Errors
    /// When the store is away.
    async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        before: Wall,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        let _ = (workspace, budget, before);
        Err(unshared())
    }
}

fn unshared() -> StoreError {
    StoreError::Unavailable("this store serves one replica only".to_owned())
}
