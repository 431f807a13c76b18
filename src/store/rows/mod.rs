//! The shapes of the rows that SQL stores have in common, and how they turn into the domain's values and back, by hand.

mod credits;

use std::fmt;
use std::sync::Arc;

use sqlx::FromRow;

use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::ApiKey;
use crate::domain::ledger::escrow::{Account, AccountKey, Lease, LeaseState};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::settlement::{Certainty, Charge, Road, Settlement};
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::store::{Cursor, Page, StoreError};

pub(in crate::store) use self::credits::{AlertRow, EntryRow, GrantRow, SpenderRow};

#[derive(FromRow)]
pub(in crate::store) struct BudgetRow {
    workspace: String,
    id: String,
    generation: i64,
    resets: i64,
    scope_kind: String,
    target: String,
    #[sqlx(flatten)]
    limits: LimitsRow,
    period: Option<String>,
    zone: Option<String>,
    week_start: Option<String>,
    is_active: bool,
    expires_at_ms: Option<i64>,
    shadow: bool,
    when_unavailable: String,
    unavailable_cost: Option<i64>,
    name: Option<String>,
    created_at_ms: i64,
    updated_at_ms: i64,
}

/// The limits of a budget without its schedule.
#[derive(FromRow)]
pub(in crate::store) struct LimitsRow {
    cost_limit: Option<i64>,
    tokens_limit: Option<i64>,
    requests_per_minute: Option<i64>,
}

#[derive(FromRow)]
pub(in crate::store) struct AccountKeyRow {
    workspace: String,
    budget: String,
    generation: i64,
    dimension: String,
    target: String,
    window_label: String,
}

#[derive(FromRow)]
pub(in crate::store) struct AccountRow {
    spent: i64,
    base: i64,
    leased: i64,
    forfeited: i64,
    overdraft: i64,
    holders: i64,
    recalls: i64,
}

#[derive(FromRow)]
pub(in crate::store) struct LeaseRow {
    seq: i64,
    granted: i64,
    consumed: i64,
    returned: i64,
    overrun: i64,
    state: String,
    expires_at_ms: i64,
}

/// A lease with its whole key.
#[derive(FromRow)]
pub(in crate::store) struct KeyedLeaseRow {
    #[sqlx(flatten)]
    account: AccountKeyRow,
    holder: String,
    epoch: i64,
    #[sqlx(flatten)]
    lease: LeaseRow,
}

#[derive(FromRow)]
pub(in crate::store) struct SettlementRow {
    workspace: String,
    id: String,
    project: Option<String>,
    identity: Option<String>,
    api_key: Option<String>,
    provider: Option<String>,
    subject_model: Option<String>,
    reservation: Option<String>,
    certainty: String,
    cost: i64,
    tokens: i64,
    input: Option<i64>,
    cached: Option<i64>,
    cache_write: Option<i64>,
    cache_write_1h: Option<i64>,
    output: Option<i64>,
    reasoning: Option<i64>,
    model: Option<String>,
    rates: Option<String>,
    at_ms: i64,
}

#[derive(FromRow)]
pub(in crate::store) struct ChargeRow {
    #[sqlx(flatten)]
    account: AccountKeyRow,
    amount: i64,
    road: String,
}

#[derive(FromRow)]
pub(in crate::store) struct ApiKeyRow {
    workspace: String,
    id: String,
    project: Option<String>,
    name: String,
    hash: Vec<u8>,
    created_at_ms: i64,
}

/// The page of a listing: `rows` are in the order in which they are paged through, one more than fit where there is more.
pub(in crate::store) fn page_of(
    rows: Vec<BudgetRow>,
    cursor: Cursor,
    limit: usize,
) -> Result<Page, StoreError> {
    let has_more = rows.len() > limit;
    let mut budgets =
        rows.into_iter().take(limit).map(Budget::try_from).collect::<Result<Vec<_>, _>>()?;
    if matches!(cursor, Cursor::Before(_)) {
        budgets.reverse();
    }
    Ok(Page { budgets, has_more })
}

impl TryFrom<BudgetRow> for Budget {
    type Error = StoreError;

