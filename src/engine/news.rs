//! What other replicas changed comes into force here. The store is asked for news every second; where it also tells by itself, it is
//! asked at once. And after a change of this replica's own that was not confirmed, the store says whether it was made.
//!
//! Invariant: what is in force is never older than what this replica stored itself: both are done in turns, and a reload reads in
//! its turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::pace::Retries;
use super::{Engine, Shared};
use crate::domain::budget::Budget;
use crate::domain::ids::{HolderId, Id};
use crate::domain::time::{Mono, Wall};
use crate::store::{BudgetFilter, Cursor, SortBy, StoreError, Told};

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
/// Budgets on one page of a reload.
const PAGE: usize = 200;

/// What this replica heard.
#[derive(Debug)]
pub(super) struct Heard {
    /// The store's clock: what to ask from next time.
    upto: Wall,
    /// When the store last gave news.
    told_at: Mono,
    /// When all that it had told was last in force.
    at: Mono,
    /// Changes of workspaces that are in force: of those that the store may tell again.
    versions: BTreeMap<Id, i64>,
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
        let versions = BTreeMap::new();
        Ok(Self { upto: news.upto, told_at: now.mono, at: now.mono, versions, reload_at: None })
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
        if began.mono.since(heard.told_at) > DEAF_MAX {
            self.give_up_what_others_settled().await?;
            heard.reload_at = Some(began.mono.plus(shared.up_to(RELOAD_SPREAD)));
        }
        heard.told_at = began.mono;
        self.reload_changed(&news.changed, &mut heard.versions).await?;
        heard.versions = news.changed.into_iter().collect();
        (heard.upto, heard.at) = (news.upto, began.mono);
        shared.metrics.news_age(Duration::ZERO);
        if heard.reload_at.is_some_and(|at| at <= began.mono) {
            shared.keys.doubt_all();
            shared.reload_all().await?;
            heard.reload_at = None;
        }
        Ok(())
    }

    /// Reloads the workspaces whose last change is not in force, each apart from the others.
    async fn reload_changed(
        &self,
        changed: &[(Id, i64)],
        in_force: &mut BTreeMap<Id, i64>,
    ) -> Result<(), StoreError> {
        let mut missed = Ok(());
        for (workspace, version) in changed {
            if in_force.get(workspace) == Some(version) {
                continue;
            }
            match self.reload(workspace).await {
                Ok(()) => drop(in_force.insert(workspace.clone(), *version)),
                Err(error) => missed = Err(error),
            }
        }
        missed
    }

    /// Puts in force what is on record of a workspace.
    async fn reload(&self, workspace: &Id) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.keys.doubt(workspace);
        in_time(async {
            let _turn = shared.administering.lock().await;
            let budgets = shared.budgets_of(workspace).await?;
            shared.state().put_exactly(shared, Some(workspace), budgets);
            Ok(())
        })
        .await?;
        self.reload_credits(workspace).await?;
        shared.work.notify_one();
        Ok(())
    }
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
            self.state().put_exactly(self, None, budgets);
            Ok(())
        })
        .await?;
        self.work.notify_one();
        Ok(())
    }

    /// All budgets of a workspace, in the order in which they were made, which does not change while they are read.
    async fn budgets_of(&self, workspace: &Id) -> Result<Vec<Budget>, StoreError> {
        let filter = BudgetFilter { sort_by: SortBy::CreatedAt, ..BudgetFilter::default() };
        let mut budgets: Vec<Budget> = Vec::new();
        loop {
            let cursor = budgets.last().map_or(Cursor::Start, |last| Cursor::After(last.id));
            let page = self.store.list_budgets(workspace, &filter, cursor, PAGE).await?;
            if page.budgets.is_empty() && !budgets.is_empty() {
                // The last one was deleted meanwhile, so that nothing is known of those after it.
                return Err(StoreError::Unavailable(
                    "the budgets changed as they were read".to_owned(),
                ));
            }
            budgets.extend(page.budgets);
            if !page.has_more {
                return Ok(budgets);
            }
        }
    }
}

/// What the store says, if it says it in time.
pub(super) async fn in_time<T>(
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::Unavailable("it did not answer in time".to_owned()));
    timeout(PATIENCE, asked).await.unwrap_or_else(late)
}

/// The holders whose reservations this process answers for: its own, and those that it took over.
pub(super) fn holders(own: HolderId, before: impl IntoIterator<Item = HolderId>) -> Vec<HolderId> {
    let mut holders: Vec<HolderId> = before.into_iter().chain([own]).collect();
    holders.sort_unstable();
    holders.dedup();
    holders
}
