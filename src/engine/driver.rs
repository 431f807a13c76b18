//! The background tasks. One talks to the store: one batch of one workspace at a time, repeated until it is answered. The
//! other does what time asks for.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::journal::End;
use super::{Engine, Journal, Phase, Room, Shared};
use crate::domain::budget::Dimension;
use crate::domain::ids::Id;
use crate::domain::ledger::escrow::{AccountKey, Grant};
use crate::domain::ledger::{Ledger, OnTimeout, Outgoing};
use crate::domain::settlement::{Certainty, Settlement};
use crate::store::{Batch, StoreError};

/// How often leases are tended, overdue reservations ended and the journal looked after.
const TICK: Duration = Duration::from_millis(250);
/// How often the store is asked to sweep expired leases.
const SWEEP: Duration = Duration::from_secs(5);
/// The first pause after a failed batch; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long an administrative call waits for what is under way.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
/// How long a shutdown waits for the store. The process has three seconds for all of its end; the journal is written after this.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Waits until all that the ledger of a workspace has to tell now is durable.
    pub(super) async fn flush(&self, workspace: &Id) -> Result<(), StoreError> {
        let receiver = {
            let mut state = self.shared.state();
            let Some(room) = state.rooms.get_mut(workspace) else { return Ok(()) };
            room.ledger.hurry();
            let batches = room.ledger.batches_left();
            if batches == 0 {
                return Ok(());
            }
            let (sender, receiver) = oneshot::channel();
            room.flushing.push((batches, sender));
            receiver
        };
        self.shared.work.notify_one();
        match timeout(FLUSH_PATIENCE, receiver).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(StoreError::Unavailable(
                "what is under way was not confirmed in time".to_owned(),
            )),
        }
    }

    /// Stops admitting, reports everything and gives leases back. Open reservations stay in the journal for the next start.
    pub async fn shutdown(&self) {
        let workspaces: Vec<Id> = {
            let mut state = self.shared.state();
            state.phase = Phase::Closing;
            for room in state.rooms.values_mut() {
                room.ledger.close_leases();
            }
            state.rooms.keys().cloned().collect()
        };
        let all = async {
            for workspace in workspaces {
                while self.has_more(&workspace) {
                    if let Err(error) = self.flush(&workspace).await {
                        tracing::warn!(%workspace, %error, "leases could not be given back; they expire");
                        break;
                    }
                }
            }
        };
        if timeout(CLOSE_PATIENCE, all).await.is_err() {
            tracing::warn!("the store did not take the leases back in time; they expire");
        }
        self.stop_tasks().await;
        if let Err(error) = self.shared.write_journal(u64::MAX) {
            tracing::warn!(%error, "the end of the journal could not be written");
        }
    }
}

impl Engine {
    /// Ends the background tasks. When it returns, none of them does anything any more.
    pub(super) async fn stop_tasks(&self) {
        let tasks =
            std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "a background task had ended before its time");
            }
        }
    }

    fn has_more(&self, workspace: &Id) -> bool {
        let state = self.shared.state();
        state
            .rooms
            .get(workspace)
            .is_some_and(|room| room.ledger.is_under_way() || room.ledger.has_more())
    }
}

/// Talks to the store until it is aborted.
pub(super) async fn talk(shared: Arc<Shared>) {
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unanswered = BTreeMap::new();
    let mut pause = RETRY_MIN;
    let retry = sleep(pause);
    tokio::pin!(retry);
    loop {
        tokio::select! {
            () = shared.work.notified() => {}
            _ = sweeps.tick() => shared.sweep().await,
            () = &mut retry, if !unanswered.is_empty() => {
                shared.send_again(&mut unanswered).await;
                pause = if unanswered.is_empty() { RETRY_MIN } else { pause.saturating_mul(2).min(RETRY_MAX) };
                retry.set(sleep(pause));
            }
        }
        shared.resolve_doubts().await;
        shared.send_all(&mut unanswered).await;
    }
}

/// Does what time asks for until it is aborted. A store that hangs does not hold it up.
pub(super) async fn tend(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.tick();
        shared.work.notify_one();
    }
}

