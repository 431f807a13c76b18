//! Prepaid credits of a workspace: grants, how spend draws on them, and how they expire.
//!
//! Among the budgets of a ledger the credits are one more, with an id of its own that no person's budget can have: a
//! lifetime account of cost whose limit is what was granted and has not expired. So leases, settlements, the journal and
//! a restart treat them like any gate.

mod alert;
mod entry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::alert::{ATTEMPTS_MAX, Alert, AlertTerms, Crossing, Notice, Secret, Watch};
pub use self::entry::{Entry, EntryId, EntryKind, SPEND_LINES_MAX, Spender, Statement};
use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::ids::{BudgetId, Id};
use crate::domain::ledger::escrow::{Account, AccountKey};
use crate::domain::money::{NanoUsd, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::subject::{Scope, ScopeKind, Target};
use crate::domain::time::Wall;

/// Stands for a workspace's credits wherever a gate names its budget. Never the id of a budget that a person made: those
/// begin with the time of their making.
pub const BUDGET: BudgetId = BudgetId(0);

/// Grants of one workspace that have something left at the most: all of them are read when one is added or expires.
pub const OPEN_GRANTS_MAX: usize = 1000;

/// The account that a workspace's credits are spent from.
#[must_use]
pub fn account(workspace: &Id) -> AccountKey {
    AccountKey {
        workspace: workspace.clone(),
        budget: BUDGET,
        generation: 0,
        dimension: Dimension::Cost,
        target: workspace.clone(),
        window: Arc::from(""),
    }
}

/// The credits as a ledger enforces them.
#[must_use]
pub fn budget(workspace: Id, granted: NanoUsd) -> Budget {
    let schedule =
        Schedule { period: Period::OneTime, zone: Zone::utc(), week_start: WeekStart::Monday };
    Budget {
        id: BUDGET,
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Workspace, target: Target::One(workspace.clone()) },
        limits: Limits { cost: Some(granted), schedule: Some(schedule), ..Limits::default() },
        workspace,
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: Wall::from_ms(0),
        updated_at: Wall::from_ms(0),
    }
}

/// Prepaid money, as it was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditGrant {
    /// Chosen by whoever grants; granting the same id twice counts once.
    pub id: Id,
    /// More than zero.
    pub amount: NanoUsd,
    /// Lower numbers are drawn first.
    pub priority: u8,
    /// What is left then is gone.
    pub expires_at: Option<Wall>,
    /// Why, in a person's words.
    pub reason: Id,
    /// When it was granted.
    pub created_at: Wall,
}

impl CreditGrant {
    /// Whether another call with this id asks for the same.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { created_at: other.created_at, ..self.clone() } == *other
    }

    /// What decides who is drawn first: priority, then the nearer expiry, then the id.
    fn place(&self) -> (u8, Wall, &Id) {
        (self.priority, self.expires_at.unwrap_or(Wall::from_ms(i64::MAX)), &self.id)
    }
}

/// A grant and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGrant {
    /// The grant.
    pub grant: CreditGrant,
    /// Not drawn yet.
    pub left: NanoUsd,
}

/// What a ledger must know of a workspace's credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// Granted in all, less what expired.
    pub granted: NanoUsd,
    /// When the next grant ends that has something left.
    pub next_expiry: Option<Wall>,
}

/// The credits of a workspace.
///
/// Spend is one running total. It is told apart by grants only when these change or are asked for: in between the order
/// of drawing cannot change, so that the outcome is the same as if every settlement had been drawn by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credits {
    /// Granted in all, less what expired.
    pub granted: NanoUsd,
    /// Grants with something left, in the order of drawing.
    pub open: Vec<OpenGrant>,
}

/// What became of a grant that was to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It counts.
    New(InForce),
    /// It was granted before, in the same words; this is the first one.
    Before(CreditGrant),
    /// The id was granted before, in other words.
    Differs,
    /// Its time is over.
    Expired,
    /// There are [`OPEN_GRANTS_MAX`] open grants, or more money than can be counted.
    Full,
}

/// A grant whose time ran out, and what was left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The grant.
    pub grant: Id,
    /// What nobody had drawn or set aside.
    pub rest: NanoUsd,
}

