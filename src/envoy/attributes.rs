//! What Envoy tells about a request, read in place from its `CheckRequest`: both forms of the headers, the body, the
//! connection and the metadata.

use std::borrow::Cow;

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, attribute_context::HttpRequest,
};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use hyper::header::{CONTENT_LENGTH, HeaderName};
use thiserror::Error;

use crate::domain::estimate::Body;
use crate::envoy::packed::Unpacked;

/// Envoy's own header that says whether the body it sends is cut off.
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// Whole numbers up to this size are exact in the doubles of protobuf metadata.
const WHOLE_NUMBER_MAX: f64 = 9_007_199_254_740_992.0;

/// One request as Envoy describes it. What Envoy left out reads as absent.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    context: Option<&'a AttributeContext>,
    http: Option<&'a HttpRequest>,
    unpacked: Option<&'a Unpacked>,
}

/// Why a value that is there cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// Bytes that are no text.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// A header that is there more than once, with different values: nobody can say which one counts.
    #[error("is sent {0} times with different values; send it once")]
    Repeated(usize),
    /// Metadata of another kind.
    #[error("is neither a string nor a whole number")]
    NotText,
}

impl<'a> Attributes<'a> {
    /// Reads a request.
    #[must_use]
    pub fn of(request: &'a CheckRequest) -> Self {
        let context = request.attributes.as_ref();
        let http = context.and_then(|context| context.request.as_ref()?.http.as_ref());
        Self { context, http, unpacked: None }
    }

    /// The same with its body unpacked, where it was packed.
    #[must_use]
    pub const fn unpacked(self, unpacked: Option<&'a Unpacked>) -> Self {
        Self { unpacked, ..self }
    }

    /// The values of a header. Without `encode_raw_headers` Envoy joins repeated headers with commas and this gives one
    /// value; with it, each comes as it was sent.
    pub fn header_values(&self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let joined =
            self.http.and_then(|http| http.headers.get(name.as_str())).map(String::as_bytes);
        let raw =
            self.http.and_then(|http| http.header_map.as_ref()).map_or(&[][..], |map| &map.headers);
        let raw = raw.iter().filter(move |header| header.key == name.as_str()).map(|header| {
            if header.raw_value.is_empty() {
                header.value.as_bytes()
            } else {
                header.raw_value.as_slice()
            }
        });
        joined.into_iter().chain(raw)
    }

    /// The text of a header. An empty one says nothing and reads as absent.
    ///
    /// # Errors
    /// [`Fault::NotUtf8`], or [`Fault::Repeated`] when it is there with several values.
    pub fn header(&self, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
        let mut values = self.header_values(name).filter(|value| !value.is_empty());
        let Some(first) = values.next() else { return Ok(None) };
        let others = values.filter(|value| *value != first).count();
        if others > 0 {
            return Err(Fault::Repeated(others.saturating_add(1)));
        }
        std::str::from_utf8(first).map(Some).map_err(|_| Fault::NotUtf8)
    }

    /// The method, such as `POST`.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.http.map_or("", |http| http.method.as_str())
    }

    /// The path without its query, such as `/v1/chat/completions`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        let path = self.http.map_or("", |http| http.path.as_str());
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// What can be read of the body.
    #[must_use]
    pub fn body(&self) -> Body<'a> {
        self.unpacked.map_or_else(|| self.sent_body(), Unpacked::body)
    }

    /// What Envoy sends of it.
    fn sent_body(&self) -> Body<'a> {
        let Some(http) = self.http else { return Body::Unseen { size: None } };
        let seen = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
        if seen.is_empty() {
            return Body::Unseen { size: self.body_size() };
        }
        let longer = usize::try_from(http.size).is_ok_and(|size| size > seen.len());
        let cut = longer || matches!(self.header(&PARTIAL_BODY), Ok(Some("true")));
        if cut { Body::Cut { seen, whole_size: self.body_size() } } else { Body::Whole(seen) }
    }

    /// How long the body is, as its sender says or as Envoy counted.
    fn body_size(&self) -> Option<u64> {
        let said =
            self.header(&CONTENT_LENGTH).ok().flatten().and_then(|length| length.parse().ok());
        said.or_else(|| u64::try_from(self.http?.size).ok().filter(|size| *size > 0))
    }

    /// A context extension of the route.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&'a str> {
        let value = self.context?.context_extensions.get(name)?.as_str();
        (!value.is_empty()).then_some(value)
    }

    /// The authenticated peer of an mTLS connection, such as `spiffe://acme/ns/ws1/sa/cli`.
    #[must_use]
    pub fn principal(&self) -> Option<&'a str> {
        let principal = self.context?.source.as_ref()?.principal.as_str();
        (!principal.is_empty()).then_some(principal)
    }

    /// A value of the dynamic metadata, by its namespace and the keys that lead to it.
    ///
    /// # Errors
    /// [`Fault::NotText`] when something else is there. It is not passed over: a less trusted source must not speak in
    /// its place.
    pub fn metadata(
        &self,
        namespace: &str,
        keys: &[String],
    ) -> Result<Option<Cow<'a, str>>, Fault> {
        match self.namespace(namespace).and_then(|fields| walk(fields, keys)) {
            None | Some(Kind::NullValue(_)) => Ok(None),
            Some(Kind::StringValue(text)) if text.is_empty() => Ok(None),
            Some(Kind::StringValue(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Kind::NumberValue(number))
                if number.fract() == 0.0 && number.abs() < WHOLE_NUMBER_MAX =>
            {
                Ok(Some(Cow::Owned(format!("{number:.0}"))))
            }
            Some(
                Kind::NumberValue(_)
                | Kind::BoolValue(_)
                | Kind::StructValue(_)
                | Kind::ListValue(_),
            ) => Err(Fault::NotText),
        }
    }

    fn namespace(&self, name: &str) -> Option<&'a Struct> {
        self.context?.metadata_context.as_ref()?.filter_metadata.get(name)
    }
}

