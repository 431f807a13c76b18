//! A store that can be away, hang, or do what it is asked and then lose the reply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::budget::Budget;
use crate::domain::credits::{
    Added, Alert, AlertTerms, CreditGrant, EntryId, Holdings, InForce, Notice, Statement,
};
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::ledger::escrow::{Account, AccountKey, Grant};
use crate::domain::money::Units;
use crate::domain::period::Window;
use crate::domain::settlement::Settlement;
use crate::domain::time::Wall;
use crate::store::memory::MemoryStore;
use crate::store::{
    AdoptedLease, Batch, BudgetFilter, Change, ChangedBudgets, CreditStore, Cursor, EntryPage,
    FleetStore, Handoff, News, Page, Store, StoreError, Told,
};

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fair,
    /// Nothing is done, and that is said.
    Away,
    /// Everything is done, and said to have failed.
    Mute,
    /// Nothing is done or said until the weather changes.
    Hanging,
    /// Everything is done, and nothing said until the weather changes for the calls of this name.
    Late,
}

/// A store in memory under changing weather.
pub(super) struct Unsteady {
    pub(super) inner: MemoryStore,
    weather: watch::Sender<Weather>,
    /// Weather for the calls of one name.
    local: Mutex<BTreeMap<&'static str, Weather>>,
    /// Weather for single calls, by their numbers.
    planned: Mutex<BTreeMap<u32, Weather>>,
    calls: Mutex<u32>,
    by_name: Mutex<BTreeMap<&'static str, u32>>,
    budgets_read: Mutex<usize>,
    refused: Mutex<Option<Id>>,
    /// Workspaces with a batch that is never answered.
    unanswered: Mutex<BTreeSet<Id>>,
    /// What becomes of news on their way.
    garbled: Mutex<fn(&mut News)>,
}

impl Unsteady {
    pub(super) fn over(inner: MemoryStore) -> Self {
        let weather = watch::Sender::new(Weather::Fair);
        Self {
            inner,
            weather,
            local: Mutex::default(),
            planned: Mutex::default(),
            calls: Mutex::new(0),
            by_name: Mutex::default(),
            budgets_read: Mutex::new(0),
            refused: Mutex::default(),
            unanswered: Mutex::default(),
            garbled: Mutex::new(|_| {}),
        }
    }

    pub(super) fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// From now on the calls of this name meet this weather, whatever the others meet.
    pub(super) fn turn_only(&self, name: &'static str, weather: Weather) {
        self.local.lock().unwrap().insert(name, weather);
    }

    /// The call of this number, counted from 0, meets this weather.
    pub(super) fn plan(&self, call: u32, weather: Weather) {
        self.planned.lock().unwrap().insert(call, weather);
    }

    /// Batches of this workspace are turned down, whatever the weather.
    pub(super) fn refuse_batches_of(&self, workspace: Option<Id>) {
        *self.refused.lock().unwrap() = workspace;
    }

    fn is_away_for(&self, name: &str) -> bool {
        self.local.lock().unwrap().get(name) == Some(&Weather::Away)
    }

    /// The next batch of this workspace is never answered.
    pub(super) fn leave_unanswered(&self, workspace: Id) {
        self.unanswered.lock().unwrap().insert(workspace);
    }

    /// From now on this is done to all news.
    pub(super) fn garble_news(&self, garble: fn(&mut News)) {
        *self.garbled.lock().unwrap() = garble;
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> u32 {
        *self.calls.lock().unwrap()
    }

    /// How many calls of this name there were.
    pub(super) fn calls_of(&self, name: &str) -> u32 {
        self.by_name.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    /// How many changed budgets were read.
    pub(super) fn budgets_read(&self) -> usize {
        *self.budgets_read.lock().unwrap()
    }

    async fn call<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let failed = || StoreError::Unavailable("bad weather".to_owned());
        let number = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        *self.by_name.lock().unwrap().entry(name).or_default() += 1;
        let planned = self.planned.lock().unwrap().remove(&number);
        let local = self.local.lock().unwrap().get(name).copied();
        let now = *self.weather.borrow();
        match planned.or(local).unwrap_or(now) {
            Weather::Fair => {
                let result = work.await;
                // Replies take their time, some more than others, and overtake each other.
                for _ in 0..number.wrapping_mul(37) % 41 {
                    tokio::task::yield_now().await;
                }
                result
            }
            Weather::Away => Err(failed()),
            Weather::Mute => work.await.and_then(|_| Err(failed())),
            Weather::Late => {
                let result = work.await;
                while self.local.lock().unwrap().get(name) == Some(&Weather::Late) {
                    tokio::task::yield_now().await;
                }
                result
            }
            Weather::Hanging => {
                let mut weather = self.weather.subscribe();
                let changed = weather.wait_for(|weather| *weather != Weather::Hanging).await;
                changed.map(|_| ()).map_err(|_| failed())?;
                work.await
            }
        }
    }
}

#[async_trait]
impl CreditStore for Unsteady {
    async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
        now: Wall,
    ) -> Result<Added, StoreError> {
        self.call("add_credit", self.inner.add_credit(workspace, grant, now)).await
    }

    async fn expire_credits(
        &self,
        workspace: &Id,
        now: Wall,
    ) -> Result<Option<InForce>, StoreError> {
        self.call("expire_credits", self.inner.expire_credits(workspace, now)).await
    }

    async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError> {
        self.call("credits", self.inner.credits(workspace)).await
    }

    async fn load_credits(&self) -> Result<Vec<(Id, InForce)>, StoreError> {
        self.inner.load_credits().await
    }

