//! `bursar.v1.Budgets` as callers meet it: protobuf in, protobuf out, over an engine on a memory store.

use tonic::Code;

use super::proto::report_request::Against as Settles;
use super::*;
use crate::admin::testing::{self, CHECK, OPERATOR, WORKSPACE};
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::ids::BudgetId;
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::subject::{Scope, ScopeKind, Target};
use crate::telemetry::Metrics;

const DOLLAR: i64 = 1_000_000_000;

/// The service, with a budget of 5 dollars a day for everybody.
async fn service() -> (BudgetsService, BudgetId) {
    let engine = testing::engine(Metrics::new()).await;
    let id = engine.new_budget_id();
    let schedule =
        Schedule { period: Period::Daily, zone: Zone::utc(), week_start: WeekStart::Monday };
    let budget = Budget {
        workspace: workspace(),
        id,
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Workspace, target: Target::One(workspace()) },
        limits: Limits {
            cost: Some(NanoUsd::new(5 * DOLLAR)),
            schedule: Some(schedule),
            ..Limits::default()
        },
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: engine.wall(),
        updated_at: engine.wall(),
    };
    engine.create_budget(budget).await.unwrap();
    (BudgetsService { engine, settings: Arc::new(testing::settings()) }, id)
}

fn workspace() -> Id {
    Id::parse(WORKSPACE).unwrap()
}

fn request<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

async fn check(
    service: &BudgetsService,
    estimate: Option<proto::Estimate>,
) -> proto::CheckResponse {
    let message = proto::CheckRequest { estimate, ..Default::default() };
    service.check(request(CHECK, message)).await.unwrap().into_inner()
}

