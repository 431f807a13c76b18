//! What replicas tell each other: changes and recalls by the columns that others look at, usage by rows of its own.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{FromRow, PgConnection};

use super::errors::Failure;
use super::turn::{in_turn, query, query_as};
use super::{PostgresStore, budgets, clock, leases};
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::{AccountKey, CLOSED_KEPT};
use crate::domain::money::Units;
use crate::domain::time::Wall;
use crate::store::rows::{AccountKeyRow, id, unreadable};
use crate::store::{
    Change, ChangedBudgets, FleetStore, HANDOFFS_MAX, Handoff, News, StoreError, Told,
    UNTAKEN_AFTER,
};

/// A transaction shows what it stamped at most this much later: it ends in less.
const OVERLAP: Duration = Duration::from_secs(10);

/// Whoever looks for untaken handoffs holds this advisory lock: "untaken" as a number.
const UNTAKEN_LOCK: i64 = 0x75_6E_74_61_6B_65_6E;

/// The channel of all words.
pub(super) const CHANNEL: &str = "bursar";

#[derive(FromRow)]
struct RecalledRow {
    #[sqlx(flatten)]
    account: AccountKeyRow,
    recalls: i64,
}

#[derive(FromRow)]
struct HandoffRow {
    workspace: String,
    reservation: String,
    settlement_id: String,
    report: Vec<u8>,
}

impl TryFrom<HandoffRow> for Handoff {
    type Error = StoreError;

    fn try_from(row: HandoffRow) -> Result<Self, StoreError> {
        let reservation = ReservationId::parse(&row.reservation)
            .map_err(|why| unreadable("reservation id", &row.reservation, why))?;
        Ok(Self {
            workspace: id(&row.workspace)?,
            reservation,
            report: String::from_utf8(row.report)
                .map_err(|why| unreadable("report", &row.settlement_id, why))?,
            settlement: id(&row.settlement_id)?,
        })
    }
}

#[async_trait]
impl FleetStore for PostgresStore {
    async fn news(&self, holders: &[HolderId], since: Wall) -> Result<News, StoreError> {
        let given = self.last_given();
        self.in_time(async { in_turn!(&self.pool, READ, |turn| news(turn, holders, since, given)) })
            .await
    }

    async fn changes(&self) -> Result<Vec<(Id, Change)>, StoreError> {
        self.in_time(async { in_turn!(&self.pool, READ, |turn| changes(turn, Wall::from_ms(0))) })
            .await
    }

    async fn changed_budgets(
        &self,
        workspace: &Id,
        after: &Change,
        limit: usize,
    ) -> Result<Option<ChangedBudgets>, StoreError> {
        let given = self.last_given();
        self.in_time(async {
            in_turn!(&self.pool, READ, |turn| budgets::changed(
                turn, workspace, after, limit, given
            ))
        })
        .await
    }

    async fn told(&self) -> Told {
        self.ear.next().await
    }

    async fn hand_over(&self, handoff: &Handoff) -> Result<(), StoreError> {
        handoff.check()?;
        let given = self.last_given();
        self.in_time(async { in_turn!(&self.pool, WRITE, |turn| hand_over(turn, handoff, given)) })
            .await
    }

    async fn handoff_settled(
        &self,
        handoff: &Handoff,
        against: &[(AccountKey, Units)],
    ) -> Result<(), StoreError> {
        let given = self.last_given();
        self.in_time(async {
            in_turn!(&self.pool, WRITE, |turn| settled(turn, handoff, against, given))
        })
        .await
    }

    async fn untaken_handoffs(&self, now: Wall) -> Result<Vec<Handoff>, StoreError> {
        let given = self.given(now);
        self.in_time(async { in_turn!(&self.pool, WRITE, |turn| untaken(turn, given)) }).await
    }

    async fn release_forfeits(
        &self,
        workspace: &Id,
        budget: BudgetId,
        before: Wall,
    ) -> Result<Vec<(AccountKey, Units)>, StoreError> {
        self.in_time(async {
            in_turn!(&self.pool, WRITE, |turn| leases::release(turn, workspace, budget, before))
        })
        .await
    }
}

async fn news(
    db: &mut PgConnection,
    holders: &[HolderId],
    since: Wall,
    given: Option<Wall>,
) -> Result<News, Failure> {
    let upto = clock(&mut *db, given).await?;
    let from = since.minus(OVERLAP);
    let holders: Vec<_> = holders.iter().map(HolderId::to_string).collect();
    let changed = changes(&mut *db, from).await?;
    let recalled: Vec<RecalledRow> = query_as(
        "SELECT * FROM account t WHERE recalled_at_ms >= $1 AND EXISTS (SELECT FROM lease l
           WHERE l.workspace = t.workspace AND l.budget = t.budget AND l.generation = t.generation
             AND l.dimension = t.dimension AND l.target = t.target AND l.window_label = t.window_label
             AND l.holder = ANY ($2) AND l.state = 'active')",
    )
    .bind(from.as_ms())
    .bind(&holders)
    .fetch_all(&mut *db)
    .await?;
    let handed_over: Vec<HandoffRow> =
        query_as("SELECT * FROM handoff WHERE holder = ANY ($1) AND NOT is_settled LIMIT $2")
            .bind(&holders)
            .bind(handoffs_max())
            .fetch_all(db)
            .await?;
    let recalled = recalled
        .into_iter()
        .map(|row| Ok((row.account.try_into()?, u32::try_from(row.recalls).unwrap_or(u32::MAX))));
    Ok(News {
        upto,
        changed,
        recalled: recalled.collect::<Result<_, StoreError>>()?,
        handed_over: handed_over.into_iter().map(Handoff::try_from).collect::<Result<_, _>>()?,
    })
}

