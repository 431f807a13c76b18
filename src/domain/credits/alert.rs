//! The low-balance alert of a workspace: when it goes off, when it is armed again, and how often its notice is tried.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// A notice is tried this often at the most: some 20 hours, so that a receiver may be away for a night.
pub const ATTEMPTS_MAX: u32 = 28;
/// The pause after the first attempt; it doubles each time. Longer than an attempt takes, so that two never overlap.
const PAUSE_MIN: Duration = Duration::from_secs(15);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// The key that notices are signed with. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertTerms {
    /// A balance at or below this sets it off.
    pub threshold: NanoUsd,
    /// Whom to tell.
    pub url: Arc<str>,
    /// What to sign with.
    pub secret: Secret,
}

/// One time that a balance fell to the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// The balance when it was seen.
    pub balance: NanoUsd,
    /// When it was seen.
    pub at: Wall,
}

/// What an alert is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// For the balance to fall to the threshold.
    Armed,
    /// For its notice to be taken.
    Telling {
        /// What it tells.
        crossing: Crossing,
        /// Attempts so far.
        attempts: u32,
        /// When to try next.
        due_at: Wall,
    },
    /// For the balance to rise above the threshold again.
    Told,
}

/// An alert as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What was asked for.
    pub terms: AlertTerms,
    /// What it waits for.
    pub watch: Watch,
}

/// One attempt to tell of a crossing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whose balance.
    pub workspace: Id,
    /// What happened. Its instant and the workspace name the notice, however often it is tried.
    pub crossing: Crossing,
    /// The first attempt is 1.
    pub attempt: u32,
    /// Whom to tell, and how.
    pub terms: AlertTerms,
}

impl Alert {
    /// An alert that has not gone off.
    #[must_use]
    pub const fn new(terms: AlertTerms) -> Self {
        Self { terms, watch: Watch::Armed }
    }

    /// Looks at the balance. Gives the notice to try now, if there is one; it counts as tried.
    ///
    /// A balance that has risen above the threshold takes an untold notice back: it would tell of what is over.
    pub fn observe(&mut self, workspace: &Id, balance: NanoUsd, now: Wall) -> Option<Notice> {
        if balance > self.terms.threshold {
            self.watch = Watch::Armed;
            return None;
        }
        if self.watch == Watch::Armed {
            let crossing = Crossing { balance, at: now };
            self.watch = Watch::Telling { crossing, attempts: 0, due_at: now };
        }
        let Watch::Telling { crossing, attempts, due_at } = self.watch else { return None };
        if now < due_at {
            return None;
        }
        if attempts >= ATTEMPTS_MAX {
            self.watch = Watch::Told;
            return None;
        }
        let attempt = attempts.saturating_add(1);
        self.watch =
            Watch::Telling { crossing, attempts: attempt, due_at: now.plus(pause(attempts)) };
        let (workspace, terms) = (workspace.clone(), self.terms.clone());
        Some(Notice { workspace, crossing, attempt, terms })
    }

    /// The notice of this crossing was taken.
    pub fn told(&mut self, told: Crossing) {
        if matches!(self.watch, Watch::Telling { crossing, .. } if crossing == told) {
            self.watch = Watch::Told;
        }
    }
}

/// How long to wait after this many attempts and one more.
fn pause(attempts: u32) -> Duration {
    PAUSE_MIN.saturating_mul(2u32.saturating_pow(attempts)).min(PAUSE_MAX)
}
