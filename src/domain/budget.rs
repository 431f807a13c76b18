//! The rule a person sets: scope, limits, period.

use crate::domain::ids::{BudgetId, Id};
use crate::domain::money::{NanoUsd, Tokens, Units};
use crate::domain::period::Schedule;
use crate::domain::subject::Scope;
use crate::domain::time::Wall;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Money, in nano-USD.
    Cost,
    /// LLM tokens: input (cache included) plus output (reasoning included).
    Tokens,
    /// Requests in a rolling minute.
    Requests,
}

impl Dimension {
    /// `cost`, `tokens` or `requests`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }

    /// The dimension with this name, as [`Dimension::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cost, Self::Tokens, Self::Requests].into_iter().find(|d| d.as_str() == name)
    }
}

/// How much a budget allows. At least one limit is set; a period limit comes with a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Dollars in one window. Zero blocks all.
    pub cost: Option<NanoUsd>,
    /// Tokens in one window. Zero blocks all.
    pub tokens: Option<Tokens>,
    /// The windows of the two limits above.
    pub schedule: Option<Schedule>,
    /// Requests in any 60 seconds. Zero blocks all.
    pub requests_per_minute: Option<u32>,
}

impl Limits {
    /// The limit of one dimension, in its unit.
    #[must_use]
    pub fn of(&self, dimension: Dimension) -> Option<Units> {
        match dimension {
            Dimension::Cost => self.cost.map(Units::from),
            Dimension::Tokens => self.tokens.map(Units::from),
            Dimension::Requests => self.requests_per_minute.map(|limit| Units::new(limit.into())),
        }
    }
}

/// What a gate does when its lease is spent and the store cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenUnavailable {
    /// Refuse: nothing is admitted that was not leased.
    #[default]
    Deny,
    /// Admit up to this amount of cost for each replica beyond its lease; it is recorded as overdraft. Other dimensions admit.
    AllowUpTo(NanoUsd),
    /// Admit, and record what it was as overdraft.
    Allow,
}

/// A budget as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The workspace it belongs to.
    pub workspace: Id,
    /// Its id.
    pub id: BudgetId,
    /// Grows when the schedule changes: accounts of two generations are different accounts.
    pub generation: u32,
    /// How often its counters were started anew.
    pub resets: u32,
    /// Whom it covers.
    pub scope: Scope,
    /// How much it allows.
    pub limits: Limits,
    /// Whether it is in force at all.
    pub is_active: bool,
    /// From when on it is no longer in force.
    pub expires_at: Option<Wall>,
    /// Counts and reports, never refuses.
    pub shadow: bool,
    /// What it does when the store is away.
    pub when_unavailable: WhenUnavailable,
    /// A person's name for it, at most 256 bytes.
    pub name: Option<Id>,
    /// When it was made.
    pub created_at: Wall,
    /// When it was last changed by a person.
    pub updated_at: Wall,
}

impl Budget {
    /// This budget as it takes the place of the one on record: its counters go on, in a new generation if it has another schedule.
    /// `None` when it was made of what was `read`, and another than that is on record by now; a reset alone makes it no other.
    #[must_use]
    pub fn replacing(&self, on_record: &Self, read: Option<&Self>) -> Option<Self> {
        if read.is_some_and(|read| *on_record != Self { resets: on_record.resets, ..read.clone() })
        {
            return None;
        }
        let has_other_windows = self.limits.schedule != on_record.limits.schedule;
        let generation = on_record.generation.saturating_add(has_other_windows.into());
        Some(Self { generation, resets: on_record.resets, ..self.clone() })
    }

    /// The generation of its accounts in a dimension. A rolling minute does not follow the calendar: it goes on, and is the same for
    /// all replicas, whatever becomes of the schedule.
    #[must_use]
    pub fn generation_of(&self, dimension: Dimension) -> u32 {
        match dimension {
            Dimension::Cost | Dimension::Tokens => self.generation,
            Dimension::Requests => 0,
        }
    }

    /// Whether it is in force at this instant.
    #[must_use]
    pub fn applies_at(&self, at: Wall) -> bool {
        self.is_active && self.expires_at.is_none_or(|end| at < end)
    }
}
