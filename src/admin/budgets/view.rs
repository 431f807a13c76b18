//! Budgets as the API shows them.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::names::{PERIOD_UNSPECIFIED, period_name, scope_name, target_name};
use crate::admin::number::{Time, Usd};
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::subject::{Scope, Target};
use crate::engine::Consumption;

/// A budget.
#[derive(Serialize)]
pub(super) struct BudgetView {
    budget_id: String,
    workspace_id: String,
    scope: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matches: Option<MatchView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<RateLimitView>,
    is_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    shadow: bool,
    when_unavailable: WhenUnavailableView,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    created_at: Time,
    updated_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageView>,
}

#[derive(Serialize)]
struct MatchView {
    cel: String,
}

#[derive(Serialize)]
struct LimitsView {
    period: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Usd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_limit: Option<i64>,
    time_zone: String,
    week_start: &'static str,
}

#[derive(Serialize)]
struct RateLimitView {
    requests_per_minute: u32,
}

#[derive(Serialize)]
struct UsageView {
    amount: Usd,
    tokens: i64,
    requests: u64,
}

/// What was settled in the current window.
#[derive(Serialize)]
pub(in crate::admin) struct ConsumptionView {
    budget_id: String,
    period: &'static str,
    period_date: String,
    cost: Usd,
    tokens: i64,
    requests_in_window: u64,
}

impl BudgetView {
    /// As reads show it.
    pub(super) fn read(budget: &Budget, consumption: &Consumption) -> Self {
        let usage = UsageView {
            amount: Usd(consumption.cost),
            tokens: consumption.tokens,
            requests: consumption.requests,
        };
        Self { usage: Some(usage), ..Self::written(budget) }
    }

    /// As writes show it: without usage.
    pub(super) fn written(budget: &Budget) -> Self {
        Self {
            budget_id: budget.id.to_string(),
            workspace_id: budget.workspace.to_string(),
            scope: scope(&budget.scope),
            matches: cel(&budget.scope).map(|cel| MatchView { cel }),
            limits: limits(&budget.limits),
            rate_limit: budget
                .limits
                .requests_per_minute
                .map(|requests_per_minute| RateLimitView { requests_per_minute }),
            is_active: budget.is_active,
            expires_at: budget.expires_at.map(Time),
            shadow: budget.shadow,
            when_unavailable: WhenUnavailableView(budget.when_unavailable),
            name: budget.name.as_ref().map(ToString::to_string),
            created_at: Time(budget.created_at),
            updated_at: Time(budget.updated_at),
            usage: None,
        }
    }
}

impl ConsumptionView {
    pub(super) fn new(budget: &Budget, consumption: &Consumption) -> Self {
        let schedule = budget.limits.schedule.as_ref();
        Self {
            budget_id: budget.id.to_string(),
            period: schedule.map_or(PERIOD_UNSPECIFIED, |schedule| period_name(schedule.period)),
            period_date: consumption.label.to_string(),
            cost: Usd(consumption.cost),
            tokens: consumption.tokens,
            requests_in_window: consumption.requests,
        }
    }
}

fn scope(scope: &Scope) -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let target = target_name(scope.kind).map(|name| (name, scope.target.as_str().to_owned()));
    BTreeMap::from([(scope_name(scope.kind), target.into_iter().collect())])
}

/// The expression that says the same as a scope: empty for a whole workspace. None says "each that has no budget of its
/// own".
fn cel(scope: &Scope) -> Option<String> {
    match &scope.target {
        Target::Each => None,
        Target::One(_) if target_name(scope.kind).is_none() => Some(String::new()),
        Target::One(id) => {
            let quoted = serde_json::Value::from(id.as_str());
            Some(format!("{} == {quoted}", scope_name(scope.kind)))
        }
    }
}

fn limits(limits: &Limits) -> Option<LimitsView> {
    let schedule = limits.schedule.as_ref()?;
    Some(LimitsView {
        period: period_name(schedule.period),
        amount: limits.cost.map(Usd),
        token_limit: limits.tokens.map(|tokens| tokens.get()),
        time_zone: schedule.zone.name().to_owned(),
        week_start: schedule.week_start.as_str(),
    })
}

struct WhenUnavailableView(WhenUnavailable);

