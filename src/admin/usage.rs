//! What a response used, as a call: `POST /v2/usage` here, `Report` over gRPC. It is durable before the reply is sent.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::access::Right;
use super::call::{Body, Use};
use super::check::subject;
use super::fault::Fault;
use super::json::{Field, Object};
use super::number::{Time, Usd};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::money::{Amounts, NanoUsd};
use crate::domain::settlement::{Certainty, Settlement, reserved_prefix};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::{TOKENS_MAX, Usage};
use crate::engine::{Against, Correction, Engine, Report, ReportError, Settled, Used};

/// How far ahead of ours a reporter's clock may be. Usage further ahead would land in a window that has not begun.
const AHEAD_MAX: Duration = Duration::from_secs(300);

/// No report costs more than a million dollars. Totals saturate: a report that they cannot hold would, once it is corrected,
/// take what was spent before away with it.
const COST_MAX: NanoUsd = NanoUsd::new(1_000_000_000_000_000);

/// The parts of a report, as either wire gives them.
pub(super) struct Reported {
    pub(super) settlement: Id,
    pub(super) workspace: Id,
    pub(super) against: Against,
    pub(super) model: Option<Id>,
    pub(super) usage: Option<Usage>,
    pub(super) cost: Option<NanoUsd>,
    pub(super) correction: Correction,
    pub(super) at: Option<Wall>,
}

/// What became of a report.
pub(super) enum Recorded {
    /// It is on record.
    Settled(Box<Settled>),
    /// The replica that holds the reservation has been handed it, and records it.
    HandedOver,
}

/// Records a report of somebody with this right.
pub(super) async fn record(
    engine: &Engine,
    reported: Reported,
    right: Right,
) -> Result<Recorded, Fault> {
    // Whoever may replace what is exact can take back what was spent.
    if reported.correction == Correction::Yes && right < Right::Manage {
        return Err(Fault::forbidden("correction needs a key with the role manage or operator"));
    }
    let now = engine.wall();
    match engine.report(reported.checked(now)?).await {
        Ok(settled) => Ok(Recorded::Settled(Box::new(settled))),
        Err(ReportError::HandedOver) => Ok(Recorded::HandedOver),
        Err(error) => Err(error.into()),
    }
}

impl Reported {
    /// The report that these parts make, or why they make none.
    fn checked(mut self, now: Wall) -> Result<Report, Fault> {
        if let Some(at) = self.at {
            self.check_time(at, now)?;
        }
        if let Against::Subject(subject) = &mut self.against {
            share_model(&mut self.model, subject);
        }
        self.usage.as_ref().map_or(Ok(()), check_counts)?;
        self.cost.map_or(Ok(()), |cost| check_cost("cost", cost))?;
        if let Some(prefix) = reserved_prefix(&self.settlement) {
            return Err(Fault::invalid(format!(
                "settlement_id begins with \"{prefix}\", which is reserved; choose another"
            )));
        }
        Ok(Report {
            settlement: self.settlement,
            workspace: self.workspace,
            against: self.against,
            used: used(self.model, self.usage, self.cost)?,
            certainty: Certainty::Exact,
            correction: self.correction,
            at: self.at,
            origin: None,
        })
    }

    fn check_time(&self, at: Wall, now: Wall) -> Result<(), Fault> {
        if matches!(self.against, Against::Reservation(_)) {
            return Err(Fault::invalid(
                "at goes only with subject ids; a reservation settles into the window that it was made in",
            ));
        }
        if at > now.plus(AHEAD_MAX) {
            return Err(Fault::invalid("at lies in the future"));
        }
        Ok(())
    }
}

/// The model that answered and the model that was asked for are the same unless both are given.
fn share_model(model: &mut Option<Id>, subject: &mut Arc<Subject>) {
    match (&model, &subject.model) {
        (None, Some(asked)) => *model = Some(asked.clone()),
        (Some(answered), None) => Arc::make_mut(subject).model = Some(answered.clone()),
        (None, None) | (Some(_), Some(_)) => {}
    }
}

