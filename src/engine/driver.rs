//! The task that talks to the store: of each workspace one batch at a time, repeated until it is answered; of several
//! workspaces at once, so that none waits for another's.
//!
//! Invariant: a batch is sent again unchanged until it is answered, and no other of its workspace before that. What happens to an
//! attempt that was given up does not matter: applied late, it is what its repetition would have been, or it is turned down.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::pace::Retries;
use super::{Engine, Phase, Room, Shared, State};
use crate::domain::ids::Id;
use crate::domain::ledger::escrow::{AccountKey, Grant};
use crate::domain::settlement::{Certainty, Settlement};
use crate::store::{Batch, StoreError};

/// Batches on their way to the store at the most, each of another workspace: connections of its pool are kept for other calls.
const COMMITS_MAX: usize = 8;
/// How long the store may take for a batch. After it nobody knows whether it was applied, and it is sent again. The time doubles up
/// to the second with each attempt that was too slow: a disk that takes three seconds for everything must not be given up forever.
const COMMIT_PATIENCE: Duration = Duration::from_secs(2);
const COMMIT_PATIENCE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at the most whether others had time to hand back what is needed.
const RECALL_LOOK: Duration = Duration::from_millis(1);
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
            let (sender, receiver) = oneshot::channel();
            if room.under_way.flush(&mut room.ledger, sender).is_some() {
                return Ok(());
            }
            self.shared.stir(&mut state, workspace);
            receiver
        };
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
        self.shared.work.notify_one();
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
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "a background task had ended before its time");
            }
        }
    }

    pub(super) fn tasks(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner)
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
    let slots = Semaphore::new(COMMITS_MAX);
    let mut carrying = FuturesUnordered::new();
    loop {
        // Each turn, because a driver that is always woken by something else never sees its timer end.
        shared.tend_recalls();
        for workspace in shared.waiting_workspaces() {
            carrying.push(shared.carry(workspace, &slots));
        }
        let recall = shared.next_recall();
        tokio::select! {
            () = shared.work.notified() => shared.stir_all(),
            () = shared.stirred.notified() => {}
            Some(()) = carrying.next() => {}
            () = sleep(recall.unwrap_or_default()), if recall.is_some() => {}
        }
    }
}

impl Shared {
    /// Wakes the driver where a workspace has something for the store that nobody carries.
    pub(super) fn stir(&self, state: &mut State, workspace: &Id) {
        let room = state.rooms.get(workspace);
        if room.is_some_and(|room| !room.is_carried && room.ledger.has_batch()) {
            state.stirred.insert(workspace.clone());
            self.stirred.notify_one();
        }
    }

    /// Notes all workspaces that have something for the store.
    fn stir_all(&self) {
        let mut state = self.state();
        let State { rooms, stirred, .. } = &mut *state;
        let having = rooms.iter().filter(|(_, room)| room.ledger.has_batch());
        stirred.extend(having.map(|(workspace, _)| workspace.clone()));
    }

    /// Workspaces that have something to tell and nobody to carry it. From now on somebody does.
    fn waiting_workspaces(&self) -> Vec<Id> {
        let mut state = self.state();
        let State { rooms, stirred, .. } = &mut *state;
        let mut waiting = Vec::new();
        for workspace in std::mem::take(stirred) {
            // Whoever carries already looks once more before it ends.
            let room = rooms.get_mut(&workspace).filter(|room| !room.is_carried);
            if let Some(room) = room.filter(|room| room.ledger.has_batch()) {
                room.is_carried = true;
                waiting.push(workspace);
            }
        }
        waiting
    }

    /// How long until the store should be asked again for what others were asked to hand back; `None` when nobody waits for it.
    fn next_recall(&self) -> Option<Duration> {
        let mut state = self.state();
        let State { rooms, recalling, .. } = &mut *state;
        let mut next = None;
        recalling.retain(|workspace| {
            let ends_at = rooms.get(workspace).and_then(|room| room.ledger.next_recall());
            next = next.into_iter().chain(ends_at).min();
            ends_at.is_some()
        });
        let next = next?;
        // Not in a circle, where this clock and the timers' do not agree.
        Some(next.since(self.now().mono).max(RECALL_LOOK))
    }

    /// Notes the workspaces whose others had time to hand back what is needed.
    fn tend_recalls(&self) {
        let mut state = self.state();
        let now = self.now();
        let State { rooms, recalling, stirred, .. } = &mut *state;
        for workspace in &*recalling {
            if let Some(room) = rooms.get_mut(workspace) {
                room.ledger.tend_recalls(now);
                stirred.insert(workspace.clone());
            }
        }
    }

