//! Decisions: ask the ledger, wait for a lease where one is needed, journal the admission, answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::journal::End;
use super::{Engine, Phase};
use crate::domain::decision::{Admission, Decision};
use crate::domain::estimate::Estimate;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::{Verdict, WaiterId};
use crate::domain::subject::Subject;

/// A question: may this subject make a request that may cost this much?
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who is asking.
    pub subject: Arc<Subject>,
    /// What it may cost.
    pub estimate: Estimate,
}

/// An answer that undoes itself when it is dropped, until it is handed over.
pub struct Held {
    decision: Decision,
    undo: Option<Undo>,
}

/// Undoes a request that went away: it stops waiting, and gives back what it had set aside, its slots too.
struct Undo {
    engine: Engine,
    workspace: Id,
    /// `None` once the answer was handed over.
    reservation: Option<ReservationId>,
    waiter: Option<WaiterId>,
}

/// What the ledger said, and what has to happen before it is answered.
enum Step {
    Answer(Decision),
    /// Answer when the journal is written up to here.
    Journal(Decision, u64),
    Wait(WaiterId, oneshot::Receiver<Decision>),
}

impl Held {
    /// The answer. Its reservation lives only as long as this value.
    #[must_use]
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The answer is on its way to the client: the reservation stays until it is settled or times out.
    #[must_use]
    pub fn hand_over(mut self) -> Decision {
        if let Some(undo) = &mut self.undo {
            undo.reservation = None;
        }
        std::mem::replace(&mut self.decision, Decision::Undecided { budget: None })
    }
}

impl Engine {
    /// Decides on a request, waiting for a lease where one is needed, `patience` at the longest. Dropping the future, or
    /// the answer before it is handed over, gives back whatever was set aside.
    pub async fn reserve(&self, ask: Ask, patience: Duration) -> Held {
        let Ok(nonce) = self.shared.state().entropy.bits() else {
            return Held { decision: Decision::Undecided { budget: None }, undo: None };
        };
        let reservation = ReservationId { holder: self.shared.holder, nonce };
        let workspace = ask.subject.workspace.clone();
        let mut undo =
            Undo { engine: self.clone(), workspace, reservation: Some(reservation), waiter: None };
        let decision = match self.ask(&ask, reservation) {
            Step::Answer(decision) => decision,
            Step::Journal(decision, position) => self.journalled(decision, position),
            Step::Wait(waiter, answer) => {
                undo.waiter = Some(waiter);
                let decision = self.wait(&undo, reservation, answer, patience).await;
                undo.waiter = None;
                decision
            }
        };
        self.count(&decision);
        match decision {
            Decision::Allow(_) => Held { decision, undo: Some(undo) },
            Decision::Deny(_) | Decision::Undecided { .. } => {
                // An admission that could not be journalled has been turned down: `undo` gives back what it holds.
                Held { decision, undo: None }
            }
        }
    }

    /// Says what applies without setting cost or tokens aside. An allowed check counts one request in every window that
    /// applies, a refused one counts in none.
    pub async fn check(&self, subject: Arc<Subject>, patience: Duration) -> Decision {
        let ask = Ask { subject: Arc::clone(&subject), estimate: Estimate::NOTHING };
        let decision = self.reserve(ask, patience).await.hand_over();
        let Decision::Allow(admission) = decision else { return decision };
        if let Some(reservation) = admission.reservation {
            self.end(&subject.workspace, reservation, End::Over);
        }
        Decision::Allow(Admission { reservation: None, ..admission })
    }

    /// Whether a reservation of this replica is neither settled nor released.
    #[must_use]
    pub fn is_open(&self, workspace: &Id, reservation: ReservationId) -> bool {
        let state = self.shared.state();
        state
            .rooms
            .get(workspace)
            .is_some_and(|room| room.ledger.reservation(reservation).is_some())
    }

