//! One call's turn at a connection. Every call ends in a bounded time, and a connection that was left in the middle of
//! something is not used again.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPool};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{AssertSqlSafe, PgConnection, Postgres};

use super::errors::Failure;
use crate::store::StoreError;

/// How long a call waits for everything together: a connection, locks, the answer. A server that hangs must not hold up
/// those who can do without it.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the calls of a start may take: bringing the schema up to date, loading all budgets, adopting leases.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A batch with more settlements and exchanges than this is a transaction of its own, with time for each of them: after a long
/// outage there may be a hundred thousand.
pub(super) const LARGE: usize = 1_000;

/// How much longer a large batch may take for each.
pub(super) const EACH: Duration = Duration::from_millis(1);

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

/// A connection in somebody's hands. One that is dropped before [`Turn::give_back`] is closed: what it was doing is unknown.
#[derive(Debug)]
pub(super) struct Turn {
    connection: Option<PoolConnection<Postgres>>,
    is_kept: bool,
}

impl Turn {
    /// A connection outside of any transaction.
    pub(super) async fn take(pool: &PgPool) -> Result<Self, Failure> {
        Ok(Self { connection: Some(pool.acquire().await?), is_kept: true })
    }

    /// A transaction, begun by one of the statements above.
    pub(super) async fn begin(pool: &PgPool, how: &'static str) -> Result<Self, Failure> {
        let mut turn = Self::take(pool).await?;
        sqlx::raw_sql(how).execute(&mut *turn).await?;
        Ok(turn)
    }

    /// A transaction that writes, with a time of its own for each statement.
    pub(super) async fn begin_for(pool: &PgPool, limit: Duration) -> Result<Self, Failure> {
        let mut turn = Self::take(pool).await?;
        let ms = limit.as_millis();
        let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT bursar_begin({ms})");
        // Nothing but a number is put into it.
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *turn).await?;
        Ok(turn)
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
    match tokio::time::timeout(limit, call).await {
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