    fn try_from(row: BudgetRow) -> Result<Self, StoreError> {
        let schedule = schedule(row.period, row.zone, row.week_start)?;
        let when_unavailable = match (row.when_unavailable.as_str(), row.unavailable_cost) {
            ("deny", _) => WhenUnavailable::Deny,
            ("allow", _) => WhenUnavailable::Allow,
            ("allow_up_to", Some(cost)) => WhenUnavailable::AllowUpTo(NanoUsd::new(cost)),
            (other, _) => return Err(unreadable("when_unavailable", other, "is not known")),
        };
        let target = Target::from_id(id(&row.target)?);
        Ok(Self {
            workspace: id(&row.workspace)?,
            id: parsed("budget id", &row.id, BudgetId::parse)?,
            generation: number("generation", row.generation)?,
            resets: number("number of resets", row.resets)?,
            scope: Scope {
                kind: named("scope kind", &row.scope_kind, ScopeKind::from_name)?,
                target,
            },
            limits: Limits { schedule, ..row.limits.into() },
            is_active: row.is_active,
            expires_at: row.expires_at_ms.map(Wall::from_ms),
            shadow: row.shadow,
            when_unavailable,
            name: optional_id(row.name.as_deref())?,
            created_at: Wall::from_ms(row.created_at_ms),
            updated_at: Wall::from_ms(row.updated_at_ms),
        })
    }
}

impl From<LimitsRow> for Limits {
    fn from(row: LimitsRow) -> Self {
        Self {
            cost: row.cost_limit.map(NanoUsd::new),
            tokens: row.tokens_limit.map(Tokens::new),
            schedule: None,
            requests_per_minute: row.requests_per_minute.map(clamped),
        }
    }
}

impl TryFrom<AccountKeyRow> for AccountKey {
    type Error = StoreError;

    fn try_from(row: AccountKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            workspace: id(&row.workspace)?,
            budget: parsed("budget id", &row.budget, BudgetId::parse)?,
            generation: number("generation", row.generation)?,
            dimension: named("dimension", &row.dimension, Dimension::from_name)?,
            target: id(&row.target)?,
            window: Arc::from(row.window_label),
        })
    }
}

impl From<AccountRow> for Account {
    fn from(row: AccountRow) -> Self {
        Self {
            spent: Units::new(row.spent),
            base: Units::new(row.base),
            leased: Units::new(row.leased),
            forfeited: Units::new(row.forfeited),
            overdraft: Units::new(row.overdraft),
            holders: clamped(row.holders),
            recalls: clamped(row.recalls),
        }
    }
}

impl TryFrom<LeaseRow> for Lease {
    type Error = StoreError;

    fn try_from(row: LeaseRow) -> Result<Self, StoreError> {
        Ok(Self {
            seq: number("sequence number", row.seq)?,
            granted: Units::new(row.granted),
            consumed: Units::new(row.consumed),
            returned: Units::new(row.returned),
            overrun: Units::new(row.overrun),
            state: named("lease state", &row.state, state_from_name)?,
            expires_at: Wall::from_ms(row.expires_at_ms),
        })
    }
}

impl TryFrom<KeyedLeaseRow> for ((AccountKey, HolderId, u32), Lease) {
    type Error = StoreError;

    fn try_from(row: KeyedLeaseRow) -> Result<Self, StoreError> {
        let holder = parsed("holder id", &row.holder, HolderId::parse)?;
        let epoch = number("epoch", row.epoch)?;
        Ok(((row.account.try_into()?, holder, epoch), row.lease.try_into()?))
    }
}

impl SettlementRow {
    /// The workspace and the id.
    pub(in crate::store) fn key(&self) -> (&str, &str) {
        (&self.workspace, &self.id)
    }

    /// The settlement with its charges, in the order of their accounts.
    pub(in crate::store) fn into_settlement(
        self,
        charges: Vec<ChargeRow>,
    ) -> Result<Settlement, StoreError> {
        let charges = charges.into_iter().map(Charge::try_from);
        let mut charges = charges.collect::<Result<Vec<_>, _>>()?;
        charges.sort_by(|a, b| a.account.cmp(&b.account));
        let subject = Subject {
            workspace: id(&self.workspace)?,
            project: optional_id(self.project.as_deref())?,
            identity: optional_id(self.identity.as_deref())?,
            api_key: optional_id(self.api_key.as_deref())?,
            provider: optional_id(self.provider.as_deref())?,
            model: optional_id(self.subject_model.as_deref())?,
        };
        let reservation = self.reservation.as_deref();
        Ok(Settlement {
            id: id(&self.id)?,
            subject: Arc::new(subject),
            reservation: reservation
                .map(|text| parsed("reservation id", text, ReservationId::parse))
                .transpose()?,
            certainty: named("certainty", &self.certainty, Certainty::from_name)?,
            amounts: Amounts { cost: NanoUsd::new(self.cost), tokens: Tokens::new(self.tokens) },
            usage: self.usage(),
            model: optional_id(self.model.as_deref())?,
            rates: self.rates.map(Arc::from),
            at: Wall::from_ms(self.at_ms),
            charges: charges.into(),
        })
    }

