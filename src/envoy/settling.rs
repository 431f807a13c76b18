//! What becomes of a reservation when its response is over: one entry, under a name that follows from what is settled, so that
//! the same response counts once on whichever road and however often it comes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::ids::{Id, ReservationId};
use crate::domain::response::Verdict;
use crate::domain::settlement::Certainty;
use crate::engine::{Against, Correction, Engine, Origin, Report, ReportError, Used};
use crate::envoy::handover::Handover;

/// Settles what Envoy tells of responses. Clones settle together.
#[derive(Clone)]
pub struct Settler {
    pub(super) engine: Engine,
    /// Responses that are being watched: one for each stream, and those are bounded.
    watched: Arc<Mutex<HashSet<ReservationId>>>,
}

/// A response that is being watched, until this is dropped.
pub(super) struct Watch {
    settler: Settler,
    reservation: ReservationId,
}

/// A response that is over.
pub(super) struct Ended {
    pub(super) handover: Handover,
    pub(super) method: String,
    pub(super) path: String,
    /// What its provider calls it.
    pub(super) response_id: Option<Box<str>>,
    pub(super) verdict: Verdict,
}

/// What a report is worth, and under which name it counts.
struct Claim {
    settlement: Id,
    certainty: Certainty,
    used: Used,
}

impl Settler {
    /// A settler over this engine.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, watched: Arc::default() }
    }

    /// Says that somebody watches the response and will settle the reservation.
    pub(super) fn watch(&self, reservation: ReservationId) -> Watch {
        self.watched().insert(reservation);
        Watch { settler: self.clone(), reservation }
    }

    /// Whether a reservation is open and nobody is about to settle it who sees more.
    pub(super) fn is_left_open(&self, handover: &Handover) -> bool {
        let Handover { workspace, reservation, .. } = handover;
        !self.watched().contains(reservation) && self.engine.is_open(workspace, *reservation)
    }

    /// Whether another replica holds a reservation, which knows whether it is open, and nobody here sees its response.
    pub(super) fn is_unseen_elsewhere(&self, handover: &Handover) -> bool {
        !self.watched().contains(&handover.reservation)
            && self.engine.is_elsewhere(handover.reservation)
    }

    fn watched(&self) -> MutexGuard<'_, HashSet<ReservationId>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles or gives back what was set aside. Returns how sure the response was of its usage: `none` when it used none.
    pub(super) async fn settle(&self, ended: Ended) -> &'static str {
        let Handover { workspace, reservation, .. } = &ended.handover;
        let Some(claim) = ended.claim() else {
            self.release(workspace, *reservation).await;
            return "none";
        };
        let certainty = claim.certainty;
        let settled = match ended.fetched_id() {
            Some(id) => self.settle_fetched(&ended, id, claim).await,
            None => {
                let claim = self.unless_taken(&ended, claim).await;
                self.engine.settle(&ended.report(*reservation, claim)).await
            }
        };
        match settled {
            // Where it is settled already, somebody else was sooner and is as sure.
            Ok(())
            | Err(
                ReportError::SettledBefore(_) | ReportError::Differs(_) | ReportError::HandedOver,
            ) => {}
            Err(error) => {
                tracing::warn!(
                    %error,
                    %reservation,
                    "usage could not be settled; its reservation is charged in full when its time is up"
                );
            }
        }
        certainty.as_str()
    }

    /// Some providers, and caches before them, give several responses one id. Each was asked for and set aside for, so that each
    /// needs an entry of its own: what is booked under an id that is taken counts, but is not on record.
    async fn unless_taken(&self, ended: &Ended, claim: Claim) -> Claim {
        let Handover { workspace, reservation, .. } = &ended.handover;
        let own = ended.own_name(claim.certainty);
        if claim.settlement == own {
            return claim;
        }
        match self.engine.settlement(workspace, &claim.settlement).await {
            Ok(Some(entry)) if entry.reservation != Some(*reservation) => {
                Claim { settlement: own, ..claim }
            }
            Ok(_) | Err(_) => claim,
        }
    }

    /// A response that was made by an earlier request and is fetched by this one, perhaps for the tenth time: its usage counts
    /// once, against the request that made it where that is known.
    async fn settle_fetched(
        &self,
        ended: &Ended,
        id: &str,
        claim: Claim,
    ) -> Result<(), ReportError> {
        let Handover { workspace, reservation, .. } = &ended.handover;
        let made_by = match queued(id) {
            Some(queued) => self.engine.settlement(workspace, &queued).await?,
            None => None,
        };
        let made_by = made_by.and_then(|entry| entry.reservation).unwrap_or(*reservation);
        let settled = self.engine.report(ended.report(made_by, claim)).await;
        // Nothing to do where the report was booked against it.
        self.release(workspace, *reservation).await;
        settled.map(drop)
    }

    async fn release(&self, workspace: &Id, reservation: ReservationId) {
        if let Err(error) = self.engine.release(workspace, reservation).await {
            tracing::warn!(
                %error,
                %reservation,
                "what was set aside could not be given back; it is charged in full when its time is up"
            );
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.settler.watched().remove(&self.reservation);
    }
}

