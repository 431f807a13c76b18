//! Budgets.

use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection};

use crate::domain::budget::Budget;
use crate::domain::ids::{BudgetId, Id};
use crate::domain::period::{Period, Window};
use crate::domain::subject::ScopeKind;
use crate::store::rows::{BudgetRow, page_of, when_unavailable_columns};
use crate::store::{BudgetFilter, Cursor, Page, SortBy, StoreError};

const DELETE_BUDGET: &str = "DELETE FROM budget WHERE workspace = ?1 AND id = ?2";

pub(super) async fn create(db: &mut SqliteConnection, budget: &Budget) -> Result<(), StoreError> {
    check_scope_is_free(&mut *db, budget).await?;
    let existing: Option<String> =
        sqlx::query_scalar("SELECT id FROM budget WHERE workspace = ?1 AND id = ?2")
            .bind(budget.workspace.as_str())
            .bind(budget.id.to_string())
            .fetch_optional(&mut *db)
            .await?;
    if let Some(existing) = existing {
        return Err(StoreError::Conflict { existing });
    }
    insert(db, budget).await
}

pub(super) async fn replace(
    db: &mut SqliteConnection,
    budget: &Budget,
    read: Option<&Budget>,
    seed: Option<&Window>,
) -> Result<Budget, StoreError> {
    let on_record = one(&mut *db, &budget.workspace, budget.id).await?;
    let on_record = on_record.ok_or(StoreError::NotFound)?;
    check_scope_is_free(&mut *db, budget).await?;
    let new = budget.replacing(&on_record, read).ok_or(StoreError::Changed)?;
    if let Some(window) = seed.filter(|_| new.generation > on_record.generation) {
        open_seeded(&mut *db, &new, window).await?;
    }
    by_id(DELETE_BUDGET, &budget.workspace, budget.id).execute(&mut *db).await?;
    insert(db, &new).await?;
    Ok(new)
}

pub(super) async fn delete(
    db: &mut SqliteConnection,
    workspace: &Id,
    id: BudgetId,
) -> Result<(), StoreError> {
    let deleted = by_id(DELETE_BUDGET, workspace, id).execute(&mut *db).await?;
    if deleted.rows_affected() == 0 {
        return Err(StoreError::NotFound);
    }
    by_id("DELETE FROM account WHERE workspace = ?1 AND budget = ?2", workspace, id)
        .execute(&mut *db)
        .await?;
    by_id("DELETE FROM lease WHERE workspace = ?1 AND budget = ?2", workspace, id)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn one(
    db: &mut SqliteConnection,
    workspace: &Id,
    id: BudgetId,
) -> Result<Option<Budget>, StoreError> {
    let row: Option<BudgetRow> =
        sqlx::query_as("SELECT * FROM budget WHERE workspace = ?1 AND id = ?2")
            .bind(workspace.as_str())
            .bind(id.to_string())
            .fetch_optional(db)
            .await?;
    row.map(Budget::try_from).transpose()
}

pub(super) async fn all(db: &mut SqliteConnection) -> Result<Vec<Budget>, StoreError> {
    let rows: Vec<BudgetRow> =
        sqlx::query_as("SELECT * FROM budget ORDER BY workspace, id").fetch_all(db).await?;
    rows.into_iter().map(Budget::try_from).collect()
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
        Listing {
            older: listing!(
                $instant,
                "(?7 IS NULL OR (instant, id) < (?7, ?8)) ORDER BY instant DESC, id DESC"
            ),
            newer: listing!($instant, "(instant, id) > (?7, ?8) ORDER BY instant, id"),
        }
    };
    ($instant:literal, $beyond_the_edge:literal) => {
        concat!(
            "SELECT *, ",
            $instant,
            " AS instant FROM budget
             WHERE workspace = ?1
               AND (?2 IS NULL OR scope_kind IN (SELECT value FROM json_each(?2)))
               AND (?3 IS NULL OR target = ?3)
               AND (?4 IS NULL OR is_active = ?4)
               AND (?5 IS NULL OR period IN (SELECT value FROM json_each(?5)))
               AND (?6 IS NULL OR instr(target, ?6) > 0)
               AND ",
            $beyond_the_edge,
            " LIMIT ?9"
        )
    };
}

