//! The query of a listing.

use super::names::{PERIOD_UNSPECIFIED, PERIODS, SCOPE_KIND_UNSPECIFIED, SCOPE_KINDS};
use crate::admin::call::Params;
use crate::admin::fault::Fault;
use crate::admin::json::{accepted, named};
use crate::domain::ids::BudgetId;
use crate::store::{BudgetFilter, Cursor, SortBy};

/// How many budgets a page has unless the query says otherwise.
const LIMIT_DEFAULT: usize = 25;
/// How many it has at most, which bounds the reads that a page takes.
const LIMIT_MAX: usize = 200;

/// What a listing can be sorted by.
const SORT_FIELDS: [(&str, SortBy); 4] = [
    ("BUDGET_SORT_FIELD_UPDATED_AT", SortBy::UpdatedAt),
    ("BUDGET_SORT_FIELD_CREATED_AT", SortBy::CreatedAt),
    ("BUDGET_SORT_FIELD_EXPIRES_AT", SortBy::ExpiresAt),
    ("BUDGET_SORT_FIELD_UNSPECIFIED", SortBy::UpdatedAt),
];

/// Which budgets are asked for.
pub(super) struct Listing {
    pub(super) filter: BudgetFilter,
    pub(super) cursor: Cursor,
    pub(super) limit: usize,
}

impl Listing {
    /// Takes the parameters of a listing from a query.
    pub(super) fn take(params: &mut Params) -> Result<Self, Fault> {
        let kinds = many(params, "scope_kind", &SCOPE_KINDS, SCOPE_KIND_UNSPECIFIED)?;
        let periods = many(params, "period", &PERIODS, PERIOD_UNSPECIFIED)?;
        let filter = BudgetFilter {
            scope_kinds: kinds,
            target: params.one("scope_target_id")?,
            is_active: is_active(params)?,
            periods,
            target_contains: params.one("query")?,
            sort_by: sort_by(params)?,
        };
        Ok(Self { filter, cursor: cursor(params)?, limit: limit(params)? })
    }
}

fn many<T: Copy>(
    params: &mut Params,
    name: &'static str,
    names: &[(&str, T)],
    unspecified: &str,
) -> Result<Vec<T>, Fault> {
    let given = params.all(name).into_iter().filter(|value| value != unspecified);
    let read = |value: String| {
        named(&value, names).ok_or_else(|| Fault::invalid(format!("{name} {}", accepted(names))))
    };
    given.map(read).collect()
}

fn is_active(params: &mut Params) -> Result<Option<bool>, Fault> {
    match params.one("is_active")?.as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Fault::invalid("is_active must be true or false")),
    }
}

fn sort_by(params: &mut Params) -> Result<SortBy, Fault> {
    let Some(text) = params.one("sort_by")? else { return Ok(SortBy::default()) };
    named(&text, &SORT_FIELDS)
        .ok_or_else(|| Fault::invalid(format!("sort_by {}", accepted(&SORT_FIELDS))))
}

fn cursor(params: &mut Params) -> Result<Cursor, Fault> {
    let after = budget_id(params, "starting_after")?;
    let before = budget_id(params, "ending_before")?;
    match (after, before) {
        (None, None) => Ok(Cursor::Start),
        (Some(id), None) => Ok(Cursor::After(id)),
        (None, Some(id)) => Ok(Cursor::Before(id)),
        (Some(_), Some(_)) => {
            Err(Fault::invalid("starting_after and ending_before exclude each other"))
        }
    }
}

fn budget_id(params: &mut Params, name: &'static str) -> Result<Option<BudgetId>, Fault> {
    let text = params.one(name)?;
    let read = text.map(|text| BudgetId::parse(&text)).transpose();
    read.map_err(|error| Fault::invalid(format!("{name} {error}")))
}

fn limit(params: &mut Params) -> Result<usize, Fault> {
    let Some(text) = params.one("limit")? else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Fault::invalid(format!("limit must be a number from 1 to {LIMIT_MAX}")))
}
