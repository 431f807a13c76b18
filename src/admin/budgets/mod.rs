//! The budgets of a workspace over HTTP: list, create, read, update, delete, consumption and reset.

mod listing;
mod names;
mod patch;
mod view;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Code;

use super::Api;
use super::call::{Body, BudgetPath, Manage};
use super::fault::Fault;
use super::json::{Given, Object};
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::ids::{BudgetId, Id};
use crate::domain::subject::Scope;
use crate::store::StoreError;
use listing::Listing;
use patch::Patch;
use view::{BudgetView, ConsumptionView};

/// How often an update is tried that another replica's changes come before.
const UPDATE_TRIES: u32 = 8;

/// `{"budget": …}`.
#[derive(Serialize)]
pub(super) struct One {
    budget: BudgetView,
}

/// `{"object": "list", …}`.
#[derive(Serialize)]
pub(super) struct Many {
    object: &'static str,
    data: Vec<BudgetView>,
    has_more: bool,
}

pub(super) async fn list(
    State(api): State<Api>,
    Manage(mut call): Manage,
) -> Result<Json<Many>, Fault> {
    let listing = Listing::take(&mut call.params)?;
    let workspace = call.workspace(None)?;
    let page =
        api.engine.list_budgets(&workspace, &listing.filter, listing.cursor, listing.limit).await?;
    let mut data = Vec::with_capacity(page.budgets.len());
    for budget in &page.budgets {
        data.push(with_usage(&api, budget).await?);
    }
    Ok(Json(Many { object: "list", data, has_more: page.has_more }))
}

pub(super) async fn create(
    State(api): State<Api>,
    Manage(call): Manage,
    Body(body): Body,
) -> Result<Json<One>, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    let scope = created_scope(&mut object, &workspace)?;
    let patch = Patch::take(&mut object)?;
    object.finish()?;
    let mut budget = blank(&api, workspace, scope);
    patch.apply(&mut budget, api.engine.wall())?;
    let covered = format!("{} {}", budget.scope.kind, budget.scope.target.as_str());
    let created = api.engine.create_budget(budget).await;
    let created = created.map_err(|error| or_covered(error, &covered))?;
    Ok(Json(One { budget: BudgetView::written(&created) }))
}

pub(super) async fn read(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
) -> Result<Json<One>, Fault> {
    let budget = existing(&api, &call.workspace(None)?, id).await?;
    Ok(Json(One { budget: with_usage(&api, &budget).await? }))
}

pub(super) async fn update(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
    Body(body): Body,
) -> Result<Json<One>, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    refuse_match(object.take("match"))?;
    if let Given::Value(scope) = object.take("scope") {
        return Err(scope.fault("never changes; delete the budget and create another"));
    }
    let patch = Patch::take(&mut object)?;
    object.finish()?;
    let _one_at_a_time = api.updates.lock().await;
    let mut tries = UPDATE_TRIES;
    loop {
        tries = tries.saturating_sub(1);
        let read = existing(&api, &workspace, id).await?;
        let mut budget = read.clone();
        let now = api.engine.wall();
        patch.clone().apply(&mut budget, now)?;
        budget.updated_at = now;
        match api.engine.replace_budget(budget, Some(read)).await {
            Err(StoreError::Changed) if tries > 0 => {}
            updated => {
                let updated = updated.map_err(|error| or_unknown(error, id))?;
                return Ok(Json(One { budget: BudgetView::written(&updated) }));
            }
        }
    }
}

pub(super) async fn remove(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
) -> Result<Json<Value>, Fault> {
    let workspace = call.workspace(None)?;
    api.engine.delete_budget(&workspace, id).await.map_err(|error| or_unknown(error, id))?;
    Ok(Json(json!({})))
}

pub(super) async fn consumption(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
) -> Result<Json<ConsumptionView>, Fault> {
    let budget = existing(&api, &call.workspace(None)?, id).await?;
    let consumption = api.engine.consumption(&budget).await?;
    Ok(Json(ConsumptionView::new(&budget, &consumption)))
}

pub(super) async fn reset(
    State(api): State<Api>,
    Manage(call): Manage,
    BudgetPath(id): BudgetPath,
    Body(body): Body,
) -> Result<Json<One>, Fault> {
    let mut object = Object::parse(if body.is_empty() { "{}" } else { &body })?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    object.finish()?;
    let budget = existing(&api, &workspace, id).await?;
    api.engine.reset_budget(&budget).await.map_err(|error| or_unknown(error, id))?;
    Ok(Json(One { budget: BudgetView::written(&budget) }))
}

/// The scope that a new budget names.
fn created_scope(object: &mut Object<'_>, workspace: &Id) -> Result<Scope, Fault> {
    match (object.take("scope"), object.take("match")) {
        (Given::Value(_), Given::Value(cel)) => Err(cel.fault("and scope exclude each other")),
        (Given::Value(scope), Given::Omitted | Given::Null) => patch::scope(scope, workspace),
        (Given::Omitted | Given::Null, cel) => {
            refuse_match(cel)?;
            Err(Fault::invalid(format!("scope is missing; it has {}", names::SCOPE_FORMS)))
        }
    }
}

/// Expressions are part of the API, but nothing evaluates them: taking one would let a budget guard nothing.
fn refuse_match<T>(cel: Given<T>) -> Result<(), Fault> {
    match cel {
        Given::Omitted | Given::Null => Ok(()),
        Given::Value(_) => {
            Err(Fault::new(Code::Unimplemented, "match is not supported; give the budget a scope"))
        }
    }
}

/// A budget without a limit, for a patch to fill.
fn blank(api: &Api, workspace: Id, scope: Scope) -> Budget {
    let now = api.engine.wall();
    Budget {
        workspace,
        id: api.engine.new_budget_id(),
        generation: 0,
        resets: 0,
        scope,
        limits: Limits::default(),
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: now,
        updated_at: now,
    }
}

async fn existing(api: &Api, workspace: &Id, id: BudgetId) -> Result<Budget, Fault> {
    api.engine.budget(workspace, id).await?.ok_or_else(|| unknown(id))
}

async fn with_usage(api: &Api, budget: &Budget) -> Result<BudgetView, Fault> {
    let consumption = api.engine.consumption(budget).await?;
    Ok(BudgetView::read(budget, &consumption))
}

fn or_covered(error: StoreError, covered: &str) -> Fault {
    let StoreError::Conflict { existing } = &error else { return error.into() };
    Fault::exists(format!(
        "budget {existing} covers {covered} already; update that one, or delete it first"
    ))
}

/// Another call may have deleted the budget meanwhile.
fn or_unknown(error: StoreError, id: BudgetId) -> Fault {
    if matches!(error, StoreError::NotFound) { unknown(id) } else { error.into() }
}

fn unknown(id: BudgetId) -> Fault {
    Fault::not_found(format!("no budget {id} in this workspace"))
}
