//! What of one workspace is on its way to the store: the batch that is not answered yet, and who waits for what to be durable. It has
//! neither tasks nor locks, so that a simulation drives its ledgers with it as the driver does.

use std::collections::HashMap;
use std::sync::Arc;

use super::journal::{Buffer, End};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::escrow::{AccountKey, Grant};
use crate::domain::ledger::{Ledger, Outgoing};
use crate::domain::settlement::Settlement;
use crate::domain::time::Now;
use crate::store::Batch;

/// The batch under way and whoever waits: for an entry, or for all that there was to tell.
#[derive(Debug)]
pub struct UnderWay<W> {
    /// The batch that the store has not answered yet.
    sent: Option<Arc<Batch>>,
    /// Settlements on their way to the store, and who waits for them to be durable.
    recording: HashMap<Id, Vec<W>>,
    /// Who waits for this many more batches.
    flushing: Vec<(usize, W)>,
}

impl<W> Default for UnderWay<W> {
    fn default() -> Self {
        Self { sent: None, recording: HashMap::new(), flushing: Vec::new() }
    }
}

impl<W> UnderWay<W> {
    /// Whether nobody waits for anything.
    #[must_use]
    pub fn is_awaited_by_nobody(&self) -> bool {
        self.recording.is_empty() && self.flushing.is_empty()
    }

    /// The batch that the store has not answered yet.
    #[must_use]
    pub const fn sent(&self) -> Option<&Arc<Batch>> {
        self.sent.as_ref()
    }

    /// The next batch. `None` when the ledger finds that what it had queued needs no telling.
    pub fn next_batch(&mut self, ledger: &mut Ledger, now: Now) -> Option<Arc<Batch>> {
        let Outgoing { settlements, exchanges } = ledger.next_batch(now)?;
        let (workspace, holder) = (ledger.workspace().clone(), ledger.holder());
        self.sent = Some(Arc::new(Batch { workspace, holder, settlements, exchanges }));
        self.sent.clone()
    }

    /// The store applied the batch. Returns who waited for that.
    pub fn answered(
        &mut self,
        ledger: &mut Ledger,
        records: &mut Buffer,
        (batch, grants): (&Batch, &[Grant]),
        now: Now,
    ) -> Vec<W> {
        ledger.apply(grants, now);
        self.sent = None;
        let mut told = Vec::new();
        for settlement in &batch.settlements {
            if let Some(reservation) = settlement.reservation {
                records.end(reservation, End::Over);
            }
            told.extend(self.recording.remove(&settlement.id).unwrap_or_default());
        }
        told.extend(self.count_down(ledger));
        told
    }

    /// A batch was turned down as a whole: the next one takes its place, and whoever waits for it waits for that.
    pub fn lost(&mut self, ledger: &mut Ledger, account: &AccountKey, batch: &Batch) {
        ledger.lease_lost(account, batch.settlements.clone());
        self.sent = None;
    }

    /// One more batch is durable, or needed no telling. Returns who waited for that.
    pub fn count_down(&mut self, ledger: &Ledger) -> Vec<W> {
        let all_is_told = !ledger.is_under_way() && !ledger.has_more();
        let mut told = Vec::new();
        for (left, who) in std::mem::take(&mut self.flushing) {
            match left.saturating_sub(1) {
                0 => told.push(who),
                _ if all_is_told => told.push(who),
                left => self.flushing.push((left, who)),
            }
        }
        told
    }

    /// Who waits for the entry of this id; `None` when it is not on its way.
    pub fn recording(&mut self, id: &Id) -> Option<&mut Vec<W>> {
        self.recording.get_mut(id)
    }

    /// An entry is on its way from now on, and somebody may wait for it.
    pub fn record(&mut self, id: &Id, who: impl IntoIterator<Item = W>) {
        self.recording.entry(id.clone()).or_default().extend(who);
    }

    /// Somebody waits until all that the ledger has to tell now is durable. Given back where there is nothing to tell.
    pub fn flush(&mut self, ledger: &mut Ledger, who: W) -> Option<W> {
        ledger.hurry();
        match ledger.batches_left() {
            0 => Some(who),
            batches => {
                self.flushing.push((batches, who));
                None
            }
        }
    }

    /// The settlements that the store may not have: a crash must not lose what they ended.
    pub fn unrecorded<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = &'a Settlement> {
        let sent = self.sent.iter().flat_map(|batch| &batch.settlements);
        sent.chain(ledger.unsent())
    }

    /// Whether an entry of this reservation is on its way to the store. Ask it before the store is asked what is on record: one that
    /// arrives there in between would be found in neither place.
    #[must_use]
    pub fn is_settling(&self, ledger: &Ledger, reservation: ReservationId) -> bool {
        self.unrecorded(ledger).any(|settlement| settlement.reservation == Some(reservation))
    }
}
