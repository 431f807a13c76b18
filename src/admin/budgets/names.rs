//! How the budgets API writes kinds of scope and periods.

use crate::domain::period::Period;
use crate::domain::subject::ScopeKind;

/// What clients of this family of APIs send for "not set".
pub(super) const PERIOD_UNSPECIFIED: &str = "BUDGET_PERIOD_UNSPECIFIED";
/// The same for kinds of scope.
pub(super) const SCOPE_KIND_UNSPECIFIED: &str = "BUDGET_SCOPE_KIND_UNSPECIFIED";

/// The periods.
pub(super) const PERIODS: [(&str, Period); 5] = [
    ("BUDGET_PERIOD_DAILY", Period::Daily),
    ("BUDGET_PERIOD_WEEKLY", Period::Weekly),
    ("BUDGET_PERIOD_MONTHLY", Period::Monthly),
    ("BUDGET_PERIOD_YEARLY", Period::Yearly),
    ("BUDGET_PERIOD_ONE_TIME", Period::OneTime),
];

/// The kinds of scope, as filters name them.
pub(super) const SCOPE_KINDS: [(&str, ScopeKind); 6] = [
    ("BUDGET_SCOPE_KIND_WORKSPACE", ScopeKind::Workspace),
    ("BUDGET_SCOPE_KIND_PROJECT", ScopeKind::Project),
    ("BUDGET_SCOPE_KIND_IDENTITY", ScopeKind::Identity),
    ("BUDGET_SCOPE_KIND_API_KEY", ScopeKind::ApiKey),
    ("BUDGET_SCOPE_KIND_PROVIDER", ScopeKind::Provider),
    ("BUDGET_SCOPE_KIND_MODEL", ScopeKind::Model),
];

/// What a scope may be, for complaints.
pub(super) const SCOPE_FORMS: &str = "exactly one of workspace {}, project {project_id}, identity {identity_external_id}, api_key {api_key_id}, provider {provider}, model {model_id}";

/// Under which name a kind of scope stands in `scope`.
pub(super) const fn scope_name(kind: ScopeKind) -> &'static str {
    match kind {
        ScopeKind::Workspace => "workspace",
        ScopeKind::Project => "project",
        ScopeKind::Identity => "identity",
        ScopeKind::ApiKey => "api_key",
        ScopeKind::Provider => "provider",
        ScopeKind::Model => "model",
    }
}

/// The field that names the target of a kind of scope. A workspace needs none: it is the caller's.
pub(super) const fn target_name(kind: ScopeKind) -> Option<&'static str> {
    match kind {
        ScopeKind::Workspace => None,
        ScopeKind::Project => Some("project_id"),
        ScopeKind::Identity => Some("identity_external_id"),
        ScopeKind::ApiKey => Some("api_key_id"),
        ScopeKind::Provider => Some("provider"),
        ScopeKind::Model => Some("model_id"),
    }
}

/// The name of a period.
pub(super) fn period_name(period: Period) -> &'static str {
    let named = PERIODS.into_iter().find(|(_, one)| *one == period);
    named.map_or(PERIOD_UNSPECIFIED, |(name, _)| name)
}
