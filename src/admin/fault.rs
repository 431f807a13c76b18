//! What goes wrong with a call, in the one shape that HTTP and gRPC share: a status number and a sentence.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};

use crate::engine::ReportError;
use crate::store::StoreError;

/// A call that is refused. The message is for the caller: what is wrong, which field, what is accepted. What only
/// operators may know goes to the log.
#[derive(Debug)]
pub(super) struct Fault {
    code: Code,
    status: StatusCode,
    message: String,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, status: http_status(code), message: message.into() }
    }

    /// The request does not say what it should: names the field and what is accepted.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Like [`Fault::invalid`], where HTTP knows a closer status than 400.
    pub(super) fn invalid_as(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, ..Self::invalid(message) }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub(super) fn exists(message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }

    /// A defect or a damaged store. The cause is logged, the caller learns only that it is not their fault.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a call failed inside");
        Self::new(Code::Internal, "something went wrong inside Bursar; its log says what")
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// The HTTP status of a gRPC status, as the contract pairs them.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[derive(Serialize)]
struct Body {
    code: i32,
    message: String,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = axum::Json(Body { code: i32::from(self.code), message: self.message });
        if self.status == StatusCode::UNAUTHORIZED {
            return (self.status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response();
        }
        (self.status, body).into_response()
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code, fault.message)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(cause, "the store did not answer a call");
                Self::new(Code::Unavailable, "the store is unavailable; try again")
            }
            StoreError::Conflict { existing } => {
                Self::exists(format!("exists already as {existing}"))
            }
            StoreError::NotFound => Self::not_found("not found"),
            StoreError::Changed => Self::new(
                Code::Unavailable,
                "others change it at the same time; read it and try again",
            ),
            StoreError::TakenOver => {
                Self::new(Code::Unavailable, "another process has taken over from this one")
            }
            StoreError::LeaseLost(_) | StoreError::Corrupt(_) => Self::internal(&error),
        }
    }
}

impl From<ReportError> for Fault {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Store(error) => error.into(),
            ReportError::UnknownReservation => Self::not_found(
                "reservation_id is not known in this workspace; report against the subject's ids instead",
            ),
            ReportError::Unpriced(_) | ReportError::ReservedId => Self::invalid(error.to_string()),
            ReportError::Differs(_) | ReportError::SettledBefore(_) => {
                Self::exists(error.to_string())
            }
            // Whoever can tell it apart has done so; reporting again gives the result.
            ReportError::HandedOver => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}
