//! Floor 2: the async driver. It runs the ledger's commands against a store, keeps the journal, and owns the one clock.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::domain::budget::{Budget, Dimension};
use crate::domain::decision::{Decision, Standing};
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::money::{Amounts, NanoUsd, Units};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::store::{BudgetFilter, Cursor, Page, StoreError};

/// The handle that adapters hold. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared;

/// A question: may this subject make a request that may cost this much?
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who is asking.
    pub subject: Arc<Subject>,
    /// What it may cost.
    pub estimate: Estimate,
}

/// An admission that releases its reservation when it is dropped, until it is handed over.
#[derive(Debug)]
pub struct Held {
    /// The answer. Its reservation is live only for an `Allow`.
    pub decision: Decision,
}

impl Held {
    /// The answer is on its way to the client: the reservation stays until it is settled or times out.
    pub fn hand_over(self) -> Decision {
        unimplemented!()
    }
}

/// Actual usage.
#[derive(Debug, Clone)]
pub struct Report {
    /// Chosen by the reporter; reporting the same id twice counts once.
    pub settlement: Id,
    /// Whose workspace; a reservation of another workspace is unknown.
    pub workspace: Id,
    /// What is settled.
    pub against: Against,
    /// What was used.
    pub used: Used,
    /// How sure it is: `Exact` or `AtLeast`.
    pub certainty: Certainty,
    /// Whether an exact amount may replace an earlier exact one.
    pub correction: Correction,
    /// When it took place; `None` for now. Only for reports against a subject.
    pub at: Option<Wall>,
}

/// What a report settles.
#[derive(Debug, Clone)]
pub enum Against {
    /// A reservation.
    Reservation(ReservationId),
    /// Whatever budgets apply to this subject: usage that was not asked about before.
    Subject(Arc<Subject>),
}

/// What was used.
#[derive(Debug, Clone)]
pub enum Used {
    /// Token counts of a model, priced by the table. Without a model the reservation's is taken.
    Usage {
        /// The model that answered.
        model: Option<Id>,
        /// Its counts.
        usage: Usage,
    },
    /// Money that somebody else counted, and tokens where known.
    Cost {
        /// Money.
        cost: NanoUsd,
        /// The model that answered.
        model: Option<Id>,
        /// Token counts, where known.
        usage: Option<Usage>,
    },
}

/// Whether a report says that it corrects an earlier exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// A first report, or one that repeats or sharpens an estimate.
    No,
    /// `correction: true`.
    Yes,
}

/// A report that was durably recorded.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The entry as it stands on record.
    pub settlement: Settlement,
    /// Whether this call recorded it, or an earlier one did.
    pub first: bool,
    /// What the amounts exceed the reservation by.
    pub overrun: Amounts,
}

/// Why a report was not recorded.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The id is on record with other amounts.
    #[error("settlement {id} is on record with cost {cost} and {tokens} tokens", id = .0.id, cost = .0.amounts.cost, tokens = .0.amounts.tokens)]
    Differs(Box<Settlement>),
    /// The reservation was settled exactly before, and this is no correction.
    #[error("the reservation was settled exactly by {0}; send \"correction\": true to replace it")]
    SettledBefore(Id),
    /// No such reservation, or of another workspace.
    #[error("no such reservation")]
    UnknownReservation,
    /// Usage cannot be priced: the model is unknown.
    #[error("no price is known for model {0}; report a cost, or add a price")]
    Unpriced(String),
    /// The store did not confirm it. Reporting again with the same id is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

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
    /// Decides on a request, waiting for a lease where one is needed, `patience` at the longest (50 ms unless the caller's
    /// own deadline is nearer). Dropping the future releases whatever it had set aside.
    pub async fn reserve(&self, ask: Ask, patience: Duration) -> Held {
        let _ = (ask, patience);
        unimplemented!()
    }

    /// Says what applies without setting cost or tokens aside. An allowed check counts one request in every window
    /// that applies, a refused one counts in none.
    pub async fn check(&self, subject: Arc<Subject>, patience: Duration) -> Decision {
        let _ = (subject, patience);
        unimplemented!()
    }

    /// Settles, corrects or records usage. Returns after the entry is durable.
    pub async fn report(&self, report: Report) -> Result<Settled, ReportError> {
        let _ = report;
        unimplemented!()
    }

    /// Gives back what a request had set aside that never reached its provider. Unknown reservations are passed over.
    pub fn release(&self, reservation: ReservationId) {
        let _ = reservation;
        unimplemented!()
    }

    /// A fresh budget id, for `Budget::id`.
    pub fn new_budget_id(&self) -> BudgetId {
        unimplemented!()
    }

    /// What time it is.
    pub fn wall(&self) -> Wall {
        unimplemented!()
    }

    /// Records a budget and puts it in force on this replica before it returns.
    pub async fn create_budget(&self, budget: Budget) -> Result<Budget, StoreError> {
        Ok(budget)
    }

    /// Replaces a budget and puts it in force on this replica before it returns. A changed schedule makes a new generation;
    /// the caller leaves `generation` as it read it.
    pub async fn replace_budget(&self, budget: Budget) -> Result<Budget, StoreError> {
        Ok(budget)
    }

    /// Deletes a budget, with its counters.
    pub async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        let _ = (workspace, id);
        unimplemented!()
    }

    /// One budget.
    pub async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        let _ = (workspace, id);
        unimplemented!()
    }

    /// One page of a workspace's budgets.
    pub async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let _ = (workspace, filter, cursor, limit);
        unimplemented!()
    }

    /// A budget's settled spend now; everything settled on this replica before the call is included.
    pub async fn consumption(&self, budget: &Budget) -> Result<Consumption, StoreError> {
        let _ = budget;
        unimplemented!()
    }

    /// Starts the budget's counters anew, on this replica before it returns.
    pub async fn reset_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        let _ = budget;
        unimplemented!()
    }

    /// Registers an API key.
    pub async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let _ = key;
        unimplemented!()
    }

    /// A workspace's keys, newest first.
    pub async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        let _ = workspace;
        unimplemented!()
    }

    /// Deletes an API key; it is unknown on this replica before this returns.
    pub async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        let _ = (workspace, id);
        unimplemented!()
    }

    /// The key with this hash. Answers are remembered for a while, unknown keys for a shorter one.
    pub async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<Arc<ApiKey>>, StoreError> {
        let _ = hash;
        unimplemented!()
    }

    /// Whether the store answers and the journal can be written: what `/readyz` says. The text is the reason.
    pub async fn ready(&self) -> Result<(), String> {
        unimplemented!()
    }
}

#[expect(dead_code, reason = "placeholder until the driver lands")]
type Unused = (Dimension, Standing, Amounts, Units);
