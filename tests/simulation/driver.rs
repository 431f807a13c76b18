//! What carries a ledger's batches to the store and takes the answers in: it mirrors `engine/driver.rs`.

use std::sync::Arc;

use bursar::domain::ledger::Outgoing;
use bursar::domain::ledger::escrow::Grant;
use bursar::engine::journal::End;
use bursar::store::Batch;

use super::plan::{MS, SECOND, workspace};
use super::replica::{Purpose, RETRY_MIN};
use super::store::Fault;
use super::world::{Answer, Inbox, Query, World};

const RETRY_MAX: u64 = SECOND;
/// A ledger that has nothing to say after all decides on who waits, which may give it something to say, but not so often.
const EMPTY_MAX: u32 = 20;

impl World {
    /// Sets an alarm for the end of a recall.
    pub(crate) fn await_recalls(&mut self, at: usize) {
        let Some(end) = self.replicas[at].ledger.next_recall() else { return };
        if self.replicas[at].recall_ends == Some(end) {
            return;
        }
        self.replicas[at].recall_ends = Some(end);
        let left = end.since(self.clocks(at).mono).as_nanos();
        let left = u64::try_from(left).expect("a short time");
        // A slow clock has not come there yet when the time has passed.
        self.later(at, left + left / 1000 + MS, Inbox::RecallOver);
    }

    /// Sends a batch if there is one to send.
    pub(crate) fn talk(&mut self, at: usize) -> Result<(), Fault> {
        self.take_decided(at)?;
        let mut empty = 0;
        while self.replicas[at].sent.is_none() && self.replicas[at].ledger.has_batch() {
            let now = self.clocks(at);
            let replica = &mut self.replicas[at];
            let Some(Outgoing { settlements, exchanges }) = replica.ledger.next_batch(now) else {
                self.take_decided(at)?;
                self.count_down(at);
                empty += 1;
                if empty > EMPTY_MAX {
                    let accounts: Vec<_> = self.replicas[at].ledger.accounts().collect();
                    return Err(format!(
                        "r{at} has something to say and never says it: {accounts:?}"
                    ));
                }
                continue;
            };
            let holder = self.replicas[at].holder;
            let batch = Batch { workspace: workspace(), holder, settlements, exchanges };
            let batch = Arc::new(batch);
            let number = self.token();
            let words = format!("{number}");
            self.trace.mark(self.now, "sends", at, || format!("{words} {batch:?}"));
            self.replicas[at].sent = Some((number, Arc::clone(&batch), None));
            self.send_again(at, number);
        }
        Ok(())
    }

    pub(crate) fn send_again(&mut self, at: usize, number: u64) {
        let Some((current, batch, None)) = &self.replicas[at].sent else { return };
        if *current != number {
            return;
        }
        let query = Query::Commit(number, Arc::clone(batch));
        let token = self.call(at, query, Purpose::Commit);
        if let Some((_, _, call)) = &mut self.replicas[at].sent {
            *call = Some(token);
        }
    }

    pub(crate) fn batch_answered(&mut self, at: usize, answer: Answer) {
        let Some((number, batch, _)) = self.replicas[at].sent.clone() else { return };
        match answer {
            Answer::Grants(grants) => self.take_grants(at, number, &batch, &grants),
            Answer::Lost(key) => {
                self.tally.lost_leases += 1;
                self.trace.mark(self.now, "lost", at, || format!("{number} {key:?}"));
                let replica = &mut self.replicas[at];
                replica.ledger.lease_lost(&key, batch.settlements.clone());
                replica.sent = None;
                replica.retry_pause = RETRY_MIN;
            }
            _ => {
                let replica = &mut self.replicas[at];
                replica.sent = Some((number, batch, None));
                let pause = replica.retry_pause;
                replica.retry_pause = (pause * 2).min(RETRY_MAX);
                self.later(at, pause, Inbox::Retry(number));
            }
        }
    }

    pub(crate) fn take_grants(&mut self, at: usize, number: u64, batch: &Batch, grants: &[Grant]) {
        let now = self.clocks(at);
        self.trace.mark(self.now, "granted", at, || format!("{number} {grants:?}"));
        let replica = &mut self.replicas[at];
        replica.ledger.apply(grants, now);
        replica.sent = None;
        replica.retry_pause = RETRY_MIN;
        replica.forget_blind(batch);
        let mut durable = Vec::new();
        for entry in &batch.settlements {
            if let Some(reservation) = entry.reservation {
                replica.records.end(reservation, End::Over);
            }
            durable.extend(replica.recording.remove(&entry.id).unwrap_or_default());
        }
        for task in durable {
            self.end_task(at, task, true);
        }
        self.count_down(at);
    }
}
