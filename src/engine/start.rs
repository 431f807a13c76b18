//! Starting: the journal is read, leases are taken over from the process that wrote it, and everything that was open is open again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::clock::Clock;
use super::entropy::Entropy;
use super::journal::{JournalFile, Recovered, boot_id};
use super::keys::KeyCache;
use super::news::Heard;
use super::{
    Engine, Journal, Prices, Settings, Shared, State, credits, driver, elsewhere, handoff, news,
    tend,
};
use crate::domain::ids::{HolderId, Id, ReservationId};
use crate::store::Store;
use crate::telemetry::Metrics;

impl Engine {
    /// Starts an engine: recovers what the journal holds, loads all budgets, and begins to talk to the store.
    ///
    /// # Errors
    /// When the journal is in use or cannot be opened, the store does not answer, or another process takes over from this one before it
    /// has begun.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        prices: Prices,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self> {
        let mut entropy = Entropy::default();
        let now = clock.now();
        let random = entropy.bits().context("the operating system has no random numbers")?;
        let ms = u64::try_from(now.wall.as_ms()).unwrap_or(0);
        let holder = HolderId(ulid::Ulid::from_parts(ms, random).0);
        let (journal, recovered) = open_journal(&settings)?;
        let holders = recovered.holders_with(holder);
        let shared = Arc::new(Shared {
            holder,
            holders,
            terms: settings.terms,
            unpriced: settings.unpriced,
            clock,
            store,
            metrics,
            prices,
            keys: KeyCache::default(),
            learned: Mutex::default(),
            journal,
            state: Mutex::new(State { entropy, ..State::default() }),
            pinged: tokio::sync::Mutex::new(None),
            work: Notify::new(),
            stirred: Notify::new(),
            ask_news: Notify::new(),
            crediting: tokio::sync::Mutex::new(()),
            credits_in_doubt: AtomicBool::new(false),
            administering: tokio::sync::Mutex::new(()),
            budgets_in_doubt: AtomicBool::new(false),
            inbox: Mutex::default(),
            handed_over: Notify::new(),
            tasks: Mutex::default(),
        });
        // Asked before anything is loaded, so that what changes meanwhile is heard of.
        let heard = Heard::before_loading(&shared).await.context("the store does not answer")?;
        shared.load_budgets().await.context("the store's budgets cannot be loaded")?;
        shared.load_credits().await.context("the store's credits cannot be loaded")?;
        shared.recover(recovered).await.context("the store's leases cannot be taken over")?;
        let engine = Self { shared };
        *engine.tasks() = engine.background(heard);
        engine.shared.work.notify_one();
        Ok(engine)
    }

    /// Starts all that goes on by itself.
    fn background(&self, heard: Heard) -> Vec<JoinHandle<()>> {
        let shared = || Arc::clone(&self.shared);
        let mut tasks = vec![
            tokio::spawn(driver::talk(shared())),
            tokio::spawn(tend::tend(shared())),
            tokio::spawn(tend::sweep(shared())),
            tokio::spawn(credits::keep(self.clone())),
            tokio::spawn(news::ask(self.clone(), heard)),
        ];
        if self.shared.is_in_fleet() {
            tasks.extend([
                tokio::spawn(news::listen(shared())),
                tokio::spawn(handoff::settle(self.clone())),
                tokio::spawn(handoff::settle_untaken(self.clone())),
                tokio::spawn(elsewhere::end_overdue(shared())),
            ]);
        }
        tasks
    }
}

/// Opens the journal and reads what it holds. A journal of another boot is set aside.
fn open_journal(settings: &Settings) -> Result<(Option<Journal>, Recovered)> {
    let Some(path) = &settings.journal else { return Ok((None, Recovered::default())) };
    let (file, contents) = JournalFile::open(path)?;
    let boot = boot_id();
    let recovered = boot.as_deref().and_then(|boot| Recovered::read(&contents, boot));
    // What follows a torn record, and what another boot wrote, must not stand before new records.
    let believed = recovered.as_ref().map_or(0, |recovered| recovered.bytes);
    file.truncate(believed)
        .with_context(|| format!("journal.path: cannot write {}", path.display()))?;
    if recovered.is_none() && !contents.is_empty() {
        tracing::warn!(
            path = %path.display(),
            "the journal is of another boot of this machine and is not believed; what was in flight counts as spent"
        );
    }
    let boot = boot.unwrap_or_default();
    Ok((Some(Journal { file, boot }), recovered.unwrap_or_default()))
}

impl Shared {
    async fn load_budgets(&self) -> Result<()> {
        let budgets = self.store.load_budgets().await?;
        tracing::info!(budgets = budgets.len(), "budgets are in force");
        let mut state = self.state();
        for budget in budgets {
            state.put_budget(self, budget);
        }
        Ok(())
    }

    /// Opens again what the journal held. The old holders and the new one are on record together before any lease changes hands,
    /// so that a crash in between loses neither.
    async fn recover(&self, recovered: Recovered) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let now = self.now();
        let holders: Vec<HolderId> =
            recovered.holders.iter().copied().chain([self.holder]).collect();
        self.state().records.own(&journal.boot, &holders);
        self.write_journal(u64::MAX).context("journal.path: the journal cannot be written")?;
        // First, because until then the store may still settle what the process before had sent. Holders of open reservations have a
        // successor too, though none of their leases is left: what covers a reservation is found by its holder.
        let adopted = self.store.adopt(&self.holders, self.holder, now.wall).await?;
        let leases = adopted.len();
        let settled = self.settled(&recovered.open()).await?;
        let mut count: usize = 0;
        let mut state = self.state();
        for (workspace, restored) in recovered.by_workspace(adopted, &settled) {
            count = count.saturating_add(restored.reservations.len());
            if let Some(room) = state.room(self, &workspace) {
                restored.put_into(&mut room.ledger, now);
            }
        }
        drop(state);
        self.rewrite_journal(journal)
            .context("journal.path: the journal cannot be written anew")?;
        if count > 0 || leases > 0 {
            tracing::info!(reservations = count, leases, "taken over from the process before");
        }
        Ok(())
    }

    /// Reservations that were settled before the crash, though the journal does not know it.
    async fn settled(
        &self,
        open: &BTreeMap<Id, Vec<ReservationId>>,
    ) -> Result<BTreeSet<(Id, ReservationId)>> {
        let mut settled = BTreeSet::new();
        for (workspace, ids) in open {
            let of_workspace = self.store.settled_among(workspace, ids).await?;
            settled.extend(of_workspace.into_iter().map(|id| (workspace.clone(), id)));
        }
        Ok(settled)
    }
}
