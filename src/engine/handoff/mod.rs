//! Usage and releases for a reservation that another replica holds: it is written down for the holder, durably, and only the holder
//! settles it. So of each reservation there is one who decides, and no two replicas correct it at once.
//!
//! Doing any of it twice does no harm: a handoff has the name of its report, a report is booked once under its name, and a handoff is
//! marked settled after it is booked. Whoever is killed in between finds it booked the next time.

mod origin;
#[cfg(test)]
mod tests;
mod untaken;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};

use self::wire::Said;
use super::adjust::judged;
use super::journal::End;
use super::report::{Report, ReportError, Settled, Used};
use super::{Engine, Shared};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::money::Amounts;
use crate::domain::settlement::Settlement;
use crate::domain::subject::Subject;
use crate::domain::usage::Record;
use crate::store::{Handoff, REPORT_BYTES_MAX, StoreError};

pub(super) use self::untaken::settle_untaken;

/// How long a reporter waits for the holder's entry, which comes at once where the store tells the holder by itself.
const HOLDER_PATIENCE: Duration = Duration::from_secs(1);
/// The first pause between looking for it; it doubles.
const LOOK: Duration = Duration::from_millis(10);
/// Handoffs that are kept here to be settled at the most. More come again with the next news.
const INBOX_MAX: usize = 10_000;
/// Handoffs that are settled at once.
const AT_ONCE: usize = 64;

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// What was set aside is given back.
    Here,
    /// Another replica holds the reservation, and will give it back.
    HandedOver,
    /// It is not open any more, or never was.
    NotOpen,
}

/// Names a handoff.
type Name = (Id, ReservationId, Id);

/// What other replicas wrote down for this one and is not settled yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: BTreeMap<Name, Handoff>,
    /// Of another version: told once, and left to a replica that can read it.
    unreadable: BTreeSet<Name>,
}

fn name(handoff: &Handoff) -> Name {
    (handoff.workspace.clone(), handoff.reservation, handoff.settlement.clone())
}

