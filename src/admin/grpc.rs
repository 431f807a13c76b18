//! The gRPC service `bursar.v1.Budgets`: protobuf in, protobuf out, over the same functions as the HTTP API.

use std::sync::Arc;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::access::{Caller, Right, Settings, WORKSPACE_HEADER, workspace_name};
use super::check::{self, Answer};
use super::fault::Fault;
use super::usage::{self, Recorded, Reported};
use crate::domain::decision::{DimensionInfo, Refusal};
use crate::domain::estimate::Estimate;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::{TOKENS_MAX, Usage};
use crate::engine::{Against, Engine, Released};
use proto::budgets_server::{Budgets, BudgetsServer};

/// The messages, the client and the server of `proto/bursar/v1/budgets.proto`.
#[expect(missing_docs, clippy::allow_attributes, clippy::too_many_lines, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("bursar.v1");
}

/// The largest message that is read. A report has a dozen ids of at most 256 bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The service, ready to be added to a tonic server.
pub fn service(engine: Engine, settings: Settings) -> BudgetsServer<BudgetsService> {
    BudgetsServer::new(BudgetsService { engine, settings: Arc::new(settings) })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Answers `bursar.v1.Budgets`.
pub struct BudgetsService {
    engine: Engine,
    settings: Arc<Settings>,
}

#[tonic::async_trait]
impl Budgets for BudgetsService {
    async fn check(
        &self,
        request: Request<proto::CheckRequest>,
    ) -> Result<Response<proto::CheckResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let workspace = self.workspace(&metadata, &message.workspace_id)?;
        let subject = subject(message.subject.unwrap_or_default(), workspace)?;
        let estimate = message.estimate.map(estimate).transpose()?;
        let answer = check::decide(&self.engine, self.settings.patience, subject, estimate).await?;
        Ok(Response::new(check_response(&answer)))
    }

    async fn report(
        &self,
        request: Request<proto::ReportRequest>,
    ) -> Result<Response<proto::ReportResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let caller = self.caller(&metadata)?;
        let workspace = workspace(&caller, &metadata, &message.workspace_id)?;
        let reported = reported(message, workspace)?;
        let recorded = usage::record(&self.engine, reported, caller.right()).await?;
        Ok(Response::new(match recorded {
            Recorded::Settled(settled) => proto::ReportResponse {
                recorded: Some(amounts(settled.settlement.amounts)),
                duplicate: !settled.first,
                overrun: Some(amounts(settled.overrun)),
                handed_over: false,
            },
            Recorded::HandedOver => {
                proto::ReportResponse { handed_over: true, ..proto::ReportResponse::default() }
            }
        }))
    }

    async fn release(
        &self,
        request: Request<proto::ReleaseRequest>,
    ) -> Result<Response<proto::ReleaseResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let workspace = self.workspace(&metadata, &message.workspace_id)?;
        let reservation = reservation(&message.reservation_id)?;
        let released = self.engine.release(&workspace, reservation).await.map_err(Fault::from)?;
        Ok(Response::new(proto::ReleaseResponse {
            released: released == Released::Here,
            handed_over: released == Released::HandedOver,
        }))
    }
}

impl BudgetsService {
    fn workspace(&self, metadata: &MetadataMap, named: &str) -> Result<Id, Fault> {
        workspace(&self.caller(metadata)?, metadata, named)
    }

    /// Who calls.
    fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Fault> {
        let authorization = metadata.get("authorization").map(|value| value.as_encoded_bytes());
        self.settings.caller(authorization, Right::Use)
    }
}

/// The workspace that a call is about.
fn workspace(caller: &Caller, metadata: &MetadataMap, named: &str) -> Result<Id, Fault> {
    let header = metadata.get(WORKSPACE_HEADER).map(|value| value.as_encoded_bytes());
    caller.workspace([header.map(workspace_name).transpose()?, id("workspace_id", named)?])
}

/// Reads an id; empty means not given, as protobuf has it.
fn id(name: &str, text: &str) -> Result<Option<Id>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    Id::parse(text).map(Some).map_err(|error| Fault::invalid(format!("{name} {error}")))
}

fn subject(message: proto::Subject, workspace: Id) -> Result<Subject, Fault> {
    Ok(Subject {
        workspace,
        project: id("subject.project_id", &message.project_id)?,
        identity: id("subject.identity_external_id", &message.identity_external_id)?,
        api_key: id("subject.api_key_id", &message.api_key_id)?,
        provider: id("subject.provider", &message.provider)?,
        model: id("subject.model_id", &message.model_id)?,
    })
}

