//! What replicas that are gone had on lease, over HTTP: shown with the accounts of a budget, and given back.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Api;
use super::call::{Body, BudgetPath, Manage};
use super::fault::Fault;
use super::json::{Field, Object};
use super::number::Usd;
use crate::domain::budget::{Budget, Dimension};
use crate::domain::credits;
use crate::domain::ids::{BudgetId, Id};
use crate::domain::ledger::escrow::{Account, AccountKey};
use crate::domain::money::{NanoUsd, Units};

/// How many accounts are shown unless the query says otherwise.
const LIMIT_DEFAULT: usize = 100;
/// How many are shown at most: a `*` budget may have a million.
const LIMIT_MAX: usize = 1000;
/// The longest age that can be asked for: a year.
const AGE_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

/// `{"object": "list", …}`: the accounts with the most forfeited, then the most spent, first.
#[derive(Serialize)]
pub(super) struct Accounts {
    object: &'static str,
    data: Vec<AccountView>,
    has_more: bool,
}

/// Amounts in dollars, LLM tokens or requests, as the dimension says.
#[derive(Serialize)]
struct AccountView {
    dimension: &'static str,
    target_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    period_date: String,
    spent: Amount,
    lent: Amount,
    forfeited: Amount,
    overdraft: Amount,
    /// Replicas that have a lease.
    replicas: u32,
}

#[derive(Serialize)]
pub(super) struct Released {
    released: Vec<ReleasedView>,
}

#[derive(Serialize)]
struct ReleasedView {
    dimension: &'static str,
    target_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    period_date: String,
    amount: Amount,
}

pub(super) async fn accounts(
    State(api): State<Api>,
    Manage(mut call): Manage,
    BudgetPath(id): BudgetPath,
) -> Result<Json<Accounts>, Fault> {
    let limit = call.params.whole("limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let budget = existing(&api, &call.workspace(None)?, id).await?;
    let mut accounts = api.engine.accounts(&budget).await?;
    accounts.sort_by_key(|(key, account)| {
        let size = (account.forfeited, account.spent.minus(account.base));
        (std::cmp::Reverse(size), key.clone())
    });
    let has_more = accounts.len() > limit;
    let data = accounts.iter().take(limit).map(|(key, account)| AccountView::new(key, account));
    Ok(Json(Accounts { object: "list", data: data.collect(), has_more }))
}

pub(super) async fn release(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
    Body(body): Body,
) -> Result<Json<Released>, Fault> {
    let (workspace, age) = read(&api, &body, |named| call.workspace(named))?;
    let budget = existing(&api, &workspace, id).await?;
    released(&api, &workspace, budget.id, age).await
}

pub(super) async fn release_credits(
    State(api): State<Api>,
    Manage(call): Manage,
    Body(body): Body,
) -> Result<Json<Released>, Fault> {
    let (workspace, age) = read(&api, &body, |named| call.workspace(named))?;
    released(&api, &workspace, credits::BUDGET, age).await
}

async fn existing(api: &Api, workspace: &Id, id: BudgetId) -> Result<Budget, Fault> {
    let found = api.engine.budget(workspace, id).await?;
    found.ok_or_else(|| Fault::not_found(format!("budget {id} does not exist")))
}

/// The workspace of a call, and how long ago a lease must have run out.
fn read(
    api: &Api,
    body: &str,
    workspace: impl FnOnce(Option<Id>) -> Result<Id, Fault>,
) -> Result<(Id, Duration), Fault> {
    let mut object = Object::parse(if body.is_empty() { "{}" } else { body })?;
    let workspace = workspace(object.id("workspace_id")?)?;
    let kept = api.engine.forfeits_kept();
    let age = object.take("older_than_seconds").read(|field| age(field, kept))?.value();
    object.finish()?;
    Ok((workspace, age.unwrap_or(kept)))
}

fn age(field: Field<'_>, kept: Duration) -> Result<Duration, Fault> {
    let too_young = field.fault(format_args!(
        "must be at least {}: until then it may still be reported",
        kept.as_secs()
    ));
    let age = Duration::from_secs(field.whole(AGE_SECONDS_MAX)?);
    if age < kept { Err(too_young) } else { Ok(age) }
}

async fn released(
    api: &Api,
    workspace: &Id,
    budget: BudgetId,
    age: Duration,
) -> Result<Json<Released>, Fault> {
    let released = api.engine.release_forfeits(workspace, budget, age).await?;
    let released = released.iter().map(|(key, amount)| ReleasedView {
        dimension: key.dimension.as_str(),
        target_id: key.target.to_string(),
        period_date: key.window.to_string(),
        amount: Amount(key.dimension, *amount),
    });
    Ok(Json(Released { released: released.collect() }))
}

impl AccountView {
    fn new(key: &AccountKey, account: &Account) -> Self {
        let amount = |units| Amount(key.dimension, units);
        Self {
            dimension: key.dimension.as_str(),
            target_id: key.target.to_string(),
            period_date: key.window.to_string(),
            spent: amount(account.spent.minus(account.base)),
            lent: amount(account.leased),
            forfeited: amount(account.forfeited),
            overdraft: amount(account.overdraft),
            replicas: account.holders,
        }
    }
}

/// Dollars for cost, a whole number for the others.
struct Amount(Dimension, Units);

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Dimension::Cost => Usd(NanoUsd::new(self.1.get())).serialize(serializer),
            Dimension::Tokens | Dimension::Requests => serializer.serialize_i64(self.1.get()),
        }
    }
}
