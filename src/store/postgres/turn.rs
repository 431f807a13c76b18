//! One call's turn at a connection. Every call ends in a bounded time, and a connection that was left in the middle of
//! something is not used again.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{ConnectOptions, PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::errors::Failure;
use crate::store::StoreError;

/// How long a call waits for everything together: a connection, locks, the answer. A server that hangs must not hold up
/// those who can do without it.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the calls of a start may take: bringing the schema up to date, loading all budgets, adopting leases.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a transaction is tried.
pub(super) const TRIES: u32 = 3;

/// A transaction that writes. Whatever the server's default is, each statement must see what is committed by then.
pub(super) const WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT bursar_begin(3000)";

/// A transaction that writes much at the start.
pub(super) const WRITE_AT_START: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT bursar_begin(60000)";

/// A transaction that sees one state of the database.
pub(super) const READ: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT bursar_begin(3000)";

/// The same, of everything at the start.
pub(super) const READ_AT_START: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT bursar_begin(60000)";

/// What a connection of our own is told once, for statements that are their own transaction.
pub(super) const SESSION: &str =
    "SET default_transaction_isolation TO 'read committed'; SET statement_timeout TO 3000";

/// How long a call waits for a connection; less than it waits in all.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it takes at the most to find out why no connection could be had in that time.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// The connections of a store. Half of them are for batches alone, so that leases are renewed whatever else is asked.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    connections: PgPool,
    others: Arc<Semaphore>,
    /// For whoever finds out why no connection can be had: one is enough.
    asking: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn of(connections: PgPool) -> Self {
        let most = connections.options().get_max_connections();
        let others = usize::try_from(most.div_ceil(2)).unwrap_or(1);
        let asking = Arc::new(Semaphore::new(1));
        Self { connections, others: Arc::new(Semaphore::new(others)), asking }
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        match self.connections.acquire().await {
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_none().await),
            taken => taken,
        }
    }

    /// Connections that a server does not take are tried again until the time is up, without a word of why. The server tells who
    /// asks for one more.
    async fn why_none(&self) -> sqlx::Error {
        let Ok(_place) = self.asking.try_acquire() else { return sqlx::Error::PoolTimedOut };
        match timeout(REASON_TIMEOUT, self.options().connect()).await {
            Ok(Err(why)) => why,
            Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
        }
    }

    /// How its connections are made.
    pub(super) fn options(&self) -> Arc<PgConnectOptions> {
        self.connections.connect_options()
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

/// A connection in somebody's hands. One that is dropped before [`Turn::give_back`] is closed: what it was doing is unknown.
#[derive(Debug)]
pub(super) struct Turn {
    connection: Option<PoolConnection<Postgres>>,
    is_kept: bool,
    /// The place among calls that are no batches.
    _place: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// A connection outside of any transaction, for a batch.
    pub(super) async fn of_batch(pool: &Pool) -> Result<Self, Failure> {
        Self::take(pool, None).await
    }

    /// A transaction for anything but a batch, begun by one of the statements above.
    pub(super) async fn begin(pool: &Pool, how: &'static str) -> Result<Self, Failure> {
        let place = timeout(ACQUIRE_TIMEOUT, Arc::clone(&pool.others).acquire_owned()).await;
        let place = place.map_err(|_| sqlx::Error::PoolTimedOut)?;
        Self::take(pool, place.ok()).await?.begun(how).await
    }

    async fn take(pool: &Pool, place: Option<OwnedSemaphorePermit>) -> Result<Self, Failure> {
        let connection = Some(pool.connection().await?);
        Ok(Self { connection, is_kept: true, _place: place })
    }

    /// Begins a transaction.
    pub(super) async fn begun(mut self, how: &'static str) -> Result<Self, Failure> {
        sqlx::raw_sql(how).execute(&mut *self).await?;
        Ok(self)
    }

    /// Nothing of this transaction is to stay.
    pub(super) const fn discard(&mut self) {
        self.is_kept = false;
    }

    /// Ends the transaction.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        let how = if self.is_kept { "COMMIT" } else { "ROLLBACK" };
        sqlx::raw_sql(how).execute(&mut *self).await?;
        self.give_back();
        Ok(())
    }

    /// Ends the transaction without effect.
    pub(super) async fn roll_back(mut self) {
        self.discard();
        // When it fails, the connection goes, and the transaction with it.
        let _ = self.end().await;
    }

    /// Returns the connection to the pool; it is outside of any transaction.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

impl Deref for Turn {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only what consumes the turn takes its connection")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_deref().expect("a turn has a connection until its end")
    }
}

impl DerefMut for Turn {
    #[expect(clippy::expect_used, reason = "only what consumes the turn takes its connection")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_deref_mut().expect("a turn has a connection until its end")
    }
}

/// Runs one transaction, again where others were in its way.
macro_rules! in_turn {
    ($pool:expr, $how:ident, |$turn:ident| $work:expr) => {{
        let mut tries = $crate::store::postgres::turn::TRIES;
        loop {
            tries = tries.saturating_sub(1);
            let begun = $crate::store::postgres::turn::Turn::begin(
                $pool,
                $crate::store::postgres::turn::$how,
            )
            .await;
            let done = match begun {
                Ok(mut turn) => {
                    let worked = {
                        let $turn = &mut turn;
                        $work.await
                    };
                    match worked {
                        Ok(value) => turn.end().await.map(|()| value),
                        Err(failure) => {
                            turn.roll_back().await;
                            Err($crate::store::postgres::errors::Failure::from(failure))
                        }
                    }
                }
                Err(failure) => Err(failure),
            };
            match done {
                Err($crate::store::postgres::errors::Failure::Again(_)) if tries > 0 => {}
                done => break done,
            }
        }
    }};
}
pub(super) use in_turn;

/// Gives a call its time.
pub(super) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, StoreError> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(Failure::into_inner),
        Err(_) => Err(StoreError::Unavailable(format!(
            "the database did not answer within {} s",
            limit.as_secs()
        ))),
    }
}

/// A statement that is prepared for this one time, so that it may reach the server by way of PgBouncer.
pub(super) fn query<'a>(statement: &'static str) -> Query<'a, Postgres, PgArguments> {
    sqlx::query(statement).persistent(false)
}

/// The same, for rows.
pub(super) fn query_as<'a, T>(statement: &'static str) -> QueryAs<'a, Postgres, T, PgArguments>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_as(statement).persistent(false)
}

/// The same, for one column.
pub(super) fn query_scalar<'a, T>(
    statement: &'static str,
) -> QueryScalar<'a, Postgres, T, PgArguments>
where
    (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_scalar(statement).persistent(false)
}
