//! Prepaid credits: changed in the store first, then in force on this replica before the caller hears of it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Engine, Room, Shared, State};
use crate::domain::credits::{
    self, Added, Alert, AlertTerms, CreditGrant, EntryId, Holdings, InForce, Notice, Statement,
};
use crate::domain::ids::Id;
use crate::domain::time::Wall;
use crate::store::{EntryPage, StoreError};

/// How often it is seen whether a grant is over.
const TICK: Duration = Duration::from_millis(250);

impl Engine {
    /// Adds a grant to a workspace's credits. What waited for it is admitted at once.
    ///
    /// # Errors
    /// When the store is away; adding it again is safe.
    pub async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
    ) -> Result<Added, StoreError> {
        let _turn = self.shared.crediting.lock().await;
        // Whether the store does not answer or the caller goes away: the store will be asked what is in force.
        let was_in_doubt = self.shared.credits_in_doubt.swap(true, Ordering::SeqCst);
        let added = self.shared.store.add_credit(workspace, grant, self.wall()).await?;
        match added {
            Added::New(in_force) => self.shared.put_credits(workspace, in_force),
            // The first call may not have come back to put it in force.
            Added::Before(_) => self.shared.expire_credits(workspace).await?,
            Added::Differs | Added::Expired | Added::Full => {}
        }
        self.shared.credits_in_doubt.store(was_in_doubt, Ordering::SeqCst);
        Ok(added)
    }

    /// A workspace's credits; everything settled on this replica before the call is included, and nothing that expired. `None`
    /// for a workspace without a grant ever made.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError> {
        self.settle_credits(workspace).await?;
        self.shared.store.credits(workspace).await
    }

    /// One page of the changes of a workspace's balance, newest first.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError> {
        self.settle_credits(workspace).await?;
        self.shared.store.credit_entries(workspace, after, limit).await
    }

    /// What changed a workspace's balance from an instant to before another.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError> {
        self.settle_credits(workspace).await?;
        self.shared.store.credit_statement(workspace, from, to).await
    }

    /// Sets a workspace's low-balance alert, armed anew, or removes it.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError> {
        self.shared.store.set_credit_alert(workspace, terms).await
    }

    /// A workspace's low-balance alert.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError> {
        self.shared.store.credit_alert(workspace).await
    }

    /// The notices of low balances that are to be tried now. Each comes again later unless it is [`Engine::notice_told`].
    ///
    /// # Errors
    /// When the store is away.
    pub async fn due_notices(&self) -> Result<Vec<Notice>, StoreError> {
        self.shared.store.due_notices(self.wall()).await
    }

    /// A notice was taken.
    ///
    /// # Errors
    /// When the store is away; the notice may then be tried again.
    pub async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError> {
        self.shared.store.notice_told(notice).await
    }

    /// Brings a workspace's credits up to now.
    async fn settle_credits(&self, workspace: &Id) -> Result<(), StoreError> {
        if !self.shared.hands_back_expiring(workspace) {
            return self.flush(workspace).await;
        }
        let _turn = self.shared.crediting.lock().await;
        self.flush(workspace).await?;
        self.shared.expire_credits(workspace).await
    }

    /// Puts in force what is on record of a workspace's credits.
    pub(super) async fn reload_credits(&self, workspace: &Id) -> Result<(), StoreError> {
        let _turn = self.shared.crediting.lock().await;
        if self.shared.hands_back_expiring(workspace) {
            self.flush(workspace).await?;
        }
        self.shared.expire_credits(workspace).await
    }

    async fn keep_credits(&self) {
        if let Err(error) = self.resolve_credits().await {
            tracing::warn!(%error, "whether credits were granted is not known yet");
        }
        let due: Vec<Id> = {
            let state = self.shared.state();
            let now = self.wall();
            let is_due = |room: &Room| room.credits_expire_at.is_some_and(|at| at <= now);
            let due = state.rooms.iter().filter(|(_, room)| is_due(room));
            due.map(|(workspace, _)| workspace.clone()).collect()
        };
        for workspace in due {
            if let Err(error) = self.settle_credits(&workspace).await {
                tracing::warn!(%error, %workspace, "expired credits could not be taken out yet");
            }
        }
    }

    /// Brings what is in force here to what is on record, after a grant that was not confirmed.
    async fn resolve_credits(&self) -> Result<(), StoreError> {
        if self.shared.credits_in_doubt.load(Ordering::SeqCst) {
            let _turn = self.shared.crediting.lock().await;
            self.shared.load_credits().await?;
            self.shared.credits_in_doubt.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Expires credits when their time is over, until it is aborted.
pub(super) async fn keep(engine: Engine) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        engine.keep_credits().await;
    }
}

impl Shared {
    /// Puts the credits of all workspaces in force.
    pub(super) async fn load_credits(&self) -> Result<(), StoreError> {
        for (workspace, in_force) in self.store.load_credits().await? {
            self.put_credits(&workspace, in_force);
        }
        Ok(())
    }

    /// Whether a workspace has credits whose time is over. What is lent of them and unused is handed back, so that it
    /// expires with the rest.
    fn hands_back_expiring(&self, workspace: &Id) -> bool {
        let mut state = self.state();
        let now = self.now();
        let Some(room) = state.rooms.get_mut(workspace) else { return false };
        let expires = room.credits_expire_at.is_some_and(|at| at <= now.wall);
        if expires {
            room.ledger.hand_back(credits::BUDGET, now);
        }
        expires
    }

    async fn expire_credits(&self, workspace: &Id) -> Result<(), StoreError> {
        let in_force = self.store.expire_credits(workspace, self.now().wall).await?;
        if let Some(in_force) = in_force {
            self.put_credits(workspace, in_force);
        }
        Ok(())
    }

    fn put_credits(&self, workspace: &Id, in_force: InForce) {
        self.state().put_credits(self, workspace, in_force);
        self.work.notify_one();
    }
}

impl State {
    fn put_credits(&mut self, shared: &Shared, workspace: &Id, in_force: InForce) {
        self.put_budget(shared, credits::budget(workspace.clone(), in_force.granted));
        if let Some(room) = self.rooms.get_mut(workspace) {
            room.credits_expire_at = in_force.next_expiry;
        }
    }
}
