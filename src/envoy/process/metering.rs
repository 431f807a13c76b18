//! The response's side of ext_proc: what goes by is metered, and settles the reservation of its request. The client waits
//! for nothing of it.

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
use tonic::Streaming;

use crate::domain::estimate::Reasoning;
use crate::domain::ids::Id;
use crate::domain::response::{Ending, Response};
use crate::domain::usage::{Hints, Meter};
use crate::domain::visible_text::VisibleText;
use crate::envoy::decode::{DecodeError, Decoder, Room};
use crate::envoy::handover::Handover;
use crate::envoy::process::{Answers, Processor, message, next};
use crate::envoy::settling::Ended;

/// Bytes that are read between two chances for others: about a tenth of a millisecond of work.
const BYTES_PER_TURN: usize = 64 * 1024;

/// A response on its way.
struct Watched {
    method: String,
    path: String,
    status: u16,
    decoder: Decoder,
    /// Why the rest of the body cannot be read.
    unreadable: Option<DecodeError>,
    meter: Meter,
    text: VisibleText,
    body_bytes: u64,
}

impl Processor {
    /// Watches a response to its end and settles what it used.
    pub(super) async fn watch(
        self,
        first: ProcessingRequest,
        messages: Streaming<ProcessingRequest>,
        answers: Answers,
    ) {
        // A refusal goes by as well. It costs nothing.
        let Some(handover) = message::handover(&first) else { return };
        let Some(mut watched) = Watched::begin(&first, &handover, &self.room) else {
            return;
        };
        let _watch = self.settler.watch(handover.reservation);
        let ending = tokio::select! {
            ending = watched.follow(first, messages) => ending,
            // Nobody can tell what is still to come, so the reservation stays as it is.
            () = self.ended.cancelled() => return,
        };
        // Envoy keeps what belongs to the stream until this.
        drop(answers);
        if let Some(error) = watched.unreadable {
            self.metrics.unreadable_response(error.as_str());
        }
        let outcome = self.settler.settle(watched.ended(ending, handover)).await;
        self.metrics.watched_response(outcome);
    }
}

impl Watched {
    /// `None` where the stream does not begin with a response.
    fn begin(first: &ProcessingRequest, handover: &Handover, room: &Room) -> Option<Self> {
        let Some(Request::ResponseHeaders(headers)) = &first.request else { return None };
        let all: Vec<(&str, &str)> = message::headers(headers).collect();
        let header = |name| message::header(headers, name);
        let path = message::attribute(first, "request.path");
        let hints = Hints {
            path,
            content_type: header("content-type"),
            provider: handover.provider.as_ref().map(Id::as_str),
            headers: &all,
        };
        Some(Self {
            method: message::attribute(first, "request.method").to_owned(),
            path: path.to_owned(),
            status: header(":status").parse().unwrap_or(0),
            decoder: Decoder::new(header("content-encoding")).within(room),
            unreadable: None,
            meter: Meter::new(hints),
            text: VisibleText::default(),
            body_bytes: 0,
        })
    }

    /// Reads until the response is complete, or the stream ends without that.
    async fn follow(
        &mut self,
        first: ProcessingRequest,
        mut messages: Streaming<ProcessingRequest>,
    ) -> Ending {
        let mut message = Some(first);
        while let Some(current) = message {
            let is_last = match current.request {
                Some(Request::ResponseHeaders(HttpHeaders { end_of_stream, .. })) => end_of_stream,
                Some(Request::ResponseBody(body)) => {
                    self.read(&body.body).await;
                    body.end_of_stream
                }
                Some(Request::ResponseTrailers(_)) => true,
                Some(
                    Request::RequestHeaders(_)
                    | Request::RequestBody(_)
                    | Request::RequestTrailers(_),
                )
                | None => false,
            };
            if is_last {
                return Ending::Complete;
            }
            message = next(&mut messages).await;
        }
        Ending::Cut
    }

    async fn read(&mut self, body: &[u8]) {
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        self.body_bytes = self.body_bytes.saturating_add(length);
        for piece in body.chunks(BYTES_PER_TURN) {
            let Self { decoder, meter, text, .. } = self;
            let decoded = decoder.push(piece, |decoded| {
                meter.push(decoded);
                text.push(decoded);
            });
            self.unreadable = decoded.err();
            tokio::task::yield_now().await;
        }
    }

    fn ended(self, ending: Ending, handover: Handover) -> Ended {
        if let Some(error) = self.unreadable {
            tracing::warn!(%error, reservation = %handover.reservation, "a response cannot be read to its end");
        }
        let response_id = self.meter.response_id().map(Into::into);
        let metered = match (ending, self.unreadable) {
            (Ending::Complete, None) => self.meter.finish(),
            (Ending::Cut, _) | (_, Some(_)) => self.meter.finish_cut(),
        };
        let response = Response {
            status: self.status,
            method: &self.method,
            path: &self.path,
            ending,
            metered,
            body_bytes: self.body_bytes,
            // The text before it says nothing of the rest.
            text_bytes: if self.unreadable.is_some() { 0 } else { self.text.bytes() },
            input_tokens: handover.input_tokens,
            reasoning: if self.text.shows_reasoning() {
                Reasoning::Possible
            } else {
                handover.reasoning
            },
        };
        let verdict = response.verdict();
        Ended { handover, method: self.method, path: self.path, response_id, verdict }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::domain::response::Verdict;
    use crate::domain::settlement::Certainty;
    use crate::envoy::handover::tests::handover;

    fn packed_response() -> ProcessingRequest {
        let header = |(key, value): (&str, &str)| HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers = [
            (":status", "200"),
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        let headers = HttpHeaders {
            headers: Some(HeaderMap { headers: headers.map(header).into() }),
            ..HttpHeaders::default()
        };
        ProcessingRequest {
            request: Some(Request::ResponseHeaders(headers)),
            ..ProcessingRequest::default()
        }
    }

    #[tokio::test]
    async fn a_response_that_there_is_no_room_to_unpack_is_charged_as_one_that_was_cut_off() {
        let text = br#"{"model":"m","usage":{"prompt_tokens":12,"completion_tokens":34}}"#;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        let body = encoder.finish().unwrap();
        for (bytes, unreadable) in [(1, None), (0, Some(DecodeError::NoRoom))] {
            let room = Room::of(bytes);
            let mut watched = Watched::begin(&packed_response(), &handover(), &room).unwrap();
            watched.read(&body).await;
            assert_eq!(watched.unreadable, unreadable);
            let verdict = watched.ended(Ending::Complete, handover()).verdict;
            let is_exact = matches!(verdict, Verdict::Charge(Certainty::Exact, _));
            assert_eq!(is_exact, unreadable.is_none(), "{verdict:?}");
            assert_ne!(verdict, Verdict::Release);
        }
    }
}