fn estimate(message: proto::Estimate) -> Result<Estimate, Fault> {
    let cost = not_negative("estimate.cost_nano_usd", message.cost_nano_usd)?;
    let tokens = not_negative("estimate.tokens", message.tokens)?;
    // What nobody settles is charged in full, so it is bounded like a report.
    usage::check_cost("estimate.cost_nano_usd", NanoUsd::new(cost))?;
    if u64::try_from(tokens).is_ok_and(|tokens| tokens > 2 * TOKENS_MAX) {
        return Err(Fault::invalid(format!("estimate.tokens must be at most {}", 2 * TOKENS_MAX)));
    }
    let amounts = Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(tokens) };
    Ok(Estimate::of(amounts))
}

fn not_negative(name: &str, number: i64) -> Result<i64, Fault> {
    if number < 0 {
        Err(Fault::invalid(format!("{name} must not be negative")))
    } else {
        Ok(number)
    }
}

fn reported(message: proto::ReportRequest, workspace: Id) -> Result<Reported, Fault> {
    let settlement = id("settlement_id", &message.settlement_id)?;
    let cost = message.cost_nano_usd.map(|cost| not_negative("cost_nano_usd", cost));
    Ok(Reported {
        settlement: settlement.ok_or_else(|| Fault::invalid("settlement_id is missing"))?,
        against: against(message.against, &workspace)?,
        workspace,
        model: id("model", &message.model)?,
        usage: message.usage.map(usage_counts),
        cost: cost.transpose()?.map(NanoUsd::new),
        correction: usage::correction(message.correction),
        at: message.at.map(instant).transpose()?,
    })
}

fn against(
    message: Option<proto::report_request::Against>,
    workspace: &Id,
) -> Result<Against, Fault> {
    use proto::report_request::Against as Message;
    match message {
        None => Err(Fault::invalid("give a reservation_id or a subject")),
        Some(Message::Subject(message)) => {
            Ok(Against::Subject(Arc::new(subject(message, workspace.clone())?)))
        }
        Some(Message::ReservationId(text)) => reservation(&text).map(Against::Reservation),
    }
}

fn reservation(text: &str) -> Result<ReservationId, Fault> {
    ReservationId::parse(text).map_err(|error| Fault::invalid(format!("reservation_id {error}")))
}

fn usage_counts(message: proto::Usage) -> Usage {
    Usage {
        input: message.input_tokens,
        cached: message.cached_input_tokens,
        cache_write: message.cache_write_tokens,
        output: message.output_tokens,
        reasoning: message.reasoning_tokens,
        ..Usage::default()
    }
}

/// The instant of a timestamp between the years 1 and 9999, as protobuf defines them.
fn instant(at: prost_types::Timestamp) -> Result<Wall, Fault> {
    let instant = jiff::Timestamp::new(at.seconds, at.nanos);
    let instant = instant.map_err(|_| Fault::invalid("at is not a valid timestamp"))?;
    Ok(Wall::from_ms(instant.as_millisecond()))
}

fn check_response(answer: &Answer) -> proto::CheckResponse {
    let standing = check::standing(answer);
    let reservation = answer.as_ref().ok().and_then(|admission| admission.reservation);
    proto::CheckResponse {
        allowed: answer.is_ok(),
        reservation_id: reservation.map(|id| id.to_string()).unwrap_or_default(),
        rejection: answer.as_ref().err().map(rejection),
        cost: standing.cost.map(info),
        tokens: standing.tokens.map(info),
        requests: standing.requests.map(info),
    }
}

fn rejection(refusal: &Refusal) -> proto::Rejection {
    let gate = refusal.gate.as_ref();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    proto::Rejection {
        scope_kind: text(gate.map(|gate| gate.scope_kind.as_str())),
        scope_target_id: text(gate.map(|gate| gate.target.as_str())),
        dimension: text(gate.map(|gate| gate.dimension.as_str())),
        code: refusal.code.as_str().to_owned(),
        message: refusal.message(),
    }
}

fn info(info: DimensionInfo) -> proto::DimensionInfo {
    proto::DimensionInfo {
        limit: info.limit.get(),
        remaining: info.remaining.get(),
        reset_seconds: check::reset_seconds(info),
    }
}

fn amounts(amounts: Amounts) -> proto::Amounts {
    proto::Amounts { cost_nano_usd: amounts.cost.get(), tokens: amounts.tokens.get() }
}

#[cfg(test)]
mod tests;
