//! Reading the audit trail.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::errors::Failure;
use super::turn::{query_as, query_scalar};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::settlement::Settlement;
use crate::store::rows::{ChargeRow, SettlementRow};

pub(super) async fn one(
    db: &mut PgConnection,
    workspace: &Id,
    id: &Id,
) -> Result<Option<Settlement>, Failure> {
    let row: Option<SettlementRow> =
        query_as("SELECT * FROM settlement WHERE workspace = $1 AND id = $2")
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
    db: &mut PgConnection,
    workspace: &Id,
    reservation: ReservationId,
) -> Result<Vec<Settlement>, Failure> {
    let rows: Vec<SettlementRow> = query_as(
        "SELECT * FROM settlement WHERE workspace = $1 AND reservation = $2 ORDER BY ordinal, at_ms, id",
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
    db: &mut PgConnection,
    workspace: &Id,
    reservations: &[ReservationId],
) -> Result<Vec<ReservationId>, Failure> {
    let asked: Vec<_> = reservations.iter().map(ReservationId::to_string).collect();
    let settled: Vec<String> = query_scalar(
        "SELECT DISTINCT reservation FROM settlement
         WHERE workspace = $1 AND reservation IS NOT NULL AND reservation = ANY ($2)",
    )
    .bind(workspace.as_str())
    .bind(asked)
    .fetch_all(db)
    .await?;
    let settled: BTreeSet<String> = settled.into_iter().collect();
    Ok(reservations.iter().copied().filter(|id| settled.contains(&id.to_string())).collect())
}

async fn with_charges(db: &mut PgConnection, row: SettlementRow) -> Result<Settlement, Failure> {
    let (workspace, id) = row.key();
    let charges: Vec<ChargeRow> =
        query_as("SELECT * FROM usage_event WHERE workspace = $1 AND settlement_id = $2")
            .bind(workspace)
            .bind(id)
            .fetch_all(db)
            .await?;
    Ok(row.into_settlement(charges)?)
}
