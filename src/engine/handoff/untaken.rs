//! Usage for reservations whose holder is gone. Whichever replica finds it settles it: against what is on record of the reservation,
//! or else straight to the accounts that its holder would have charged, and what the holder forfeited there gives way to it.
//!
//! Invariant: it is charged before the forfeits give way, so that at no time less counts than was used.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::note_refused;
use super::wire::Said;
use crate::domain::budget::Dimension;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{Actual, Orphan};
use crate::domain::money::{Amounts, Units};
use crate::domain::settlement::Settlement;
use crate::domain::subject::Subject;
use crate::engine::Engine;
use crate::engine::report::{
    Origin, RECORDING_PATIENCE, Report, ReportError, no_room, unconfirmed,
};
use crate::store::{Handoff, StoreError};

/// How often each replica looks for what nobody took.
const LOOK: Duration = Duration::from_secs(20);

/// Settles what nobody took, until it is aborted.
pub(in crate::engine) async fn settle_untaken(engine: Engine) {
    loop {
        sleep(engine.shared.about(LOOK)).await;
        engine.settle_untaken().await;
    }
}

impl Engine {
    /// Settles what nobody took until nothing is left, one after the other: several may be about one reservation.
    pub(in crate::engine) async fn settle_untaken(&self) {
        // Nothing of it would be applied, and others could not settle it meanwhile.
        while !self.shared.is_taken_over() {
            let untaken = match self.shared.store.untaken_handoffs(self.wall()).await {
                Ok(untaken) => untaken,
                Err(error) => {
                    tracing::warn!(%error, "usage that nobody took cannot be looked for");
                    return;
                }
            };
            if untaken.is_empty() {
                return;
            }
            for handoff in untaken {
                if let Err(error) = self.settle_one_untaken(&handoff).await {
                    tracing::warn!(%error, settlement = %handoff.settlement, "usage that nobody took is settled later");
                }
            }
        }
    }

    async fn settle_one_untaken(&self, handoff: &Handoff) -> Result<(), StoreError> {
        let against = match self.read(handoff) {
            None => return Ok(()),
            // What the holder had set aside is among what it forfeited: nobody else knows how much it was.
            Some(Said::Release) => Vec::new(),
            Some(Said::Report(report)) => {
                let charged =
                    timeout(RECORDING_PATIENCE, self.charge(&report, handoff.reservation));
                match Box::pin(charged).await.unwrap_or_else(|_| Err(unconfirmed())) {
                    Ok(charged) => charged,
                    Err(ReportError::Store(error)) => return Err(error),
                    Err(error) => {
                        note_refused(handoff, &error);
                        Vec::new()
                    }
                }
            }
        };
        self.shared.store.handoff_settled(handoff, &against).await?;
        self.shared.metrics.handoff("untaken");
        Ok(())
    }

    /// Books a report for a holder that is gone. Returns what was charged straight to the accounts, also when an earlier try did it.
    async fn charge(
        &self,
        report: &Report,
        reservation: ReservationId,
    ) -> Result<Vec<(AccountKey, Units)>, ReportError> {
        if self.is_settling(&report.workspace, reservation) {
            // An earlier try, or another report of the same reservation; the next look finds it on record.
            return Err(unconfirmed());
        }
        let earlier = self.shared.store.settlements_of(&report.workspace, reservation).await?;
        match earlier.first() {
            Some(first) if first.id == report.settlement => {
                return Ok(first.gives_way(|account| set_aside(account, report.origin.as_ref())));
            }
            // The holder is this process, or it ended the reservation before it went.
            Some(_) => {
                let _turn = self.turn(&report.workspace, &report.settlement).await;
                self.adjust(report).await?;
                return Ok(Vec::new());
            }
            None => {}
        }
        if !self.shared.is_elsewhere(reservation) {
            Box::pin(self.report(report.clone())).await?;
            return Ok(Vec::new());
        }
        let origin = report.origin.clone().unwrap_or_else(|| self.workspace_only(report));
        let actual = self.actual(report, &origin.subject)?;
        let (settlement, durable) = self.book_directly(report, reservation, origin, actual)?;
        self.until_durable(&report.workspace, durable).await?;
        self.count_settlement(&settlement, Amounts::default());
        // Had the holder come back and been sooner, the entry on record would be its own, and nothing have been charged here.
        let on_record = self.shared.store.settlement(&report.workspace, &report.settlement).await?;
        let on_record = on_record.ok_or_else(unconfirmed)?;
        Ok(on_record.gives_way(|account| set_aside(account, report.origin.as_ref())))
    }

    /// Whether an entry of a reservation is on its way from here.
    fn is_settling(&self, workspace: &Id, reservation: ReservationId) -> bool {
        let state = self.shared.state();
        let room = state.rooms.get(workspace);
        room.is_some_and(|room| room.under_way.is_settling(&room.ledger, reservation))
    }

    fn book_directly(
        &self,
        report: &Report,
        reservation: ReservationId,
        origin: Origin,
        actual: Actual,
    ) -> Result<(Settlement, oneshot::Receiver<()>), ReportError> {
        let shared = &self.shared;
        let mut state = shared.state();
        let now = shared.now();
        let room = state.room(shared, &report.workspace).ok_or_else(no_room)?;
        let Origin { subject, at, holds, .. } = origin;
        let orphan = Orphan { reservation, subject, at, holds };
        let booked = room.ledger.book_directly(orphan, actual, now);
        let settlement = booked.ok_or_else(no_room)?;
        let (sender, receiver) = oneshot::channel();
        room.under_way.record(&report.settlement, [sender]);
        Ok((settlement, receiver))
    }

    /// A report by somebody who does not know the subject: the workspace's own budgets are all that is known to apply.
    fn workspace_only(&self, report: &Report) -> Origin {
        tracing::warn!(
            settlement = %report.settlement,
            "the holder of a reservation is gone and its subject is not known; only the workspace's own budgets are charged"
        );
        self.shared.metrics.handoff("workspace_only");
        Origin {
            subject: Arc::new(Subject::of_workspace(report.workspace.clone())),
            at: self.wall(),
            estimate: Amounts::default(),
            holds: None,
        }
    }
}

/// What an account holds for a request, as far as is known.
fn set_aside(account: &AccountKey, origin: Option<&Origin>) -> Units {
    let Some(Origin { estimate, holds, .. }) = origin else { return Units::ZERO };
    match (holds, account.dimension) {
        (Some(holds), _) => {
            let held = holds.iter().find(|hold| hold.account == *account);
            held.map_or(Units::ZERO, |hold| hold.amount)
        }
        (None, Dimension::Cost) => estimate.cost.into(),
        (None, Dimension::Tokens) => estimate.tokens.into(),
        (None, Dimension::Requests) => Units::ZERO,
    }
}
