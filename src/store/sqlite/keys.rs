//! API keys.

use sqlx::SqliteConnection;

use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::store::StoreError;
use crate::store::rows::ApiKeyRow;

pub(super) async fn create(db: &mut SqliteConnection, key: &ApiKey) -> Result<(), StoreError> {
    let existing: Option<String> = sqlx::query_scalar(
        "SELECT id FROM api_key WHERE workspace = ?1 AND id = ?2 UNION ALL SELECT id FROM api_key WHERE hash = ?3 LIMIT 1",
    )
    .bind(key.workspace.as_str())
    .bind(key.id.as_str())
    .bind(key.hash.as_slice())
    .fetch_optional(&mut *db)
    .await?;
    if let Some(existing) = existing {
        return Err(StoreError::Conflict { existing });
    }
    sqlx::query(
        "INSERT INTO api_key (workspace, id, project, name, hash, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
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
    db: &mut SqliteConnection,
    hash: &KeyHash,
) -> Result<Option<ApiKey>, StoreError> {
    let row: Option<ApiKeyRow> = sqlx::query_as("SELECT * FROM api_key WHERE hash = ?1")
        .bind(hash.as_slice())
        .fetch_optional(db)
        .await?;
    row.map(ApiKey::try_from).transpose()
}

pub(super) async fn list(
    db: &mut SqliteConnection,
    workspace: &Id,
) -> Result<Vec<ApiKey>, StoreError> {
    let rows: Vec<ApiKeyRow> = sqlx::query_as(
        "SELECT * FROM api_key WHERE workspace = ?1 ORDER BY created_at_ms DESC, id DESC",
    )
    .bind(workspace.as_str())
    .fetch_all(db)
    .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

pub(super) async fn delete(
    db: &mut SqliteConnection,
    workspace: &Id,
    id: &Id,
) -> Result<(), StoreError> {
    let deleted = sqlx::query("DELETE FROM api_key WHERE workspace = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .execute(db)
        .await?;
    if deleted.rows_affected() == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
