//! The prepaid credits of a workspace over HTTP: grant, balance, transactions, statement, low-balance alert.

mod alert;
mod statement;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use ulid::Ulid;

use super::Api;
use super::call::{Body, Manage, Params};
use super::fault::Fault;
use super::json::{Field, Given, Object};
use super::number::{Time, Usd};
use crate::domain::credits::{Added, CreditGrant, Entry, EntryId, Holdings, OPEN_GRANTS_MAX};
use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

pub(super) use alert::{read as read_alert, remove as remove_alert, set as set_alert};
pub(super) use statement::read as statement;

/// Priorities go from 0, which is drawn first, to this.
const PRIORITY_MAX: u8 = 100;
/// The priority of a grant that names none.
const PRIORITY_DEFAULT: u8 = 50;
/// How many transactions a page has unless the query says otherwise.
const LIMIT_DEFAULT: usize = 25;
/// How many it has at most.
const LIMIT_MAX: usize = 200;

#[derive(Serialize)]
pub(super) struct Granted {
    grant: GrantView,
}

#[derive(Serialize)]
struct GrantView {
    id: String,
    amount: Usd,
    priority: u8,
    expires_at: Option<Time>,
    reason: String,
    created_at: Time,
}

#[derive(Serialize)]
struct OpenGrantView {
    #[serde(flatten)]
    grant: GrantView,
    remaining: Usd,
}

#[derive(Serialize)]
pub(super) struct CreditsView {
    workspace_id: String,
    /// Whether there is a gate: not before the first grant.
    enforced: bool,
    balance: Usd,
    /// The balance without what is lent to replicas for requests in flight and to come.
    available: Usd,
    /// Lent to replicas.
    lent: Usd,
    /// Lost with replicas that are gone, until it is reported or released.
    forfeited: Usd,
    grants: Vec<OpenGrantView>,
}

#[derive(Serialize)]
struct EntryView {
    id: String,
    kind: &'static str,
    amount: Usd,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    recorded_at: Time,
}

#[derive(Serialize)]
pub(super) struct Entries {
    object: &'static str,
    data: Vec<EntryView>,
    has_more: bool,
}

pub(super) async fn grant(
    State(api): State<Api>,
    Manage(call): Manage,
    Body(body): Body,
) -> Result<Json<Granted>, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    let grant = read_grant(&mut object, api.engine.wall())?;
    object.finish()?;
    let grant = match api.engine.add_credit(&workspace, &grant).await? {
        Added::New(_) => grant,
        Added::Before(first) => first,
        Added::Differs => {
            return Err(Fault::exists(format!(
                "grant {} exists already with other contents; use another id",
                grant.id
            )));
        }
        Added::Expired => return Err(Fault::invalid("expires_at must be in the future")),
        Added::Full => {
            return Err(Fault::invalid(format!(
                "the workspace has no room for this grant: at most {OPEN_GRANTS_MAX} may have something left, and all together at most 9200000000 dollars"
            )));
        }
    };
    Ok(Json(Granted { grant: GrantView::from(&grant) }))
}

pub(super) async fn read(
    State(api): State<Api>,
    Manage(call): Manage,
) -> Result<Json<CreditsView>, Fault> {
    let workspace = call.workspace(None)?;
    let holdings = api.engine.credits(&workspace).await?;
    let enforced = holdings.is_some();
    Ok(Json(CreditsView::new(&workspace, enforced, &holdings.unwrap_or_default())))
}

pub(super) async fn transactions(
    State(api): State<Api>,
    Manage(mut call): Manage,
) -> Result<Json<Entries>, Fault> {
    let after = cursor(&mut call.params)?;
    let limit = call.params.whole("limit", LIMIT_DEFAULT, LIMIT_MAX)?;
    let workspace = call.workspace(None)?;
    let page = api.engine.credit_entries(&workspace, after.as_ref(), limit).await?;
    let data = page.entries.iter().map(EntryView::from).collect();
    Ok(Json(Entries { object: "list", data, has_more: page.has_more }))
}

