//! The store in PostgreSQL, for any number of replicas. A batch is one statement, and so one round trip; time is the
//! database's clock; what is acknowledged was written with synchronous commit.

mod alerts;
mod budgets;
mod commit;
mod connecting;
mod credits;
mod ear;
mod encrypting;
mod errors;
mod fleet;
mod keys;
mod leases;
#[cfg(test)]
mod races;
mod settlements;
mod tables;
#[cfg(test)]
pub(in crate::store) mod testing;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;

use self::ear::Ear;
pub(super) use self::encrypting::refused as refused_handshake;
use self::errors::Failure;
pub(super) use self::errors::refused;
use self::turn::{
    CALL_TIMEOUT, Pool, START_TIMEOUT, TRIES, Turn, bounded, in_turn, query, query_scalar,
};
use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::ledger::escrow::{Account, AccountKey, Grant};
use crate::domain::period::Window;
use crate::domain::settlement::Settlement;
use crate::domain::time::Wall;
use crate::store::{AdoptedLease, Batch, BudgetFilter, Cursor, Page, Store, StoreError};

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database`, with libpq's parameters such as `sslmode`.
    pub url: Arc<str>,
    /// Where to bring the schema up to date; `None` for the same URL. Migrations do not go through PgBouncer.
    pub migration_url: Option<Arc<str>>,
    /// Connections at the most, the one that listens not counted.
    pub connections: u32,
    /// Whether to hear of changes by `LISTEN`; otherwise by polling alone.
    pub listen: bool,
    /// Whether statements are prepared once for each connection. Not so behind PgBouncer in transaction mode; then a
    /// batch is a transaction of several round trips.
    pub prepared_statements: bool,
    /// How long leases last.
    pub ttl: Duration,
    /// Whose time it is.
    pub clock: Clock,
}

/// Whose time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The database's, which all replicas share.
    Database,
    /// The latest that a caller named, for tests.
    Given,
}

/// The store in PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: Pool,
    ttl: Duration,
    prepared_statements: bool,
    clock: Clock,
    /// The latest instant that a caller named, in milliseconds.
    named: Arc<AtomicI64>,
    ear: Arc<Ear>,
}

impl PostgresStore {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt`, with what is wrong and without any password.
    pub async fn open(settings: &PostgresSettings) -> Result<Self, StoreError> {
        let options = connecting::options(&settings.url, "store.url")?;
        let pool = Pool::of(connecting::pool(&options, settings));
        connecting::bring_up_to_date(&pool, settings).await?;
        let ear = if settings.listen { Ear::open(&options).await? } else { Ear::closed() };
        Ok(Self {
            pool,
            ttl: settings.ttl,
            prepared_statements: settings.prepared_statements,
            clock: settings.clock,
            named: Arc::default(),
            ear: Arc::new(ear),
        })
    }

    /// The instant to use instead of the database's clock.
    fn given(&self, now: Wall) -> Option<Wall> {
        self.named.fetch_max(now.as_ms(), Ordering::Relaxed);
        (self.clock == Clock::Given).then_some(now)
    }

    /// The same for a call that names none.
    fn last_given(&self) -> Option<Wall> {
        let last = || Wall::from_ms(self.named.load(Ordering::Relaxed));
        (self.clock == Clock::Given).then(last)
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, StoreError> {
        bounded(CALL_TIMEOUT, call).await
    }

    /// One batch. Directly it is one statement, and its transaction with it; through PgBouncer, which may give each statement
    /// to another connection, a transaction holds its parts together.
    async fn commit_once(&self, batch: &Batch, given: Option<Wall>) -> Result<Vec<Grant>, Failure> {
        let mut turn = Turn::of_batch(&self.pool).await?;
        if !self.prepared_statements {
            turn = turn.begun(turn::WRITE).await?;
        }
        let done = commit::apply(&mut turn, batch, self.ttl, given, self.prepared_statements).await;
        match (done, self.prepared_statements) {
            (Ok(grants), true) => {
                turn.give_back();
                Ok(grants)
            }
            (Ok(grants), false) => turn.end().await.map(|()| grants),
            (Err(failure), _) => {
                turn.roll_back().await;
                Err(failure)
            }
        }
    }
}

/// The clock that all replicas go by, unless a test gives the instant.
async fn clock(db: &mut PgConnection, given: Option<Wall>) -> Result<Wall, Failure> {
    let now: i64 =
        query_scalar("SELECT bursar_now($1)").bind(given.map(Wall::as_ms)).fetch_one(db).await?;
    Ok(Wall::from_ms(now))
}

/// Counts a change of a workspace, or of one of its budgets, tells it, and locks the workspace against other changes until the
/// transaction ends.
async fn changed(
    db: &mut PgConnection,
    workspace: &Id,
    budget: Option<BudgetId>,
    given: Option<Wall>,
) -> Result<(), Failure> {
    query("SELECT bursar_changed($1, $2, bursar_now($3))")
        .bind(workspace.as_str())
        .bind(budget.map(|id| id.to_string()))
        .bind(given.map(Wall::as_ms))
        .execute(db)
        .await?;
    Ok(())
}

