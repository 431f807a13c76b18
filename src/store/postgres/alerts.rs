//! Low-balance alerts.

use sqlx::{FromRow, PgConnection};

use super::errors::Failure;
use super::turn::{query, query_as};
use crate::domain::credits::{self, Alert, Watch};
use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::rows::{AlertRow, id};

/// Every alert with the balance that it watches.
macro_rules! with_balances {
    ($lock:literal) => {
        concat!(
            "SELECT credit_alert.*, bursar_minus(granted, COALESCE(spent, 0)) AS balance
             FROM credit_alert
             JOIN credit ON credit.workspace = credit_alert.workspace
             LEFT JOIN account ON account.workspace = credit.workspace AND budget = $1 AND generation = 0
               AND dimension = 'cost' AND target = credit.workspace AND window_label = ''
             ORDER BY credit_alert.workspace",
            $lock
        )
    };
}

#[derive(FromRow)]
struct SeenRow {
    #[sqlx(flatten)]
    alert: AlertRow,
    balance: i64,
}

/// An alert and the balance that it watches.
pub(super) struct Seen {
    pub(super) workspace: Id,
    pub(super) alert: Alert,
    pub(super) balance: NanoUsd,
}

impl Seen {
    /// Whether looking at the balance changes the alert.
    pub(super) fn changes(&self, now: Wall) -> bool {
        let mut alert = self.alert.clone();
        alert.observe(&self.workspace, self.balance, now);
        alert != self.alert
    }
}

pub(super) async fn one(db: &mut PgConnection, workspace: &Id) -> Result<Option<Alert>, Failure> {
    let row: Option<AlertRow> = query_as("SELECT * FROM credit_alert WHERE workspace = $1")
        .bind(workspace.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row.map(Alert::try_from).transpose()?)
}

/// All alerts.
pub(super) async fn seen(db: &mut PgConnection) -> Result<Vec<Seen>, Failure> {
    with_balances(db, with_balances!("")).await
}

/// The alerts that no other replica is at, which are now in the caller's hands.
pub(super) async fn taken(db: &mut PgConnection) -> Result<Vec<Seen>, Failure> {
    with_balances(db, with_balances!(" FOR UPDATE OF credit_alert SKIP LOCKED")).await
}

async fn with_balances(
    db: &mut PgConnection,
    statement: &'static str,
) -> Result<Vec<Seen>, Failure> {
    let rows: Vec<SeenRow> =
        query_as(statement).bind(credits::BUDGET.to_string()).fetch_all(db).await?;
    let seen = |row: SeenRow| {
        let (workspace, balance) = (id(&row.alert.workspace)?, NanoUsd::new(row.balance));
        Ok(Seen { workspace, alert: row.alert.try_into()?, balance })
    };
    rows.into_iter().map(seen).collect()
}

pub(super) async fn save(
    db: &mut PgConnection,
    workspace: &Id,
    alert: &Alert,
) -> Result<(), Failure> {
    let (watch, telling) = match alert.watch {
        Watch::Armed => ("armed", None),
        Watch::Told => ("told", None),
        Watch::Telling { crossing, attempts, due_at } => {
            ("telling", Some((crossing, attempts, due_at)))
        }
    };
    query(
        "INSERT INTO credit_alert
           (workspace, threshold, url, secret, watch, crossed_balance, crossed_at_ms, attempts, due_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (workspace) DO UPDATE SET threshold = excluded.threshold, url = excluded.url,
           secret = excluded.secret, watch = excluded.watch, crossed_balance = excluded.crossed_balance,
           crossed_at_ms = excluded.crossed_at_ms, attempts = excluded.attempts, due_at_ms = excluded.due_at_ms",
    )
    .bind(workspace.as_str())
    .bind(alert.terms.threshold.get())
    .bind(&*alert.terms.url)
    .bind(&*alert.terms.secret.0)
    .bind(watch)
    .bind(telling.map(|(crossing, ..)| crossing.balance.get()))
    .bind(telling.map(|(crossing, ..)| crossing.at.as_ms()))
    .bind(telling.map(|(_, attempts, _)| i64::from(attempts)))
    .bind(telling.map(|(.., due_at)| due_at.as_ms()))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn delete(db: &mut PgConnection, workspace: &Id) -> Result<(), Failure> {
    query("DELETE FROM credit_alert WHERE workspace = $1")
        .bind(workspace.as_str())
        .execute(db)
        .await?;
    Ok(())
}
