//! What went wrong in SQLite, told by what a person or a caller can do about it.

use std::path::Path;

use sqlx::error::DatabaseError;

use crate::store::StoreError;

/// The low byte of an extended result code is the code itself.
const PRIMARY_CODE: i32 = 0xff;

/// Names the file that could not be opened.
pub(super) fn opening(path: &Path, error: StoreError) -> StoreError {
    let told = |why| format!("cannot open the database {}: {why}", path.display());
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(told(why)),
        StoreError::Corrupt(why) => StoreError::Corrupt(told(why)),
        StoreError::Conflict { .. }
        | StoreError::NotFound
        | StoreError::Changed
        | StoreError::LeaseLost(_)
        | StoreError::TakenOver => error,
    }
}

/// What the database itself says.
pub(in crate::store) fn refused(refusal: &dyn DatabaseError) -> StoreError {
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