/// Batches that the store did not take, by workspace: each is sent again, unchanged, until it is answered. One that the
/// store never takes holds up nobody but its own workspace.
type Unanswered = BTreeMap<Id, Arc<Batch>>;

impl Shared {
    /// Sends batches until no ledger has any left.
    async fn send_all(&self, unanswered: &mut Unanswered) {
        let mut after: Option<Id> = None;
        while let Some((workspace, batch)) = self.next_batch(after.as_ref()) {
            after = Some(workspace.clone());
            let Some(batch) = batch else { continue };
            if self.send(&batch).await == Sent::Unanswered {
                unanswered.insert(workspace, batch);
            }
        }
    }

    /// Sends what was not answered once more.
    async fn send_again(&self, unanswered: &mut Unanswered) {
        for (workspace, batch) in std::mem::take(unanswered) {
            if self.send(&batch).await == Sent::Unanswered {
                unanswered.insert(workspace, batch);
            }
        }
    }

    /// The next batch in the round of workspaces, so that a busy one does not hold up the others. A ledger may find that
    /// what it had queued needs no telling.
    fn next_batch(&self, after: Option<&Id>) -> Option<(Id, Option<Arc<Batch>>)> {
        let mut state = self.state();
        let now = self.now();
        let ready = |(id, room): (&Id, &Room)| room.ledger.has_batch().then(|| id.clone());
        let mut found = after.and_then(|after| {
            let later = (Bound::Excluded(after), Bound::Unbounded);
            state.rooms.range::<Id, _>(later).find_map(ready)
        });
        if found.is_none() {
            found = state.rooms.iter().find_map(ready);
        }
        let workspace = found?;
        let room = state.rooms.get_mut(&workspace)?;
        room.sent = room.ledger.next_batch(now).map(|Outgoing { settlements, exchanges }| {
            Arc::new(Batch { workspace: workspace.clone(), settlements, exchanges })
        });
        if room.sent.is_none() {
            room.deliver();
            room.count_down();
        }
        Some((workspace, room.sent.clone()))
    }

    /// Sends one batch.
    async fn send(&self, batch: &Batch) -> Sent {
        let began = self.now();
        let result = self.store.commit(batch, began.wall).await;
        let took = self.now().mono.since(began.mono);
        match result {
            Ok(grants) => {
                self.metrics.store_commit(took, "ok");
                self.metrics.store_up(1);
                self.answered(batch, &grants);
                Sent::Answered
            }
            Err(StoreError::LeaseLost(account)) => {
                self.metrics.store_commit(took, "lease_lost");
                tracing::warn!(
                    ?account,
                    "a lease is lost; what it consumed is reported under a new one"
                );
                if let Some(room) = self.state().rooms.get_mut(&batch.workspace) {
                    room.lost(&account, batch);
                }
                Sent::Answered
            }
            Err(error) => {
                self.metrics.store_commit(took, "failed");
                self.metrics.store_up(0);
                tracing::warn!(%error, workspace = %batch.workspace, "the store did not take a batch; it is sent again");
                Sent::Unanswered
            }
        }
    }

    /// Takes in the store's answer, and tells everybody who waited for it.
    fn answered(&self, batch: &Batch, grants: &[Grant]) {
        let mut state = self.state();
        let now = self.now();
        let super::State { rooms, records, .. } = &mut *state;
        let Some(room) = rooms.get_mut(&batch.workspace) else { return };
        room.ledger.apply(grants, now);
        room.sent = None;
        for settlement in &batch.settlements {
            if let Some(reservation) = settlement.reservation {
                records.end(reservation, End::Over);
            }
            if settlement.certainty == Certainty::Estimated {
                self.metrics.settlement(settlement.certainty.as_str());
                self.metrics.estimated_settlement();
            }
            for waiting in room.recording.remove(&settlement.id).unwrap_or_default() {
                // Whoever gave up waiting will find the entry on record.
                let _ = waiting.send(());
            }
        }
        room.deliver();
        room.count_down();
    }

