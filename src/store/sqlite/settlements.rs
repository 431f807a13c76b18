//! Reading the audit trail.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::SqliteConnection;

use crate::domain::ids::{Id, ReservationId};
use crate::domain::settlement::Settlement;
use crate::store::StoreError;
use crate::store::rows::{ChargeRow, SettlementRow};

pub(super) async fn one(
    db: &mut SqliteConnection,
    workspace: &Id,
    id: &Id,
) -> Result<Option<Settlement>, StoreError> {
    let row: Option<SettlementRow> =
        sqlx::query_as("SELECT * FROM settlement WHERE workspace = ?1 AND id = ?2")
            .bind(workspace.as_str())
            .bind(id.as_str())
            .fetch_optional(&mut *db)
            .await?;
    match row {
        Some(row) => with_charges(db, row).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn of(
    db: &mut SqliteConnection,
    workspace: &Id,
    reservation: ReservationId,
) -> Result<Vec<Settlement>, StoreError> {
    let rows: Vec<SettlementRow> = sqlx::query_as(
        "SELECT * FROM settlement WHERE workspace = ?1 AND reservation = ?2 ORDER BY rowid",
    )
    .bind(workspace.as_str())
    .bind(reservation.to_string())
    .fetch_all(&mut *db)
    .await?;
    let mut settlements = Vec::with_capacity(rows.len());
    for row in rows {
        settlements.push(with_charges(db, row).await?);
    }
    Ok(settlements)
}

pub(super) async fn settled_among(
    db: &mut SqliteConnection,
    workspace: &Id,
    reservations: &[ReservationId],
) -> Result<Vec<ReservationId>, StoreError> {
    let asked: Value = reservations.iter().map(ReservationId::to_string).collect();
    let settled: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT reservation FROM settlement
         WHERE workspace = ?1 AND reservation IS NOT NULL AND reservation IN (SELECT value FROM json_each(?2))",
    )
    .bind(workspace.as_str())
    .bind(asked.to_string())
    .fetch_all(db)
    .await?;
    let settled: BTreeSet<String> = settled.into_iter().collect();
    Ok(reservations.iter().copied().filter(|id| settled.contains(&id.to_string())).collect())
}

async fn with_charges(
    db: &mut SqliteConnection,
    row: SettlementRow,
) -> Result<Settlement, StoreError> {
    let (workspace, id) = row.key();
    let charges: Vec<ChargeRow> =
        sqlx::query_as("SELECT * FROM usage_event WHERE workspace = ?1 AND settlement_id = ?2")
            .bind(workspace)
            .bind(id)
            .fetch_all(db)
            .await?;
    row.into_settlement(charges)
}