fn used(model: Option<Id>, usage: Option<Usage>, cost: Option<NanoUsd>) -> Result<Used, Fault> {
    match (usage, cost) {
        (usage, Some(cost)) => Ok(Used::Cost { cost, model, usage }),
        (Some(usage), None) => Ok(Used::Usage { model, usage }),
        (None, None) => {
            Err(Fault::invalid("usage is missing; give usage, cost (in US dollars), or both"))
        }
    }
}

/// Refuses an amount that is too large to be counted.
pub(super) fn check_cost(name: &str, cost: NanoUsd) -> Result<(), Fault> {
    if cost > COST_MAX {
        return Err(Fault::invalid(format!("{name} must be at most {COST_MAX} dollars")));
    }
    Ok(())
}

fn check_counts(usage: &Usage) -> Result<(), Fault> {
    let counts = [
        ("input_tokens", usage.input),
        ("output_tokens", usage.output),
        ("cached_input_tokens", usage.cached),
        ("cache_write_tokens", usage.cache_write),
        ("reasoning_tokens", usage.reasoning),
    ];
    if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count > TOKENS_MAX) {
        return Err(Fault::invalid(format!("usage.{name} must be at most {TOKENS_MAX}")));
    }
    if usage.cached + usage.cache_write > usage.input {
        return Err(Fault::invalid(
            "usage.cached_input_tokens and usage.cache_write_tokens are parts of usage.input_tokens and cannot exceed it",
        ));
    }
    if usage.reasoning > usage.output {
        return Err(Fault::invalid(
            "usage.reasoning_tokens is a part of usage.output_tokens and cannot exceed it",
        ));
    }
    Ok(())
}

pub(super) async fn http(
    State(api): State<Api>,
    Use(call): Use,
    Body(body): Body,
) -> Result<Response, Fault> {
    let right = call.right();
    let reported = read(Object::parse(&body)?, |named| call.workspace(named))?;
    let settlement_id = reported.settlement.to_string();
    Ok(match record(&api.engine, reported, right).await? {
        Recorded::Settled(settled) => Json(SettledView::from(&*settled)).into_response(),
        Recorded::HandedOver => {
            let view = HandedOverView { handed_over: true, settlement_id };
            (StatusCode::ACCEPTED, Json(view)).into_response()
        }
    })
}

/// Reads a report; `workspace` turns the one that the body names into the one that the call is about.
fn read(
    mut object: Object<'_>,
    workspace: impl FnOnce(Option<Id>) -> Result<Id, Fault>,
) -> Result<Reported, Fault> {
    let workspace = workspace(object.id("workspace_id")?)?;
    let settlement = object.id("settlement_id")?;
    let reservation = object.take("reservation_id").read(reservation)?.value();
    let subject = subject(&mut object, workspace.clone())?;
    let reported = Reported {
        settlement: settlement.ok_or_else(|| Fault::invalid("settlement_id is missing"))?,
        against: against(reservation, subject)?,
        workspace,
        model: object.id("model")?,
        usage: object.take("usage").read(usage)?.value(),
        cost: object.take("cost").read(Field::usd_or_text)?.value(),
        correction: correction(
            object.take("correction").read(Field::flag)?.value().unwrap_or(false),
        ),
        at: object.take("at").read(Field::time)?.value(),
    };
    object.finish()?;
    Ok(reported)
}

fn against(reservation: Option<ReservationId>, subject: Subject) -> Result<Against, Fault> {
    let Some(reservation) = reservation else { return Ok(Against::Subject(Arc::new(subject))) };
    if subject == Subject::of_workspace(subject.workspace.clone()) {
        return Ok(Against::Reservation(reservation));
    }
    Err(Fault::invalid(
        "reservation_id and the subject's ids exclude each other: a reservation knows its subject",
    ))
}