    fn ask(&self, ask: &Ask, reservation: ReservationId) -> Step {
        let shared = &self.shared;
        let mut state = shared.state();
        // Read under the lock, so that the stamps of a rolling minute come in the order of time.
        let now = shared.now();
        let undecided = Step::Answer(Decision::Undecided { budget: None });
        if state.phase != Phase::Running {
            return undecided;
        }
        let Some(room) = state.room(shared, &ask.subject.workspace) else { return undecided };
        let subject = Arc::clone(&ask.subject);
        let verdict = room.ledger.reserve(subject, ask.estimate, reservation, now);
        let has_batch = room.ledger.has_batch();
        let step = match verdict {
            Verdict::Decided(Decision::Allow(admission)) => {
                let position = state.admit(&ask.subject.workspace, reservation);
                Step::Journal(Decision::Allow(admission), position)
            }
            Verdict::Decided(decision) => Step::Answer(decision),
            Verdict::Starved(waiter) => {
                let (sender, receiver) = oneshot::channel();
                room.deciding.insert(waiter, sender);
                Step::Wait(waiter, receiver)
            }
        };
        if has_batch {
            shared.stir(&mut state, &ask.subject.workspace);
        }
        step
    }

    /// Waits for the store's answer; when it does not come in time, each budget's own rule holds.
    async fn wait(
        &self,
        undo: &Undo,
        reservation: ReservationId,
        answer: oneshot::Receiver<Decision>,
        patience: Duration,
    ) -> Decision {
        let began = self.shared.now();
        let answered = timeout(patience, answer).await;
        let now = self.shared.now();
        self.shared.metrics.starved(now.mono.since(began.mono));
        let decision = match (answered, undo.waiter) {
            (Ok(Ok(decision)), _) => decision,
            (_, None) => Decision::Undecided { budget: None },
            (_, Some(waiter)) => {
                let mut state = self.shared.state();
                let now = self.shared.now();
                let room = state.rooms.get_mut(&undo.workspace);
                let decision = room.and_then(|room| {
                    room.deciding.remove(&waiter);
                    room.ledger.give_up(waiter, now)
                });
                self.shared.stir(&mut state, &undo.workspace);
                decision.unwrap_or(Decision::Undecided { budget: None })
            }
        };
        let Decision::Allow(_) = decision else { return decision };
        let position = self.shared.state().admit(&undo.workspace, reservation);
        self.journalled(decision, position)
    }

    /// Answers once the admission is in the journal. One that cannot be written is not answered with yes.
    fn journalled(&self, decision: Decision, position: u64) -> Decision {
        match self.shared.write_journal(position) {
            Ok(()) => decision,
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written; nothing is admitted until it can be");
                Decision::Undecided { budget: None }
            }
        }
    }

    fn count(&self, decision: &Decision) {
        let metrics = &self.shared.metrics;
        if let Decision::Allow(admission) = decision {
            if admission.unavailable {
                metrics.unavailable_admission();
            }
            for _ in 0..admission.shadow_refusals {
                metrics.shadow_refusal("shadow");
            }
        }
    }

    /// Ends a reservation without settlement. Returns whether it was open.
    pub(super) fn end(&self, workspace: &Id, reservation: ReservationId, end: End) -> bool {
        let mut state = self.shared.state();
        let now = self.shared.now();
        let Some(room) = state.rooms.get_mut(workspace) else { return false };
        if room.ledger.reservation(reservation).is_none() {
            return false;
        }
        match end {
            End::Over => drop(room.ledger.release(reservation, now)),
            End::Withdrawn => room.ledger.withdraw(reservation, now),
        }
        state.records.end(reservation, end);
        self.shared.stir(&mut state, workspace);
        true
    }
}

impl super::State {
    /// Puts an admission on record. Returns the position that the journal must be written to.
    fn admit(&mut self, workspace: &Id, reservation: ReservationId) -> u64 {
        let Self { rooms, records, .. } = self;
        match rooms.get(workspace) {
            Some(room) => records.admit(&room.ledger, reservation),
            None => 0,
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter
            && let Some(room) = self.engine.shared.state().rooms.get_mut(&self.workspace)
        {
            room.deciding.remove(&waiter);
            room.ledger.abandon(waiter);
        }
        if let Some(reservation) = self.reservation {
            self.engine.end(&self.workspace, reservation, End::Withdrawn);
        }
    }
}
