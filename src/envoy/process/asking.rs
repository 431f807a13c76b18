//! The request's side of ext_proc: a stream of OpenAI's completions is asked for its usage, everything else passes untouched.

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpHeaders,
    ProcessingRequest, ProcessingResponse,
};
use tonic::Streaming;

use crate::domain::usage_chunk::asking_for_usage;
use crate::envoy::process::{Answers, message, next};

/// Larger requests pass untouched, and so do those that do not say how large they are: Envoy must hold the whole of what may be
/// changed, and one that is larger than its buffer hangs.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// Answers for one request, and ends the stream as soon as there is no more to say.
pub(super) async fn ask(
    first: ProcessingRequest,
    mut messages: Streaming<ProcessingRequest>,
    answers: Answers,
) {
    let wants_body = wants_body(&first);
    // Whoever waits for an answer may have left; then there is nobody to tell.
    if answers.send(Ok(headers_answer(wants_body))).await.is_err() || !wants_body {
        return;
    }
    while let Some(message) = next(&mut messages).await {
        if let Some(Request::RequestBody(body)) = message.request {
            let _ = answers.send(Ok(body_answer(asking_for_usage(&body.body)))).await;
            return;
        }
    }
}

/// Whether it is one that the decision found to need a look, and that Envoy can hold.
fn wants_body(first: &ProcessingRequest) -> bool {
    let Some(Request::RequestHeaders(headers)) = &first.request else { return false };
    !headers.end_of_stream
        && has_fitting_length(headers)
        && message::handover(first).is_some_and(|handover| handover.may_need_asking)
}

fn has_fitting_length(headers: &HttpHeaders) -> bool {
    let length = message::header(headers, "content-length").parse::<u64>();
    length.is_ok_and(|length| length <= BODY_BYTES_MAX)
}

/// Goes on; where the body is wanted, Envoy sends it as a whole, and nothing after it.
fn headers_answer(wants_body: bool) -> ProcessingResponse {
    let mode = ProcessingMode {
        // They were sent already. With `Skip` Envoy would take a new content-length for a mistake.
        request_header_mode: HeaderSendMode::Send.into(),
        response_header_mode: HeaderSendMode::Skip.into(),
        request_body_mode: BodySendMode::Buffered.into(),
        response_body_mode: BodySendMode::None.into(),
        request_trailer_mode: HeaderSendMode::Skip.into(),
        response_trailer_mode: HeaderSendMode::Skip.into(),
    };
    ProcessingResponse {
        mode_override: wants_body.then_some(mode),
        response: Some(Response::RequestHeaders(HeadersResponse::default())),
        ..ProcessingResponse::default()
    }
}

/// Goes on with this body, or with the one that came. Without its new length Envoy would refuse the request.
fn body_answer(body: Option<Vec<u8>>) -> ProcessingResponse {
    let response = body.map(|body| CommonResponse {
        header_mutation: Some(content_length(body.len())),
        body_mutation: Some(BodyMutation { mutation: Some(Mutation::Body(body)) }),
        ..CommonResponse::default()
    });
    ProcessingResponse {
        response: Some(Response::RequestBody(BodyResponse { response })),
        ..ProcessingResponse::default()
    }
}

/// Envoy reads only the raw value here.
fn content_length(length: usize) -> HeaderMutation {
    let header = HeaderValue {
        key: "content-length".to_owned(),
        raw_value: length.to_string().into_bytes(),
        ..HeaderValue::default()
    };
    let option = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    HeaderMutation { set_headers: vec![option], remove_headers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderMap;

    use super::*;
    use crate::envoy::handover::Handover;
    use crate::envoy::handover::tests::{handover, metadata};

    fn request(length: &str) -> ProcessingRequest {
        let length = HeaderValue {
            key: "content-length".to_owned(),
            raw_value: length.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let headers = HttpHeaders {
            headers: Some(HeaderMap { headers: vec![length] }),
            ..HttpHeaders::default()
        };
        let handover = Handover { may_need_asking: true, ..handover() };
        ProcessingRequest {
            metadata_context: Some(metadata(handover.fields())),
            request: Some(Request::RequestHeaders(headers)),
            ..ProcessingRequest::default()
        }
    }

    #[test]
    fn only_an_admitted_request_that_may_need_it_and_is_of_a_known_and_fitting_length_is_looked_into()
     {
        assert!(wants_body(&request("1048576")));
        // An empty one: a body that comes in chunks.
        for length in ["1048577", "10485760", "-1", ""] {
            assert!(!wants_body(&request(length)), "{length:?}");
        }
        let fitting = || request("1048576");
        assert!(!wants_body(&ProcessingRequest { metadata_context: None, ..fitting() }));
        assert!(!wants_body(&ProcessingRequest { request: None, ..fitting() }));
        let needless = Handover { may_need_asking: false, ..handover() };
        let needless = Some(metadata(needless.fields()));
        assert!(!wants_body(&ProcessingRequest { metadata_context: needless, ..fitting() }));
    }

    #[test]
    fn a_changed_body_goes_with_its_length_and_an_unchanged_one_as_it_came() {
        let answer = body_answer(Some(b"{\"a\":1}".to_vec()));
        let Some(Response::RequestBody(BodyResponse { response: Some(common) })) = answer.response
        else {
            panic!("no change");
        };
        let length = &common.header_mutation.unwrap().set_headers[0];
        assert_eq!(length.header.as_ref().unwrap().raw_value, b"7");
        assert_eq!(
            common.body_mutation.unwrap().mutation,
            Some(Mutation::Body(b"{\"a\":1}".to_vec()))
        );
        let unchanged = Response::RequestBody(BodyResponse { response: None });
        assert_eq!(body_answer(None).response, Some(unchanged));
        assert_eq!(headers_answer(false).mode_override, None);
    }
}
