//! Envoy's ext_authz service: reads a request, maps it, estimates it, asks the engine and answers.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use hyper::header::{CONTENT_ENCODING, HeaderName};
use smallvec::SmallVec;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::domain::decision::{Decision, Refusal, RefusalCode};
use crate::domain::estimate::{Appraisal, Body, Priced, Reasoning, RequestFacts, appraise};
use crate::domain::ids::BudgetId;
use crate::domain::keys::ApiKey;
use crate::domain::subject::Subject;
use crate::domain::usage_chunk;
use crate::domain::wording::{self, BUDGET_UNAVAILABLE};
use crate::engine::{Ask, Engine, Held};
use crate::envoy::attributes::Attributes;
use crate::envoy::handover::Handover;
use crate::envoy::keys::Maker;
use crate::envoy::mapping::Rejection;
use crate::envoy::packed::Unpacked;
use crate::envoy::{Settings, reply};
use crate::telemetry::Metrics;

/// What is kept of Envoy's deadline for the way back: an answer that arrives late is no answer.
const WAY_BACK: Duration = Duration::from_millis(5);

/// The ext_authz service.
pub struct Authorizer {
    engine: Engine,
    settings: Settings,
    metrics: Metrics,
    untrusted_headers: Vec<String>,
}

/// A request that was put to the engine.
struct Asked<'a> {
    subject: Arc<Subject>,
    held: Held,
    /// The input that it was estimated at.
    input_tokens: u64,
    reasoning: Reasoning,
    /// Headers that show keys of ours.
    our_keys: KeyHeaders<'a>,
}

/// Why a request was not put to the engine.
enum Unasked {
    /// It is refused for what it says about itself.
    Rejected(Rejection),
    /// Nobody can say now whose key it shows.
    Unavailable(String),
}

/// Rarely more than one.
type KeyHeaders<'a> = SmallVec<[&'a HeaderName; 1]>;

impl Authorizer {
    /// A service over this engine.
    #[must_use]
    pub fn new(engine: Engine, settings: Settings, metrics: Metrics) -> Self {
        let untrusted_headers =
            settings.mapping.untrusted_headers().map(ToString::to_string).collect();
        Self { engine, settings, metrics, untrusted_headers }
    }

    /// How long to wait for a lease at the most.
    fn patience(&self, metadata: &MetadataMap) -> Duration {
        let patience = self.settings.patience;
        deadline(metadata).map_or(patience, |left| patience.min(left.saturating_sub(WAY_BACK)))
    }

