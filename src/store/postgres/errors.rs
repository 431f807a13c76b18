//! What went wrong in PostgreSQL, told by what a person or a caller can do about it.

use sqlx::postgres::PgDatabaseError;

use crate::store::StoreError;

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another transaction was in its way; the same one may succeed now.
    Again(StoreError),
    /// Trying again at once does not help.
    Final(StoreError),
}

impl Failure {
    pub(super) fn into_inner(self) -> StoreError {
        match self {
            Self::Again(error) | Self::Final(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Final(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|refusal| refusal.code());
        let is_passing = matches!(
            code.as_deref(),
            // Serialization, deadlock, and a key that another transaction took after this one had looked.
            Some("40001" | "40P01" | "23505")
            // A CHECK is evaluated on the row as the statement first saw it, before a concurrent change is noticed. One
            // that fails every time is a broken invariant.
            | Some("23514")
        );
        if is_passing { Self::Again(error.into()) } else { Self::Final(error.into()) }
    }
}

/// What the server itself says.
pub(in crate::store) fn refused(refusal: &PgDatabaseError) -> StoreError {
    let advice = match refusal.code() {
        "40001" | "40P01" => "other transactions were in the way every time",
        "55P03" | "57014" => "the database is too slow: it did not finish in time",
        "57P01" | "57P02" | "57P03" | "57P05" => "the server is starting, stopping or failing over",
        "25006" | "25P02" => "the server takes no writes; is it a standby?",
        "53300" | "53400" => {
            "the server has no connection left; lower store.pool or raise its max_connections"
        }
        "53100" | "53200" | "53000" => "the server is out of disk or memory",
        "28000" if refusal.message().contains("no encryption") => {
            "the server takes encrypted connections only; see sslmode in store.url"
        }
        "28P01" | "28000" => "check the user and the password in store.url",
        "3D000" => "make the database that store.url names",
        "42501" => {
            "give Bursar's user the right to read and write its tables, and to make them at the first start"
        }
        "3F000" => "give Bursar's user a schema of its search_path",
        code if code.starts_with("08") => "the connection failed",
        // Of PgBouncer: it says what is wrong in its message only.
        "58000" | "XX000" if refusal.message().contains("pgbouncer") => {
            "PgBouncer cannot reach the server"
        }
        _ => {
            return StoreError::Corrupt(format!("{} ({})", refusal.message(), refusal.code()));
        }
    };
    StoreError::Unavailable(format!("{}: {advice}", refusal.message()))
}
