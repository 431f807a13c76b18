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
        Ok(Self {
            filter,
            cursor: cursor(params)?,
            limit: params.whole("limit", LIMIT_DEFAULT, LIMIT_MAX)?,
        })
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

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::domain::period::Period;
    use crate::domain::subject::ScopeKind;

    fn listing(query: &str) -> Result<Listing, String> {
        let request = Request::get(format!("/v2/budgets?{query}")).body(()).unwrap();
        let read = |mut params: Params| {
            let listing = Listing::take(&mut params)?;
            params.finish().map(|()| listing)
        };
        Params::of(&request.into_parts().0)
            .and_then(read)
            .map_err(|fault| fault.message().to_owned())
    }

    #[test]
    fn a_bare_listing_has_the_defaults() {
        let listing = listing("").unwrap();
        assert_eq!(listing.filter, BudgetFilter::default());
        assert_eq!((listing.cursor, listing.limit), (Cursor::Start, 25));
    }

    #[test]
    fn every_parameter_is_read() {
        let id = BudgetId(7);
        let query = format!(
            "limit=200&starting_after={id}&scope_kind=BUDGET_SCOPE_KIND_IDENTITY&scope_kind=BUDGET_SCOPE_KIND_MODEL\
             &scope_target_id=a%2Fb&is_active=false&period=BUDGET_PERIOD_DAILY&period=BUDGET_PERIOD_UNSPECIFIED\
             &query=M%C3%BC&sort_by=BUDGET_SORT_FIELD_CREATED_AT"
        );
        let listing = listing(&query).unwrap();
        let expected = BudgetFilter {
            scope_kinds: vec![ScopeKind::Identity, ScopeKind::Model],
            target: Some("a/b".to_owned()),
            is_active: Some(false),
            periods: vec![Period::Daily],
            target_contains: Some("Mü".to_owned()),
            sort_by: SortBy::CreatedAt,
        };
        assert_eq!(listing.filter, expected);
        assert_eq!((listing.cursor, listing.limit), (Cursor::After(id), 200));
    }

    #[test]
    fn what_cannot_be_listed_is_named() {
        let both = format!("starting_after={0}&ending_before={0}", BudgetId(7));
        for (query, says) in [
            ("limit=0", "limit must be a number from 1 to 200"),
            ("limit=201", "limit must be a number from 1 to 200"),
            ("limit=ten", "limit must be a number from 1 to 200"),
            ("limit=1&limit=2", "limit is given twice"),
            ("starting_after=7", "starting_after is not a budget id"),
            (&both, "starting_after and ending_before exclude each other"),
            ("scope_kind=IDENTITY", "scope_kind must be one of BUDGET_SCOPE_KIND_WORKSPACE,"),
            ("period=daily", "period must be one of BUDGET_PERIOD_DAILY,"),
            ("is_active=1", "is_active must be true or false"),
            ("sort_by=name", "sort_by must be one of BUDGET_SORT_FIELD_UPDATED_AT,"),
            ("page=2", "page is not a known query parameter; known are "),
        ] {
            let said = listing(query).err().unwrap_or_else(|| panic!("{query} was accepted"));
            assert!(said.starts_with(says), "{query}: {said}");
        }
    }
}