/// Follows keys through nested structs.
fn walk<'a>(fields: &'a Struct, keys: &[String]) -> Option<&'a Kind> {
    let (first, rest) = keys.split_first()?;
    let kind = fields.fields.get(first)?.kind.as_ref()?;
    match (kind, rest) {
        (kind, []) => Some(kind),
        (Kind::StructValue(inner), rest) => walk(inner, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::testing::{Form, Request};

    const NAME: HeaderName = HeaderName::from_static("x-orq-project-id");

    #[test]
    fn a_header_reads_the_same_in_both_forms_of_envoy() {
        for form in [Form::Joined, Form::Raw] {
            let request =
                Request::new(form).header("x-orq-project-id", "p1").header("x-empty", "").build();
            let attributes = Attributes::of(&request);
            assert_eq!(attributes.header(&NAME), Ok(Some("p1")));
            assert_eq!(attributes.header(&HeaderName::from_static("x-empty")), Ok(None));
            assert_eq!(attributes.header(&HeaderName::from_static("x-absent")), Ok(None));
        }
    }

    #[test]
    fn a_header_that_is_no_text_or_that_contradicts_itself_is_a_fault() {
        let twice = |second: &'static str| {
            Request::new(Form::Raw)
                .header("x-orq-project-id", "p1")
                .header("x-orq-project-id", second)
                .build()
        };
        assert_eq!(Attributes::of(&twice("p2")).header(&NAME), Err(Fault::Repeated(2)));
        assert_eq!(Attributes::of(&twice("p1")).header(&NAME), Ok(Some("p1")));
        let bytes =
            Request::new(Form::Raw).header("x-orq-project-id", b"\xff\xfe".as_slice()).build();
        assert_eq!(Attributes::of(&bytes).header(&NAME), Err(Fault::NotUtf8));
    }

    #[test]
    fn a_body_is_whole_unless_its_size_or_envoy_says_otherwise() {
        let body = |request: Request| format!("{:?}", Attributes::of(&request.build()).body());
        let request = || Request::new(Form::Joined);
        assert_eq!(body(request().body("{}")), "Whole([123, 125])");
        assert_eq!(body(request().body("{}").size(2)), "Whole([123, 125])");
        assert_eq!(
            body(request().body("{").size(20_066)),
            "Cut { seen: [123], whole_size: Some(20066) }"
        );
        let partial = request().header("x-envoy-auth-partial-body", "true").body("{");
        assert_eq!(body(partial), "Cut { seen: [123], whole_size: None }");
        assert_eq!(
            body(request().header("content-length", "1048576")),
            "Unseen { size: Some(1048576) }"
        );
        assert_eq!(
            body(request().header("content-length", "-1").size(-1)),
            "Unseen { size: None }"
        );
    }

    #[test]
    fn metadata_is_followed_through_structs_and_must_end_in_text() {
        let request = Request::new(Form::Raw)
            .metadata("envoy.filters.http.jwt_authn", &["jwt", "org"], "acme")
            .build();
        let read = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            Attributes::of(&request)
                .metadata("envoy.filters.http.jwt_authn", &keys)
                .map(|text| text.map(Cow::into_owned))
        };
        assert_eq!(read(&["jwt", "org"]), Ok(Some("acme".to_owned())));
        assert_eq!(read(&["jwt", "team"]), Ok(None));
        assert_eq!(read(&["jwt", "org", "deeper"]), Ok(None));
        assert_eq!(read(&["jwt"]), Err(Fault::NotText));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn the_path_comes_without_its_query() {
        let request = Request::new(Form::Raw).path("/v1/messages?beta=true").build();
        assert_eq!(Attributes::of(&request).path(), "/v1/messages");
    }

    #[test]
    fn a_request_that_says_nothing_reads_as_nothing() {
        let request = CheckRequest { attributes: None };
        let attributes = Attributes::of(&request);
        assert_eq!((attributes.path(), attributes.principal()), ("", None));
        assert!(matches!(attributes.body(), Body::Unseen { size: None }));
        assert_eq!(attributes.extension("tenant"), None);
    }
}
