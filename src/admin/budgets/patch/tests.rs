//! Tables of patches and the budgets that come of them.

use super::*;
use crate::domain::ids::BudgetId;

const NOW: Wall = Wall::from_ms(1_795_305_600_000);

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn blank() -> Budget {
    Budget {
        workspace: id("ws"),
        id: BudgetId(1),
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Identity, target: Target::One(id("customer-1")) },
        limits: Limits::default(),
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn patched(mut budget: Budget, body: &str) -> Result<Budget, String> {
    let apply = |budget: &mut Budget| {
        let mut object = Object::parse(body)?;
        let patch = Patch::take(&mut object)?;
        object.finish()?;
        patch.apply(budget, NOW)
    };
    apply(&mut budget).map_err(|fault| fault.message().to_owned())?;
    Ok(budget)
}

fn full() -> Budget {
    let body = r#"{"limits": {"period": "BUDGET_PERIOD_MONTHLY", "amount": 5, "token_limit": 1000000.0,
        "time_zone": "Europe/Berlin", "week_start": "sunday"}, "rate_limit": {"requests_per_minute": 60},
        "is_active": true, "expires_at": "2027-01-01T00:00:00Z", "shadow": true,
        "when_unavailable": {"allow_up_to": 0.5}, "name": "Kunde Müller"}"#;
    patched(blank(), body).unwrap()
}

#[test]
fn every_field_is_read() {
    let budget = full();
    let schedule = budget.limits.schedule.clone().unwrap();
    assert_eq!(budget.limits.cost, Some(NanoUsd::new(5_000_000_000)));
    assert_eq!(budget.limits.tokens, Some(Tokens::new(1_000_000)));
    assert_eq!(budget.limits.requests_per_minute, Some(60));
    assert_eq!(schedule.period, Period::Monthly);
    assert_eq!(schedule.zone.name(), "Europe/Berlin");
    assert_eq!(schedule.week_start, WeekStart::Sunday);
    assert_eq!(budget.expires_at, Some(Wall::from_ms(1_798_761_600_000)));
    assert!(budget.is_active && budget.shadow);
    assert_eq!(budget.when_unavailable, WhenUnavailable::AllowUpTo(NanoUsd::new(500_000_000)));
    assert_eq!(budget.name, Some(id("Kunde Müller")));
}

