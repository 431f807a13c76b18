//! Floor 1: the port to durable storage. The inside says what it needs; an adapter translates and nothing more. The
//! lease arithmetic is `domain::ledger::escrow`, written once.

#[cfg(test)]
mod contract;
mod credits;
mod errors;
mod fleet;
pub mod memory;
pub mod postgres;
mod posting;
mod rows;
pub mod sqlite;

use async_trait::async_trait;
use thiserror::Error;

pub use self::credits::{CreditStore, EntryPage};
pub use self::fleet::{
    CHANGES_KEPT, Change, ChangedBudgets, FleetStore, HANDOFFS_MAX, Handoff, News,
    REPORT_BYTES_MAX, Told, UNTAKEN_AFTER,
};

use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::ledger::escrow::{Account, AccountKey, Exchange, Grant, Lease};
use crate::domain::period::{Period, Window};
use crate::domain::settlement::Settlement;
use crate::domain::subject::ScopeKind;
use crate::domain::time::Wall;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store cannot be reached, is out of space, read-only or too slow. Retry later; the operation may or may not have been applied.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A budget for this scope exists, or a key with this secret or id.
    #[error("already exists as {existing}")]
    Conflict {
        /// What stands in the way.
        existing: String,
    },
    /// No such budget or key.
    #[error("not found")]
    NotFound,
    /// Somebody else changed the budget meanwhile. Nothing was done; read it again.
    #[error("changed by somebody else at the same time")]
    Changed,
    /// A batch named a lease that is closed, unknown, or of another sequence. Nothing of the batch was applied.
    #[error("the lease on {0:?} is lost")]
    LeaseLost(Box<AccountKey>),
    /// Another process has taken over from the holder that calls. Nothing was done, and nothing will be.
    #[error(
        "another process has taken over from this one: two run with one journal, or with copies of it. Stop one of them, and give each \
         replica a journal.path of its own on a disk whose file locks hold"
    )]
    TakenOver,
    /// What was read makes no sense, or an invariant does not hold. Retrying does not help.
    #[error("the store holds what it should not: {0}")]
    Corrupt(String),
}

/// What one replica tells the store about one workspace, in one transaction: first the settlements, then the
/// exchanges in the order of their account keys. Sending the same batch again has no further effect and gives the same grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose accounts these are.
    pub workspace: Id,
    /// Who sends it.
    pub holder: HolderId,
    /// Entries to record. One whose id is on record already is passed over, its `Road::Direct` charges too.
    pub settlements: Vec<Settlement>,
    /// Leases to report, return, draw and renew.
    pub exchanges: Vec<Exchange>,
}

/// Which budgets to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetFilter {
    /// Any of these kinds; empty for all.
    pub scope_kinds: Vec<ScopeKind>,
    /// Exactly this target (`*` for defaults).
    pub target: Option<String>,
    /// Active or not.
    pub is_active: Option<bool>,
    /// Any of these periods; empty for all.
    pub periods: Vec<Period>,
    /// A part of the target's text, case-sensitive.
    pub target_contains: Option<String>,
    /// In which order.
    pub sort_by: SortBy,
}

/// The instant by which a listing is ordered, newest first; budgets without one come last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortBy {
    /// When it was last changed.
    #[default]
    UpdatedAt,
    /// When it was made.
    CreatedAt,
    /// When it ends.
    ExpiresAt,
}

impl SortBy {
    /// The instant of this budget.
    #[must_use]
    pub fn of(self, budget: &Budget) -> Wall {
        match self {
            Self::UpdatedAt => budget.updated_at,
            Self::CreatedAt => budget.created_at,
            Self::ExpiresAt => budget.expires_at.unwrap_or(Wall::from_ms(i64::MIN)),
        }
    }
}

/// Where a page of a listing starts. Listings are in the order ([`SortBy`], id), newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// From the newest.
    Start,
    /// After this budget.
    After(BudgetId),
    /// The page that ends just before this budget.
    Before(BudgetId),
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In listing order.
    pub budgets: Vec<Budget>,
    /// Whether there is more in the direction of paging.
    pub has_more: bool,
}

/// A lease taken over from an earlier start of this replica. It keeps its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedLease {
    /// On which account.
    pub account: AccountKey,
    /// Who opened it.
    pub opener: HolderId,
    /// Its epoch among the leases of the one that opened it.
    pub epoch: u32,
    /// Its totals.
    pub lease: Lease,
}

