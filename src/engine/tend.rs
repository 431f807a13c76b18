//! What time asks for: overdue reservations end, leases are renewed or closed, the journal is looked after, expired leases are
//! swept. None of it waits for the store, but for the sweep, which has a task of its own.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::renewal::Renewal;
use super::{Journal, Shared, State};
use crate::domain::budget::Dimension;
use crate::domain::ids::Id;
use crate::domain::ledger::TICK;
use crate::domain::time::Now;

/// A wall clock that gains more than this on the other between two ticks has learnt of time that the other did not count: the machine
/// was paused from outside, or its clock was set. Either way each lease is asked for anew, which costs one exchange.
const GAIN_MAX: Duration = Duration::from_secs(1);
/// Workspaces that are tended in one turn, between two of which requests are decided.
const ROOMS_PER_TURN: usize = 100;
/// How often the store is asked to sweep expired leases.
const SWEEP: Duration = Duration::from_secs(5);
/// How long it may take for it.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

/// Does what time asks for until it is aborted. A store that hangs does not hold it up.
pub(super) async fn tend(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = shared.now();
    loop {
        ticks.tick().await;
        last = shared.mind_the_clock(last);
        shared.tick();
    }
}

/// Whether time has passed between two ticks that the leases' clock may not have counted.
#[must_use]
pub fn has_jumped(last: Now, now: Now) -> bool {
    now.wall > last.wall.plus(now.mono.since(last.mono)).plus(GAIN_MAX)
}

/// Asks the store to sweep, until it is aborted.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        if timeout(SWEEP_PATIENCE, shared.sweep()).await.is_err() {
            tracing::warn!("expired leases could not be swept in time");
        }
        sleep(shared.about(SWEEP)).await;
    }
}

/// How far a round of [`tend`] has come.
#[derive(Default)]
struct Tended {
    /// The last workspace that had its turn; `None` before the first.
    last: Option<Id>,
    /// Reservations and accounts of those that had it.
    open: usize,
    accounts: usize,
}

impl Shared {
    /// Lets leases lapse when time has passed that their clock did not count. Returns the time.
    pub(super) fn mind_the_clock(&self, last: Now) -> Now {
        let mut state = self.state();
        let now = self.now();
        if has_jumped(last, now) {
            tracing::warn!("the wall clock has jumped ahead; leases are asked for anew");
            for room in state.rooms.values_mut() {
                room.ledger.lapse_leases();
            }
        }
        now
    }

    /// What happens four times a second.
    pub(super) fn tick(&self) {
        let mut tended = Tended::default();
        while self.tend_some(&mut tended) {}
        self.metrics.open_reservations(i64::try_from(tended.open).unwrap_or(i64::MAX));
        self.metrics.live_accounts(i64::try_from(tended.accounts).unwrap_or(i64::MAX));
        self.tend_journal();
    }

    /// Tends the next workspaces; `false` when there are none.
    fn tend_some(&self, tended: &mut Tended) -> bool {
        let mut state = self.state();
        let now = self.now();
        let State { rooms, records, stirred, .. } = &mut *state;
        let after = tended.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut blank = Vec::new();
        for (workspace, room) in rooms.range_mut((after, Bound::Unbounded)).take(ROOMS_PER_TURN) {
            // In a fleet the store is asked before anything is ended. What was settled in time is forgotten here all the same.
            if !self.is_in_fleet() || room.ledger.overdue(now).next().is_none() {
                room.end_overdue(records, self.terms.on_timeout, now);
            }
            room.ledger.tend_leases(now);
            tended.open = tended.open.saturating_add(room.ledger.open_reservations());
            tended.accounts = tended.accounts.saturating_add(room.ledger.live_accounts());
            if room.ledger.has_batch() {
                stirred.insert(workspace.clone());
            } else if room.is_blank() {
                blank.push(workspace.clone());
            }
            tended.last = Some(workspace.clone());
        }
        // Whoever may name a workspace could fill the table with names that nobody has a budget for.
        for workspace in blank {
            rooms.remove(&workspace);
        }
        if !stirred.is_empty() {
            self.stirred.notify_one();
        }
        tended.last.is_some()
    }

    /// Writes the journal's rest, and a new one where it has grown or failed.
    fn tend_journal(&self) {
        let Some(journal) = &self.journal else {
            self.state().records.drain();
            return;
        };
        if journal.file.wants_rewrite() {
            // What could not be written is in no file: all of it is to be said at once, and nothing is admitted meanwhile anyway.
            let rewritten = if journal.file.is_good() {
                Renewal::begin(self, journal).and_then(|renewal| renewal.finish(self, journal))
            } else {
                self.rewrite_journal(journal)
            };
            if let Err(error) = rewritten {
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
            let ledgers = rooms.values_mut().map(|room| {
                let unrecorded = room.unrecorded().cloned().collect();
                (&mut room.ledger, unrecorded)
            });
            records.rewrite(&journal.boot, self.holder, &self.holders, ledgers, now);
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
