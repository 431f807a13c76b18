//! The part of the port that is about prepaid credits. What they are spent on reaches them through `Store::commit`.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::credits::{
    Added, Alert, AlertTerms, CreditGrant, Entry, EntryId, Holdings, InForce, Notice, Statement,
};
use crate::domain::ids::Id;
use crate::domain::time::Wall;

/// One page of entries, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPage {
    /// In the order (instant, kind, id), the greatest first.
    pub entries: Vec<Entry>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// Durable credits. Every change of a balance is recorded as an entry in the same transaction.
#[async_trait]
pub trait CreditStore: Send + Sync + 'static {
    /// Adds a grant, once for each id.
    async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
        now: Wall,
    ) -> Result<Added, StoreError>;

    /// Takes what is unused out of grants whose time ran out. `None` for a workspace without a grant ever made.
    async fn expire_credits(
        &self,
        workspace: &Id,
        now: Wall,
    ) -> Result<Option<InForce>, StoreError>;

    /// A workspace's credits. `None` for one without a grant ever made.
    async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError>;

    /// The credits of all workspaces, to start from.
    async fn load_credits(&self) -> Result<Vec<(Id, InForce)>, StoreError>;

    /// One page of a workspace's entries. A cursor that names no entry gives an empty page. `limit` is 1 to 200.
    async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError>;

    /// What the entries recorded from an instant to before another add up to.
    async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError>;

    /// Sets a workspace's low-balance alert, armed anew, or removes it.
    async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError>;

    /// A workspace's low-balance alert.
    async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError>;

    /// Shows every alert its balance, and gives the notices to try now; they count as tried.
    async fn due_notices(&self, now: Wall) -> Result<Vec<Notice>, StoreError>;

    /// A notice was taken: it is not tried again.
    async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError>;
}
