//! Budgets.

use std::collections::HashMap;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};

use super::clock;
use super::errors::Failure;
use super::turn::{query, query_as, query_scalar};
use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, Id};
use crate::domain::period::{Period, Window};
use crate::domain::subject::ScopeKind;
use crate::domain::time::Wall;
use crate::store::rows::{BudgetRow, page_of, unreadable, when_unavailable_columns};
use crate::store::{
    BudgetFilter, CHANGES_KEPT, Change, ChangedBudgets, Cursor, Page, SortBy, StoreError,
};

/// Deleted budgets that one sweep forgets at the most, and followed changes.
const FORGOTTEN_MAX: i64 = 500;

pub(super) async fn create(db: &mut PgConnection, budget: &Budget) -> Result<(), Failure> {
    check_scope_is_free(&mut *db, budget).await?;
    let existing: Option<String> =
        query_scalar("SELECT id FROM budget WHERE workspace = $1 AND id = $2")
            .bind(budget.workspace.as_str())
            .bind(budget.id.to_string())
            .fetch_optional(&mut *db)
            .await?;
    if let Some(existing) = existing {
        return Err(StoreError::Conflict { existing }.into());
    }
    write(db, INSERT, budget).await
}

pub(super) async fn replace(
    db: &mut PgConnection,
    budget: &Budget,
    read: Option<&Budget>,
    seed: Option<&Window>,
) -> Result<Budget, Failure> {
    let locked: Option<BudgetRow> =
        query_as("SELECT * FROM budget WHERE workspace = $1 AND id = $2 FOR NO KEY UPDATE")
            .bind(budget.workspace.as_str())
            .bind(budget.id.to_string())
            .fetch_optional(&mut *db)
            .await?;
    let on_record = Budget::try_from(locked.ok_or(StoreError::NotFound)?)?;
    check_scope_is_free(&mut *db, budget).await?;
    let new = budget.replacing(&on_record, read).ok_or(StoreError::Changed)?;
    if let Some(window) = seed.filter(|_| new.generation > on_record.generation) {
        open_seeded(&mut *db, &new, window).await?;
    }
    write(db, UPDATE, &new).await?;
    Ok(new)
}

