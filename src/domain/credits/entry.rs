//! The credits ledger: one entry for each change of a balance, and what a month's entries add up to.

use std::fmt;

use crate::domain::credits::{BUDGET, CreditGrant, Expiry};
use crate::domain::ids::Id;
use crate::domain::money::{NanoUsd, Units};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::time::Wall;

/// Lines of spend on one statement at the most: what bounds its answer. The rest is one sum.
pub const SPEND_LINES_MAX: usize = 10_000;

/// What changed a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A correction of usage.
    Adjustment,
    /// The rest of a grant whose time ran out.
    Expiry,
    /// Money that was granted.
    Grant,
    /// Money that a response cost.
    Usage,
}

impl EntryKind {
    /// All kinds, in the order of their names.
    pub const ALL: [Self; 4] = [Self::Adjustment, Self::Expiry, Self::Grant, Self::Usage];

    /// `adjustment`, `expiry`, `grant` or `usage`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Adjustment => "adjustment",
            Self::Expiry => "expiry",
            Self::Grant => "grant",
            Self::Usage => "usage",
        }
    }

    /// The kind with this name, as [`EntryKind::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Names an entry by what it comes from: `grant:ID`, `expiry:ID` of the grant, `usage:ID` or `adjustment:ID` of the settlement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// What changed the balance.
    pub kind: EntryKind,
    /// The id of the grant or the settlement.
    pub of: Id,
}

impl EntryId {
    /// Reads `KIND:ID`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, of) = text.split_once(':')?;
        Some(Self { kind: EntryKind::from_name(kind)?, of: Id::parse(of).ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.of)
    }
}

/// On whose behalf money was spent. Empty for what is no spend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Spender {
    /// The project.
    pub project: Option<Id>,
    /// The API key.
    pub api_key: Option<Id>,
    /// The model that was priced, or else the one that was asked for.
    pub model: Option<Id>,
}

/// One change of a balance. It is never changed itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Recording the same id twice counts once.
    pub id: EntryId,
    /// What the balance grew by; negative where money went.
    pub amount: NanoUsd,
    /// Why: the words of whoever granted, or how sure the usage is.
    pub reason: Id,
    /// Whose spend it is.
    pub spender: Spender,
    /// When it was recorded, which may be later than the usage: so the past of a balance does not change.
    pub at: Wall,
}

impl Entry {
    /// Of a grant that was just added.
    #[must_use]
    pub fn of_grant(grant: &CreditGrant, at: Wall) -> Self {
        Self {
            id: EntryId { kind: EntryKind::Grant, of: grant.id.clone() },
            amount: grant.amount,
            reason: grant.reason.clone(),
            spender: Spender::default(),
            at,
        }
    }

    /// Of a grant whose time just ran out.
    #[must_use]
    pub fn of_expiry(expiry: &Expiry, at: Wall) -> Self {
        Self {
            id: EntryId { kind: EntryKind::Expiry, of: expiry.grant.clone() },
            amount: NanoUsd::ZERO.minus(expiry.rest),
            reason: Id::literal("expired"),
            spender: Spender::default(),
            at,
        }
    }

    /// Of a settlement that is recorded now. `None` when it did not touch the credits.
    #[must_use]
    pub fn of_settlement(settlement: &Settlement, at: Wall) -> Option<Self> {
        let charges = settlement.charges.iter().filter(|charge| charge.account.budget == BUDGET);
        let spent = charges.fold(Units::ZERO, |sum, charge| sum.plus(charge.amount));
        let kind = match settlement.certainty {
            Certainty::Adjustment => EntryKind::Adjustment,
            Certainty::Exact | Certainty::AtLeast | Certainty::Estimated => EntryKind::Usage,
        };
        let subject = &settlement.subject;
        (spent != Units::ZERO).then(|| Self {
            id: EntryId { kind, of: settlement.id.clone() },
            amount: NanoUsd::ZERO.minus(NanoUsd::new(spent.get())),
            reason: Id::literal(settlement.certainty.as_str()),
            spender: Spender {
                project: subject.project.clone(),
                api_key: subject.api_key.clone(),
                model: settlement.model.as_ref().or(subject.model.as_ref()).cloned(),
            },
            at,
        })
    }
}

/// What changed a balance in a span of time. All amounts have the sign with which they change it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statement {
    /// The sum of all entries before.
    pub opening: NanoUsd,
    /// Grants.
    pub granted: NanoUsd,
    /// Usage by whose it is: the largest first, at most [`SPEND_LINES_MAX`].
    pub spend: Vec<(Spender, NanoUsd)>,
    /// Usage that is on no line.
    pub other_spend: NanoUsd,
    /// Corrections of usage.
    pub adjusted: NanoUsd,
    /// What expired.
    pub expired: NanoUsd,
}

impl Statement {
    /// The sum of all entries up to the end.
    #[must_use]
    pub fn closing(&self) -> NanoUsd {
        let spent = self.spend.iter().fold(self.other_spend, |sum, (_, amount)| sum.plus(*amount));
        [self.granted, spent, self.adjusted, self.expired]
            .into_iter()
            .fold(self.opening, NanoUsd::plus)
    }
}