impl Ended {
    /// What is to be booked; `None` where nothing was used.
    fn claim(&self) -> Option<Claim> {
        let (certainty, used) = match &self.verdict {
            Verdict::Release => return None,
            Verdict::Charge(certainty, record) => {
                let (record, path) = (record.clone(), self.path.as_str().into());
                (*certainty, Used::Metered { record, path })
            }
            Verdict::ChargeSeen(certainty, record) => {
                let (record, path) = (record.clone(), self.path.as_str().into());
                (*certainty, Used::Seen { record, path })
            }
            Verdict::ChargeReserved(certainty) => (*certainty, Used::Reserved),
        };
        let by_id = self.stored_id().and_then(|id| match certainty {
            Certainty::Exact => complete(id),
            Certainty::Estimated => queued(id),
            Certainty::AtLeast | Certainty::Adjustment => None,
        });
        let settlement = by_id.unwrap_or_else(|| self.own_name(certainty));
        Some(Claim { settlement, certainty, used })
    }

    /// The name of the entry by the reservation. What is sure and what is not are entries of their own.
    fn own_name(&self, certainty: Certainty) -> Id {
        self.handover.reservation.settlement(match certainty {
            Certainty::Exact | Certainty::Adjustment => "metered",
            Certainty::AtLeast => "metered-in-part",
            Certainty::Estimated => "estimated",
        })
    }

    fn report(&self, reservation: ReservationId, claim: Claim) -> Report {
        Report {
            settlement: claim.settlement,
            workspace: self.handover.workspace.clone(),
            against: Against::Reservation(reservation),
            used: claim.used,
            certainty: claim.certainty,
            correction: Correction::No,
            at: None,
            origin: self.origin_of(reservation),
        }
    }

    /// What is known of the request of this reservation: of an earlier one that made the response nothing is.
    fn origin_of(&self, reservation: ReservationId) -> Option<Origin> {
        self.handover.origin.clone().filter(|_| reservation == self.handover.reservation)
    }

    /// The id of a response of the API that stores responses, so that they can be fetched again.
    fn stored_id(&self) -> Option<&str> {
        let path = self.path.split_once('?').map_or(self.path.as_str(), |(path, _)| path);
        let is_stored = path.ends_with("/responses") || path.contains("/responses/");
        self.response_id.as_deref().filter(|_| is_stored)
    }

    /// The same, when it is fetched and not made.
    fn fetched_id(&self) -> Option<&str> {
        self.stored_id().filter(|_| self.method == "GET")
    }
}

/// The name of the entry of a stored response whose usage is known.
fn complete(id: &str) -> Option<Id> {
    Id::parse(&format!("response:{id}")).ok()
}

/// The name of the entry of one that was still being made when its request was answered.
fn queued(id: &str) -> Option<Id> {
    Id::parse(&format!("response-begun:{id}")).ok()
}

#[cfg(test)]
pub(super) mod tests;
