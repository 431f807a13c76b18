//! What a request says about a budget, and what becomes of the budget. A new budget is a patch on a blank one, so that
//! creating and updating accept the same and refuse the same.

use super::names::{PERIOD_UNSPECIFIED, PERIODS, SCOPE_FORMS, scope_name, target_name};
use crate::admin::fault::Fault;
use crate::admin::json::{Field, Given, Object};
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::ids::Id;
use crate::domain::money::{NanoUsd, Tokens};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::subject::{Scope, ScopeKind, Target};
use crate::domain::time::Wall;

/// The largest token limit. JSON numbers are exact up to here in every language.
const TOKEN_LIMIT_MAX: u64 = (1 << 53) - 1;

/// Everything but the scope.
#[derive(Clone)]
pub(super) struct Patch {
    limits: Given<LimitsPatch>,
    rate_limit: Given<Given<u32>>,
    is_active: Given<bool>,
    expires_at: Given<Wall>,
    shadow: Given<bool>,
    when_unavailable: Given<WhenUnavailable>,
    name: Given<Id>,
}

#[derive(Clone)]
struct LimitsPatch {
    period: Given<Period>,
    amount: Given<NanoUsd>,
    token_limit: Given<Tokens>,
    time_zone: Given<Zone>,
    week_start: Given<WeekStart>,
}

impl Patch {
    /// Takes the fields of a patch from a request.
    pub(super) fn take(object: &mut Object<'_>) -> Result<Self, Fault> {
        Ok(Self {
            limits: object.take("limits").read(LimitsPatch::read)?,
            rate_limit: object.take("rate_limit").read(requests_per_minute)?,
            is_active: object.take("is_active").read(Field::flag)?,
            expires_at: expires_at(object)?,
            shadow: object.take("shadow").read(Field::flag)?,
            when_unavailable: object.take("when_unavailable").read(when_unavailable)?,
            name: object.take("name").read(Field::id)?,
        })
    }

    /// Changes the budget, or says why what would come of it is no budget; the budget is then not to be used.
    pub(super) fn apply(self, budget: &mut Budget, now: Wall) -> Result<(), Fault> {
        let touches_validity =
            self.is_active != Given::Omitted || self.expires_at != Given::Omitted;
        match self.limits {
            Given::Omitted => {}
            Given::Null => {
                let requests_per_minute = budget.limits.requests_per_minute;
                budget.limits = Limits { requests_per_minute, ..Limits::default() };
            }
            Given::Value(limits) => limits.apply(&mut budget.limits)?,
        }
        match self.rate_limit {
            Given::Omitted => {}
            Given::Null => budget.limits.requests_per_minute = None,
            Given::Value(limit) => limit.put(&mut budget.limits.requests_per_minute),
        }
        match self.is_active {
            Given::Omitted => {}
            Given::Null => budget.is_active = true,
            Given::Value(is_active) => budget.is_active = is_active,
        }
        self.expires_at.put(&mut budget.expires_at);
        self.shadow.put_or_default(&mut budget.shadow);
        self.when_unavailable.put_or_default(&mut budget.when_unavailable);
        self.name.put(&mut budget.name);
        check_limits(&budget.limits)?;
        if touches_validity { check_validity(budget, now) } else { Ok(()) }
    }
}

impl LimitsPatch {
    fn read(field: Field<'_>) -> Result<Self, Fault> {
        let mut object = field.object()?;
        let limits = Self {
            period: period(object.take("period"))?,
            amount: object.take("amount").read(Field::usd)?,
            token_limit: object.take("token_limit").read(tokens)?,
            time_zone: object.take("time_zone").read(zone)?,
            week_start: object.take("week_start").read(week_start)?,
        };
        object.finish()?;
        Ok(limits)
    }

    fn apply(self, limits: &mut Limits) -> Result<(), Fault> {
        self.amount.put(&mut limits.cost);
        self.token_limit.put(&mut limits.tokens);
        let calendar =
            matches!(self.time_zone, Given::Value(_)) || matches!(self.week_start, Given::Value(_));
        let (mut period, mut zone, mut week_start) = match limits.schedule.take() {
            Some(old) => (Some(old.period), old.zone, old.week_start),
            None => (None, Zone::utc(), WeekStart::default()),
        };
        self.period.put(&mut period);
        match self.time_zone {
            Given::Omitted => {}
            Given::Null => zone = Zone::utc(),
            Given::Value(given) => zone = given,
        }
        self.week_start.put_or_default(&mut week_start);
        limits.schedule = period.map(|period| Schedule { period, zone, week_start });
        if calendar && limits.schedule.is_none() {
            return Err(Fault::invalid(
                "limits.time_zone and limits.week_start need limits.period",
            ));
        }
        Ok(())
    }
}