fn reservation(field: Field<'_>) -> Result<ReservationId, Fault> {
    ReservationId::parse(&field.text()?).map_err(|error| field.fault(error))
}

/// How a report says whether it corrects another.
pub(super) fn correction(flag: bool) -> Correction {
    if flag { Correction::Yes } else { Correction::No }
}

fn usage(field: Field<'_>) -> Result<Usage, Fault> {
    let mut object = field.object()?;
    let missing = |name| Fault::invalid(format!("usage.{name} is missing"));
    let usage = Usage {
        input: count(&mut object, "input_tokens")?.ok_or_else(|| missing("input_tokens"))?,
        output: count(&mut object, "output_tokens")?.ok_or_else(|| missing("output_tokens"))?,
        cached: count(&mut object, "cached_input_tokens")?.unwrap_or(0),
        cache_write: count(&mut object, "cache_write_tokens")?.unwrap_or(0),
        reasoning: count(&mut object, "reasoning_tokens")?.unwrap_or(0),
        ..Usage::default()
    };
    object.finish()?;
    Ok(usage)
}

fn count(object: &mut Object<'_>, name: &'static str) -> Result<Option<u64>, Fault> {
    Ok(object.take(name).read(|field| field.whole(TOKENS_MAX))?.value())
}

/// The reply of `POST /v2/usage`.
#[derive(Serialize)]
struct SettledView {
    settlement: SettlementView,
    duplicate: bool,
    overrun: AmountsView,
}

/// The reply with status 202: another replica holds the reservation and records the report. Sending it again gives its result.
#[derive(Serialize)]
struct HandedOverView {
    handed_over: bool,
    settlement_id: String,
}

#[derive(Serialize)]
struct AmountsView {
    cost: Usd,
    tokens: i64,
}

#[derive(Serialize)]
struct SettlementView {
    settlement_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation_id: Option<String>,
    workspace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_external_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    certainty: &'static str,
    cost: Usd,
    tokens: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<String>,
    at: Time,
}

#[derive(Serialize)]
struct UsageView {
    input_tokens: u64,
    output_tokens: u64,
    cached_input_tokens: u64,
    cache_write_tokens: u64,
    reasoning_tokens: u64,
}

impl From<&Settled> for SettledView {
    fn from(settled: &Settled) -> Self {
        Self {
            settlement: SettlementView::from(&settled.settlement),
            duplicate: !settled.first,
            overrun: AmountsView::from(settled.overrun),
        }
    }
}

impl From<Amounts> for AmountsView {
    fn from(amounts: Amounts) -> Self {
        Self { cost: Usd(amounts.cost), tokens: amounts.tokens.get() }
    }
}

impl From<&Settlement> for SettlementView {
    fn from(settlement: &Settlement) -> Self {
        let subject = &settlement.subject;
        let text = |id: &Option<Id>| id.as_ref().map(ToString::to_string);
        Self {
            settlement_id: settlement.id.to_string(),
            reservation_id: settlement.reservation.map(|id| id.to_string()),
            workspace_id: subject.workspace.to_string(),
            project_id: text(&subject.project),
            identity_external_id: text(&subject.identity),
            api_key_id: text(&subject.api_key),
            provider: text(&subject.provider),
            model_id: text(&subject.model),
            model: text(&settlement.model),
            certainty: settlement.certainty.as_str(),
            cost: Usd(settlement.amounts.cost),
            tokens: settlement.amounts.tokens.get(),
            usage: settlement.usage.map(UsageView::from),
            rates: settlement.rates.as_deref().map(ToOwned::to_owned),
            at: Time(settlement.at),
        }
    }
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input,
            output_tokens: usage.output,
            cached_input_tokens: usage.cached,
            cache_write_tokens: usage.cache_write,
            reasoning_tokens: usage.reasoning,
        }
    }
}

#[cfg(test)]
mod tests;
