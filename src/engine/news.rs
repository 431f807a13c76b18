//! What other replicas changed comes into force here. The store is asked for news every second; where it also tells by itself, it is
//! asked at once. And after a change of this replica's own that was not confirmed, the store says whether it was made.
//!
//! Changes of a workspace are numbered and marked. Of budgets no more is read than what was changed after the last that is in force
//! here, so that many changes cost as much as there are, however many budgets there are. Where the store does not know that change
//! any more, everything is read anew: a replica may have been away for days, and a store may have been set back and count anew.
//!
//! Invariant: what is in force is never older than what this replica stored itself: both are done in turns, and a reload reads in
//! its turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::pace::Retries;
use super::{Engine, Shared};
use crate::domain::ids::Id;
use crate::domain::time::{Mono, Now, Wall};
use crate::store::{Change, StoreError, Told};

/// How often the store is asked for news. A change is in force everywhere within two of them.
const POLL: Duration = Duration::from_secs(1);
/// News that are told by themselves are asked for together when they come this close.
const TOGETHER: Duration = Duration::from_millis(10);
/// How long the store may take for news, and how long a reload may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// News are asked for from this long before the last: a transaction may become visible long after its time.
const OVERLAP: Duration = Duration::from_secs(30);
/// After so long without news everything is loaded anew, in case that the store lost something itself.
const DEAF_MAX: Duration = Duration::from_secs(20);
/// Over this time a fleet that hears again together spreads its loading.
const RELOAD_SPREAD: Duration = Duration::from_secs(10);
/// Changed budgets that are read at once.
const PAGE: usize = 1000;

/// What this replica heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// The store's clock: what to ask from next time.
    upto: Wall,
    /// When the store last gave news: by its own wall clock, and by the other clock of this replica.
    told_at: Now,
    /// When all that it had told was last in force.
    at: Mono,
    /// The last change that is in force, of each workspace that was ever changed.
    versions: BTreeMap<Id, Change>,
    /// When to load everything anew.
    reload_at: Option<Mono>,
}

/// Asks for news until it is aborted.
pub(super) async fn ask(engine: Engine, mut heard: Heard) {
    let shared = &engine.shared;
    let mut retries = Retries::new();
    loop {
        let doubts = shared.resolve_doubts().await;
        let news = if shared.is_in_fleet() { engine.hear(&mut heard).await } else { Ok(()) };
        let pause = match doubts.and(news) {
            Ok(()) => {
                retries = Retries::new();
                shared.about(POLL)
            }
            Err(error) => {
                tracing::warn!(%error, "what others changed is not known yet");
                retries.pause(shared)
            }
        };
        tokio::select! {
            () = shared.ask_news.notified() => sleep(TOGETHER).await,
            () = sleep(pause) => {}
        }
    }
}

/// Listens to what the store tells by itself, until it is aborted.
pub(super) async fn listen(shared: Arc<Shared>) {
    loop {
        match shared.store.told().await {
            Told::HandedOver(holder) if !shared.holders.contains(&holder) => {}
            // The news say what exactly, and which of it is known already.
            Told::Changed(_) | Told::HandedOver(_) | Told::Missed => shared.ask_news.notify_one(),
            Told::Recalled(account, recalls) => shared.recalled(&account, recalls),
        }
    }
}

impl Heard {
    /// Where to ask from, before anything is loaded.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(super) async fn before_loading(shared: &Shared) -> Result<Self, StoreError> {
        let now = shared.now();
        let news = shared.store.news(&[shared.holder], now.wall).await?;
        let versions = shared.store.changes().await?.into_iter().collect();
        let told_at = Now { wall: news.upto, mono: now.mono };
        Ok(Self { upto: news.upto, told_at, at: now.mono, versions, reload_at: None })
    }

    /// How long the store had given no news until now. Its clock tells what this replica's may not: how long a machine was paused
    /// from outside.
    fn silence(&self, now: Now) -> Duration {
        let by_the_store = Duration::from_secs(self.told_at.wall.seconds_until(now.wall));
        now.mono.since(self.told_at.mono).max(by_the_store)
    }
}

