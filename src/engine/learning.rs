//! What settlements teach the estimates of later requests. The table has a lock of its own, so that looking something up never
//! waits for a decision.

use std::sync::{MutexGuard, PoisonError};

use super::{Engine, Shared};
use crate::domain::estimate::{Learned, Lesson, Usual};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::subject::Subject;

impl Engine {
    /// What requests like this subject's usually use.
    #[must_use]
    pub fn usual(&self, subject: &Subject) -> Usual {
        self.shared.learned().usual(subject)
    }
}

impl Shared {
    /// Takes in what a reservation's settlement says, where it is the provider's own final number.
    pub(super) fn learn(&self, settlement: &Settlement, lesson: Lesson) {
        if let (Certainty::Exact, Some(usage)) = (settlement.certainty, &settlement.usage) {
            self.learned().learn(&settlement.subject, usage, lesson);
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
