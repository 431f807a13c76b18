//! The store in one SQLite file, for a single replica. One connection writes, a few read; every write is durable when
//! its call returns.

mod alerts;
mod budgets;
mod commit;
mod credits;
mod errors;
mod keys;
mod leases;
mod settlements;
mod tables;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, Transaction};

pub(super) use self::errors::refused;

use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::ledger::escrow::{Account, AccountKey, Grant};
use crate::domain::money::Units;
use crate::domain::period::Window;
use crate::domain::settlement::Settlement;
use crate::domain::time::Wall;
use crate::store::{
    AdoptedLease, Batch, BudgetFilter, Cursor, FleetStore, Page, Store, StoreError,
};

/// Reads are short and few: budgets at the start, then what people ask for.
const READERS: u32 = 4;

/// How long a statement waits for another process (a backup, a person with a shell) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for its turn at the connection. Past this the caller had better hear of it.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// The store in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    ttl: Duration,
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file that `sqlite:PATH` names, makes it where it is missing, and brings its schema up to date. Leases
    /// last for `ttl`.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt`, with the path and what is wrong with it.
    pub async fn open(url: &str, ttl: Duration) -> Result<Self, StoreError> {
        let path = path_of(url)?;
        check_place(&path).map_err(|error| errors::opening(&path, error))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            // What was acknowledged must survive a power cut: in WAL mode only FULL syncs every commit.
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new()
            .acquire_timeout(TURN_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            // A full disk makes COMMIT fail and ends the transaction, but the driver counts it as open and begins no other on
            // this connection. A fresh one knows nothing of it.
            .before_acquire(|connection, _| {
                let sound = !connection.is_in_transaction();
                Box::pin(async move { Ok(sound) })
            });
        let writing = options.clone().create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let writer = pool
            .clone()
            .max_connections(1)
            .connect_with(writing)
            .await
            .map_err(|error| errors::opening(&path, error.into()))?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|error| errors::opening(&path, crate::store::errors::migrating(error)))?;
        let readers = pool.max_connections(READERS).connect_lazy_with(options.read_only(true));
        Ok(Self { ttl, writer, readers })
    }

    /// A transaction that holds the write lock from its start: what it reads cannot change under it.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction that sees one state of the database.
    async fn read(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.readers.begin().await?)
    }
}

/// The path in `sqlite:PATH` or `sqlite://PATH`.
fn path_of(url: &str) -> Result<PathBuf, StoreError> {
    let refuse =
        |why: &str| StoreError::Unavailable(format!("{url:?} {why}, as in sqlite:bursar.db"));
    let path = url.strip_prefix("sqlite:").ok_or_else(|| refuse("does not name a SQLite file"))?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(':') {
        return Err(refuse("names no file; the store is a file"));
    }
    if path.contains('?') {
        return Err(refuse("has parameters; give only the path"));
    }
    Ok(PathBuf::from(path))
}

/// SQLite has one message for all that can be wrong with a path; these are the usual mistakes.
fn check_place(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    match directory {
        Some(directory) if !directory.is_dir() => {
            Err(StoreError::Unavailable(format!("there is no directory {}", directory.display())))
        }
        _ if path.is_dir() => Err(StoreError::Unavailable("it is a directory".to_owned())),
        _ => Ok(()),
    }
}

/// One replica has nobody to tell anything.
#[async_trait]
impl FleetStore for SqliteStore {
    async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        before: Wall,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        let mut tx = self.write().await?;
        let released = leases::release(&mut tx, workspace, budget, before).await?;
        tx.commit().await?;
        Ok(released)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        budgets::create(&mut tx, budget).await?;
        Ok(tx.commit().await?)
    }

    async fn replace_budget(
        &self,
        budget: &Budget,
        read: Option<&Budget>,
        seed: Option<&Window>,
    ) -> Result<Budget, StoreError> {
        let mut tx = self.write().await?;
        let replaced = budgets::replace(&mut tx, budget, read, seed).await?;
        tx.commit().await?;
        Ok(replaced)
    }

    async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        budgets::delete(&mut tx, workspace, id).await?;
        Ok(tx.commit().await?)
    }

    async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        budgets::one(&mut *self.read().await?, workspace, id).await
    }

    async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        budgets::list(&mut *self.read().await?, workspace, filter, cursor, limit).await
    }

    async fn load_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        budgets::all(&mut *self.read().await?).await
    }

    async fn accounts(
        &self,
        budget: &Budget,
        label: &str,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError> {
        tables::current_accounts(&mut *self.read().await?, budget, label).await
    }

    async fn reset_budget(&self, budget: &Budget, label: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        leases::reset(&mut tx, budget, label).await?;
        Ok(tx.commit().await?)
    }

    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        keys::create(&mut tx, key).await?;
        Ok(tx.commit().await?)
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        keys::by_hash(&mut *self.read().await?, hash).await
    }

    async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        keys::list(&mut *self.read().await?, workspace).await
    }

    async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        keys::delete(&mut tx, workspace, id).await?;
        Ok(tx.commit().await?)
    }

    async fn commit(&self, batch: &Batch, now: Wall) -> Result<Vec<Grant>, StoreError> {
        let mut tx = self.write().await?;
        let grants = commit::apply(&mut tx, batch, self.ttl, now).await?;
        tx.commit().await?;
        Ok(grants)
    }

    async fn settlement(&self, workspace: &Id, id: &Id) -> Result<Option<Settlement>, StoreError> {
        settlements::one(&mut *self.read().await?, workspace, id).await
    }

    async fn settlements_of(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Vec<Settlement>, StoreError> {
        settlements::of(&mut *self.read().await?, workspace, reservation).await
    }

    async fn settled_among(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError> {
        settlements::settled_among(&mut *self.read().await?, workspace, reservations).await
    }

    async fn adopt(
        &self,
        from: &[HolderId],
        to: HolderId,
        now: Wall,
    ) -> Result<Vec<AdoptedLease>, StoreError> {
        let mut tx = self.write().await?;
        let adopted = leases::adopt(&mut tx, from, to, self.ttl, now).await?;
        tx.commit().await?;
        Ok(adopted)
    }

    async fn sweep(&self, now: Wall) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let touched = leases::sweep(&mut tx, now).await?;
        leases::forget_takeovers(&mut tx, now).await?;
        tx.commit().await?;
        Ok(touched)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Only a write finds out about a full disk.
        sqlx::query("UPDATE heartbeat SET beats = beats + 1 WHERE id = 1")
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Closes the file, so that its log is merged into it.
    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