/// Reads `scope`.
pub(super) fn scope(field: Field<'_>, workspace: &Id) -> Result<Scope, Fault> {
    let mut object = field.object()?;
    let mut found = None;
    for kind in ScopeKind::ALL {
        let Given::Value(field) = object.take(scope_name(kind)) else { continue };
        if found.is_some() {
            return Err(Fault::invalid(format!("scope must have {SCOPE_FORMS}")));
        }
        found = Some(Scope { kind, target: target(field, kind, workspace)? });
    }
    object.finish()?;
    found.ok_or_else(|| Fault::invalid(format!("scope must have {SCOPE_FORMS}")))
}

fn target(field: Field<'_>, kind: ScopeKind, workspace: &Id) -> Result<Target, Fault> {
    let mut object = field.object()?;
    let Some(name) = target_name(kind) else {
        object.finish()?;
        return Ok(Target::One(workspace.clone()));
    };
    let id = object.id(name)?;
    object.finish()?;
    let missing = || Fault::invalid(format!("scope.{}.{name} is missing", scope_name(kind)));
    id.map(Target::from_id).ok_or_else(missing)
}

fn period(given: Given<Field<'_>>) -> Result<Given<Period>, Fault> {
    let Given::Value(field) = given else { return given.read(|field| field.one_of(&PERIODS)) };
    if field.text()? == PERIOD_UNSPECIFIED {
        return Ok(Given::Omitted);
    }
    field.one_of(&PERIODS).map(Given::Value)
}

fn tokens(field: Field<'_>) -> Result<Tokens, Fault> {
    let number = field.whole(TOKEN_LIMIT_MAX)?;
    Ok(Tokens::new(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn zone(field: Field<'_>) -> Result<Zone, Fault> {
    Zone::parse(&field.text()?).map_err(|error| field.fault(error))
}

fn week_start(field: Field<'_>) -> Result<WeekStart, Fault> {
    field.one_of(&WeekStart::ALL.map(|day| (day.as_str(), day)))
}

fn requests_per_minute(field: Field<'_>) -> Result<Given<u32>, Fault> {
    let mut object = field.object()?;
    let limit = object
        .take("requests_per_minute")
        .read(|field| Ok(u32::try_from(field.whole(u64::from(u32::MAX))?).unwrap_or(u32::MAX)))?;
    object.finish()?;
    Ok(limit)
}

/// `clear_expires_at` is how clients say `null` that cannot.
fn expires_at(object: &mut Object<'_>) -> Result<Given<Wall>, Fault> {
    let expires_at = object.take("expires_at").read(Field::time)?;
    let clear = object.take("clear_expires_at").read(Field::flag)?.value().unwrap_or(false);
    match (clear, expires_at) {
        (true, Given::Value(_)) => {
            Err(Fault::invalid("expires_at and clear_expires_at exclude each other"))
        }
        (true, Given::Omitted | Given::Null) => Ok(Given::Null),
        (false, given) => Ok(given),
    }
}

fn when_unavailable(field: Field<'_>) -> Result<WhenUnavailable, Fault> {
    const FORMS: &str = "must be \"deny\", \"allow\" or {\"allow_up_to\": US dollars}";
    match field.text().as_deref() {
        Ok("deny") => return Ok(WhenUnavailable::Deny),
        Ok("allow") => return Ok(WhenUnavailable::Allow),
        Ok(_) => return Err(field.fault(FORMS)),
        Err(_) => {}
    }
    let wrong = field.fault(FORMS);
    let Ok(mut object) = field.object() else { return Err(wrong) };
    let amount = object.take("allow_up_to").read(Field::usd)?.value();
    object.finish()?;
    amount.map(WhenUnavailable::AllowUpTo).ok_or(wrong)
}

fn check_limits(limits: &Limits) -> Result<(), Fault> {
    let in_period = limits.cost.is_some() || limits.tokens.is_some();
    if in_period && limits.schedule.is_none() {
        return Err(Fault::invalid(
            "limits.period is missing; limits.amount and limits.token_limit need one",
        ));
    }
    if !in_period && limits.requests_per_minute.is_none() {
        return Err(Fault::invalid(
            "a budget needs at least one of limits.amount, limits.token_limit and rate_limit.requests_per_minute",
        ));
    }
    Ok(())
}

fn check_validity(budget: &Budget, now: Wall) -> Result<(), Fault> {
    match budget.expires_at {
        Some(end) if budget.is_active && end <= now => {
            Err(Fault::invalid("expires_at must lie in the future while is_active is true"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
