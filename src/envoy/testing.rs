//! Builds the `CheckRequest`s that tests send, as Envoy 1.40 does.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as RequestAttributes,
};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::domain::ids::Id;
use crate::domain::keys::ApiKey;
use crate::domain::time::Wall;

/// How Envoy sends headers.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// Its default: a map, repeated headers joined by a comma.
    Joined,
    /// With `encode_raw_headers`: a list of bytes.
    Raw,
}

/// A request in the making.
pub(crate) struct Request {
    form: Form,
    http: HttpRequest,
    context: AttributeContext,
}

impl Request {
    pub(crate) fn new(form: Form) -> Self {
        let http = HttpRequest {
            method: "POST".to_owned(),
            path: "/v1/chat/completions".to_owned(),
            ..HttpRequest::default()
        };
        Self { form, http, context: AttributeContext::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        match self.form {
            Form::Raw => {
                let header = HeaderValue {
                    key: name.to_owned(),
                    raw_value: value.to_vec(),
                    ..HeaderValue::default()
                };
                self.http.header_map.get_or_insert_with(HeaderMap::default).headers.push(header);
            }
            Form::Joined => {
                let value = String::from_utf8(value.to_vec()).unwrap();
                self.http
                    .headers
                    .entry(name.to_owned())
                    .and_modify(|all| *all += &format!(",{value}"))
                    .or_insert(value);
            }
        }
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.http.method);
        self
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.http.path);
        self
    }

    pub(crate) fn body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.http.raw_body = bytes.as_ref().to_vec();
        self
    }

    pub(crate) fn size(mut self, bytes: i64) -> Self {
        self.http.size = bytes;
        self
    }

    pub(crate) fn principal(mut self, principal: &str) -> Self {
        self.context.source = Some(Peer { principal: principal.to_owned(), ..Peer::default() });
        self
    }

    pub(crate) fn extension(mut self, name: &str, value: &str) -> Self {
        self.context.context_extensions.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn metadata(mut self, namespace: &str, keys: &[&str], value: &str) -> Self {
        let leaf = Value { kind: Some(Kind::StringValue(value.to_owned())) };
        let (first, rest) = keys.split_first().unwrap();
        let value = rest
            .iter()
            .rev()
            .fold(leaf, |inner, key| Value { kind: Some(Kind::StructValue(one(key, inner))) });
        let metadata = self.context.metadata_context.get_or_insert_with(Metadata::default);
        metadata.filter_metadata.insert(namespace.to_owned(), one(first, value));
        self
    }

    pub(crate) fn build(self) -> CheckRequest {
        let request = RequestAttributes { http: Some(self.http), ..RequestAttributes::default() };
        CheckRequest {
            attributes: Some(AttributeContext { request: Some(request), ..self.context }),
        }
    }
}

fn one(key: &str, value: Value) -> Struct {
    Struct { fields: [(key.to_owned(), value)].into() }
}

/// A registered key.
pub(crate) fn key(workspace: &str, project: Option<&str>) -> ApiKey {
    let id = |text: &str| Id::parse(text).unwrap();
    ApiKey {
        id: id(&format!("key-of-{workspace}")),
        workspace: id(workspace),
        project: project.map(id),
        name: id("test"),
        hash: [7; 32],
        created_at: Wall::from_ms(0),
    }
}