    async fn ask<'a>(
        &'a self,
        attributes: &Attributes<'a>,
        patience: Duration,
    ) -> Result<Asked<'a>, Unasked> {
        let (key, our_keys) = self.known_key(attributes, patience).await?;
        let (subject, appraisal) =
            self.read(attributes, key.as_deref()).map_err(Unasked::Rejected)?;
        let Appraisal { estimate, input_tokens, reasoning, .. } = appraisal;
        let ask = Ask { subject: Arc::clone(&subject), estimate };
        let held = self.engine.reserve(ask, patience).await;
        Ok(Asked { subject, held, input_tokens, reasoning, our_keys })
    }

    /// Who asks, and for what. What a packed body comes to is read here and kept no longer: those who wait for the store may be many,
    /// and each would hold many times what it sent.
    fn read(
        &self,
        sent: &Attributes<'_>,
        key: Option<&ApiKey>,
    ) -> Result<(Arc<Subject>, Appraisal), Rejection> {
        let unpacked = Unpacked::of(sent);
        let attributes = &sent.unpacked(unpacked.as_ref());
        let subject = self.settings.mapping.subject(attributes, key)?;
        let appraisal = self.appraise(&subject, attributes);
        if appraisal.is_ambiguous { Err(two_models()) } else { Ok((Arc::new(subject), appraisal)) }
    }

    /// The key on record that the request shows, and the headers that show keys of ours. A provider's key of which nobody can say
    /// now whether it is on record counts as one that is not, where those pass.
    async fn known_key<'a>(
        &'a self,
        attributes: &Attributes<'a>,
        patience: Duration,
    ) -> Result<(Option<Arc<ApiKey>>, KeyHeaders<'a>), Unasked> {
        let mapping = &self.settings.mapping;
        let in_time = tokio::time::sleep(patience);
        tokio::pin!(in_time);
        let mut known = None;
        let mut our_keys = KeyHeaders::new();
        for presented in mapping.presented(attributes) {
            let found = tokio::select! {
                biased;
                found = self.engine.key_by_hash(&presented.hash) => {
                    found.map_err(|error| error.to_string())
                }
                () = &mut in_time => Err("the key was not found in time".to_owned()),
            };
            let found = match found {
                Err(_) if mapping.can_do_without(&presented) => None,
                found => found.map_err(Unasked::Unavailable)?,
            };
            known = mapping.recognise(&presented, found, known).map_err(Unasked::Rejected)?;
            if presented.maker == Maker::Bursar {
                our_keys.push(presented.header);
            }
        }
        Ok((known, our_keys))
    }

    fn appraise(&self, subject: &Subject, attributes: &Attributes<'_>) -> Appraisal {
        let facts = RequestFacts {
            provider: subject.provider.as_ref().map(|id| id.as_str()),
            model: subject.model.as_ref().map(|id| id.as_str()),
            path: attributes.path(),
            body: attributes.body(),
            usual: self.engine.usual(subject),
        };
        let appraisal = appraise(&facts, &self.engine.prices(), &self.settings.estimate);
        if appraisal.estimate.priced != Priced::Yes {
            self.metrics.unpriced_model(self.settings.estimate.unpriced.as_str());
        }
        appraisal
    }

    /// Turns a decision into its answer. From here on nothing waits: the reservation is handed over with the answer.
    fn answer(&self, asked: Asked<'_>, attributes: &Attributes<'_>) -> CheckResponse {
        let (style, path) = (&self.settings.style, attributes.path());
        match asked.held.hand_over() {
            Decision::Allow(admission) => {
                if admission.unavailable {
                    tracing::info!(workspace = %asked.subject.workspace, "allowed without asking the store, as its budget says");
                }
                tracing::debug!(
                    workspace = %asked.subject.workspace,
                    reservation = admission.reservation.map(tracing::field::display),
                    unavailable = admission.unavailable,
                    "allowed"
                );
                self.metrics.decision("allow");
                let handover = admission.reservation.map(|reservation| Handover {
                    reservation,
                    workspace: asked.subject.workspace.clone(),
                    provider: asked.subject.provider.clone(),
                    input_tokens: asked.input_tokens,
                    origin: self.engine.origin(&asked.subject.workspace, reservation),
                    reasoning: asked.reasoning,
                    may_need_asking: may_need_asking(attributes),
                });
                let removed = self.headers_to_remove(&asked.our_keys);
                style.allow(&admission, handover.as_ref(), removed)
            }
            Decision::Deny(refusal) => {
                log_refusal(&refusal, &asked.subject);
                self.metrics.decision(refusal.code.as_str());
                style.refuse(&refusal, path)
            }
            Decision::Undecided { budget } => {
                self.undecided(budget, &wording::undecided(budget), path)
            }
        }
    }

    fn headers_to_remove(&self, our_keys: &KeyHeaders<'_>) -> Vec<String> {
        let keys = our_keys.iter().map(ToString::to_string);
        self.untrusted_headers.iter().cloned().chain(keys).collect()
    }

    fn rejected(&self, rejection: &Rejection, path: &str) -> CheckResponse {
        tracing::info!(code = rejection.code.as_str(), reason = rejection.message, "refused");
        self.metrics.decision(rejection.code.as_str());
        self.settings.style.reject(rejection, path)
    }

    fn undecided(&self, budget: Option<BudgetId>, why: &str, path: &str) -> CheckResponse {
        let budget_id = budget.map(tracing::field::display);
        tracing::info!(code = BUDGET_UNAVAILABLE, budget = budget_id, reason = why, "undecided");
        self.metrics.decision(BUDGET_UNAVAILABLE);
        reply::undecided(budget, path)
    }
}

/// Whether the response may be a stream that does not tell its usage unless the request asks for it, which this one does not.
/// Where Envoy shows only a part of the body, it may.
fn may_need_asking(attributes: &Attributes<'_>) -> bool {
    attributes.method() == "POST"
        && usage_chunk::may_need_asking(attributes.path())
        && matches!(attributes.header(&CONTENT_ENCODING), Ok(None | Some("identity")))
        && match attributes.body() {
            Body::Whole(body) => usage_chunk::asking_for_usage(body).is_some(),
            Body::Cut { .. } | Body::Unseen { .. } | Body::Packed { .. } => true,
        }
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let patience = self.patience(request.metadata());
        let request = request.into_inner();
        let attributes = Attributes::of(&request);
        let response = match self.ask(&attributes, patience).await {
            Ok(asked) => self.answer(asked, &attributes),
            Err(Unasked::Rejected(rejection)) => self.rejected(&rejection, attributes.path()),
            Err(Unasked::Unavailable(why)) => self.undecided(None, &why, attributes.path()),
        };
        Ok(Response::new(response))
    }
}

/// The provider may answer by the one that no budget was asked for.
fn two_models() -> Rejection {
    let message = "The body names two models. Name one.".to_owned();
    Rejection { code: RefusalCode::UnknownSubject, message }
}

/// The one line that a refusal leaves in the log.
fn log_refusal(refusal: &Refusal, subject: &Subject) {
    let gate = refusal.gate.as_ref();
    tracing::info!(
        code = refusal.code.as_str(),
        workspace = %subject.workspace,
        scope_kind = gate.map(|gate| gate.scope_kind.as_str()),
        target_id = gate.map(|gate| gate.target.as_str()),
        dimension = gate.map(|gate| gate.dimension.as_str()),
        limit = gate.map(|gate| wording::decimal(gate.dimension, gate.info.limit)),
        remaining = gate.map(|gate| wording::decimal(gate.dimension, gate.info.remaining)),
        budget = gate.map(|gate| tracing::field::display(gate.budget)),
        model = subject.model.as_ref().map(tracing::field::display),
        "refused"
    );
}

/// What `grpc-timeout` leaves: up to eight digits and a unit, such as `250m` for milliseconds.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
