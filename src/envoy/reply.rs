//! Answers as Envoy wants them: `OK` with headers, a refusal with its body, or an error that says nothing was decided.

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status;
use tonic::Code;

use crate::domain::decision::{Admission, Refusal, RefusalCode, Standing};
use crate::domain::ids::BudgetId;
use crate::domain::wording::{self, BUDGET_UNAVAILABLE};
use crate::envoy::dialect::{Dialect, Problem};
use crate::envoy::handover::Handover;
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
    pub(super) fn allow(
        &self,
        admission: &Admission,
        handover: Option<&Handover>,
        headers_to_remove: Vec<String>,
    ) -> CheckResponse {
        let mut headers = Headers::new();
        headers.standing(&admission.standing, self);
        let mut metadata = vec![("decision", text("allow"))];
        metadata.extend(handover.map(Handover::fields).into_iter().flatten());
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
        let refusal = Refusal {
            code: rejection.code,
            gate: None,
            retry_after: None,
            standing: Standing::default(),
        };
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
    let problem = Problem {
        status: 503,
        code: BUDGET_UNAVAILABLE,
        message: &message,
        gate: None,
        retry_after: None,
    };
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
    let fields =
        metadata.into_iter().map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }));
    CheckResponse {
        status: Some(Status { code: code.into(), ..Status::default() }),
        dynamic_metadata: Some(Struct { fields: fields.collect() }),
        http_response: Some(response),
    }
}

