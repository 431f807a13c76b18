//! "Can this be paid for?" as a call: HTTP asks without an estimate, gRPC with one or without.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tonic::Code;

use super::Api;
use super::call::{Body, Use};
use super::fault::Fault;
use super::json::Object;
use super::number::Usd;
use crate::domain::decision::{Admission, Decision, DimensionInfo, Refusal, Standing};
use crate::domain::estimate::Estimate;
use crate::domain::ids::Id;
use crate::domain::money::{NanoUsd, Units};
use crate::domain::subject::Subject;
use crate::engine::{Ask, Engine};

/// An answer: yes or no.
pub(super) type Answer = Result<Admission, Refusal>;

/// Decides, waiting for a lease for as long as `patience`. With an estimate, what is allowed stays reserved until it is
/// reported.
pub(super) async fn decide(
    engine: &Engine,
    patience: Duration,
    subject: Subject,
    estimate: Option<Estimate>,
) -> Result<Answer, Fault> {
    let subject = Arc::new(subject);
    let decision = match estimate {
        None => engine.check(subject, patience).await,
        Some(estimate) => engine.reserve(Ask { subject, estimate }, patience).await.hand_over(),
    };
    match decision {
        Decision::Allow(admission) => Ok(Ok(admission)),
        Decision::Deny(refusal) => Ok(Err(refusal)),
        Decision::Undecided { budget } => Err(undecided(budget.map(|id| id.to_string()))),
    }
}

pub(super) async fn http(
    State(api): State<Api>,
    Use(call): Use,
    Body(body): Body,
) -> Result<Json<AnswerView>, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    let subject = subject(&mut object, workspace)?;
    // Only expressions look at these, and no budget has one: they are read so that a mistake in them does not wait.
    object.take("metadata").read(|field| field.object().map(drop))?;
    object.take("headers").read(|field| field.object().map(drop))?;
    object.finish()?;
    let answer = decide(&api.engine, api.settings.patience, subject, None).await?;
    Ok(Json(AnswerView::from(&answer)))
}

/// Takes the ids of a subject from a request.
pub(super) fn subject(object: &mut Object<'_>, workspace: Id) -> Result<Subject, Fault> {
    Ok(Subject {
        workspace,
        project: object.id("project_id")?,
        identity: object.id("identity_external_id")?,
        api_key: object.id("api_key_id")?,
        provider: object.id("provider")?,
        model: object.id("model_id")?,
    })
}

fn undecided(budget: Option<String>) -> Fault {
    let which = budget.map(|id| format!("budget {id} ")).unwrap_or_default();
    let message = format!("budget_unavailable: {which}cannot be asked right now; try again");
    Fault::new(Code::Unavailable, message)
}

/// The reply of `POST /v2/budgets/check`.
#[derive(Serialize)]
pub(super) struct AnswerView {
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejection: Option<RejectionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<InfoView<Usd>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<InfoView<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<InfoView<i64>>,
}

#[derive(Serialize)]
struct RejectionView {
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_target_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimension: Option<&'static str>,
    code: &'static str,
    message: String,
}

#[derive(Serialize)]
struct InfoView<N> {
    limit: N,
    remaining: N,
    reset_seconds: i32,
}

impl From<&Answer> for AnswerView {
    fn from(answer: &Answer) -> Self {
        let standing = standing(answer);
        let count = |info: DimensionInfo| InfoView::new(info, Units::get);
        Self {
            allowed: answer.is_ok(),
            rejection: answer.as_ref().err().map(RejectionView::from),
            cost: standing.cost.map(|info| InfoView::new(info, |n| Usd(NanoUsd::new(n.get())))),
            tokens: standing.tokens.map(count),
            requests: standing.requests.map(count),
        }
    }
}

impl From<&Refusal> for RejectionView {
    fn from(refusal: &Refusal) -> Self {
        let gate = refusal.gate.as_ref();
        Self {
            scope_kind: gate.map(|gate| gate.scope_kind.as_str()),
            scope_target_id: gate.map(|gate| gate.target.to_string()),
            dimension: gate.map(|gate| gate.dimension.as_str()),
            code: refusal.code.as_str(),
            message: refusal.message(),
        }
    }
}

impl<N> InfoView<N> {
    fn new(info: DimensionInfo, show: impl Fn(Units) -> N) -> Self {
        Self {
            limit: show(info.limit),
            remaining: show(info.remaining),
            reset_seconds: reset_seconds(info).unwrap_or(0),
        }
    }
}

/// The numbers of an answer, whichever it is.
pub(super) fn standing(answer: &Answer) -> Standing {
    match answer {
        Ok(admission) => admission.standing,
        Err(refusal) => refusal.standing,
    }
}

/// The seconds until something comes back, in the 32 bits that the contract has for them.
pub(super) fn reset_seconds(info: DimensionInfo) -> Option<i32> {
    info.reset_seconds.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::budget::Dimension;
    use crate::domain::decision::{RefusalCode, RefusingGate};
    use crate::domain::ids::BudgetId;
    use crate::domain::subject::ScopeKind;

    fn info(limit: i64, remaining: i64, reset_seconds: Option<u64>) -> DimensionInfo {
        DimensionInfo { limit: Units::new(limit), remaining: Units::new(remaining), reset_seconds }
    }

    fn shown(answer: &Answer) -> Value {
        serde_json::from_str(&serde_json::to_string(&AnswerView::from(answer)).unwrap()).unwrap()
    }

    #[test]
    fn an_allow_shows_only_the_dimensions_that_are_limited() {
        let standing = Standing { cost: Some(info(5_000_000_000, 1, None)), ..Standing::default() };
        let allow =
            Ok(Admission { reservation: None, standing, unavailable: false, shadow_refusals: 0 });
        let cost = json!({"limit": 5, "remaining": 1e-9, "reset_seconds": 0});
        assert_eq!(shown(&allow), json!({"allowed": true, "cost": cost}));
    }

    #[test]
    fn a_refusal_names_its_gate_and_shows_all_numbers() {
        let requests = info(2, 0, Some(58));
        let refusal = Refusal {
            code: RefusalCode::RequestsPerMinuteExceeded,
            gate: Some(RefusingGate {
                budget: BudgetId(7),
                scope_kind: ScopeKind::Identity,
                target: Id::parse("customer-1").unwrap(),
                dimension: Dimension::Requests,
                info: requests,
                asked: Units::ONE,
            }),
            retry_after: Some(Duration::from_secs(58)),
            standing: Standing {
                cost: None,
                tokens: Some(info(1000, 968, Some(u64::MAX))),
                requests: Some(requests),
            },
        };
        let message = refusal.message();
        let expected = json!({
            "allowed": false,
            "rejection": {"scope_kind": "IDENTITY", "scope_target_id": "customer-1", "dimension": "requests",
                          "code": "requests_per_minute_exceeded", "message": message},
            "tokens": {"limit": 1000, "remaining": 968, "reset_seconds": i32::MAX},
            "requests": {"limit": 2, "remaining": 0, "reset_seconds": 58},
        });
        assert_eq!(shown(&Err(refusal)), expected);
    }
}