pub(super) async fn delete(
    db: &mut PgConnection,
    workspace: &Id,
    id: BudgetId,
    given: Option<Wall>,
) -> Result<(), Failure> {
    let deleted = by_id("DELETE FROM budget WHERE workspace = $1 AND id = $2", workspace, id)
        .execute(&mut *db)
        .await?;
    if deleted.rows_affected() == 0 {
        return Err(StoreError::NotFound.into());
    }
    lock_accounts(&mut *db, workspace, id).await?;
    by_id("DELETE FROM account WHERE workspace = $1 AND budget = $2", workspace, id)
        .execute(&mut *db)
        .await?;
    by_id("DELETE FROM lease WHERE workspace = $1 AND budget = $2", workspace, id)
        .execute(&mut *db)
        .await?;
    by_id(
        "UPDATE budget_change SET deleted_at_ms = bursar_now($3) WHERE workspace = $1 AND budget = $2",
        workspace,
        id,
    )
    .bind(given.map(Wall::as_ms))
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets budgets that were deleted long ago, and changes that were followed by others long ago.
pub(super) async fn forget_deleted(db: &mut PgConnection, now: Wall) -> Result<(), Failure> {
    for old in [
        "DELETE FROM budget_change WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM budget_change WHERE deleted_at_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
        "DELETE FROM change_mark WHERE ctid = ANY (ARRAY(
           SELECT ctid FROM change_mark WHERE followed_at_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
    ] {
        query(old)
            .bind(now.minus(CHANGES_KEPT).as_ms())
            .bind(FORGOTTEN_MAX)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Budgets whose last change came after this one, in the order of these changes.
pub(super) async fn changed(
    db: &mut PgConnection,
    workspace: &Id,
    after: &Change,
    limit: usize,
    given: Option<Wall>,
) -> Result<Option<ChangedBudgets>, Failure> {
    // One more than is given tells whether there is more.
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut changes: Vec<(String, i64)> = query_as(
        "SELECT budget, count FROM budget_change WHERE workspace = $1 AND count > $2 ORDER BY count LIMIT $3",
    )
    .bind(workspace.as_str())
    .bind(after.number)
    .bind(wanted)
    .fetch_all(&mut *db)
    .await?;
    let has_more = changes.len() > limit;
    changes.truncate(limit);
    let ids: Vec<_> = changes.iter().map(|(id, _)| id.as_str()).collect();
    let rows: Vec<BudgetRow> =
        query_as("SELECT * FROM budget WHERE workspace = $1 AND id = ANY ($2)")
            .bind(workspace.as_str())
            .bind(ids)
            .fetch_all(&mut *db)
            .await?;
    let on_record = rows.into_iter().map(|row| Budget::try_from(row).map(|it| (it.id, it)));
    let mut on_record: HashMap<BudgetId, Budget> = on_record.collect::<Result<_, _>>()?;
    // Asked last: what came after a change whose mark is kept now was kept until now.
    let number = changes.last().map_or(after.number, |(_, count)| *count);
    let mut kept = marks(db, workspace, [after.number, number], given).await?;
    if after.mark.is_some() && kept.get(&after.number) != after.mark.as_ref() {
        return Ok(None);
    }
    let upto = Change { number, mark: kept.remove(&number) };
    let budgets = changes.iter().map(|(text, _)| {
        let id = BudgetId::parse(text).map_err(|why| unreadable("budget id", text, why))?;
        Ok((id, on_record.remove(&id)))
    });
    let budgets = budgets.collect::<Result<_, StoreError>>()?;
    Ok(Some(ChangedBudgets { budgets, upto, has_more }))
}

/// The marks of these changes of a workspace, as far as they are kept: whether they are deleted already or not, all replicas get
/// the same answer.
async fn marks(
    db: &mut PgConnection,
    workspace: &Id,
    numbers: [i64; 2],
    given: Option<Wall>,
) -> Result<HashMap<i64, String>, Failure> {
    let now = clock(&mut *db, given).await?;
    let kept: Vec<(i64, String)> = query_as(
        "SELECT count, mark FROM change_mark
         WHERE workspace = $1 AND count = ANY ($2) AND (followed_at_ms IS NULL OR followed_at_ms >= $3)",
    )
    .bind(workspace.as_str())
    .bind(numbers)
    .bind(now.minus(CHANGES_KEPT).as_ms())
    .fetch_all(db)
    .await?;
    Ok(kept.into_iter().collect())
}

/// Waits for the batches that are under way on the budget's accounts, and locks others out.
async fn lock_accounts(db: &mut PgConnection, workspace: &Id, id: BudgetId) -> Result<(), Failure> {
    by_id(
        "SELECT FROM account WHERE workspace = $1 AND budget = $2
         ORDER BY generation, array_position(ARRAY['cost', 'tokens', 'requests'], dimension), target, window_label
         FOR NO KEY UPDATE",
        workspace,
        id,
    )
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn one(
    db: &mut PgConnection,
    workspace: &Id,
    id: BudgetId,
) -> Result<Option<Budget>, Failure> {
    let row: Option<BudgetRow> = query_as("SELECT * FROM budget WHERE workspace = $1 AND id = $2")
        .bind(workspace.as_str())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    Ok(row.map(Budget::try_from).transpose()?)
}

pub(super) async fn all(db: &mut PgConnection) -> Result<Vec<Budget>, Failure> {
    let rows: Vec<BudgetRow> =
        query_as("SELECT * FROM budget ORDER BY workspace, id").fetch_all(db).await?;
    Ok(rows.into_iter().map(Budget::try_from).collect::<Result<_, _>>()?)
}

/// The statements of a listing in one order.
struct Listing {
    /// The newest of those that are older than the edge.
    older: &'static str,
    /// The oldest of those that are newer than the edge.
    newer: &'static str,
}

/// The statements of a listing by one instant. An absent filter is null.
macro_rules! listing {
    ($instant:literal) => {
        Listing { older: listing!($instant, "<", "DESC"), newer: listing!($instant, ">", "ASC") }
    };
    ($instant:literal, $beyond:literal, $direction:literal) => {
        concat!(
            "SELECT * FROM (SELECT *, ",
            $instant,
            " AS instant FROM budget WHERE workspace = $1) AS budget
             WHERE ($2::text[] IS NULL OR scope_kind = ANY ($2))
               AND ($3::text IS NULL OR target = $3)
               AND ($4::boolean IS NULL OR is_active = $4)
               AND ($5::text[] IS NULL OR period = ANY ($5))
               AND ($6::text IS NULL OR strpos(target, $6) > 0)
               AND ($7::bigint IS NULL OR (instant, id) ",
            $beyond,
            " ($7, $8))
             ORDER BY instant ",
            $direction,
            ", id ",
            $direction,
            " LIMIT $9"
        )
    };
}

const BY_UPDATED_AT: Listing = listing!("updated_at_ms");
const BY_CREATED_AT: Listing = listing!("created_at_ms");
/// What never ends comes last, as [`SortBy::of`] has it: the least integer cannot be written as one literal.
const BY_EXPIRES_AT: Listing = listing!("coalesce(expires_at_ms, -9223372036854775807 - 1)");

pub(super) async fn list(
    db: &mut PgConnection,
    workspace: &Id,
    filter: &BudgetFilter,
    cursor: Cursor,
    limit: usize,
) -> Result<Page, Failure> {
    let listing = match filter.sort_by {
        SortBy::UpdatedAt => BY_UPDATED_AT,
        SortBy::CreatedAt => BY_CREATED_AT,
        SortBy::ExpiresAt => BY_EXPIRES_AT,
    };
    let (statement, edge) = match cursor {
        Cursor::Start => (listing.older, None),
        Cursor::After(id) => (listing.older, Some(id)),
        Cursor::Before(id) => (listing.newer, Some(id)),
    };
    let edge = match edge {
        None => None,
        Some(id) => match one(&mut *db, workspace, id).await? {
            None => return Ok(Page { budgets: Vec::new(), has_more: false }),
            Some(budget) => Some(budget),
        },
    };
    // No text in this database holds a zero byte, and none may be asked for.
    let texts = filter.target.iter().chain(&filter.target_contains);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Ok(Page { budgets: Vec::new(), has_more: false });
    }
    // One more than the page holds tells whether there is more.
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let rows: Vec<BudgetRow> = query_as(statement)
        .bind(workspace.as_str())
        .bind(any_of(filter.scope_kinds.iter().copied().map(ScopeKind::as_str)))
        .bind(filter.target.as_deref())
        .bind(filter.is_active)
        .bind(any_of(filter.periods.iter().copied().map(Period::as_str)))
        .bind(filter.target_contains.as_deref())
        .bind(edge.as_ref().map(|budget| filter.sort_by.of(budget).as_ms()))
        .bind(edge.as_ref().map(|budget| budget.id.to_string()))
        .bind(wanted)
        .fetch_all(db)
        .await?;
    Ok(page_of(rows, cursor, limit)?)
}

/// Names; null when there are none, for "whatever it is".
fn any_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    (names.len() > 0).then(|| names.collect())
}

/// A statement whose two parameters are a workspace and a budget's id.
fn by_id<'a>(
    statement: &'static str,
    workspace: &'a Id,
    id: BudgetId,
) -> Query<'a, Postgres, PgArguments> {
    query(statement).bind(workspace.as_str()).bind(id.to_string())
}

async fn check_scope_is_free(db: &mut PgConnection, budget: &Budget) -> Result<(), Failure> {
    let existing: Option<String> = query_scalar(
        "SELECT id FROM budget WHERE workspace = $1 AND scope_kind = $2 AND target = $3 AND id <> $4",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.scope.kind.as_str())
    .bind(budget.scope.target.as_str())
    .bind(budget.id.to_string())
    .fetch_optional(db)
    .await?;
    existing.map_or(Ok(()), |existing| Err(StoreError::Conflict { existing }.into()))
}

/// Opens the accounts of a new generation with what was charged in the window, by batches under way too. Sums saturate, as they do
/// everywhere.
async fn open_seeded(
    db: &mut PgConnection,
    budget: &Budget,
    window: &Window,
) -> Result<(), Failure> {
    lock_accounts(&mut *db, &budget.workspace, budget.id).await?;
    query(
        "INSERT INTO account (workspace, budget, generation, dimension, target, window_label,
           spent, base, leased, forfeited, overdraft, holders)
         SELECT workspace, budget, $3, dimension, target, $4,
           GREATEST(-9223372036854775807, LEAST(9223372036854775807, SUM(amount)))::bigint, 0, 0, 0, 0, 0
         FROM usage_event
         WHERE workspace = $1 AND budget = $2 AND dimension IN ('cost', 'tokens')
           AND at_ms >= $5 AND ($6::bigint IS NULL OR at_ms < $6)
         GROUP BY workspace, budget, dimension, target ORDER BY dimension, target
         ON CONFLICT (workspace, budget, generation, dimension, target, window_label)
           DO UPDATE SET spent = bursar_plus(account.spent, excluded.spent)",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(i64::from(budget.generation))
    .bind(&*window.label)
    .bind(window.start.as_ms())
    .bind(window.end.map(|end| end.as_ms()))
    .execute(db)
    .await?;
    Ok(())
}

const INSERT: &str = "INSERT INTO budget (workspace, id, generation, scope_kind, target, cost_limit, tokens_limit,
       requests_per_minute, period, zone, week_start, is_active, expires_at_ms, shadow, when_unavailable,
       unavailable_cost, name, created_at_ms, updated_at_ms, resets)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