impl Engine {
    /// Asks for news and acts on them. What could not be done is done with the next.
    async fn hear(&self, heard: &mut Heard) -> Result<(), StoreError> {
        let shared = &self.shared;
        let began = shared.now();
        let news = shared.store.news(&shared.holders, heard.upto.minus(OVERLAP));
        let news = in_time(news).await;
        shared.metrics.news_age(began.mono.since(heard.at));
        shared.metrics.store_up(i64::from(news.is_ok()));
        let news = news.inspect_err(|_| shared.metrics.news_failure())?;
        for (account, recalls) in &news.recalled {
            shared.recalled(account, *recalls);
        }
        self.take(news.handed_over);
        let told_at = Now { wall: news.upto, mono: began.mono };
        if heard.silence(told_at) > DEAF_MAX {
            self.give_up_what_others_settled().await?;
            heard.reload_at.get_or_insert(began.mono.plus(shared.up_to(RELOAD_SPREAD)));
        }
        heard.told_at = told_at;
        self.reload_changed(&news.changed, heard, began.mono).await?;
        (heard.upto, heard.at) = (news.upto, began.mono);
        shared.metrics.news_age(Duration::ZERO);
        if heard.reload_at.is_some_and(|at| at <= began.mono) {
            shared.keys.doubt_all();
            let versions = in_time(shared.store.changes()).await?.into_iter().collect();
            shared.reload_all().await?;
            (heard.versions, heard.reload_at) = (versions, None);
        }
        Ok(())
    }

    /// Reloads the workspaces whose last change is not in force, each apart from the others.
    async fn reload_changed(
        &self,
        changed: &[(Id, Change)],
        heard: &mut Heard,
        now: Mono,
    ) -> Result<(), StoreError> {
        let mut missed = Ok(());
        for (workspace, version) in changed {
            let known = heard.versions.entry(workspace.clone()).or_default();
            if known == version {
                continue;
            }
            match self.reload(workspace, known, version).await {
                Ok(Reloaded::Changes) => {}
                // Whatever is in force may be gone, of other workspaces too.
                Ok(Reloaded::Nothing) => heard.reload_at = Some(now),
                Err(error) => missed = Err(error),
            }
        }
        missed
    }

    /// Puts in force what was changed of a workspace after the change that is known. What comes after `version` meanwhile may be read
    /// once more, because nothing is known of keys and credits at that time.
    async fn reload(
        &self,
        workspace: &Id,
        known: &mut Change,
        version: &Change,
    ) -> Result<Reloaded, StoreError> {
        let shared = &self.shared;
        shared.keys.doubt(workspace);
        self.reload_credits(workspace).await?;
        let reloaded = in_time(async {
            let _turn = shared.administering.lock().await;
            let mut has_more = true;
            let mut after = known.clone();
            while has_more {
                let page = shared.store.changed_budgets(workspace, &after, PAGE).await?;
                let Some(page) = page else { return Ok(Reloaded::Nothing) };
                for (id, budget) in page.budgets {
                    shared.state().put_changed(shared, workspace, id, budget);
                    // Each may walk over all accounts, and decisions go on meanwhile.
                    yield_now().await;
                }
                (after, has_more) = (page.upto, page.has_more);
                // Where this comes to nothing, the next goes on from here.
                if after.mark.is_some() && after.number < version.number {
                    known.clone_from(&after);
                }
            }
            Ok(Reloaded::Changes)
        })
        .await?;
        if reloaded == Reloaded::Changes {
            known.clone_from(version);
        }
        shared.work.notify_one();
        Ok(reloaded)
    }
}

/// What was reloaded of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reloaded {
    /// All that was changed.
    Changes,
    /// Nothing: the store does not know what came after the change that is in force here.
    Nothing,
}

impl Shared {
    /// Brings what is in force here to what is on record, after a change that was not confirmed.
    async fn resolve_doubts(&self) -> Result<(), StoreError> {
        if self.budgets_in_doubt.swap(false, Ordering::SeqCst)
            && let Err(error) = self.reload_budgets().await
        {
            self.budgets_in_doubt.store(true, Ordering::SeqCst);
            return Err(error);
        }
        Ok(())
    }

    /// Puts in force what is on record of all workspaces.
    async fn reload_all(&self) -> Result<(), StoreError> {
        self.reload_budgets().await?;
        in_time(async {
            let _turn = self.crediting.lock().await;
            self.load_credits().await
        })
        .await
    }

    async fn reload_budgets(&self) -> Result<(), StoreError> {
        in_time(async {
            let _turn = self.administering.lock().await;
            let budgets = self.store.load_budgets().await?;
            self.state().put_exactly(self, budgets);
            Ok(())
        })
        .await?;
        self.work.notify_one();
        Ok(())
    }
}

/// What the store says, if it says it in time.
pub(super) async fn in_time<T>(
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::Unavailable("it did not answer in time".to_owned()));
    timeout(PATIENCE, asked).await.unwrap_or_else(late)
}
