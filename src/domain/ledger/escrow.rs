//! The store's side of the lease protocol: accounts, leases, and the arithmetic of one exchange. Pure, so that the
//! memory and the SQLite store run the same rule and the tests can replay it.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::money::Units;
use crate::domain::time::Wall;

/// Names an account: running totals of one (workspace, budget, generation, dimension, target, window).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The workspace leads every key.
    pub workspace: Id,
    /// The budget.
    pub budget: BudgetId,
    /// The budget's generation.
    pub generation: u32,
    /// What is counted.
    pub dimension: Dimension,
    /// Who is counted: the scope's target, or for a `*` budget the asking one.
    pub target: Id,
    /// The label of the window; empty for one-time budgets and for requests.
    pub window: Arc<str>,
}

/// An account's totals at the store. All in the account's dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Settled by all holders since the account was made.
    pub spent: Units,
    /// What `spent` was at the last reset; what is shown and enforced is `spent − base`.
    pub base: Units,
    /// Lent to live leases: granted − consumed − returned.
    pub leased: Units,
    /// Outstanding at leases that expired; counts as spent until their holders true them up.
    pub forfeited: Units,
    /// What was consumed beyond any grant.
    pub overdraft: Units,
    /// Live leases.
    pub holders: u32,
}

/// The state of a lease at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseState {
    /// Counted in `leased`.
    #[default]
    Active,
    /// Its time ran out: counted in `forfeited`.
    Expired,
    /// Final; nothing outstanding.
    Closed,
}

/// One holder's lease on one account. Totals are cumulative and never fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    /// Number of the last exchange that was applied.
    pub seq: u32,
    /// Lent in all.
    pub granted: Units,
    /// Settled in all.
    pub consumed: Units,
    /// Handed back in all.
    pub returned: Units,
    /// Consumed beyond the grants in all.
    pub overrun: Units,
    /// Where it stands.
    pub state: LeaseState,
    /// When the sweeper may take it, on the store's clock.
    pub expires_at: Wall,
}

/// What a holder asks of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The least that is of use: the smallest waiting request.
    pub need_min: Units,
    /// What all waiting requests lack.
    pub need: Units,
    /// What two seconds of use would take; at least `need`.
    pub want: Units,
}

/// Report, return, draw and renew in one step. Idempotent by `(account, holder, epoch, seq)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// On which account.
    pub account: AccountKey,
    /// The holder whose lease it is.
    pub holder: HolderId,
    /// Which lease of this holder on this account; a lost lease is followed by the next epoch.
    pub epoch: u32,
    /// One more than the last exchange's. The first opens the lease and, where needed, the account.
    pub seq: u32,
    /// Settled in all under this lease.
    pub consumed: Units,
    /// Handed back in all under this lease.
    pub returned: Units,
    /// Consumed beyond the grants in all under this lease.
    pub overrun: Units,
    /// What to lend; `None` to lend nothing.
    pub draw: Option<Draw>,
    /// Whether the lease stays open.
    pub then: Then,
}

/// What becomes of a lease after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is renewed for another time to live.
    Renew,
    /// It ends: whatever is outstanding goes back to the pool. Only without open reservations.
    Close,
}

/// The store's answer to an exchange: the account as it stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Lent in all under this lease; the holder sets its own number to it.
    pub granted: Units,
    /// The budget's limit, read in the same transaction.
    pub limit: Units,
    /// Settled by all holders since the last reset.
    pub spent: Units,
    /// Outstanding at expired leases.
    pub forfeited: Units,
    /// Not spent, not lent, not forfeited; negative after an overdraft or a lowered limit.
    pub free: Units,
    /// Live leases on the account.
    pub holders: u32,
    /// How long the lease lasts from when the request was sent.
    pub ttl: Duration,
}