/// The row stays the same one, so that whoever opens an account of it meanwhile finds it.
const UPDATE: &str = "UPDATE budget SET generation = $3, scope_kind = $4, target = $5, cost_limit = $6, tokens_limit = $7,
       requests_per_minute = $8, period = $9, zone = $10, week_start = $11, is_active = $12, expires_at_ms = $13,
       shadow = $14, when_unavailable = $15, unavailable_cost = $16, name = $17, created_at_ms = $18, updated_at_ms = $19,
       resets = $20
     WHERE workspace = $1 AND id = $2";

/// Writes a budget by one of the statements above.
async fn write(
    db: &mut PgConnection,
    statement: &'static str,
    budget: &Budget,
) -> Result<(), Failure> {
    let schedule = budget.limits.schedule.as_ref();
    let (when_unavailable, unavailable_cost) = when_unavailable_columns(budget.when_unavailable);
    query(statement)
        .bind(budget.workspace.as_str())
        .bind(budget.id.to_string())
        .bind(i64::from(budget.generation))
        .bind(budget.scope.kind.as_str())
        .bind(budget.scope.target.as_str())
        .bind(budget.limits.cost.map(|cost| cost.get()))
        .bind(budget.limits.tokens.map(|tokens| tokens.get()))
        .bind(budget.limits.requests_per_minute.map(i64::from))
        .bind(schedule.map(|schedule| schedule.period.as_str()))
        .bind(schedule.map(|schedule| schedule.zone.name()))
        .bind(schedule.map(|schedule| schedule.week_start.as_str()))
        .bind(budget.is_active)
        .bind(budget.expires_at.map(|at| at.as_ms()))
        .bind(budget.shadow)
        .bind(when_unavailable)
        .bind(unavailable_cost)
        .bind(budget.name.as_ref().map(Id::as_str))
        .bind(budget.created_at.as_ms())
        .bind(budget.updated_at.as_ms())
        .bind(i64::from(budget.resets))
        .execute(db)
        .await?;
    Ok(())
}
