//! Low-balance alerts.

use sqlx::{FromRow, SqliteConnection};

use crate::domain::credits::{self, Alert, Watch};
use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::StoreError;
use crate::store::rows::{AlertRow, id};

/// Every alert with the balance that it watches.
const WITH_BALANCES: &str = "SELECT credit_alert.*, granted, COALESCE(spent, 0) AS spent
         FROM credit_alert
         JOIN credit ON credit.workspace = credit_alert.workspace
         LEFT JOIN account ON account.workspace = credit.workspace AND budget = ?1 AND generation = 0
           AND dimension = 'cost' AND target = credit.workspace AND window_label = ''
         ORDER BY credit_alert.workspace";

#[derive(FromRow)]
struct SeenRow {
    #[sqlx(flatten)]
    alert: AlertRow,
    granted: i64,
    spent: i64,
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

pub(super) async fn one(
    db: &mut SqliteConnection,
    workspace: &Id,
) -> Result<Option<Alert>, StoreError> {
    let row: Option<AlertRow> = sqlx::query_as("SELECT * FROM credit_alert WHERE workspace = ?1")
        .bind(workspace.as_str())
        .fetch_optional(db)
        .await?;
    row.map(Alert::try_from).transpose()
}

pub(super) async fn with_balances(db: &mut SqliteConnection) -> Result<Vec<Seen>, StoreError> {
    let rows: Vec<SeenRow> =
        sqlx::query_as(WITH_BALANCES).bind(credits::BUDGET.to_string()).fetch_all(db).await?;
    let seen = |row: SeenRow| {
        let workspace = id(&row.alert.workspace)?;
        // SQLite's own difference would fail where no number holds it.
        let balance = NanoUsd::new(row.granted).minus(NanoUsd::new(row.spent));
        Ok(Seen { workspace, alert: row.alert.try_into()?, balance })
    };
    rows.into_iter().map(seen).collect()
}

pub(super) async fn save(
    db: &mut SqliteConnection,
    workspace: &Id,
    alert: &Alert,
) -> Result<(), StoreError> {
    let (watch, telling) = match alert.watch {
        Watch::Armed => ("armed", None),
        Watch::Told => ("told", None),
        Watch::Telling { crossing, attempts, due_at } => {
            ("telling", Some((crossing, attempts, due_at)))
        }
    };
    sqlx::query(
        "INSERT OR REPLACE INTO credit_alert
           (workspace, threshold, url, secret, watch, crossed_balance, crossed_at_ms, attempts, due_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .bind(workspace.as_str())
    .bind(alert.terms.threshold.get())
    .bind(&*alert.terms.url)
    .bind(&*alert.terms.secret.0)
    .bind(watch)
    .bind(telling.map(|(crossing, ..)| crossing.balance.get()))
    .bind(telling.map(|(crossing, ..)| crossing.at.as_ms()))
    .bind(telling.map(|(_, attempts, _)| attempts))
    .bind(telling.map(|(.., due_at)| due_at.as_ms()))
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn delete(db: &mut SqliteConnection, workspace: &Id) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM credit_alert WHERE workspace = ?1")
        .bind(workspace.as_str())
        .execute(db)
        .await?;
    Ok(())
}
