//! What went wrong in SQLite, told by what a person or a caller can do about it.

use std::fmt;
use std::path::Path;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use crate::store::StoreError;

/// The low byte of an extended result code is the code itself.
const PRIMARY_CODE: i32 = 0xff;

impl From<sqlx::Error> for StoreError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver adds kinds; all others are failures to reach the file"
    )]
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) => refused(refusal.as_ref()),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(error.to_string()),
            sqlx::Error::PoolTimedOut => Self::Unavailable(
                "the database is busy: no connection became free in time".to_owned(),
            ),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// A row whose text or number means nothing to us.
pub(super) fn unreadable(
    what: &str,
    value: impl fmt::Display,
    why: impl fmt::Display,
) -> StoreError {
    StoreError::Corrupt(format!("{what} {value:.300} {why}"))
}

/// Names the file that could not be opened.
pub(super) fn opening(path: &Path, error: StoreError) -> StoreError {
    let told = |why| format!("cannot open the database {}: {why}", path.display());
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(told(why)),
        StoreError::Corrupt(why) => StoreError::Corrupt(told(why)),
        StoreError::Conflict { .. } | StoreError::NotFound | StoreError::LeaseLost(_) => error,
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

fn refused(refusal: &dyn DatabaseError) -> StoreError {
    let code = refusal.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
    let advice = match code & PRIMARY_CODE {
        5 | 6 => "another process holds the database; one database serves one Bursar",
        7 => "there is not enough memory",
        8 => "give Bursar's user write access to the file and to its directory",
        10 => "check the disk and the space on it",
        13 => "free some space where the database lies",
        14 => "give Bursar's user access to the file and to its directory",
        15 => "another process is recovering the database",
        26 => return StoreError::Corrupt("the file is not a SQLite database".to_owned()),
        _ => return StoreError::Corrupt(refusal.message().to_owned()),
    };
    StoreError::Unavailable(format!("{}: {advice}", refusal.message()))
}