    /// What happens four times a second.
    pub(super) fn tick(&self) {
        let mut state = self.state();
        let now = self.now();
        let super::State { rooms, records, .. } = &mut *state;
        let (mut open, mut accounts) = (0usize, 0usize);
        for room in rooms.values_mut() {
            for id in room.ledger.end_overdue(now) {
                // The end of a reservation that was charged is recorded when its settlement is durable.
                if self.terms.on_timeout == OnTimeout::Release {
                    records.end(id, End::Over);
                }
            }
            room.ledger.tend_leases(now);
            open = open.saturating_add(room.ledger.open_reservations());
            accounts = accounts.saturating_add(room.ledger.live_accounts());
        }
        drop(state);
        self.metrics.open_reservations(i64::try_from(open).unwrap_or(i64::MAX));
        self.metrics.live_accounts(i64::try_from(accounts).unwrap_or(i64::MAX));
        self.tend_journal();
    }

    /// Writes the journal's rest, and a new one where it has grown or failed.
    fn tend_journal(&self) {
        let Some(journal) = &self.journal else {
            self.state().records.drain();
            return;
        };
        if journal.file.wants_rewrite() {
            if let Err(error) = self.rewrite_journal(journal) {
                tracing::error!(%error, "the journal cannot be written anew");
            }
        } else if let Err(error) = self.write_journal(u64::MAX) {
            tracing::error!(%error, "the journal cannot be written; nothing is admitted until it can be");
        }
        self.metrics.journal_bytes(i64::try_from(journal.file.size()).unwrap_or(i64::MAX));
    }

    /// Puts a journal of what is open in the place of the old one.
    pub(super) fn rewrite_journal(&self, journal: &Journal) -> std::io::Result<()> {
        let now = self.now();
        journal.file.replace(|| {
            let mut state = self.state();
            let super::State { rooms, records, .. } = &mut *state;
            let ledgers = rooms.values_mut().map(Room::unrecorded);
            records.rewrite(&journal.boot, &[self.holder], ledgers, now);
            records.drain()
        })
    }

    async fn sweep(&self) {
        match self.store.sweep(self.now().wall).await {
            Ok(0) => {}
            Ok(leases) => tracing::info!(leases, "swept expired leases"),
            Err(error) => tracing::warn!(%error, "expired leases could not be swept"),
        }
        let mut leased =
            [(Dimension::Cost, 0i64), (Dimension::Tokens, 0), (Dimension::Requests, 0)];
        for room in self.state().rooms.values() {
            for (dimension, sum) in &mut leased {
                *sum = sum.saturating_add(room.ledger.leased(*dimension).get());
            }
        }
        for (dimension, sum) in leased {
            self.metrics.leased(dimension.as_str(), sum);
        }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It is over, one way or the other.
    Answered,
    /// It may or may not have been applied.
    Unanswered,
}

impl Room {
    /// A batch was turned down as a whole: the next one takes its place, and whoever waits for it waits for that.
    fn lost(&mut self, account: &AccountKey, batch: &Batch) {
        self.ledger.lease_lost(account, batch.settlements.clone());
        self.sent = None;
    }

    /// The ledger, and the settlements that the store may not have: a crash must not lose what they ended.
    fn unrecorded(&mut self) -> (&mut Ledger, Vec<Settlement>) {
        let sent = self.sent.iter().flat_map(|batch| &batch.settlements);
        let unrecorded = sent.chain(self.ledger.unsent()).cloned().collect();
        (&mut self.ledger, unrecorded)
    }

    /// Passes on what the ledger decided for requests that were waiting.
    pub(super) fn deliver(&mut self) {
        for (waiter, decision) in self.ledger.take_decided() {
            if let Some(sender) = self.deciding.remove(&waiter) {
                // Whoever left has undone its request by itself.
                let _ = sender.send(decision);
            }
        }
    }

    /// One more batch is durable.
    fn count_down(&mut self) {
        for (left, sender) in std::mem::take(&mut self.flushing) {
            match left.saturating_sub(1) {
                0 => {
                    let _ = sender.send(());
                }
                left => self.flushing.push((left, sender)),
            }
        }
    }
}