impl Engine {
    /// Gives back what a request had set aside that never reached its provider. Its slots of the rolling minute stay taken. A
    /// reservation that is not open is passed over.
    ///
    /// # Errors
    /// When another replica holds it and the store cannot be told; doing it again is safe.
    pub async fn release(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Released, StoreError> {
        if self.end(workspace, reservation, End::Over) {
            return Ok(Released::Here);
        }
        if !self.shared.is_elsewhere(reservation) {
            return Ok(Released::NotOpen);
        }
        self.write_down(Handoff {
            workspace: workspace.clone(),
            reservation,
            settlement: reservation.settlement("release"),
            report: wire::release(),
        })
        .await?;
        Ok(Released::HandedOver)
    }

    /// Whether other replicas draw from the same store, so that usage may reach one that does not hold its reservation.
    #[must_use]
    pub fn is_in_fleet(&self) -> bool {
        self.shared.is_in_fleet()
    }

    /// Whether another replica holds a reservation, or held it until it went.
    #[must_use]
    pub fn is_elsewhere(&self, reservation: ReservationId) -> bool {
        self.shared.is_elsewhere(reservation)
    }

    /// Hands a report over to the replica that holds the reservation, and waits a little for its entry.
    pub(super) async fn hand_over(
        &self,
        report: &Report,
        reservation: ReservationId,
    ) -> Result<Settled, ReportError> {
        let store = &self.shared.store;
        let earlier = store.settlements_of(&report.workspace, reservation).await?;
        if let Some(settled) = judged(report, &earlier)? {
            return Ok(settled);
        }
        self.write_down(self.handoff(report, reservation)?).await?;
        let entry = timeout(HOLDER_PATIENCE, self.entry_of(report)).await;
        let settlement = entry.map_err(|_| ReportError::HandedOver)??;
        Ok(Settled { settlement, first: true, overrun: Amounts::default() })
    }

    pub(super) async fn write_down(&self, handoff: Handoff) -> Result<(), StoreError> {
        self.shared.store.hand_over(&handoff).await?;
        self.shared.metrics.handoff("written");
        Ok(())
    }

    /// The report as it is handed over. One whose record is too long for that is priced here.
    pub(super) fn handoff(
        &self,
        report: &Report,
        reservation: ReservationId,
    ) -> Result<Handoff, ReportError> {
        let nobody = || Subject::of_workspace(report.workspace.clone());
        let subject =
            report.origin.as_ref().map_or_else(nobody, |origin| (*origin.subject).clone());
        if let Used::Usage { model: Some(_), .. } = report.used {
            // Whoever reports should hear that nobody can price it.
            self.actual(report, &subject)?;
        }
        let mut text = wire::report(report);
        if text.len() > REPORT_BYTES_MAX {
            let used = self.in_short(report, &subject)?;
            text = wire::report(&Report { used, ..report.clone() });
        }
        Ok(Handoff {
            workspace: report.workspace.clone(),
            reservation,
            settlement: report.settlement.clone(),
            report: text,
        })
    }

    /// What was used, in few words: a long record is priced here. What is only seen is left without its parts and its path.
    fn in_short(&self, report: &Report, subject: &Subject) -> Result<Used, ReportError> {
        if let Used::Seen { record, .. } = &report.used {
            let record = Record { usage: record.total(), parts: Vec::new(), ..(**record).clone() };
            return Ok(Used::Seen { record: Box::new(record), path: "".into() });
        }
        let actual = self.actual(report, subject)?;
        let (cost, model, usage) = (actual.amounts.cost, actual.model, actual.usage);
        Ok(Used::Cost { cost, model, usage })
    }

    /// The entry of this report, as soon as the holder has recorded it.
    async fn entry_of(&self, report: &Report) -> Result<Settlement, StoreError> {
        let mut pause = LOOK;
        loop {
            sleep(pause).await;
            pause = pause.saturating_mul(2);
            let found = self.shared.store.settlement(&report.workspace, &report.settlement).await?;
            if let Some(settlement) = found {
                return Ok(settlement);
            }
        }
    }

    /// Takes what others wrote down for this replica, to be settled soon.
    pub(super) fn take(&self, handoffs: Vec<Handoff>) {
        let mut inbox = self.shared.inbox();
        let told: BTreeSet<Name> = handoffs.iter().map(name).collect();
        inbox.unreadable.retain(|name| told.contains(name));
        for handoff in handoffs {
            let name = name(&handoff);
            if inbox.waiting.len() < INBOX_MAX && !inbox.unreadable.contains(&name) {
                inbox.waiting.insert(name, handoff);
            }
        }
        if !inbox.waiting.is_empty() {
            self.shared.handed_over.notify_one();
        }
    }

    /// Settles all that was handed over: first the reports, then the releases, because a response that was fetched has both. What
    /// cannot be settled now comes again with the news.
    async fn settle_inbox(&self) {
        let waiting: Vec<Handoff> = self.shared.inbox().waiting.values().cloned().collect();
        let names: Vec<Name> = waiting.iter().map(name).collect();
        let (mut reports, mut releases) = (Vec::new(), Vec::new());
        for handoff in waiting {
            match self.read(&handoff) {
                Some(Said::Report(report)) => reports.push((handoff, *report)),
                Some(Said::Release) => releases.push(handoff),
                None => {}
            }
        }
        let settled = stream::iter(reports).map(|(handoff, report)| async move {
            let is_settled = self.settle_as_holder(&handoff, report).await;
            (handoff.reservation, is_settled)
        });
        let settled: Vec<(ReservationId, bool)> = settled.buffer_unordered(AT_ONCE).collect().await;
        let left: BTreeSet<ReservationId> =
            settled.into_iter().filter(|(_, is_settled)| !is_settled).map(|(id, _)| id).collect();
        let releases = releases.iter().filter(|handoff| !left.contains(&handoff.reservation));
        stream::iter(releases).for_each_concurrent(AT_ONCE, |handoff| self.released(handoff)).await;
        let mut inbox = self.shared.inbox();
        for name in names {
            inbox.waiting.remove(&name);
        }
    }

    /// What another replica said; `None` for what this one cannot read.
    fn read(&self, handoff: &Handoff) -> Option<Said> {
        let why = match wire::read(handoff) {
            Ok(said) => return Some(said),
            Err(why) => why,
        };
        self.shared.metrics.handoff("unreadable");
        tracing::warn!(
            reservation = %handoff.reservation,
            settlement = %handoff.settlement,
            %why,
            "usage that another replica handed over cannot be read; it is left to a newer one"
        );
        self.shared.inbox().unreadable.insert(name(handoff));
        None
    }

    /// Settles a report that was handed over. Returns whether it is done with.
    async fn settle_as_holder(&self, handoff: &Handoff, report: Report) -> bool {
        let outcome = match Box::pin(self.report(report)).await {
            Ok(_) => "settled",
            Err(ReportError::Store(error)) => {
                tracing::warn!(%error, settlement = %handoff.settlement, "usage that was handed over is settled later");
                return false;
            }
            Err(error) => {
                note_refused(handoff, &error);
                "refused"
            }
        };
        self.mark_settled(handoff, outcome).await;
        true
    }

    async fn released(&self, handoff: &Handoff) {
        self.end(&handoff.workspace, handoff.reservation, End::Over);
        // Once the handoff is marked nobody will say it again.
        match self.shared.write_journal(u64::MAX) {
            Ok(()) => self.mark_settled(handoff, "settled").await,
            Err(error) => tracing::warn!(%error, "a release is not in the journal yet"),
        }
    }

    async fn mark_settled(&self, handoff: &Handoff, outcome: &'static str) {
        match self.shared.store.handoff_settled(handoff, &[]).await {
            Ok(()) => self.shared.metrics.handoff(outcome),
            Err(error) => {
                tracing::warn!(%error, settlement = %handoff.settlement, "a handoff is settled and not marked yet");
            }
        }
    }
}

/// Whoever reported it was told that it is taken, so the log is the only place that says that it cannot be booked.
fn note_refused(handoff: &Handoff, error: &ReportError) {
    tracing::warn!(
        reservation = %handoff.reservation,
        settlement = %handoff.settlement,
        %error,
        "usage that was handed over is not booked"
    );
}

/// Settles what is handed over to this replica, until it is aborted.
pub(super) async fn settle(engine: Engine) {
    loop {
        engine.shared.handed_over.notified().await;
        engine.settle_inbox().await;
    }
}

impl Shared {
    /// Whether another process answers for a reservation.
    pub(super) fn is_elsewhere(&self, reservation: ReservationId) -> bool {
        self.is_in_fleet() && !self.holders.contains(&reservation.holder)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