#[test]
fn what_is_left_out_stays_in_nested_fields_too() {
    for body in [
        "{}",
        r#"{"limits": {}}"#,
        r#"{"rate_limit": {}}"#,
        r#"{"limits": {"amount": 5.0}}"#,
        r#"{"limits": {"period": "BUDGET_PERIOD_UNSPECIFIED"}}"#,
        r#"{"clear_expires_at": false}"#,
    ] {
        assert_eq!(patched(full(), body), Ok(full()), "{body}");
    }
    let raised = patched(full(), r#"{"limits": {"amount": 6}}"#).unwrap();
    assert_eq!(raised.limits.cost, Some(NanoUsd::new(6_000_000_000)));
    assert_eq!(Limits { cost: full().limits.cost, ..raised.limits }, full().limits);
}

#[test]
fn null_removes_or_brings_the_default_back() {
    let check = |body: &str, change: fn(&mut Budget)| {
        let mut expected = full();
        change(&mut expected);
        assert_eq!(patched(full(), body), Ok(expected), "{body}");
    };
    check(r#"{"limits": {"amount": null}}"#, |b| b.limits.cost = None);
    check(r#"{"limits": {"token_limit": null}}"#, |b| b.limits.tokens = None);
    check(r#"{"rate_limit": null}"#, |b| b.limits.requests_per_minute = None);
    check(r#"{"rate_limit": {"requests_per_minute": null}}"#, |b| {
        b.limits.requests_per_minute = None;
    });
    check(r#"{"limits": null}"#, |b| {
        b.limits = Limits { requests_per_minute: Some(60), ..Limits::default() };
    });
    check(r#"{"limits": {"amount": null, "token_limit": null, "period": null}}"#, |b| {
        b.limits = Limits { requests_per_minute: Some(60), ..Limits::default() };
    });
    check(r#"{"limits": {"time_zone": null, "week_start": null}}"#, |b| {
        let schedule = b.limits.schedule.as_mut().unwrap();
        (schedule.zone, schedule.week_start) = (Zone::utc(), WeekStart::Monday);
    });
    check(r#"{"expires_at": null}"#, |b| b.expires_at = None);
    check(r#"{"clear_expires_at": true}"#, |b| b.expires_at = None);
    check(r#"{"name": null}"#, |b| b.name = None);
    check(r#"{"shadow": null}"#, |b| b.shadow = false);
    check(r#"{"when_unavailable": null}"#, |b| b.when_unavailable = WhenUnavailable::Deny);
}

#[test]
fn zero_is_a_limit_that_blocks_all() {
    let body = r#"{"limits": {"period": "BUDGET_PERIOD_DAILY", "amount": 0, "token_limit": 0.0},
        "rate_limit": {"requests_per_minute": 0}}"#;
    let limits = patched(blank(), body).unwrap().limits;
    assert_eq!(limits.cost, Some(NanoUsd::ZERO));
    assert_eq!(limits.tokens, Some(Tokens::ZERO));
    assert_eq!(limits.requests_per_minute, Some(0));
}

#[test]
fn what_is_no_budget_is_refused_with_its_field() {
    let limits =
        |fields: &str| format!(r#"{{"limits": {{"period": "BUDGET_PERIOD_DAILY", {fields}}}}}"#);
    for (body, says) in [
        ("{}".to_owned(), "a budget needs at least one of limits.amount"),
        (r#"{"limits": {"amount": 5}}"#.to_owned(), "limits.period is missing"),
        (r#"{"limits": {"token_limit": 5}}"#.to_owned(), "limits.period is missing"),
        (limits(r#""amount": null"#), "a budget needs at least one of"),
        (limits(r#""amount": -1"#), "limits.amount must not be negative"),
        (limits(r#""amount": "NaN""#), "limits.amount is not a decimal number"),
        (limits(r#""amount": 1e300"#), "limits.amount is beyond 9200000000 dollars"),
        (limits(r#""amount": true"#), "limits.amount is not a decimal number"),
        (limits(r#""token_limit": 0.5"#), "limits.token_limit must be a whole number"),
        (limits(r#""token_limit": -5"#), "limits.token_limit must be a whole number"),
        (limits(r#""token_limit": 1e16"#), "limits.token_limit must be at most 9007199254740991"),
        (
            limits(r#""amount": 1, "time_zone": "Mars/Olympus""#),
            "limits.time_zone is not a time zone",
        ),
        (limits(r#""amount": 1, "time_zone": 5"#), "limits.time_zone must be a string"),
        (
            limits(r#""amount": 1, "week_start": "noday""#),
            "limits.week_start must be one of monday,",
        ),
        (
            limits(r#""amount": 1, "currency": "EUR""#),
            "limits.currency is not a known field; known are period, amount",
        ),
        (
            r#"{"limits": {"period": "monthly", "amount": 1}}"#.to_owned(),
            "limits.period must be one of BUDGET_PERIOD_DAILY",
        ),
        (
            r#"{"limits": {"time_zone": "UTC"}, "rate_limit": {"requests_per_minute": 1}}"#
                .to_owned(),
            "limits.time_zone and limits.week_start need limits.period",
        ),
        (
            r#"{"rate_limit": {"requests_per_minute": 4294967296}}"#.to_owned(),
            "rate_limit.requests_per_minute must be at most 4294967295",
        ),
        (
            r#"{"rate_limit": {"requests_per_minute": 0.5}}"#.to_owned(),
            "rate_limit.requests_per_minute must be a whole number",
        ),
        (r#"{"rate_limit": 60}"#.to_owned(), "rate_limit must be a JSON object"),
        (r#"{"is_active": "yes"}"#.to_owned(), "is_active must be true or false"),
        (r#"{"when_unavailable": "maybe"}"#.to_owned(), "when_unavailable must be \"deny\""),
        (r#"{"when_unavailable": {}}"#.to_owned(), "when_unavailable must be \"deny\""),
        (r#"{"when_unavailable": 5}"#.to_owned(), "when_unavailable must be \"deny\""),
        (
            r#"{"when_unavailable": {"allow_up_to": -5}}"#.to_owned(),
            "when_unavailable.allow_up_to must not be negative",
        ),
        (r#"{"name": ""}"#.to_owned(), "name is empty"),
        (
            r#"{"expires_at": "2030-01-01T00:00:00Z", "clear_expires_at": true}"#.to_owned(),
            "expires_at and clear_expires_at exclude",
        ),
    ] {
        let said = patched(blank(), &body).expect_err(&body);
        assert!(said.starts_with(says), "{body}: {said}");
    }
}

#[test]
fn an_active_budget_expires_in_the_future() {
    let late = |active| {
        format!(
            r#"{{"rate_limit": {{"requests_per_minute": 1}}, "is_active": {active}, "expires_at": "2026-11-22T00:00:00Z"}}"#
        )
    };
    assert!(patched(blank(), &late(true)).unwrap_err().starts_with("expires_at must lie"));
    let inactive = patched(blank(), &late(false)).unwrap();
    let revived = patched(inactive.clone(), r#"{"is_active": true}"#);
    assert!(revived.unwrap_err().starts_with("expires_at must lie"));
    assert!(patched(inactive, r#"{"is_active": true, "clear_expires_at": true}"#).is_ok());
    let expired = Budget { expires_at: Some(NOW), ..full() };
    assert!(patched(expired, r#"{"name": "old"}"#).is_ok(), "what is not touched is not judged");
}

#[test]
fn a_scope_has_one_kind_with_its_target() {
    let read = |body: &str| {
        let mut object = Object::parse(body).map_err(|fault| fault.message().to_owned())?;
        let Given::Value(field) = object.take("scope") else { panic!("{body}") };
        scope(field, &id("ws")).map_err(|fault| fault.message().to_owned())
    };
    for (body, kind, target) in [
        (r#"{"workspace": {}}"#, ScopeKind::Workspace, "ws"),
        (r#"{"project": {"project_id": "p"}}"#, ScopeKind::Project, "p"),
        (r#"{"identity": {"identity_external_id": "*"}}"#, ScopeKind::Identity, "*"),
        (r#"{"api_key": {"api_key_id": "k"}, "model": null}"#, ScopeKind::ApiKey, "k"),
        (r#"{"provider": {"provider": "openai"}}"#, ScopeKind::Provider, "openai"),
        (r#"{"model": {"model_id": "openai/gpt-4o"}}"#, ScopeKind::Model, "openai/gpt-4o"),
    ] {
        let expected = Scope { kind, target: Target::from_id(id(target)) };
        assert_eq!(read(&format!("{{\"scope\": {body}}}")), Ok(expected), "{body}");
    }
    for (body, says) in [
        ("{}", "scope must have exactly one of"),
        (r#"{"workspace": {}, "provider": {"provider": "x"}}"#, "scope must have exactly one of"),
        (r#"{"team": {}}"#, "scope.team is not a known field; known are workspace, project"),
        (r#"{"identity": {}}"#, "scope.identity.identity_external_id is missing"),
        (
            r#"{"identity": {"identity_external_id": ""}}"#,
            "scope.identity.identity_external_id is empty",
        ),
        (
            r#"{"identity": {"identity_external_id": "a\u0000"}}"#,
            "scope.identity.identity_external_id contains a control character",
        ),
        (
            r#"{"workspace": {"workspace_id": "ws"}}"#,
            "scope.workspace.workspace_id is not a known field",
        ),
        ("5", "scope must be a JSON object"),
    ] {
        let said = read(&format!("{{\"scope\": {body}}}")).unwrap_err();
        assert!(said.starts_with(says), "{body}: {said}");
    }
}
