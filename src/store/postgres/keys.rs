//! API keys.

use sqlx::PgConnection;

use super::errors::Failure;
use super::turn::{query, query_as, query_scalar};
use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::store::StoreError;
use crate::store::rows::ApiKeyRow;

pub(super) async fn create(db: &mut PgConnection, key: &ApiKey) -> Result<(), Failure> {
    let existing: Option<String> = query_scalar(
        "SELECT id FROM api_key WHERE workspace = $1 AND id = $2 UNION ALL SELECT id FROM api_key WHERE hash = $3 LIMIT 1",
    )
    .bind(key.workspace.as_str())
    .bind(key.id.as_str())
    .bind(key.hash.as_slice())
    .fetch_optional(&mut *db)
    .await?;
    if let Some(existing) = existing {
        return Err(StoreError::Conflict { existing }.into());
    }
    query(
        "INSERT INTO api_key (workspace, id, project, name, hash, created_at_ms) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.workspace.as_str())
    .bind(key.id.as_str())
    .bind(key.project.as_ref().map(Id::as_str))
    .bind(key.name.as_str())
    .bind(key.hash.as_slice())
    .bind(key.created_at.as_ms())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn by_hash(
    db: &mut PgConnection,
    hash: &KeyHash,
) -> Result<Option<ApiKey>, Failure> {
    let row: Option<ApiKeyRow> = query_as("SELECT * FROM api_key WHERE hash = $1")
        .bind(hash.as_slice())
        .fetch_optional(db)
        .await?;
    Ok(row.map(ApiKey::try_from).transpose()?)
}

pub(super) async fn list(db: &mut PgConnection, workspace: &Id) -> Result<Vec<ApiKey>, Failure> {
    let rows: Vec<ApiKeyRow> =
        query_as("SELECT * FROM api_key WHERE workspace = $1 ORDER BY created_at_ms DESC, id DESC")
            .bind(workspace.as_str())
            .fetch_all(db)
            .await?;
    Ok(rows.into_iter().map(ApiKey::try_from).collect::<Result<_, _>>()?)
}

pub(super) async fn delete(db: &mut PgConnection, workspace: &Id, id: &Id) -> Result<(), Failure> {
    let deleted = query("DELETE FROM api_key WHERE workspace = $1 AND id = $2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .execute(db)
        .await?;
    if deleted.rows_affected() == 0 { Err(StoreError::NotFound.into()) } else { Ok(()) }
}