/// A change of a workspace, or of one of its budgets: counted and told, then made.
macro_rules! change {
    ($store:expr, $workspace:expr, $budget:expr, |$turn:ident| $work:expr) => {{
        let given = $store.last_given();
        $store
            .in_time(async {
                in_turn!(&$store.pool, WRITE, |turn| async {
                    changed(turn, $workspace, $budget, given).await?;
                    let $turn = turn;
                    $work.await
                })
            })
            .await
    }};
}

/// Something to read.
macro_rules! read {
    ($store:expr, |$turn:ident| $work:expr) => {
        $store.in_time(async { in_turn!(&$store.pool, READ, |$turn| $work) }).await
    };
}

#[async_trait]
impl Store for PostgresStore {
    async fn create_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        change!(self, &budget.workspace, Some(budget.id), |turn| budgets::create(turn, budget))
    }

    async fn replace_budget(
        &self,
        budget: &Budget,
        read: Option<&Budget>,
        seed: Option<&Window>,
    ) -> Result<Budget, StoreError> {
        change!(self, &budget.workspace, Some(budget.id), |turn| budgets::replace(
            turn, budget, read, seed
        ))
    }

    async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        let given = self.last_given();
        change!(self, workspace, Some(id), |turn| budgets::delete(turn, workspace, id, given))
    }

    async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        read!(self, |turn| budgets::one(turn, workspace, id))
    }

    async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        read!(self, |turn| budgets::list(turn, workspace, filter, cursor, limit))
    }

    async fn load_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        bounded(START_TIMEOUT, async {
            in_turn!(&self.pool, READ_AT_START, |turn| budgets::all(turn))
        })
        .await
    }

    async fn accounts(
        &self,
        budget: &Budget,
        label: &str,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError> {
        let accounts = read!(self, |turn| tables::current_accounts(turn, budget, label))?;
        Ok(accounts.into_iter().collect())
    }

    async fn reset_budget(&self, budget: &Budget, label: &str) -> Result<(), StoreError> {
        change!(self, &budget.workspace, Some(budget.id), |turn| leases::reset(turn, budget, label))
    }

    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        change!(self, &key.workspace, None, |turn| keys::create(turn, key))
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        read!(self, |turn| keys::by_hash(turn, hash))
    }

    async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        read!(self, |turn| keys::list(turn, workspace))
    }

    async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        change!(self, workspace, None, |turn| keys::delete(turn, workspace, id))
    }

    async fn commit(&self, batch: &Batch, now: Wall) -> Result<Vec<Grant>, StoreError> {
        let given = self.given(now);
        self.in_time(async {
            let mut tries = TRIES;
            loop {
                tries = tries.saturating_sub(1);
                match self.commit_once(batch, given).await {
                    Err(Failure::Again(_)) if tries > 0 => {}
                    done => break done,
                }
            }
        })
        .await
    }

    async fn settlement(&self, workspace: &Id, id: &Id) -> Result<Option<Settlement>, StoreError> {
        read!(self, |turn| settlements::one(turn, workspace, id))
    }

    async fn settlements_of(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Vec<Settlement>, StoreError> {
        read!(self, |turn| settlements::of(turn, workspace, reservation))
    }

    async fn settled_among(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError> {
        read!(self, |turn| settlements::settled_among(turn, workspace, reservations))
    }

    async fn adopt(
        &self,
        from: &[HolderId],
        to: HolderId,
        now: Wall,
    ) -> Result<Vec<AdoptedLease>, StoreError> {
        let given = self.given(now);
        bounded(START_TIMEOUT, async {
            in_turn!(&self.pool, WRITE_AT_START, |turn| leases::adopt(
                turn, from, to, self.ttl, given
            ))
        })
        .await
    }

    async fn sweep(&self, now: Wall) -> Result<u64, StoreError> {
        let given = self.given(now);
        self.in_time(async {
            in_turn!(&self.pool, WRITE, |turn| async {
                let now = clock(turn, given).await?;
                fleet::forget_handoffs(turn, now).await?;
                budgets::forget_deleted(turn, now).await?;
                let touched = leases::sweep(turn, now).await?;
                leases::forget_takeovers(turn, now).await?;
                Ok::<_, Failure>(touched)
            })
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Only a write finds out about a standby.
        self.in_time(async { in_turn!(&self.pool, WRITE, |turn| beat(turn)) }).await
    }

    async fn close(&self) {
        // Connections that hang are left to the operating system.
        let _ = tokio::time::timeout(CALL_TIMEOUT, self.pool.close()).await;
    }
}

async fn beat(db: &mut PgConnection) -> Result<(), Failure> {
    query("UPDATE heartbeat SET beats = beats + 1 WHERE id = 1").execute(db).await?;
    Ok(())
}