    async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError> {
        self.call("credit_entries", self.inner.credit_entries(workspace, after, limit)).await
    }

    async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError> {
        self.call("credit_statement", self.inner.credit_statement(workspace, from, to)).await
    }

    async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError> {
        self.call("set_credit_alert", self.inner.set_credit_alert(workspace, terms)).await
    }

    async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError> {
        self.call("credit_alert", self.inner.credit_alert(workspace)).await
    }

    async fn due_notices(&self, now: Wall) -> Result<Vec<Notice>, StoreError> {
        self.call("due_notices", self.inner.due_notices(now)).await
    }

    async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError> {
        self.call("notice_told", self.inner.notice_told(notice)).await
    }
}

#[async_trait]
impl FleetStore for Unsteady {
    async fn news(&self, holders: &[HolderId], since: Wall) -> Result<News, StoreError> {
        // They are asked for by themselves, so they are not among the calls that are counted.
        if self.is_away_for("news") {
            return Err(StoreError::Unavailable("bad weather".to_owned()));
        }
        let mut news = self.inner.news(holders, since).await?;
        let garble = *self.garbled.lock().unwrap();
        garble(&mut news);
        Ok(news)
    }

    async fn changes(&self) -> Result<Vec<(Id, Change)>, StoreError> {
        self.inner.changes().await
    }

    async fn changed_budgets(
        &self,
        workspace: &Id,
        after: &Change,
        limit: usize,
    ) -> Result<Option<ChangedBudgets>, StoreError> {
        let read = self.inner.changed_budgets(workspace, after, limit);
        let changed = self.call("changed_budgets", read).await?;
        let read = changed.as_ref().map_or(0, |page| page.budgets.len());
        *self.budgets_read.lock().unwrap() += read;
        Ok(changed)
    }

    async fn told(&self) -> Told {
        if self.is_away_for("told") {
            return std::future::pending().await;
        }
        self.inner.told().await
    }

    async fn hand_over(&self, handoff: &Handoff) -> Result<(), StoreError> {
        self.call("hand_over", self.inner.hand_over(handoff)).await
    }

    async fn handoff_settled(
        &self,
        handoff: &Handoff,
        against: &[(AccountKey, Units)],
    ) -> Result<(), StoreError> {
        self.call("handoff_settled", self.inner.handoff_settled(handoff, against)).await
    }

    async fn untaken_handoffs(&self, now: Wall) -> Result<Vec<Handoff>, StoreError> {
        self.call("untaken_handoffs", self.inner.untaken_handoffs(now)).await
    }

    async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        before: Wall,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        self.call("release_forfeits", self.inner.release_forfeits(workspace, budget, before)).await
    }
}

#[async_trait]
impl Store for Unsteady {
    async fn create_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        self.call("create_budget", self.inner.create_budget(budget)).await
    }

    async fn replace_budget(
        &self,
        budget: &Budget,
        read: Option<&Budget>,
        seed: Option<&Window>,
    ) -> Result<Budget, StoreError> {
        self.call("replace_budget", self.inner.replace_budget(budget, read, seed)).await
    }

    async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        self.call("delete_budget", self.inner.delete_budget(workspace, id)).await
    }

    async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        self.call("budget", self.inner.budget(workspace, id)).await
    }

    async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.call("list_budgets", self.inner.list_budgets(workspace, filter, cursor, limit)).await
    }

    async fn load_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        self.call("load_budgets", self.inner.load_budgets()).await
    }

    async fn accounts(
        &self,
        budget: &Budget,
        label: &str,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError> {
        self.call("accounts", self.inner.accounts(budget, label)).await
    }

    async fn reset_budget(&self, budget: &Budget, label: &str) -> Result<(), StoreError> {
        self.call("reset_budget", self.inner.reset_budget(budget, label)).await
    }

    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.call("create_key", self.inner.create_key(key)).await
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        self.call("key_by_hash", self.inner.key_by_hash(hash)).await
    }

    async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        self.call("list_keys", self.inner.list_keys(workspace)).await
    }

    async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        self.call("delete_key", self.inner.delete_key(workspace, id)).await
    }

    async fn commit(&self, batch: &Batch, now: Wall) -> Result<Vec<Grant>, StoreError> {
        if self.refused.lock().unwrap().as_ref() == Some(&batch.workspace) {
            return Err(StoreError::Corrupt("a batch that nothing can be made of".to_owned()));
        }
        if self.unanswered.lock().unwrap().remove(&batch.workspace) {
            std::future::pending::<()>().await;
        }
        self.call("commit", self.inner.commit(batch, now)).await
    }

    async fn settlement(&self, workspace: &Id, id: &Id) -> Result<Option<Settlement>, StoreError> {
        self.call("settlement", self.inner.settlement(workspace, id)).await
    }

    async fn settlements_of(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Vec<Settlement>, StoreError> {
        self.call("settlements_of", self.inner.settlements_of(workspace, reservation)).await
    }

    async fn settled_among(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError> {
        self.call("settled_among", self.inner.settled_among(workspace, reservations)).await
    }

    async fn adopt(
        &self,
        from: &[HolderId],
        to: HolderId,
        now: Wall,
    ) -> Result<Vec<AdoptedLease>, StoreError> {
        self.call("adopt", self.inner.adopt(from, to, now)).await
    }

    async fn sweep(&self, now: Wall) -> Result<u64, StoreError> {
        // It comes by itself, so it is not among the calls that are counted.
        self.inner.sweep(now).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", self.inner.ping()).await
    }
}