    /// Carries the batches of one workspace to the store, one after the other, until there are no more. A batch is made when
    /// it is its turn, so that it says all that there is to say; it is sent unchanged until it is answered.
    async fn carry(&self, workspace: Id, slots: &Semaphore) {
        let mut losses = Losses::default();
        loop {
            // In turns, so that a busy workspace does not keep the slot from the others.
            let mut slot = slots.acquire().await;
            let Some(batch) = self.next_batch(&workspace) else { return };
            let (mut retries, mut patience) = (Retries::new(), COMMIT_PATIENCE);
            loop {
                match self.send(&batch, patience).await {
                    Sent::Answered => break losses = Losses::default(),
                    Sent::Lost(account) => {
                        drop(slot);
                        sleep(losses.pause(account, self)).await;
                        break;
                    }
                    Sent::Failed => {}
                    Sent::TooSlow => {
                        patience = patience.saturating_mul(2).min(COMMIT_PATIENCE_MAX);
                    }
                }
                drop(slot);
                sleep(retries.pause(self)).await;
                slot = slots.acquire().await;
            }
        }
    }

    /// The next batch of a workspace. `None` when there is none: then nobody carries for it any more. A ledger may find that
    /// what it had queued needs no telling.
    fn next_batch(&self, workspace: &Id) -> Option<Arc<Batch>> {
        let mut state = self.state();
        let now = self.now();
        let room = state.rooms.get_mut(workspace)?;
        while room.ledger.has_batch() {
            let batch = room.under_way.next_batch(&mut room.ledger, now);
            if batch.is_some() {
                return batch;
            }
            room.deliver();
            wake(room.under_way.count_down(&room.ledger));
        }
        room.is_carried = false;
        None
    }

    /// Sends one batch.
    async fn send(&self, batch: &Batch, patience: Duration) -> Sent {
        let began = self.now();
        let result = timeout(patience, self.store.commit(batch, began.wall)).await;
        let took = self.now().mono.since(began.mono);
        let Ok(result) = result else {
            self.metrics.store_commit(took, "timeout");
            self.metrics.store_up(0);
            tracing::warn!(workspace = %batch.workspace, "the store does not answer; the batch is sent again");
            return Sent::TooSlow;
        };
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
                    room.under_way.lost(&mut room.ledger, &account, batch);
                }
                Sent::Lost(account)
            }
            Err(StoreError::TakenOver) => {
                self.metrics.store_commit(took, "taken_over");
                self.taken_over();
                Sent::Failed
            }
            Err(error) => {
                self.metrics.store_commit(took, "failed");
                self.metrics.store_up(0);
                tracing::warn!(%error, workspace = %batch.workspace, "the store did not take a batch; it is sent again");
                Sent::Failed
            }
        }
    }

    /// Nothing is admitted any more: the other process admits against the same leases. What was open is open there too, and is settled
    /// there, so that what this one does not get rid of is lost with it and missed by nobody.
    fn taken_over(&self) {
        let mut state = self.state();
        if state.phase == Phase::Running {
            state.phase = Phase::TakenOver;
            self.metrics.taken_over();
            tracing::error!(error = %StoreError::TakenOver, "nothing is admitted any more, and nothing is settled");
        }
    }

    /// Takes in the store's answer, and tells everybody who waited for it.
    fn answered(&self, batch: &Batch, grants: &[Grant]) {
        let mut state = self.state();
        let now = self.now();
        let State { rooms, records, recalling, .. } = &mut *state;
        let Some(room) = rooms.get_mut(&batch.workspace) else { return };
        let told = room.under_way.answered(&mut room.ledger, records, (batch, grants), now);
        if room.ledger.next_recall().is_some() {
            recalling.insert(batch.workspace.clone());
        }
        for settlement in &batch.settlements {
            if settlement.certainty == Certainty::Estimated {
                self.metrics.settlement(settlement.certainty.as_str());
                self.metrics.estimated_settlement();
            }
        }
        room.deliver();
        wake(told);
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    /// It was applied.
    Answered,
    /// It was turned down for the lease on this account, and another takes its place.
    Lost(Box<AccountKey>),
    /// The store said that it failed, and it may or may not have been applied; or that this process was taken over, for good.
    Failed,
    /// The store said nothing in time; likewise.
    TooSlow,
}

/// Batches that were turned down, one after the other. A lease that is opened anew and lost at once is lost for a reason that the
/// next one does not mend. Batches are still sent, in case that ends, but not in a circle.
#[derive(Debug, Default)]
pub(super) struct Losses {
    last: Option<Box<AccountKey>>,
    retries: Option<Retries>,
}

impl Losses {
    /// How long to wait before the next batch is sent. Many accounts may lose a lease each, which is nothing to wait for.
    pub(super) fn pause(&mut self, account: Box<AccountKey>, shared: &Shared) -> Duration {
        if self.last.as_ref() == Some(&account) {
            return self.retries.get_or_insert_with(Retries::new).pause(shared);
        }
        *self = Self { last: Some(account), retries: None };
        Duration::ZERO
    }
}

impl Room {
    /// The settlements that the store may not have: a crash must not lose what they ended.
    pub(super) fn unrecorded(&self) -> impl Iterator<Item = &Settlement> {
        self.under_way.unrecorded(&self.ledger)
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
}

/// Tells those who waited. Whoever gave up will find the entry on record.
fn wake(waiting: Vec<oneshot::Sender<()>>) {
    for sender in waiting {
        let _ = sender.send(());
    }
}
