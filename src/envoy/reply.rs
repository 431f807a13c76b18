//! Answers as Envoy wants them: `OK` with headers, a refusal with its body, or an error that says nothing was decided.

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status;
use tonic::Code;

use crate::domain::decision::{Admission, Refusal, RefusalCode, Standing};
use crate::domain::ids::BudgetId;
use crate::domain::wording::{self, BUDGET_UNAVAILABLE};
use crate::envoy::dialect::{Dialect, Problem};
use crate::envoy::headers::Headers;
use crate::envoy::mapping::Rejection;

/// How answers look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Style {
    /// The status of `credits_exhausted`.
    pub credits_status: CreditsStatus,
    /// Headers beside Bursar's own.
    pub more_headers: Vec<MoreHeaders>,
}

/// The HTTP status of a refusal for want of prepaid credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreditsStatus {
    /// 429, which every client library knows.
    #[default]
    TooManyRequests,
    /// 402.
    PaymentRequired,
}

/// A further way to tell the numbers of the request limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreHeaders {
    /// `x-ratelimit-{limit,remaining,reset}-requests`, as OpenAI names them.
    OpenAi,
    /// `RateLimit-Policy` and `RateLimit` of the IETF's draft. It has no unit for money or tokens.
    Ietf,
}

impl Style {
    /// Go ahead, without these request headers.
    #[must_use]
    pub fn allow(&self, admission: &Admission, headers_to_remove: Vec<String>) -> CheckResponse {
        let mut headers = Headers::new();
        headers.standing(&admission.standing, self);
        let mut metadata = vec![("decision", text("allow"))];
        if let Some(reservation) = admission.reservation {
            metadata.push(("reservation_id", text(reservation.to_string())));
        }
        if admission.unavailable {
            headers.set("x-bursar-unavailable", "allow");
            metadata.push(("unavailable", Kind::BoolValue(true)));
        }
        let response = OkHttpResponse {
            headers_to_remove,
            response_headers_to_add: headers.into_options(),
            ..OkHttpResponse::default()
        };
        response_of(Code::Ok, HttpResponse::OkResponse(response), metadata)
    }

    /// No, because a budget says so.
    #[must_use]
    pub fn refuse(&self, refusal: &Refusal, path: &str) -> CheckResponse {
        self.deny(refusal, &refusal.message(), path)
    }

    /// No, because of what the request says about itself.
    #[must_use]
    pub fn reject(&self, rejection: &Rejection, path: &str) -> CheckResponse {
        let refusal =
            Refusal { code: rejection.code, gate: None, retry_after: None, standing: Standing::default() };
        self.deny(&refusal, &rejection.message, path)
    }

    fn deny(&self, refusal: &Refusal, message: &str, path: &str) -> CheckResponse {
        let status = self.status(refusal.code);
        let mut headers = Headers::new();
        headers.standing(&refusal.standing, self);
        headers.retry(refusal);
        let problem = Problem {
            status,
            code: refusal.code.as_str(),
            message,
            gate: refusal.gate.as_ref(),
            retry_after: refusal.retry_after,
        };
        let response = HttpResponse::DeniedResponse(error(&problem, headers, path));
        let code = if status == 403 { Code::PermissionDenied } else { Code::ResourceExhausted };
        response_of(code, response, vec![("decision", text("deny")), ("code", text(problem.code))])
    }

    /// The HTTP status of a refusal.
    const fn status(&self, code: RefusalCode) -> u16 {
        match code {
            RefusalCode::CostBudgetExceeded
            | RefusalCode::TokenBudgetExceeded
            | RefusalCode::RequestsPerMinuteExceeded
            | RefusalCode::BudgetInFlight
            | RefusalCode::RequestExceedsBudget => 429,
            RefusalCode::CreditsExhausted => match self.credits_status {
                CreditsStatus::TooManyRequests => 429,
                CreditsStatus::PaymentRequired => 402,
            },
            RefusalCode::ModelNotPriced
            | RefusalCode::UnknownSubject
            | RefusalCode::ScopeMismatch
            | RefusalCode::UnknownKey => 403,
        }
    }
}

/// Nothing was decided. Not a refusal: Envoy counts an error and does what its `failure_mode_allow` says.
#[must_use]
pub fn undecided(budget: Option<BudgetId>, path: &str) -> CheckResponse {
    let message = wording::undecided(budget);
    let mut headers = Headers::new();
    headers.retry_soon();
    let problem = Problem { status: 503, code: BUDGET_UNAVAILABLE, message: &message, gate: None, retry_after: None };
    let response = HttpResponse::ErrorResponse(error(&problem, headers, path));
    let metadata = vec![("decision", text("unavailable")), ("code", text(BUDGET_UNAVAILABLE))];
    response_of(Code::Unavailable, response, metadata)
}

fn error(problem: &Problem<'_>, mut headers: Headers, path: &str) -> DeniedHttpResponse {
    headers.set("content-type", "application/json");
    DeniedHttpResponse {
        status: Some(HttpStatus { code: problem.status.into() }),
        headers: headers.into_options(),
        body: Dialect::of(path).body(problem),
    }
}

/// The metadata lands in Envoy's namespace `envoy.filters.http.ext_authz`, where meters and access logs read it.
fn response_of(code: Code, response: HttpResponse, metadata: Vec<(&str, Kind)>) -> CheckResponse {
    let fields = metadata.into_iter().map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }));
    CheckResponse {
        status: Some(Status { code: code.into(), ..Status::default() }),
        dynamic_metadata: Some(Struct { fields: fields.collect() }),
        http_response: Some(response),
    }
}

fn text(text: impl Into<String>) -> Kind {
    Kind::StringValue(text.into())
}
