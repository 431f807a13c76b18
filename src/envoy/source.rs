//! The places in a request where the id of a scope may stand.

use std::borrow::Cow;
use std::fmt;

use hyper::header::HeaderName;
use smallvec::SmallVec;
use thiserror::Error;

use crate::domain::estimate::Body;
use crate::domain::ids::Id;
use crate::domain::json::{self, Found};
use crate::envoy::attributes::{Attributes, Fault};

/// One place to look for an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Dynamic metadata that a filter before ext_authz wrote, such as the claims of `jwt_authn`.
    Metadata {
        /// Which filter's.
        namespace: String,
        /// The keys that lead to the value.
        keys: Vec<String>,
    },
    /// The peer of an mTLS connection.
    Principal(PrincipalPart),
    /// A context extension of the route.
    Extension(String),
    /// The API key on record: its workspace, its project, or for the API-key scope its own id.
    ApiKey,
    /// A request header.
    Header(HeaderName, Trust),
    /// A field of a JSON body, when Envoy sends one.
    Body(JsonPointer),
    /// Always the same.
    Constant(Id),
}

/// Whether a header is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Something in front of Bursar sees to it that no client can choose it.
    Trusted,
    /// It says nothing and is removed on the way upstream.
    Untrusted,
}

/// What of a principal is the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrincipalPart {
    /// All of it.
    Whole,
    /// The path segment that follows this one: with `ns`, `ws1` of `spiffe://acme/ns/ws1/sa/cli`.
    After(String),
}

/// A JSON pointer (RFC 6901) to a field: `/model`, `/metadata/user_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPointer(Vec<String>);

/// A text that is no JSON pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "is not a JSON pointer such as /model: each step starts with a slash, and ~ is followed by 0 or 1"
)]
pub struct NotAPointer;

impl Source {
    /// The text that stands there. The two sources that are no part of the request itself, `ApiKey` and `Constant`, have
    /// none.
    ///
    /// # Errors
    /// [`Fault`] when something stands there that cannot be an id.
    pub fn text<'a>(&'a self, attributes: &Attributes<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
        match self {
            Self::Metadata { namespace, keys } => attributes.metadata(namespace, keys),
            Self::Principal(part) => {
                Ok(attributes.principal().and_then(|whole| part.of(whole)).map(Cow::Borrowed))
            }
            Self::Extension(name) => Ok(attributes.extension(name).map(Cow::Borrowed)),
            Self::Header(name, Trust::Trusted) => Ok(attributes.header(name)?.map(Cow::Borrowed)),
            Self::Body(pointer) => pointer.text(attributes),
            Self::Header(_, Trust::Untrusted) | Self::ApiKey | Self::Constant(_) => Ok(None),
        }
    }
}

impl PrincipalPart {
    fn of<'a>(&self, principal: &'a str) -> Option<&'a str> {
        match self {
            Self::Whole => Some(principal),
            Self::After(segment) => principal
                .split('/')
                .skip_while(|part| part != segment)
                .nth(1)
                .filter(|part| !part.is_empty()),
        }
    }
}

impl JsonPointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// [`NotAPointer`] when the text is none, or points to the whole body.
    pub fn parse(text: &str) -> Result<Self, NotAPointer> {
        let steps = text.strip_prefix('/').ok_or(NotAPointer)?.split('/');
        steps.map(unescaped).collect::<Option<_>>().map(Self).ok_or(NotAPointer)
    }

    /// The text at this place of the body. A body that is no JSON, or that was cut off before it, says nothing.
    fn text<'a>(&self, attributes: &Attributes<'a>) -> Result<Option<Cow<'a, str>>, Fault> {
        let seen = match attributes.body() {
            Body::Whole(seen) | Body::Cut { seen, .. } | Body::Packed { seen, .. } => seen,
            Body::Unseen { .. } => return Ok(None),
        };
        let steps: SmallVec<[&str; 4]> = self.0.iter().map(String::as_str).collect();
        match json::find(seen, &steps) {
            Found::Absent | Found::Cut | Found::Malformed => Ok(None),
            Found::Value(value) if value.is_null() => Ok(None),
            Found::Value(value) if value.as_u64().is_some() => {
                Ok(value.scalar().map(Cow::Borrowed))
            }
            Found::Value(value) if value.as_text().is_some() => {
                value.as_str().map(Some).ok_or(Fault::NotUtf8)
            }
            Found::Value(_) => Err(Fault::NotText),
        }
    }
}