    fn usage(&self) -> Option<Usage> {
        let count = |column: Option<i64>| column.and_then(|count| u64::try_from(count).ok());
        Some(Usage {
            input: count(self.input)?,
            cached: count(self.cached)?,
            cache_write: count(self.cache_write)?,
            cache_write_1h: count(self.cache_write_1h)?,
            output: count(self.output)?,
            reasoning: count(self.reasoning)?,
        })
    }
}

impl TryFrom<ChargeRow> for Charge {
    type Error = StoreError;

    fn try_from(row: ChargeRow) -> Result<Self, StoreError> {
        Ok(Self {
            account: row.account.try_into()?,
            amount: Units::new(row.amount),
            road: named("road", &row.road, road_from_name)?,
        })
    }
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = StoreError;

    fn try_from(row: ApiKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            hash: row
                .hash
                .try_into()
                .map_err(|_| unreadable("hash of key", &row.id, "has not 32 bytes"))?,
            id: id(&row.id)?,
            workspace: id(&row.workspace)?,
            project: optional_id(row.project.as_deref())?,
            name: id(&row.name)?,
            created_at: Wall::from_ms(row.created_at_ms),
        })
    }
}

/// `deny`, `allow` or `allow_up_to`, and the amount of the last.
pub(in crate::store) fn when_unavailable_columns(
    policy: WhenUnavailable,
) -> (&'static str, Option<i64>) {
    match policy {
        WhenUnavailable::Deny => ("deny", None),
        WhenUnavailable::Allow => ("allow", None),
        WhenUnavailable::AllowUpTo(cost) => ("allow_up_to", Some(cost.get())),
    }
}

pub(in crate::store) const fn state_name(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Expired => "expired",
        LeaseState::Closed => "closed",
    }
}

pub(in crate::store) const fn road_name(road: Road) -> &'static str {
    match road {
        Road::Lease => "lease",
        Road::Direct => "direct",
    }
}

fn state_from_name(name: &str) -> Option<LeaseState> {
    [LeaseState::Active, LeaseState::Expired, LeaseState::Closed]
        .into_iter()
        .find(|s| state_name(*s) == name)
}

fn road_from_name(name: &str) -> Option<Road> {
    [Road::Lease, Road::Direct].into_iter().find(|road| road_name(*road) == name)
}

fn schedule(
    period: Option<String>,
    zone: Option<String>,
    week_start: Option<String>,
) -> Result<Option<Schedule>, StoreError> {
    let (Some(period), Some(zone), Some(week_start)) = (period, zone, week_start) else {
        return Ok(None);
    };
    Ok(Some(Schedule {
        period: named("period", &period, Period::from_name)?,
        zone: parsed("time zone", &zone, Zone::parse)?,
        week_start: named("week start", &week_start, WeekStart::from_name)?,
    }))
}

pub(in crate::store) fn id(text: &str) -> Result<Id, StoreError> {
    parsed("id", text, Id::parse)
}

pub(in crate::store) fn optional_id(text: Option<&str>) -> Result<Option<Id>, StoreError> {
    text.map(id).transpose()
}

/// A row whose text or number means nothing to us.
pub(in crate::store) fn unreadable(
    what: &str,
    value: impl fmt::Display,
    why: impl fmt::Display,
) -> StoreError {
    StoreError::Corrupt(format!("{what} {value:.300} {why}"))
}

/// A number that only grows by one at a time.
pub(in crate::store) fn number(what: &str, value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| unreadable(what, value, "is out of range"))
}

/// A count that the columns themselves keep from being negative.
fn clamped(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

pub(in crate::store) fn parsed<T, E: fmt::Display>(
    what: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    parse(text).map_err(|why| unreadable(what, text, why))
}

pub(in crate::store) fn named<T>(
    what: &str,
    name: &str,
    from_name: impl Fn(&str) -> Option<T>,
) -> Result<T, StoreError> {
    from_name(name).ok_or_else(|| unreadable(what, name, "is not known"))
}
