//! Envoy's gRPC access log: tells of responses that ext_proc never saw, and of requests that passed without a decision. It
//! is a hint: Envoy drops entries without a word, so nothing relies on it alone.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as RequestAttributes,
};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::domain::ids::Id;
use crate::domain::response::{self, Ending};
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::usage::{Metered, Record};
use crate::engine::{Against, Correction, Report, Used};
use crate::envoy::attributes::Attributes;
use crate::envoy::handover::Handover;
use crate::envoy::mapping::Mapping;
use crate::envoy::settling::{Ended, Settler};
use crate::envoy::told_usage;
use crate::telemetry::Metrics;

/// Streams at once. An Envoy has one for each of its workers.
const STREAMS_MAX: usize = 1024;
/// The largest message. Envoy sends entries as soon as they are 16 KiB together, and one has a few headers.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What Envoy adds to a request that it lets pass without a decision.
const PASSED_UNDECIDED: &str = "x-envoy-auth-failure-mode-allowed";
/// Characters of a request's id that are kept to name its entry: enough for every id that Envoy makes.
const REQUEST_ID_CHARS: usize = 48;

/// The access log service.
#[derive(Clone)]
pub struct AccessLog {
    settler: Settler,
    mapping: Arc<Mapping>,
    metrics: Metrics,
    streams: Arc<Semaphore>,
    ended: CancellationToken,
}