/// One step of a pointer: `~1` stands for a slash, `~0` for a tilde.
fn unescaped(step: &str) -> Option<String> {
    let mut parts = step.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(1)?;
        text.push(match escaped {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        text.push_str(rest);
    }
    Some(text)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata { namespace, keys } => {
                write!(f, "dynamic metadata {namespace} {}", keys.join("."))
            }
            Self::Principal(PrincipalPart::Whole) => f.write_str("the mTLS principal"),
            Self::Principal(PrincipalPart::After(segment)) => {
                write!(f, "the mTLS principal after /{segment}/")
            }
            Self::Extension(name) => write!(f, "context extension {name}"),
            Self::ApiKey => f.write_str("an API key that is registered here"),
            Self::Header(name, _) => write!(f, "header {name}"),
            Self::Body(pointer) => write!(f, "body field {pointer}"),
            Self::Constant(id) => write!(f, "the constant {id}"),
        }
    }
}

impl fmt::Display for JsonPointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::testing::{Form, Request};

    fn at(pointer: &str, body: &str) -> Result<Option<String>, Fault> {
        let source = Source::Body(JsonPointer::parse(pointer).unwrap());
        let request = Request::new(Form::Raw).body(body).build();
        source.text(&Attributes::of(&request)).map(|text| text.map(Cow::into_owned))
    }

    #[test]
    fn a_pointer_shows_what_it_was_read_from_and_others_are_refused() {
        for text in ["/model", "/metadata/user_id", "/a~1b/c~0d", "/"] {
            assert_eq!(
                JsonPointer::parse(text).map(|pointer| pointer.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "model", "/a~", "/a~2"] {
            assert_eq!(JsonPointer::parse(text), Err(NotAPointer), "{text}");
        }
    }

    #[test]
    fn a_body_speaks_through_strings_and_whole_numbers_only() {
        assert_eq!(at("/model", r#"{"model":"gpt-4o"}"#), Ok(Some("gpt-4o".to_owned())));
        assert_eq!(at("/a/b", r#"{"a":{"b":42}}"#), Ok(Some("42".to_owned())));
        assert_eq!(at("/model", r#"{"model":null}"#), Ok(None));
        assert_eq!(at("/model", r#"{"model":["gpt-4o"]}"#), Err(Fault::NotText));
        assert_eq!(at("/model", "not JSON"), Ok(None));
    }

    #[test]
    fn hostile_bodies_are_read_without_harm() {
        assert_eq!(
            at("/model", r#"{"model":"a","model":"b"}"#),
            Ok(Some("b".to_owned())),
            "the last one counts"
        );
        let deep =
            format!(r#"{{"x":{}1{},"model":"m"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(at("/model", &deep), Ok(Some("m".to_owned())));
        let long = format!(r#"{{"messages":"{}","model":"m"}}"#, "x".repeat(1 << 20));
        assert_eq!(at("/model", &long), Ok(Some("m".to_owned())));
        assert_eq!(at("/model", &long[..8192]), Ok(None), "cut off before the model");
    }

    #[test]
    fn a_principal_gives_all_of_itself_or_one_segment() {
        let principal = "spiffe://acme/ns/ws1/sa/cli";
        assert_eq!(PrincipalPart::Whole.of(principal), Some(principal));
        assert_eq!(PrincipalPart::After("ns".to_owned()).of(principal), Some("ws1"));
        assert_eq!(PrincipalPart::After("cli".to_owned()).of(principal), None);
        assert_eq!(PrincipalPart::After("absent".to_owned()).of(principal), None);
    }
}
