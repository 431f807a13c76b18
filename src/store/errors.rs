//! What went wrong below the SQL stores, told by what a person or a caller can do about it.

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

use crate::store::{StoreError, postgres, sqlite};

impl From<sqlx::Error> for StoreError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver adds kinds; all others are failures to reach the database"
    )]
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) => refused(refusal.as_ref()),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(error.to_string()),
            sqlx::Error::PoolTimedOut => Self::Unavailable(
                "the database is busy or away: no connection could be had in time".to_owned(),
            ),
            sqlx::Error::Io(failure) => postgres::refused_handshake(failure)
                .unwrap_or_else(|| Self::Unavailable(error.to_string())),
            sqlx::Error::Tls(why) => Self::Unavailable(format!(
                "no encrypted connection; see sslmode, sslrootcert and sslcert in store.url: {why}"
            )),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

fn refused(refusal: &dyn DatabaseError) -> StoreError {
    match refusal.try_downcast_ref::<PgDatabaseError>() {
        Some(refusal) => postgres::refused(refusal),
        None => sqlite::refused(refusal),
    }
}

/// Why the schema could not be brought up to date.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver adds kinds; all others are about the history of the schema"
)]
pub(super) fn migrating(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        MigrateError::VersionMissing(version) => StoreError::Corrupt(format!(
            "its schema has version {version}, which this Bursar does not know; run the newer Bursar that made it"
        )),
        other => StoreError::Corrupt(format!("its schema is not one that Bursar makes: {other}")),
    }
}
