//! What HTTP handlers take from a request: the caller, the query parameters, the budget of the path, the body.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use super::Api;
use super::access::{Caller, Right, workspace_header};
use super::fault::Fault;
use super::json::shown;
use crate::domain::ids::{BudgetId, Id};

/// The largest body that is read. The largest request that makes sense is a check with the caller's headers and
/// metadata, far below it.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// An authenticated call, before its workspace is known.
pub(super) struct Call {
    /// What the query says; handlers take what they know.
    pub(super) params: Params,
    caller: Caller,
    header: Option<Id>,
}

impl Call {
    /// The workspace that the call is about, which the header, the query and the body may name. Ends the reading of the
    /// query: what nobody took is a mistake.
    pub(super) fn workspace(mut self, body: Option<Id>) -> Result<Id, Fault> {
        let query = self.params.id("workspace_id")?;
        self.params.finish()?;
        self.caller.workspace([self.header, query, body])
    }

    /// The most that the caller may do.
    pub(super) const fn right(&self) -> Right {
        self.caller.right()
    }

    fn authenticated(parts: &Parts, api: &Api, right: Right) -> Result<Self, Fault> {
        let authorization = parts.headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let caller = api.settings.caller(authorization, right)?;
        Ok(Self { params: Params::of(parts)?, caller, header: workspace_header(&parts.headers)? })
    }
}

/// A call that reads or changes budgets or keys.
pub(super) struct Manage(pub(super) Call);

/// A call that makes Bursar reach out to somewhere.
pub(super) struct Operate(pub(super) Call);

/// A call that checks or reports.
pub(super) struct Use(pub(super) Call);

impl FromRequestParts<Api> for Manage {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        Call::authenticated(parts, api, Right::Manage).map(Self)
    }
}

impl FromRequestParts<Api> for Operate {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        Call::authenticated(parts, api, Right::Operate).map(Self)
    }
}

impl FromRequestParts<Api> for Use {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Fault> {
        Call::authenticated(parts, api, Right::Use).map(Self)
    }
}

/// Query parameters, taken one by one.
pub(super) struct Params {
    given: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl Params {
    pub(super) fn of(parts: &Parts) -> Result<Self, Fault> {
        let Query(given) = Query::try_from_uri(&parts.uri)
            .map_err(|error| Fault::invalid(format!("the query is malformed: {error}")))?;
        Ok(Self { given, asked: Vec::new() })
    }

    /// All values of a parameter that may be repeated.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.asked.push(name);
        self.given.extract_if(.., |(given, _)| given == name).map(|(_, value)| value).collect()
    }

    /// The value of a parameter that may be given once.
    pub(super) fn one(&mut self, name: &'static str) -> Result<Option<String>, Fault> {
        let mut values = self.all(name);
        let value = values.pop();
        if values.is_empty() {
            Ok(value)
        } else {
            Err(Fault::invalid(format!("{name} is given twice")))
        }
    }

    /// An id that may be given once.
    pub(super) fn id(&mut self, name: &'static str) -> Result<Option<Id>, Fault> {
        let read = |text: String| Id::parse(&text);
        self.one(name)?
            .map(read)
            .transpose()
            .map_err(|error| Fault::invalid(format!("{name} {error}")))
    }

    /// A number from 1 to `max`; `default` where none is given.
    pub(super) fn whole(
        &mut self,
        name: &'static str,
        default: usize,
        max: usize,
    ) -> Result<usize, Fault> {
        let Some(text) = self.one(name)? else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| Fault::invalid(format!("{name} must be a number from 1 to {max}")))
    }

    /// Complains about parameters that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => Err(Fault::invalid(format!(
                "{} is not a known query parameter; known are {}",
                shown(name),
                self.asked.join(", ")
            ))),
        }
    }
}

/// The budget that the path names.
pub(super) struct BudgetPath(pub(super) BudgetId);

impl<S: Send + Sync> FromRequestParts<S> for BudgetPath {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let PathText(text) = PathText::from_request_parts(parts, state).await?;
        BudgetId::parse(&text)
            .map(Self)
            .map_err(|_| Fault::not_found("no such budget; a budget_id is a ULID of 26 characters"))
    }
}

/// The one variable part of the path.
pub(super) struct PathText(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|_| Fault::not_found("the path is not UTF-8"))
    }
}

/// A body of UTF-8 text, whatever its content type says.
pub(super) struct Body(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let message = format!("the body is larger than {BODY_BYTES_MAX} bytes");
                return Fault::invalid_as(StatusCode::PAYLOAD_TOO_LARGE, message);
            }
            Fault::invalid("the body was cut off")
        })?;
        String::from_utf8(bytes.into()).map(Self).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Fault::invalid(format!("the body is not UTF-8: byte {at} is wrong"))
        })
    }
}