const BY_UPDATED_AT: Listing = listing!("updated_at_ms");
const BY_CREATED_AT: Listing = listing!("created_at_ms");
/// What never ends comes last, as [`SortBy::of`] has it: the least integer cannot be written as one literal.
const BY_EXPIRES_AT: Listing = listing!("coalesce(expires_at_ms, -9223372036854775807 - 1)");

pub(super) async fn list(
    db: &mut SqliteConnection,
    workspace: &Id,
    filter: &BudgetFilter,
    cursor: Cursor,
    limit: usize,
) -> Result<Page, StoreError> {
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
    // One more than the page holds tells whether there is more.
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let rows: Vec<BudgetRow> = sqlx::query_as(statement)
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
    page_of(rows, cursor, limit)
}

/// A JSON array of names; null when there are none, for "whatever it is".
fn any_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    (names.len() > 0).then(|| names.collect::<Value>().to_string())
}

/// A statement whose two parameters are a workspace and a budget's id.
fn by_id<'a>(
    statement: &'static str,
    workspace: &'a Id,
    id: BudgetId,
) -> Query<'a, Sqlite, SqliteArguments> {
    sqlx::query(statement).bind(workspace.as_str()).bind(id.to_string())
}

async fn check_scope_is_free(db: &mut SqliteConnection, budget: &Budget) -> Result<(), StoreError> {
    let existing: Option<String> = sqlx::query_scalar(
        "SELECT id FROM budget WHERE workspace = ?1 AND scope_kind = ?2 AND target = ?3 AND id <> ?4",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.scope.kind.as_str())
    .bind(budget.scope.target.as_str())
    .bind(budget.id.to_string())
    .fetch_optional(db)
    .await?;
    existing.map_or(Ok(()), |existing| Err(StoreError::Conflict { existing }))
}

/// Opens the accounts of a new generation with what was charged in the window. Sums saturate, as they do everywhere: SQLite's own
/// would fail, so thousands of millions and the rest are added up apart.
async fn open_seeded(
    db: &mut SqliteConnection,
    budget: &Budget,
    window: &Window,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO account (workspace, budget, generation, dimension, target, window_label,
           spent, base, leased, forfeited, overdraft, holders)
         SELECT workspace, budget, ?3, dimension, target, ?4,
           1000000000 * MIN(MAX(SUM(amount / 1000000000) + SUM(amount % 1000000000) / 1000000000, -9223372035), 9223372035)
             + SUM(amount % 1000000000) % 1000000000, 0, 0, 0, 0, 0
         FROM usage_event
         WHERE workspace = ?1 AND budget = ?2 AND dimension IN ('cost', 'tokens')
           AND at_ms >= ?5 AND (?6 IS NULL OR at_ms < ?6)
         GROUP BY dimension, target
         ON CONFLICT DO UPDATE 
           SET spent = spent + MAX(MIN(excluded.spent, 9223372036854775807 - MAX(spent, 0)), -9223372036854775807 - MIN(spent, 0))",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(budget.generation)
    .bind(&*window.label)
    .bind(window.start.as_ms())
    .bind(window.end.map(|end| end.as_ms()))
    .execute(db)
    .await?;
    Ok(())
}

/// Writes a budget that is not there.
async fn insert(db: &mut SqliteConnection, budget: &Budget) -> Result<(), StoreError> {
    let schedule = budget.limits.schedule.as_ref();
    let (when_unavailable, unavailable_cost) = when_unavailable_columns(budget.when_unavailable);
    sqlx::query(
        "INSERT INTO budget (workspace, id, generation, scope_kind, target, cost_limit, tokens_limit,
           requests_per_minute, period, zone, week_start, is_active, expires_at_ms, shadow, when_unavailable,
           unavailable_cost, name, created_at_ms, updated_at_ms, resets)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )
    .bind(budget.workspace.as_str())
    .bind(budget.id.to_string())
    .bind(budget.generation)
    .bind(budget.scope.kind.as_str())
    .bind(budget.scope.target.as_str())
    .bind(budget.limits.cost.map(|cost| cost.get()))
    .bind(budget.limits.tokens.map(|tokens| tokens.get()))
    .bind(budget.limits.requests_per_minute)
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
    .bind(budget.resets)
    .execute(db)
    .await?;
    Ok(())
}