impl From<((AccountKey, HolderId, u32), Lease)> for AdoptedLease {
    fn from(((account, opener, epoch), lease): ((AccountKey, HolderId, u32), Lease)) -> Self {
        Self { account, opener, epoch, lease }
    }
}

/// Durable storage. `now` is the replica's wall clock; a store that several machines share uses its own instead.
#[async_trait]
pub trait Store: CreditStore + FleetStore {
    /// Records a new budget.
    ///
    /// # Errors
    /// `Conflict` names the budget that already covers this scope.
    async fn create_budget(&self, budget: &Budget) -> Result<(), StoreError>;

    /// Replaces a budget by [`Budget::replacing`] the one on record, whatever generation and resets the caller knows, and gives what
    /// is on record then. When that is of a new generation, its accounts are opened for the window in `seed`, with `spent` = the sum
    /// of the budget's charges in that window, per dimension and target.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget; `Changed` when it was made of what was `read`, and that is no longer on record.
    async fn replace_budget(
        &self,
        budget: &Budget,
        read: Option<&Budget>,
        seed: Option<&Window>,
    ) -> Result<Budget, StoreError>;

    /// Deletes a budget with its accounts and leases. Its settlements stay as the audit trail.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget.
    async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError>;

    /// One budget.
    async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError>;

    /// One page of a workspace's budgets. A cursor that names no budget gives an empty page. `limit` is 1 to 200.
    async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// All budgets of all workspaces, to start from.
    async fn load_budgets(&self) -> Result<Vec<Budget>, StoreError>;

    /// The totals of all accounts of one generation of a budget in the window with this label, and of its request
    /// accounts (whose label is empty).
    async fn accounts(
        &self,
        budget: &Budget,
        label: &str,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError>;

    /// Starts the budget's current accounts anew: expired leases are written off (their outstanding is posted as
    /// consumed), then `base = spent`. Nothing of the audit trail changes. The budget on record counts it in `resets`.
    ///
    /// # Errors
    /// `NotFound` when there is no such budget; `Changed` when it is of another generation by now, whose accounts are others.
    async fn reset_budget(&self, budget: &Budget, label: &str) -> Result<(), StoreError>;

    /// Registers an API key.
    ///
    /// # Errors
    /// `Conflict` when its id (in its workspace) or its hash (anywhere) is taken.
    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// The key with this hash.
    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError>;

    /// A workspace's keys, newest first.
    async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError>;

    /// Deletes an API key.
    ///
    /// # Errors
    /// `NotFound` when there is no such key.
    async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError>;

    /// Applies a batch in one durable transaction and gives a grant for each exchange, in the batch's order.
    ///
    /// # Errors
    /// `LeaseLost` when an exchange can be neither applied nor replayed, or its sender does not speak for the lease; `TakenOver`
    /// when the batch's sender was taken over, whatever is in it: its successor asks what is on record only once. Then nothing was
    /// applied.
    async fn commit(&self, batch: &Batch, now: Wall) -> Result<Vec<Grant>, StoreError>;

    /// The settlement with this id, with its charges.
    async fn settlement(&self, workspace: &Id, id: &Id) -> Result<Option<Settlement>, StoreError>;

    /// All settlements of a reservation, oldest first.
    async fn settlements_of(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Vec<Settlement>, StoreError>;

    /// Which of these reservations have a settlement.
    async fn settled_among(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError>;

    /// Puts on record that a new holder speaks for earlier ones, so that nothing that these still have under way is
    /// applied: they have lost all their leases. For one time to live from now none of the leases expires or is released.
    /// Gives all that are not closed, in the order of their names, also when it is asked again because its answer was lost.
    /// What had expired counts as forfeited until its next exchange.
    ///
    /// # Errors
    /// `TakenOver` when the new holder was taken over itself: it takes nothing over.
    async fn adopt(
        &self,
        from: &[HolderId],
        to: HolderId,
        now: Wall,
    ) -> Result<Vec<AdoptedLease>, StoreError>;

    /// Expires leases whose time ran out and frees the slots of request accounts that expired long enough ago. Closed
    /// leases are forgotten after a day. A store may take only some of them at a time.
    /// Returns how many leases it touched.
    async fn sweep(&self, now: Wall) -> Result<u64, StoreError>;

    /// Whether the store answers and can write.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets go of files and connections. Calls after it fail.
    async fn close(&self) {}
}