/// The grant that a body asks for.
fn read_grant(object: &mut Object<'_>, now: Wall) -> Result<CreditGrant, Fault> {
    let id = object.id("id")?;
    let amount = required("amount", object.take("amount").read(amount)?)?;
    let priority = object.take("priority").read(priority)?.value();
    let expires_at = object.take("expires_at").read(Field::time)?.value();
    let reason = required("reason", object.take("reason").read(Field::id)?)?;
    Ok(CreditGrant {
        id: id.map_or_else(|| fresh_id(now), Ok)?,
        amount,
        priority: priority.unwrap_or(PRIORITY_DEFAULT),
        expires_at,
        reason,
        created_at: now,
    })
}

fn amount(field: Field<'_>) -> Result<NanoUsd, Fault> {
    let nothing = field.fault("must be more than zero");
    match field.usd_or_text()? {
        NanoUsd::ZERO => Err(nothing),
        amount => Ok(amount),
    }
}

fn priority(field: Field<'_>) -> Result<u8, Fault> {
    let too_large = field.fault(format_args!("must be at most {PRIORITY_MAX}"));
    u8::try_from(field.whole(PRIORITY_MAX.into())?).map_err(|_| too_large)
}

/// The value of a field that must be there.
fn required<T>(name: &str, given: Given<T>) -> Result<T, Fault> {
    given.value().ok_or_else(|| Fault::invalid(format!("{name} is missing")))
}

fn cursor(params: &mut Params) -> Result<Option<EntryId>, Fault> {
    let Some(text) = params.one("starting_after")? else { return Ok(None) };
    let wrong = || Fault::invalid("starting_after must be the id of a transaction");
    EntryId::parse(&text).map(Some).ok_or_else(wrong)
}

/// An id for a grant whose caller did not choose one: repeating the call then grants twice.
fn fresh_id(now: Wall) -> Result<Id, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Fault::internal(&error))?;
    let ms = u64::try_from(now.as_ms()).unwrap_or(0);
    let ulid = Ulid::from_parts(ms, u128::from_ne_bytes(random)).to_string();
    Id::parse(&ulid).map_err(|error| Fault::internal(&error))
}

impl CreditsView {
    fn new(workspace: &Id, enforced: bool, holdings: &Holdings) -> Self {
        let open = holdings.credits.open.iter().filter(|open| open.left > NanoUsd::ZERO);
        let grants = open.map(|open| OpenGrantView {
            grant: GrantView::from(&open.grant),
            remaining: Usd(open.left),
        });
        Self {
            workspace_id: workspace.to_string(),
            enforced,
            balance: Usd(holdings.balance()),
            available: Usd(holdings.free()),
            lent: Usd(NanoUsd::new(holdings.account.leased.get())),
            forfeited: Usd(NanoUsd::new(holdings.account.forfeited.get())),
            grants: grants.collect(),
        }
    }
}

impl From<&CreditGrant> for GrantView {
    fn from(grant: &CreditGrant) -> Self {
        Self {
            id: grant.id.to_string(),
            amount: Usd(grant.amount),
            priority: grant.priority,
            expires_at: grant.expires_at.map(Time),
            reason: grant.reason.to_string(),
            created_at: Time(grant.created_at),
        }
    }
}

impl From<&Entry> for EntryView {
    fn from(entry: &Entry) -> Self {
        let text = |id: &Option<Id>| id.as_ref().map(ToString::to_string);
        Self {
            id: entry.id.to_string(),
            kind: entry.id.kind.as_str(),
            amount: Usd(entry.amount),
            reason: entry.reason.to_string(),
            project_id: text(&entry.spender.project),
            api_key_id: text(&entry.spender.api_key),
            model: text(&entry.spender.model),
            recorded_at: Time(entry.at),
        }
    }
}