fn report_of(settlement_id: &str, against: Option<Settles>, cost: i64) -> proto::ReportRequest {
    proto::ReportRequest {
        settlement_id: settlement_id.to_owned(),
        against,
        cost_nano_usd: Some(cost),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_check_without_an_estimate_reserves_nothing() {
    let (service, _) = service().await;
    let answer = check(&service, None).await;
    assert!(answer.allowed && answer.reservation_id.is_empty() && answer.rejection.is_none());
    let cost = answer.cost.unwrap();
    assert_eq!((cost.limit, cost.remaining), (5 * DOLLAR, 5 * DOLLAR));
    assert_eq!(cost.reset_seconds, Some(86_400));
    assert_eq!((answer.tokens, answer.requests), (None, None));
}

#[tokio::test]
async fn an_estimate_is_reserved_until_it_is_reported() {
    let (service, budget) = service().await;
    let estimate = proto::Estimate { cost_nano_usd: 3 * DOLLAR, tokens: 100 };
    let first = check(&service, Some(estimate)).await;
    assert!(first.allowed);
    assert_eq!(first.cost.unwrap().remaining, 2 * DOLLAR);
    let second = check(&service, Some(estimate)).await;
    assert_eq!(second.rejection.unwrap().code, "budget_in_flight");

    let against = Some(Settles::ReservationId(first.reservation_id));
    let report = report_of("s1", against.clone(), 4 * DOLLAR);
    let settled = service.report(request(CHECK, report.clone())).await.unwrap().into_inner();
    assert_eq!(settled.recorded.unwrap().cost_nano_usd, 4 * DOLLAR);
    assert_eq!(settled.overrun.unwrap().cost_nano_usd, DOLLAR);
    assert!(!settled.duplicate);
    let again = service.report(request(CHECK, report)).await.unwrap().into_inner();
    assert!(again.duplicate);

    let sharper = report_of("s2", against, DOLLAR);
    let refused = service.report(request(CHECK, sharper.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let correction = proto::ReportRequest { correction: true, ..sharper };
    let refused = service.report(request(CHECK, correction.clone())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("manage or operator"), "{refused}");
    let workspace_id = WORKSPACE.to_owned();
    let correction = proto::ReportRequest { workspace_id, ..correction };
    service.report(request(OPERATOR, correction)).await.unwrap();
    let budget = service.engine.budget(&workspace(), budget).await.unwrap().unwrap();
    assert_eq!(service.engine.consumption(&budget).await.unwrap().cost, NanoUsd::new(DOLLAR));
}

async fn release(service: &BudgetsService, key: &str, message: proto::ReleaseRequest) -> bool {
    service.release(request(key, message)).await.unwrap().into_inner().released
}

#[tokio::test]
async fn what_is_released_is_given_back_once_and_only_by_its_own_workspace() {
    let (service, _) = service().await;
    let estimate = proto::Estimate { cost_nano_usd: 3 * DOLLAR, tokens: 100 };
    let reservation_id = check(&service, Some(estimate)).await.reservation_id;
    let own = proto::ReleaseRequest { reservation_id, ..Default::default() };
    let strayed = proto::ReleaseRequest { workspace_id: "b".to_owned(), ..own.clone() };
    assert!(!release(&service, OPERATOR, strayed.clone()).await, "another workspace's");
    let refused = service.release(request(CHECK, strayed)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(check(&service, None).await.cost.unwrap().remaining, 2 * DOLLAR);

    assert!(release(&service, CHECK, own.clone()).await);
    assert_eq!(check(&service, None).await.cost.unwrap().remaining, 5 * DOLLAR);
    assert!(!release(&service, CHECK, own).await, "it is given back once");
    let unreadable = service.release(request(CHECK, proto::ReleaseRequest::default())).await;
    let unreadable = unreadable.unwrap_err();
    assert_eq!(unreadable.code(), Code::InvalidArgument);
    assert!(unreadable.message().starts_with("reservation_id "), "{}", unreadable.message());
}

#[tokio::test]
async fn a_settled_reservation_cannot_be_released() {
    let (service, budget) = service().await;
    let estimate = proto::Estimate { cost_nano_usd: 3 * DOLLAR, tokens: 100 };
    let reservation_id = check(&service, Some(estimate)).await.reservation_id;
    let against = Some(Settles::ReservationId(reservation_id.clone()));
    service.report(request(CHECK, report_of("s1", against, DOLLAR))).await.unwrap();
    let message = proto::ReleaseRequest { reservation_id, ..Default::default() };
    assert!(!release(&service, CHECK, message).await);
    let budget = service.engine.budget(&workspace(), budget).await.unwrap().unwrap();
    assert_eq!(service.engine.consumption(&budget).await.unwrap().cost, NanoUsd::new(DOLLAR));
}

#[tokio::test]
async fn calls_need_a_key_and_stay_in_its_workspace() {
    let (service, _) = service().await;
    let code = |status: Result<_, Status>| status.err().map(|status| status.code());
    let bare = Request::new(proto::CheckRequest::default());
    assert_eq!(code(service.check(bare).await), Some(Code::Unauthenticated));
    let wrong = request("wrong", proto::CheckRequest::default());
    assert_eq!(code(service.check(wrong).await), Some(Code::Unauthenticated));
    let other = proto::CheckRequest { workspace_id: "b".to_owned(), ..Default::default() };
    let strayed = service.check(request(CHECK, other.clone())).await;
    assert_eq!(code(strayed), Some(Code::PermissionDenied));
    let elsewhere = service.check(request(OPERATOR, other)).await.unwrap().into_inner();
    assert!(elsewhere.allowed && elsewhere.cost.is_none());
    let mut named = request(OPERATOR, proto::CheckRequest::default());
    named.metadata_mut().insert("x-bursar-workspace", WORKSPACE.parse().unwrap());
    assert!(service.check(named).await.unwrap().into_inner().cost.is_some());
}

#[tokio::test]
async fn bad_messages_name_their_field() {
    let (service, _) = service().await;
    let subject = |subject| Some(Settles::Subject(subject));
    let anybody = || subject(proto::Subject::default());
    let late = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    let too_many = proto::Usage { input_tokens: u64::MAX, ..Default::default() };
    let long = proto::Subject { provider: "x".repeat(257), ..Default::default() };
    for (message, says) in [
        (report_of("", anybody(), 1), "settlement_id is missing"),
        (report_of("s", None, 1), "give a reservation_id or a subject"),
        (report_of("s", anybody(), -1), "cost_nano_usd must not be negative"),
        (report_of("s", subject(long), 1), "subject.provider has 257 bytes"),
        (
            report_of("s", Some(Settles::ReservationId("r".to_owned())), 1),
            "reservation_id is not a reservation id",
        ),
        (
            proto::ReportRequest { at: late, ..report_of("s", anybody(), 1) },
            "at is not a valid timestamp",
        ),
        (
            proto::ReportRequest { usage: Some(too_many), ..report_of("s", anybody(), 1) },
            "usage.input_tokens must be at most 100000000",
        ),
        (
            proto::ReportRequest { cost_nano_usd: None, ..report_of("s", anybody(), 1) },
            "usage is missing",
        ),
    ] {
        let status = service.report(request(CHECK, message)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{says}");
        assert!(status.message().starts_with(says), "{}", status.message());
    }
    for (cost_nano_usd, tokens, says) in [
        (0, -1, "estimate.tokens must not be negative"),
        (0, i64::MAX, "estimate.tokens must be at most 200000000"),
        (i64::MAX, 0, "estimate.cost_nano_usd must be at most 1000000 dollars"),
    ] {
        let estimate = Some(proto::Estimate { cost_nano_usd, tokens });
        let message = proto::CheckRequest { estimate, ..Default::default() };
        let status = service.check(request(CHECK, message)).await.unwrap_err();
        assert_eq!(status.message(), says);
    }
}

#[tokio::test]
async fn a_report_that_is_too_large_to_count_and_its_correction_erase_nothing() {
    let (service, budget) = service().await;
    let anybody = Some(Settles::Subject(proto::Subject::default()));
    service.report(request(CHECK, report_of("real", anybody, 4 * DOLLAR))).await.unwrap();
    let held = check(&service, Some(proto::Estimate { cost_nano_usd: 1, tokens: 0 })).await;
    let against = Some(Settles::ReservationId(held.reservation_id));
    let huge = report_of("huge", against.clone(), i64::MAX);
    let refused = service.report(request(CHECK, huge)).await;
    let workspace_id = WORKSPACE.to_owned();
    let back =
        proto::ReportRequest { correction: true, workspace_id, ..report_of("back", against, 0) };
    service.report(request(OPERATOR, back)).await.unwrap();
    let budget = service.engine.budget(&workspace(), budget).await.unwrap().unwrap();
    let spent = service.engine.consumption(&budget).await.unwrap().cost;
    assert_eq!(spent, NanoUsd::new(4 * DOLLAR));
    assert_eq!(refused.unwrap_err().message(), "cost must be at most 1000000 dollars");
}