/// A service that settles by this settler. When `ended` is cancelled, it ends every stream.
#[must_use]
pub fn service(
    settler: Settler,
    mapping: Mapping,
    metrics: Metrics,
    ended: CancellationToken,
) -> AccessLogServiceServer<AccessLog> {
    let (mapping, streams) = (Arc::new(mapping), Arc::new(Semaphore::new(STREAMS_MAX)));
    let access_log = AccessLog { settler, mapping, metrics, streams, ended };
    AccessLogServiceServer::new(access_log).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl AccessLogService for AccessLog {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let Ok(_permit) = self.streams.try_acquire() else {
            return Err(Status::resource_exhausted("too many access logs are open"));
        };
        let mut messages = request.into_inner();
        // One entry after the other: where that is too slow, Envoy keeps a bounded number and drops the rest.
        while let Some(Ok(Some(message))) = self.ended.run_until_cancelled(messages.message()).await
        {
            let Some(LogEntries::HttpLogs(entries)) = message.log_entries else { continue };
            for entry in entries.log_entry {
                self.read(entry).await;
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

impl AccessLog {
    async fn read(&self, entry: HttpAccessLogEntry) {
        let Some(entry) = Entry::of(entry) else { return };
        match Handover::read(&entry.metadata) {
            Some(handover) => self.settle(entry, handover).await,
            None if entry.passed_undecided() => self.charge(entry).await,
            // Refused, or admitted with nothing set aside.
            None => {}
        }
    }

    /// Settles a reservation that is left open, where the entry says enough to do so.
    async fn settle(&self, entry: Entry, handover: Handover) {
        // Where a response had begun, whoever watched it tells its holder more.
        let tells_holder = entry.status.is_none() && self.settler.is_unseen_elsewhere(&handover);
        if !self.settler.is_left_open(&handover) && !tells_holder {
            return;
        }
        let Some(response) = entry.response(&handover) else { return };
        let verdict = response.verdict();
        let method = entry.request.request_method().as_str_name().to_owned();
        let path = entry.path().to_owned();
        let ended = Ended { handover, method, path, response_id: None, verdict };
        self.metrics.logged_response(self.settler.settle(ended).await);
    }

    /// Charges a request that passed without a decision, where its usage and its subject are told.
    async fn charge(&self, entry: Entry) {
        let (certainty, record) = match told_usage::read(&entry.metadata) {
            Metered::Exact(record) => (Certainty::Exact, record),
            Metered::AtLeast(record) => (Certainty::AtLeast, record),
            Metered::None => return self.metrics.undecided_pass("unknown"),
        };
        let Some(report) = self.report(entry, certainty, record) else {
            return self.metrics.undecided_pass("unknown");
        };
        match self.settler.engine.report(report).await {
            Ok(_) => self.metrics.undecided_pass("charged"),
            Err(error) => {
                tracing::warn!(%error, "a request passed without a decision and cannot be charged");
                self.metrics.undecided_pass("unknown");
            }
        }
    }

    fn report(&self, entry: Entry, certainty: Certainty, record: Record) -> Option<Report> {
        let settlement = entry.name()?;
        let path = entry.path().into();
        let request = entry.into_check();
        // Keys are in no log. An id that only a key would tell stays unknown.
        let mut subject: Subject = self.mapping.subject(&Attributes::of(&request), None).ok()?;
        if subject.model.is_none() {
            subject.model = record.model.as_deref().and_then(|model| Id::parse(model).ok());
        }
        Some(Report {
            settlement,
            workspace: subject.workspace.clone(),
            against: Against::Subject(Arc::new(subject)),
            used: Used::Metered { record: Box::new(record), path },
            certainty,
            correction: Correction::No,
            at: None,
            origin: None,
        })
    }
}

/// The entry of a response that is over.
struct Entry {
    common: AccessLogCommon,
    metadata: Metadata,
    request: HttpRequestProperties,
    /// Absent when no response had begun.
    status: Option<u16>,
    body_bytes: u64,
}

impl Entry {
    /// `None` for an entry of a request that is still on its way.
    fn of(entry: HttpAccessLogEntry) -> Option<Self> {
        let mut common = entry.common_properties?;
        let kind = common.access_log_type();
        if !matches!(kind, AccessLogType::NotSet | AccessLogType::DownstreamEnd) {
            return None;
        }
        let response = entry.response.unwrap_or_default();
        let status = response.response_code.and_then(|code| code.value.try_into().ok());
        Some(Self {
            metadata: common.metadata.take().unwrap_or_default(),
            common,
            request: entry.request.unwrap_or_default(),
            status: status.filter(|status| *status != 0),
            body_bytes: response.response_body_bytes,
        })
    }

    /// What is known of the response. `None` when it succeeded and its usage is not told here: others may still tell.
    fn response(&self, handover: &Handover) -> Option<response::Response<'_>> {
        let method = self.request.request_method().as_str_name();
        // What is fetched was paid for when it was made.
        let metered =
            if method == "POST" { told_usage::read(&self.metadata) } else { Metered::None };
        let may_have_used = self.status.is_some_and(|status| status < 300);
        if may_have_used && metered == Metered::None {
            return None;
        }
        Some(response::Response {
            status: self.status.unwrap_or_else(|| self.status_of_none()),
            method,
            path: self.path(),
            ending: Ending::Cut,
            metered,
            body_bytes: self.body_bytes,
            text_bytes: 0,
            input_tokens: handover.input_tokens,
            reasoning: handover.reasoning,
        })
    }

    /// A client that leaves before the response begins leaves a model at work: nothing says that it failed. A request that did
    /// not get as far as that has used nothing.
    const fn status_of_none(&self) -> u16 {
        if self.common.time_to_first_upstream_tx_byte.is_some() { 200 } else { 0 }
    }

    /// As the client asked for it.
    fn path(&self) -> &str {
        let HttpRequestProperties { original_path, path, .. } = &self.request;
        if original_path.is_empty() { path } else { original_path }
    }

    fn passed_undecided(&self) -> bool {
        self.request.request_headers.get(PASSED_UNDECIDED).is_some_and(|value| value == "true")
    }

    /// The same for every copy of this entry, and another for each request: a client may send the same request id again.
    fn name(&self) -> Option<Id> {
        let start = self.common.start_time.as_ref()?;
        let id = self.common.stream_id.chars().filter(|c| !c.is_control());
        let id: String = id.take(REQUEST_ID_CHARS).collect();
        Id::parse(&format!("passed:{}.{:09}:{id}", start.seconds, start.nanos)).ok()
    }

    /// The principal of the client's certificate.
    fn principal(&self) -> Option<&str> {
        let certificate =
            self.common.tls_properties.as_ref()?.peer_certificate_properties.as_ref()?;
        certificate.subject_alt_name.iter().find_map(|name| match name.san.as_ref()? {
            San::Uri(uri) => Some(uri.as_str()),
            _ => None,
        })
    }

    /// The question that Bursar was not asked, as far as the log tells it.
    fn into_check(self) -> CheckRequest {
        let principal = self.principal().unwrap_or_default().to_owned();
        let http = HttpRequest {
            method: self.request.request_method().as_str_name().to_owned(),
            path: self.path().to_owned(),
            headers: self.request.request_headers,
            ..HttpRequest::default()
        };
        let request = RequestAttributes { http: Some(http), ..RequestAttributes::default() };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { principal, ..Peer::default() }),
                request: Some(request),
                metadata_context: Some(self.metadata),
                ..AttributeContext::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests;