impl Serialize for WhenUnavailableView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            WhenUnavailable::Deny => serializer.serialize_str("deny"),
            WhenUnavailable::Allow => serializer.serialize_str("allow"),
            WhenUnavailable::AllowUpTo(amount) => {
                BTreeMap::from([("allow_up_to", Usd(amount))]).serialize(serializer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::domain::ids::{BudgetId, Id};
    use crate::domain::money::{NanoUsd, Tokens};
    use crate::domain::period::{Period, Schedule, WeekStart, Zone};
    use crate::domain::subject::ScopeKind;
    use crate::domain::time::Wall;

    fn budget(kind: ScopeKind, target: &str) -> Budget {
        let schedule =
            Schedule { period: Period::Monthly, zone: Zone::utc(), week_start: WeekStart::Monday };
        Budget {
            workspace: Id::parse("ws_1").unwrap(),
            id: BudgetId(7),
            generation: 0,
            resets: 0,
            scope: Scope { kind, target: Target::from_id(Id::parse(target).unwrap()) },
            limits: Limits {
                cost: Some(NanoUsd::new(5_000_000_000)),
                tokens: Some(Tokens::new(1_000_000)),
                schedule: Some(schedule),
                requests_per_minute: Some(60),
            },
            is_active: true,
            expires_at: Some(Wall::from_ms(1_798_761_600_000)),
            shadow: false,
            when_unavailable: WhenUnavailable::AllowUpTo(NanoUsd::new(500_000_000)),
            name: None,
            created_at: Wall::from_ms(1_795_305_600_000),
            updated_at: Wall::from_ms(1_795_305_600_000),
        }
    }

    fn spent() -> Consumption {
        let label = Arc::from("2026-11");
        Consumption { label, cost: NanoUsd::new(18_400), tokens: 32, requests: 2 }
    }

    fn shown(view: &impl Serialize) -> Value {
        serde_json::from_str(&serde_json::to_string(view).unwrap()).unwrap()
    }

    #[test]
    fn a_budget_is_shown_as_the_contract_has_it() {
        let mut expected = json!({
            "budget_id": "00000000000000000000000007",
            "workspace_id": "ws_1",
            "scope": {"identity": {"identity_external_id": "a \"b\""}},
            "match": {"cel": "identity == \"a \\\"b\\\"\""},
            "limits": {"period": "BUDGET_PERIOD_MONTHLY", "amount": 5, "token_limit": 1_000_000,
                       "time_zone": "UTC", "week_start": "monday"},
            "rate_limit": {"requests_per_minute": 60},
            "is_active": true,
            "expires_at": "2027-01-01T00:00:00Z",
            "shadow": false,
            "when_unavailable": {"allow_up_to": 0.5},
            "created_at": "2026-11-22T00:00:00Z",
            "updated_at": "2026-11-22T00:00:00Z",
        });
        let budget = budget(ScopeKind::Identity, "a \"b\"");
        assert_eq!(shown(&BudgetView::written(&budget)), expected);
        expected["usage"] = json!({"amount": 0.000_018_4, "tokens": 32, "requests": 2});
        assert_eq!(shown(&BudgetView::read(&budget, &spent())), expected);
    }

    #[test]
    fn scopes_are_shown_with_the_expression_that_says_the_same() {
        let check = |kind, target, scope: Value, cel: Value| {
            let view = shown(&BudgetView::written(&budget(kind, target)));
            assert_eq!((&view["scope"], &view["match"]["cel"]), (&scope, &cel));
        };
        check(ScopeKind::Workspace, "ws_1", json!({"workspace": {}}), json!(""));
        check(
            ScopeKind::ApiKey,
            "k",
            json!({"api_key": {"api_key_id": "k"}}),
            json!("api_key == \"k\""),
        );
        check(ScopeKind::Project, "*", json!({"project": {"project_id": "*"}}), Value::Null);
    }

    #[test]
    fn consumption_is_shown_with_the_label_of_its_window() {
        let mut budget = budget(ScopeKind::Model, "gpt-4o");
        let expected = json!({"budget_id": "00000000000000000000000007", "period": "BUDGET_PERIOD_MONTHLY",
            "period_date": "2026-11", "cost": 0.000_018_4, "tokens": 32, "requests_in_window": 2});
        assert_eq!(shown(&ConsumptionView::new(&budget, &spent())), expected);
        budget.limits.schedule = None;
        let view = shown(&ConsumptionView::new(&budget, &spent()));
        assert_eq!(view["period"], "BUDGET_PERIOD_UNSPECIFIED");
    }
}