fn text(text: impl Into<String>) -> Kind {
    Kind::StringValue(text.into())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::Duration;

    use super::*;
    use crate::domain::budget::Dimension;
    use crate::domain::decision::{DimensionInfo, RefusingGate};
    use crate::domain::ids::Id;
    use crate::domain::money::Units;
    use crate::domain::subject::ScopeKind;
    use crate::envoy::handover::tests::handover;

    const OPENAI: &str = "/v1/chat/completions";

    fn info(limit: i64, remaining: i64, reset_seconds: Option<u64>) -> DimensionInfo {
        DimensionInfo { limit: Units::new(limit), remaining: Units::new(remaining), reset_seconds }
    }

    /// A refusal as the engine makes it for this code.
    fn refusal(code: RefusalCode) -> Refusal {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let (dimension, info, asked, retry_after) = match code {
            RefusalCode::CostBudgetExceeded | RefusalCode::ModelNotPriced => {
                (Dimension::Cost, info(5_000_000_000, 0, Some(1_299_257)), 320_000_000, None)
            }
            RefusalCode::TokenBudgetExceeded => {
                (Dimension::Tokens, info(1000, 0, Some(3600)), 4096, seconds(3600))
            }
            RefusalCode::RequestsPerMinuteExceeded => {
                (Dimension::Requests, info(2, 0, Some(58)), 1, Some(Duration::from_millis(57_250)))
            }
            RefusalCode::BudgetInFlight => {
                (Dimension::Cost, info(5_000_000_000, 0, Some(60)), 1, seconds(1))
            }
            RefusalCode::CreditsExhausted => {
                (Dimension::Cost, info(10_000_000_000, 0, None), 1, None)
            }
            RefusalCode::RequestExceedsBudget
            | RefusalCode::UnknownSubject
            | RefusalCode::ScopeMismatch
            | RefusalCode::UnknownKey => {
                (Dimension::Cost, info(5_000_000_000, 18_400, Some(7200)), 320_000_000, None)
            }
        };
        let gate = RefusingGate {
            budget: BudgetId(7),
            scope_kind: ScopeKind::Identity,
            target: Id::parse("customer \"42\"").unwrap(),
            dimension,
            info,
            asked: Units::new(asked),
        };
        let mut standing = Standing::default();
        match dimension {
            Dimension::Cost => standing.cost = Some(info),
            Dimension::Tokens => standing.tokens = Some(info),
            Dimension::Requests => standing.requests = Some(info),
        }
        Refusal { code, gate: Some(gate), retry_after, standing }
    }

    fn rejection(code: RefusalCode) -> Rejection {
        Rejection {
            code,
            message: "The identity in header x-orq-identity-id has 300 bytes.".to_owned(),
        }
    }

    /// The answer for this code, from where it arises: before the engine or in it.
    fn answer(code: RefusalCode, path: &str) -> CheckResponse {
        let before =
            [RefusalCode::UnknownSubject, RefusalCode::ScopeMismatch, RefusalCode::UnknownKey];
        if before.contains(&code) {
            Style::default().reject(&rejection(code), path)
        } else {
            Style::default().refuse(&refusal(code), path)
        }
    }

    fn shown(response: &CheckResponse) -> String {
        let (kind, denied) = match response.http_response.as_ref().unwrap() {
            HttpResponse::DeniedResponse(denied) => ("denied", denied),
            HttpResponse::ErrorResponse(error) => ("error", error),
            HttpResponse::OkResponse(_) => panic!("an OK is no refusal"),
        };
        let grpc = response.status.as_ref().unwrap().code;
        let mut text = format!("{kind} {} (gRPC {grpc})\n", denied.status.as_ref().unwrap().code);
        for header in denied.headers.iter().map(|option| option.header.as_ref().unwrap()) {
            writeln!(text, "{}: {}", header.key, header.value).unwrap();
        }
        text + &denied.body + "\n"
    }

    fn golden(path: &str) -> String {
        let refusals = RefusalCode::ALL
            .map(|code| format!("# {}\n{}", code.as_str(), shown(&answer(code, path))));
        let undecided =
            format!("# {BUDGET_UNAVAILABLE}\n{}", shown(&undecided(Some(BudgetId(7)), path)));
        refusals.join("\n") + "\n" + &undecided
    }

    #[test]
    fn refusals_in_the_words_of_openai() {
        insta::assert_snapshot!(golden(OPENAI));
    }

    #[test]
    fn refusals_in_the_words_of_anthropic() {
        insta::assert_snapshot!(golden("/v1/messages"));
    }

    #[test]
    fn refusals_in_the_words_of_gemini() {
        insta::assert_snapshot!(golden("/v1beta/models/gemini-2.5-pro:generateContent"));
    }

    #[test]
    fn exhausted_credits_are_402_where_the_settings_say_so() {
        let style = Style { credits_status: CreditsStatus::PaymentRequired, ..Style::default() };
        for (path, kind) in [(OPENAI, "insufficient_quota"), ("/v1/messages", "billing_error")] {
            let text = shown(&style.refuse(&refusal(RefusalCode::CreditsExhausted), path));
            assert!(text.starts_with("denied 402 (gRPC 8)") && text.contains(kind), "{text}");
        }
    }

    #[test]
    fn money_is_written_to_the_last_nano_dollar() {
        let mut refusal = refusal(RefusalCode::RequestExceedsBudget);
        refusal.gate.as_mut().unwrap().info =
            info(9_007_199_254_740_993, 9_007_199_254_740_992_i64, None);
        let text = shown(&Style::default().refuse(&refusal, OPENAI));
        assert!(
            text.contains(
                r#""limit":9007199.254740993,"remaining":9007199.254740992,"reset_seconds":0"#
            ),
            "{text}"
        );
    }

    #[test]
    fn an_allow_replaces_the_upstream_s_headers_and_carries_the_reservation_in_metadata_only() {
        let handover = handover();
        let standing = Standing { requests: Some(info(60, 59, Some(58))), ..Standing::default() };
        let admission = Admission {
            reservation: Some(handover.reservation),
            standing,
            unavailable: false,
            shadow_refusals: 0,
        };
        let removed = vec!["x-bursar-workspace".to_owned()];
        let response = Style::default().allow(&admission, Some(&handover), removed);
        let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("no OK") };
        assert_eq!(ok.headers_to_remove, ["x-bursar-workspace"]);
        assert!(ok.headers.is_empty(), "nothing of ours goes upstream");
        assert_eq!(ok.response_headers_to_add.len(), 3);
        assert!(ok.response_headers_to_add.iter().all(|option| option.append_action == 2));
        assert_eq!(response.status.unwrap().code, 0);
        let metadata = response.dynamic_metadata.unwrap().fields;
        assert_eq!(metadata["decision"].kind, Some(text("allow")));
        let reservation = handover.reservation.to_string();
        assert_eq!(metadata["reservation_id"].kind, Some(text(reservation)));
        assert_eq!(metadata.len(), 13);
    }

    #[test]
    fn an_allow_without_a_store_says_so_in_a_header_and_in_metadata() {
        let admission = Admission {
            reservation: None,
            standing: Standing::default(),
            unavailable: true,
            shadow_refusals: 0,
        };
        let response = Style::default().allow(&admission, None, Vec::new());
        let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("no OK") };
        let header = ok.response_headers_to_add[0].header.as_ref().unwrap();
        assert_eq!((header.key.as_str(), header.value.as_str()), ("x-bursar-unavailable", "allow"));
        assert_eq!(
            response.dynamic_metadata.unwrap().fields["unavailable"].kind,
            Some(Kind::BoolValue(true))
        );
    }
}
