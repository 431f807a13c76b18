//! Reports for reservations that are over: they sharpen or correct what is on record.

use tokio::sync::oneshot;

use super::Engine;
use super::report::{Against, Correction, Report, ReportError, Settled, beyond};
use crate::domain::ledger::{Actual, Correcting};
use crate::domain::money::Amounts;
use crate::domain::settlement::{Certainty, Settlement, was_exact};

/// What a report says beside what is on record of its reservation, oldest first: something new (`None`), or nothing.
///
/// # Errors
/// [`ReportError::SettledBefore`] for an exact report after an exact one that is no correction.
pub(super) fn judged(
    report: &Report,
    earlier: &[Settlement],
) -> Result<Option<Settled>, ReportError> {
    let Some(last) = earlier.last().filter(|_| was_exact(earlier)) else { return Ok(None) };
    match (report.certainty, report.correction) {
        (Certainty::Exact, Correction::Yes) => Ok(None),
        (Certainty::Exact, Correction::No) => Err(ReportError::SettledBefore(last.id.clone())),
        // A lower bound never gives back, and says nothing new about what is known exactly.
        (Certainty::AtLeast | Certainty::Estimated | Certainty::Adjustment, _) => {
            let settlement = last.clone();
            Ok(Some(Settled { settlement, first: false, overrun: Amounts::default() }))
        }
    }
}

impl Engine {
    /// A report for a reservation that is over: it sharpens or corrects what is on record.
    pub(super) async fn adjust(&self, report: &Report) -> Result<Settled, ReportError> {
        let Against::Reservation(reservation) = &report.against else {
            return Err(ReportError::UnknownReservation);
        };
        // Corrections of one reservation read what is on record before they write, so they take turns.
        let _turn = self.turn(&report.workspace, &reservation.timeout_settlement()).await;
        // What ended the reservation may still be on its way.
        self.flush(&report.workspace).await?;
        if let Some(settlement) =
            self.shared.store.settlement(&report.workspace, &report.settlement).await?
        {
            return self.repeated(report, settlement);
        }
        let earlier = self.shared.store.settlements_of(&report.workspace, *reservation).await?;
        let Some(last) = earlier.last() else { return Err(ReportError::UnknownReservation) };
        if let Some(settled) = judged(report, &earlier)? {
            return Ok(settled);
        }
        let actual = self.actual(report, &last.subject)?;
        let (certainty, amounts) = last.corrected_to(report.certainty, actual.amounts);
        let actual = Actual { amounts, certainty, ..actual };
        let (settlement, durable) = self.book_adjustment(report, &earlier, last, actual)?;
        self.until_durable(&report.workspace, durable).await?;
        let overrun = beyond(amounts, last.amounts);
        self.count_settlement(&settlement, overrun);
        Ok(Settled { settlement, first: true, overrun })
    }

    fn book_adjustment(
        &self,
        report: &Report,
        earlier: &[Settlement],
        last: &Settlement,
        actual: Actual,
    ) -> Result<(Settlement, oneshot::Receiver<()>), ReportError> {
        let shared = &self.shared;
        let mut state = shared.state();
        let Some(room) = state.room(shared, &report.workspace) else {
            return Err(ReportError::UnknownReservation);
        };
        let settlement = room.ledger.adjust(Correcting::all(earlier, last), actual);
        let (sender, receiver) = oneshot::channel();
        room.under_way.record(&report.settlement, [sender]);
        shared.work.notify_one();
        Ok((settlement, receiver))
    }
}
