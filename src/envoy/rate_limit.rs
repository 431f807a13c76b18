//! Envoy's rate limit service, as a way to report and never to limit: who has token counts in Envoy, such as Envoy AI Gateway,
//! sends them here as the hits of a descriptor when a response is over (`apply_on_stream_done`). It always answers OK.
//!
//! A descriptor names whose usage it is by its entries. `workspace`, and either `reservation_id` (both as ext_authz leaves
//! them in the metadata), or `settlement_id`, which names the entry, with any of `project_id`, `identity_external_id`,
//! `api_key_id`, `provider` and `model_id`. `unit` says what its hits are: `input_tokens`, `output_tokens` or `total_tokens`,
//! which are priced as output. All descriptors of one call are about one response, and their counts add up.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

use crate::domain::estimate::Reasoning;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::response::Verdict;
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::usage::{Record, Usage};
use crate::engine::{Against, Correction, Report, ReportError, Used};
use crate::envoy::handover::Handover;
use crate::envoy::settling::{Ended, Settler};
use crate::telemetry::Metrics;

/// The largest message. A report has a dozen ids of at most 256 bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The rate limit service.
#[derive(Clone)]
pub struct RateLimit {
    settler: Settler,
    metrics: Metrics,
}

/// A service that settles by this settler.
#[must_use]
pub fn service(settler: Settler, metrics: Metrics) -> RateLimitServiceServer<RateLimit> {
    RateLimitServiceServer::new(RateLimit { settler, metrics })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl RateLimitService for RateLimit {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let outcome = self.record(request.get_ref()).await;
        self.metrics.reported_hits(outcome);
        let overall_code = Code::Ok.into();
        Ok(Response::new(RateLimitResponse { overall_code, ..RateLimitResponse::default() }))
    }
}

/// What a call says.
struct Told<'a> {
    /// The descriptor that says whose usage it is.
    whose: &'a RateLimitDescriptor,
    workspace: Id,
    usage: Usage,
}

impl RateLimit {
    /// Books what a call says, and returns what became of it: `recorded`, `settled_before`, `refused` or `not_a_report`.
    async fn record(&self, call: &RateLimitRequest) -> &'static str {
        let Some(told) = Told::by(call) else { return "not_a_report" };
        let record = Box::new(Record { usage: told.usage, ..Record::default() });
        if let Some(handover) = told.handover() {
            let settler = &self.settler;
            if !settler.is_left_open(&handover) && !settler.is_unseen_elsewhere(&handover) {
                return "settled_before";
            }
            let verdict = Verdict::Charge(Certainty::Exact, record);
            let (method, path) = ("POST".to_owned(), String::new());
            self.settler.settle(Ended { handover, method, path, response_id: None, verdict }).await;
            return "recorded";
        }
        let Some(report) = told.report(record) else { return "not_a_report" };
        match self.settler.engine.report(report).await {
            Ok(_) | Err(ReportError::HandedOver) => "recorded",
            Err(error) => {
                tracing::warn!(%error, "usage that was reported as hits cannot be recorded");
                "refused"
            }
        }
    }
}

impl<'a> Told<'a> {
    /// `None` for a call that reports nothing, such as one for a rate limit that has nothing to do with Bursar.
    fn by(call: &'a RateLimitRequest) -> Option<Self> {
        let ours = |descriptor: &&RateLimitDescriptor| value(descriptor, "workspace").is_some();
        let mut usage = Usage::default();
        for descriptor in call.descriptors.iter().filter(ours) {
            let own = descriptor.hits_addend.as_ref().map(|hits| hits.value);
            let hits = own.unwrap_or(call.hits_addend.into());
            let count = match value(descriptor, "unit")? {
                "input_tokens" => &mut usage.input,
                "output_tokens" | "total_tokens" => &mut usage.output,
                _ => return None,
            };
            *count = count.saturating_add(hits);
        }
        let usage = usage.checked().ok().filter(|usage| usage.total().get() > 0)?;
        let whose = call.descriptors.iter().find(ours)?;
        Some(Self { whose, workspace: id(whose, "workspace")?, usage })
    }

    fn handover(&self) -> Option<Handover> {
        Some(Handover {
            reservation: ReservationId::parse(value(self.whose, "reservation_id")?).ok()?,
            workspace: self.workspace.clone(),
            provider: None,
            input_tokens: self.usage.input,
            origin: None,
            reasoning: Reasoning::Unlikely,
            may_need_asking: false,
        })
    }

