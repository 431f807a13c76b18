//! What a message of ext_proc tells, read in place.

use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
use envoy_types::pb::google::protobuf::value::Kind;

use crate::envoy::handover::Handover;

/// Under which name Envoy sends the attributes that its configuration lists.
const ATTRIBUTES: &str = "envoy.filters.http.ext_proc";

/// The request that a stream belongs to, where it was admitted.
pub(super) fn handover(message: &ProcessingRequest) -> Option<Handover> {
    Handover::read(message.metadata_context.as_ref()?)
}

/// An attribute, such as `request.path`; empty when Envoy does not send it.
pub(super) fn attribute<'a>(message: &'a ProcessingRequest, name: &str) -> &'a str {
    let attributes = message.attributes.get(ATTRIBUTES);
    match attributes.and_then(|all| all.fields.get(name)?.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

/// All headers, with their values as text; one that is no text reads as empty.
pub(super) fn headers(message: &HttpHeaders) -> impl Iterator<Item = (&str, &str)> {
    let all = message.headers.as_ref().map_or(&[][..], |map| &map.headers);
    all.iter().map(|header| {
        let value = match header.raw_value.as_slice() {
            [] => header.value.as_str(),
            raw => std::str::from_utf8(raw).unwrap_or_default(),
        };
        (header.key.as_str(), value)
    })
}

/// The first value of a header; empty when there is none.
pub(super) fn header<'a>(message: &'a HttpHeaders, name: &str) -> &'a str {
    headers(message).find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}