/// Workspaces that were changed since, with the last of their changes.
async fn changes(db: &mut PgConnection, since: Wall) -> Result<Vec<(Id, Change)>, Failure> {
    let rows: Vec<(String, i64, String)> = query_as(
        "SELECT t.workspace, t.count, m.mark FROM change t JOIN change_mark m ON m.workspace = t.workspace AND m.count = t.count
         WHERE t.changed_at_ms >= $1 ORDER BY t.workspace",
    )
    .bind(since.as_ms())
    .fetch_all(db)
    .await?;
    let change = |number, mark| Change { number, mark: Some(mark) };
    let changes =
        rows.into_iter().map(|(workspace, n, mark)| Ok((id(&workspace)?, change(n, mark))));
    Ok(changes.collect::<Result<_, StoreError>>()?)
}

async fn hand_over(
    db: &mut PgConnection,
    handoff: &Handoff,
    given: Option<Wall>,
) -> Result<(), Failure> {
    query(
        "WITH written AS (
           INSERT INTO handoff (workspace, reservation, settlement_id, holder, report, is_settled, since_ms)
           VALUES ($1, $2, $3, $4, $5, false, bursar_now($6)) ON CONFLICT DO NOTHING RETURNING holder)
         SELECT pg_notify('bursar', json_build_array('handed_over', holder)::text) FROM written",
    )
    .bind(handoff.workspace.as_str())
    .bind(handoff.reservation.to_string())
    .bind(handoff.settlement.as_str())
    .bind(handoff.reservation.holder.to_string())
    .bind(handoff.report.as_bytes())
    .bind(given.map(Wall::as_ms))
    .execute(db)
    .await?;
    Ok(())
}

async fn settled(
    db: &mut PgConnection,
    handoff: &Handoff,
    against: &[(AccountKey, Units)],
    given: Option<Wall>,
) -> Result<(), Failure> {
    let holder = handoff.reservation.holder;
    let Some(forfeits) = leases::forfeits(&mut *db, holder, against).await? else { return Ok(()) };
    // The row stays for a while, so that the same usage that is handed over again is known to be settled.
    let settled = query(
        "UPDATE handoff SET is_settled = true, report = '', since_ms = bursar_now($4)
         WHERE workspace = $1 AND reservation = $2 AND settlement_id = $3 AND NOT is_settled",
    )
    .bind(handoff.workspace.as_str())
    .bind(handoff.reservation.to_string())
    .bind(handoff.settlement.as_str())
    .bind(given.map(Wall::as_ms))
    .execute(&mut *db)
    .await?;
    if settled.rows_affected() == 0 {
        return Ok(());
    }
    leases::take_back(db, forfeits, against).await
}

async fn untaken(db: &mut PgConnection, given: Option<Wall>) -> Result<Vec<Handoff>, Failure> {
    // One replica after the other, so that no two take parts of one reservation.
    query("SELECT pg_advisory_xact_lock($1)").bind(UNTAKEN_LOCK).execute(&mut *db).await?;
    let now = clock(&mut *db, given).await?;
    let rows: Vec<HandoffRow> = query_as(
        "WITH untaken AS (
           SELECT DISTINCT workspace, reservation FROM (
             SELECT workspace, reservation FROM handoff
             WHERE NOT is_settled AND since_ms < $1 ORDER BY since_ms LIMIT $2) k)
         UPDATE handoff t SET since_ms = $3, given_ms = $3 FROM untaken
         WHERE t.workspace = untaken.workspace AND t.reservation = untaken.reservation AND NOT t.is_settled
           AND NOT EXISTS (SELECT FROM handoff g
             WHERE g.workspace = untaken.workspace AND g.reservation = untaken.reservation AND g.given_ms >= $1)
         RETURNING t.workspace, t.reservation, t.settlement_id, t.report",
    )
    .bind(now.minus(UNTAKEN_AFTER).as_ms())
    .bind(handoffs_max())
    .bind(now.as_ms())
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Handoff::try_from).collect::<Result<_, _>>()?)
}

fn handoffs_max() -> i64 {
    i64::try_from(HANDOFFS_MAX).unwrap_or(i64::MAX)
}

/// Deletes handoffs that were settled long ago.
pub(super) async fn forget_handoffs(db: &mut PgConnection, now: Wall) -> Result<(), Failure> {
    query(
        "DELETE FROM handoff WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM handoff WHERE is_settled AND since_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
    )
    .bind(now.minus(CLOSED_KEPT).as_ms())
    .bind(handoffs_max())
    .execute(db)
    .await?;
    Ok(())
}