    fn report(&self, record: Box<Record>) -> Option<Report> {
        let id = |key| id(self.whose, key);
        let subject = Subject {
            workspace: self.workspace.clone(),
            project: id("project_id"),
            identity: id("identity_external_id"),
            api_key: id("api_key_id"),
            provider: id("provider"),
            model: id("model_id"),
        };
        Some(Report {
            settlement: id("settlement_id")?,
            workspace: self.workspace.clone(),
            against: Against::Subject(Arc::new(subject)),
            used: Used::Metered { record, path: "".into() },
            certainty: Certainty::Exact,
            correction: Correction::No,
            at: None,
            origin: None,
        })
    }
}

fn id(descriptor: &RateLimitDescriptor, key: &str) -> Option<Id> {
    Id::parse(value(descriptor, key)?).ok()
}

/// The value of an entry; empty ones say nothing.
fn value<'a>(descriptor: &'a RateLimitDescriptor, key: &str) -> Option<&'a str> {
    let entry = descriptor.entries.iter().find(|entry| entry.key == key)?;
    Some(entry.value.as_str()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
    use envoy_types::pb::google::protobuf::UInt64Value;

    use super::*;
    use crate::envoy::settling::tests::Bench;

    fn descriptor(entries: &[(&str, &str)], hits: u64) -> RateLimitDescriptor {
        let entry = |(key, value): &(&str, &str)| Entry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        RateLimitDescriptor {
            entries: entries.iter().map(entry).collect(),
            hits_addend: Some(UInt64Value { value: hits }),
            ..RateLimitDescriptor::default()
        }
    }

    async fn send(bench: &Bench, descriptors: Vec<RateLimitDescriptor>) -> i64 {
        let service =
            RateLimit { settler: bench.settler.clone(), metrics: crate::telemetry::Metrics::new() };
        let call = RateLimitRequest { descriptors, ..RateLimitRequest::default() };
        let answer = service.should_rate_limit(Request::new(call)).await.unwrap().into_inner();
        assert_eq!(answer.overall_code(), Code::Ok, "it never limits");
        bench.spent().await
    }

    #[tokio::test]
    async fn the_hits_of_a_call_settle_its_reservation_once() {
        let bench = Bench::start().await;
        let handover = bench.admit().await;
        let reservation = handover.reservation.to_string();
        let part = |unit, hits| {
            let entries =
                [("workspace", "acme"), ("reservation_id", reservation.as_str()), ("unit", unit)];
            descriptor(&entries, hits)
        };
        let foreign = descriptor(&[("remote_address", "10.0.0.1")], 1000);
        let call = || vec![foreign.clone(), part("input_tokens", 20), part("output_tokens", 30)];
        assert_eq!(send(&bench, call()).await, 50);
        assert!(!bench.settler.is_left_open(&handover));
        assert_eq!(send(&bench, call()).await, 50);
    }

    #[tokio::test]
    async fn the_hits_of_a_call_to_another_replica_settle_the_reservation_of_the_first() {
        let (holder, other) = Bench::pair().await;
        let handover = holder.admit().await;
        let reservation = handover.reservation.to_string();
        let entries =
            [("workspace", "acme"), ("reservation_id", &*reservation), ("unit", "total_tokens")];
        send(&other, vec![descriptor(&entries, 50)]).await;
        holder.settled(&handover).await;
        assert_eq!(holder.spent().await, 50);
    }

    #[tokio::test]
    async fn hits_without_a_reservation_charge_the_subject_once_for_each_name() {
        let bench = Bench::start().await;
        let part = |settlement, unit, hits| {
            let entries = [
                ("workspace", "acme"),
                ("settlement_id", settlement),
                ("model_id", "m"),
                ("unit", unit),
            ];
            vec![descriptor(&entries, hits)]
        };
        assert_eq!(send(&bench, part("r1", "total_tokens", 7)).await, 7);
        assert_eq!(send(&bench, part("r1", "total_tokens", 7)).await, 7);
        assert_eq!(send(&bench, part("r2", "output_tokens", 3)).await, 10);
        for (settlement, unit, hits) in [
            ("", "total_tokens", 5),
            ("r3", "", 5),
            ("r3", "dollars", 5),
            ("r3", "total_tokens", 0),
        ] {
            assert_eq!(send(&bench, part(settlement, unit, hits)).await, 10, "{settlement} {unit}");
        }
        assert_eq!(send(&bench, part("r4", "total_tokens", u64::MAX)).await, 10);
        assert_eq!(send(&bench, Vec::new()).await, 10);
    }
}