impl Credits {
    /// Credits as they are on record, whose grants come in any order.
    #[must_use]
    pub fn new(granted: NanoUsd, open: Vec<OpenGrant>) -> Self {
        let mut open = open;
        open.sort_by(|a, b| a.grant.place().cmp(&b.grant.place()));
        Self { granted, open }
    }

    /// What a ledger must know.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        let ends = self.open.iter().filter(|open| open.left > NanoUsd::ZERO);
        InForce {
            granted: self.granted,
            next_expiry: ends.filter_map(|open| open.grant.expires_at).min(),
        }
    }

    /// Draws what was spent since the last time. What no grant covers is drawn from the next one that is added. A correction
    /// that gives back fills the grants again, the last drawn first; what fits into none stays with the balance.
    pub fn draw(&mut self, spent: NanoUsd) {
        let left = self.open.iter().fold(NanoUsd::ZERO, |sum, open| sum.plus(open.left));
        let mut due = spent.minus(self.granted.minus(left));
        for open in &mut self.open {
            let part = open.left.min(due.or_zero());
            open.left = open.left.minus(part);
            due = due.minus(part);
        }
        for open in self.open.iter_mut().rev() {
            let part = open.grant.amount.minus(open.left).min(NanoUsd::ZERO.minus(due).or_zero());
            open.left = open.left.plus(part);
            due = due.plus(part);
        }
    }

    /// Adds a grant whose id is new. Nothing is changed where it is refused.
    #[must_use]
    pub fn add(&mut self, grant: CreditGrant, account: &Account, now: Wall) -> Added {
        if grant.expires_at.is_some_and(|end| end <= now) {
            return Added::Expired;
        }
        let mut drawn = self.clone();
        drawn.draw(NanoUsd::new(account.spent.get()));
        let open = drawn.open.iter().filter(|open| open.left > NanoUsd::ZERO).count();
        let granted = self.granted.get().checked_add(grant.amount.get());
        let Some(granted) = granted.filter(|_| open < OPEN_GRANTS_MAX) else { return Added::Full };
        // Everything is checked; from here on everything is changed.
        *self = drawn;
        self.granted = NanoUsd::new(granted);
        let place = self.open.partition_point(|open| open.grant.place() < grant.place());
        self.open.insert(place, OpenGrant { left: grant.amount, grant });
        Added::New(self.in_force())
    }

    /// Takes out the grants whose time ran out. What is lent counts as drawn: it may be spent already.
    pub fn expire(&mut self, account: &Account, now: Wall) -> Vec<Expiry> {
        let spent = NanoUsd::new(account.spent.get());
        let held = NanoUsd::new(account.leased.plus(account.forfeited).get());
        self.draw(spent);
        let mut with_held = self.clone();
        with_held.draw(spent.plus(held));
        let mut expired = Vec::new();
        for open in with_held.open {
            if open.grant.expires_at.is_some_and(|end| end <= now) {
                self.granted = self.granted.minus(open.left);
                self.open.retain(|other| other.grant.id != open.grant.id);
                expired.push(Expiry { grant: open.grant.id, rest: open.left });
            }
        }
        expired
    }
}

/// A workspace's credits and the account that they are spent from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Grants, drawn up to what is spent.
    pub credits: Credits,
    /// Totals of the account.
    pub account: Account,
}

impl Holdings {
    /// Draws the credits up to what is spent.
    #[must_use]
    pub fn new(credits: Credits, account: Account) -> Self {
        let mut credits = credits;
        credits.draw(NanoUsd::new(account.spent.get()));
        Self { credits, account }
    }

    /// What is left: the sum of all entries.
    #[must_use]
    pub fn balance(&self) -> NanoUsd {
        balance(self.credits.granted, &self.account)
    }

    /// The part of the balance that is neither lent to replicas nor lost with one; negative after an overdraft.
    #[must_use]
    pub fn free(&self) -> NanoUsd {
        NanoUsd::new(self.account.free(Units::from(self.credits.granted)).get())
    }
}

/// What is left of what was granted.
#[must_use]
pub fn balance(granted: NanoUsd, account: &Account) -> NanoUsd {
    granted.minus(NanoUsd::new(account.spent.get()))
}
