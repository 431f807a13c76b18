//! What ends a reservation: a report of actual usage, and the record that is kept of it.

use std::sync::Arc;

use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::money::{Amounts, Units};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::Usage;

/// How sure an amount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The provider's own final number.
    Exact,
    /// A lower bound: the stream was cut or the body truncated.
    AtLeast,
    /// Nobody reported; the reservation was charged in full.
    Estimated,
    /// A signed correction of an earlier entry of the same reservation.
    Adjustment,
}

impl Certainty {
    /// `exact`, `at_least`, `estimated` or `adjustment`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::AtLeast => "at_least",
            Self::Estimated => "estimated",
            Self::Adjustment => "adjustment",
        }
    }

    /// The certainty with this name, as [`Certainty::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Exact, Self::AtLeast, Self::Estimated, Self::Adjustment]
            .into_iter()
            .find(|c| c.as_str() == name)
    }
}

/// How the ids begin that Bursar itself chooses for what it metered or nobody reported.
const RESERVED_PREFIXES: [&str; 7] = [
    "timeout:",
    "metered:",
    "metered-in-part:",
    "estimated:",
    "response:",
    "response-begun:",
    "release:",
];

/// The beginning of an id that callers may not choose: their entry would stand in the place of Bursar's own, whose usage would be
/// counted without a record of it.
#[must_use]
pub fn reserved_prefix(id: &Id) -> Option<&'static str> {
    RESERVED_PREFIXES.into_iter().find(|prefix| id.as_str().starts_with(prefix))
}

/// One entry of the audit trail: what a response cost, whom it was charged to and how it was priced. Its id makes
/// reporting idempotent: (workspace, id) is a primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Chosen by who reports, at most 256 bytes.
    pub id: Id,
    /// Who is charged.
    pub subject: Arc<Subject>,
    /// The reservation that it ends or corrects.
    pub reservation: Option<ReservationId>,
    /// How sure the amounts are.
    pub certainty: Certainty,
    /// What was used in all, not only the difference that an adjustment makes.
    pub amounts: Amounts,
    /// The token counts, where they were reported.
    pub usage: Option<Usage>,
    /// The model that was priced.
    pub model: Option<Id>,
    /// Version of the price table and the rates used, as text; `None` when the cost was reported.
    pub rates: Option<Arc<str>>,
    /// When the usage took place.
    pub at: Wall,
    /// What each account was charged by this entry. Negative in an adjustment that gives back.
    pub charges: Arc<[Charge]>,
}

/// Whether one of a reservation's entries says what was used exactly.
#[must_use]
pub fn was_exact(earlier: &[Settlement]) -> bool {
    earlier.iter().any(|entry| matches!(entry.certainty, Certainty::Exact | Certainty::Adjustment))
}

impl Settlement {
    /// What an entry carries that is made after this one, the last of its reservation: a correction what was used exactly, a lower bound no
    /// less than is on record.
    #[must_use]
    pub fn corrected_to(&self, certainty: Certainty, amounts: Amounts) -> (Certainty, Amounts) {
        match certainty {
            Certainty::Exact => (Certainty::Adjustment, amounts),
            Certainty::AtLeast | Certainty::Estimated | Certainty::Adjustment => {
                (Certainty::AtLeast, amounts.greater(self.amounts))
            }
        }
    }

    /// What was charged straight to the accounts in the place of a holder, and gives way among what it forfeited: no more than it had set
    /// aside, because the rest covers its other requests.
    pub fn gives_way(&self, set_aside: impl Fn(&AccountKey) -> Units) -> Vec<(AccountKey, Units)> {
        let direct = self.charges.iter().filter(|charge| charge.road == Road::Direct);
        let gives = |charge: &Charge| charge.amount.min(set_aside(&charge.account));
        direct.map(|charge| (charge.account.clone(), gives(charge))).collect()
    }
}

/// The part of a settlement that one account bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The account.
    pub account: AccountKey,
    /// In the account's dimension.
    pub amount: Units,
    /// How it reaches the account's totals.
    pub road: Road,
}

/// How a charge reaches its account's totals at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Within the `consumed` total of a lease exchange in the same batch.
    Lease,
    /// Added to the account when the settlement is first recorded: corrections, usage without a reservation, shadow budgets.
    Direct,
}
