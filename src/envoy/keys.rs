//! API keys that a request shows, and what follows from what is known of them. Secrets are hashed where they are read and
//! go no further.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderName};
use sha2::{Digest, Sha256};

use crate::domain::decision::RefusalCode;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::envoy::attributes::Attributes;
use crate::envoy::mapping::{Mapping, Rejection};

/// How the keys start that Bursar mints.
const OUR_PREFIX: &[u8] = b"bsr_";
/// The scheme before a key in `authorization`, in any case.
const BEARER: &[u8] = b"bearer ";

/// What to do with a key that is neither ours nor registered. Most are credentials of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownKeys {
    /// Pass it on; it says nothing about who is asking.
    #[default]
    Ignore,
    /// Refuse the request.
    Refuse,
}

/// A key as a request shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented<'a> {
    /// In which header.
    pub header: &'a HeaderName,
    /// SHA-256 of its secret.
    pub hash: KeyHash,
    /// Who made it.
    pub maker: Maker,
}

/// Who made a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Bursar: it is worth nothing to anybody else and does not leave.
    Bursar,
    /// Somebody else, who may need it upstream.
    Other,
}

impl Mapping {
    /// The keys that a request shows.
    pub fn presented<'a>(
        &'a self,
        attributes: &Attributes<'a>,
    ) -> impl Iterator<Item = Presented<'a>> {
        self.key_headers.iter().flat_map(|header| {
            attributes.header_values(header).filter_map(move |value| Presented::read(header, value))
        })
    }

    /// Takes one presented key together with the one that was recognised before it, if any.
    ///
    /// # Errors
    /// `unknown_key` for a key of ours that is not on record, or any unknown key where the settings say so;
    /// `scope_mismatch` when a request shows two different keys that are on record.
    pub fn recognise(
        &self,
        presented: &Presented<'_>,
        found: Option<Arc<ApiKey>>,
        before: Option<Arc<ApiKey>>,
    ) -> Result<Option<Arc<ApiKey>>, Rejection> {
        match (found, before) {
            (None, _) if self.refuses(presented.maker) => Err(unknown(presented.header)),
            (None, before) => Ok(before),
            (Some(found), Some(before)) if found != before => Err(Rejection {
                code: RefusalCode::ScopeMismatch,
                message:
                    "The request shows two API keys that are registered here. Send one of them."
                        .to_owned(),
            }),
            (Some(found), _) => Ok(Some(found)),
        }
    }

    /// Whether a request may go on while nobody can say whether this key is on record: it would if it were not.
    pub(super) const fn can_do_without(&self, presented: &Presented<'_>) -> bool {
        !self.refuses(presented.maker)
    }

    const fn refuses(&self, maker: Maker) -> bool {
        matches!(
            (maker, self.unknown_keys),
            (Maker::Bursar, _) | (Maker::Other, UnknownKeys::Refuse)
        )
    }
}

impl<'a> Presented<'a> {
    fn read(header: &'a HeaderName, value: &[u8]) -> Option<Self> {
        let secret = match value.split_at_checked(BEARER.len()) {
            Some((scheme, secret)) if scheme.eq_ignore_ascii_case(BEARER) => secret,
            _ if *header == AUTHORIZATION => return None,
            _ => value,
        };
        let secret = secret.trim_ascii();
        let maker = if secret.starts_with(OUR_PREFIX) { Maker::Bursar } else { Maker::Other };
        (!secret.is_empty()).then(|| Self { header, hash: Sha256::digest(secret).into(), maker })
    }
}

fn unknown(header: &HeaderName) -> Rejection {
    let message =
        format!("The API key in header {header} is not known. Use a key that was registered here.");
    Rejection { code: RefusalCode::UnknownKey, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::testing::{Form, Request, key};

    fn presented(request: Request) -> Vec<(String, Maker, KeyHash)> {
        let (mapping, request) = (Mapping::default(), request.build());
        let attributes = Attributes::of(&request);
        mapping.presented(&attributes).map(|p| (p.header.to_string(), p.maker, p.hash)).collect()
    }

    fn shown(maker: Maker) -> Presented<'static> {
        Presented { header: &AUTHORIZATION, hash: [0; 32], maker }
    }

    #[test]
    fn keys_are_found_in_both_headers_and_both_forms() {
        for form in [Form::Joined, Form::Raw] {
            let request = Request::new(form)
                .header("authorization", "bearer bsr_1")
                .header("x-api-key", "sk-2");
            let expected = [
                ("authorization".to_owned(), Maker::Bursar, Sha256::digest("bsr_1").into()),
                ("x-api-key".to_owned(), Maker::Other, Sha256::digest("sk-2").into()),
            ];
            assert_eq!(presented(request), expected);
        }
    }

    #[test]
    fn other_schemes_and_empty_values_are_no_keys() {
        for value in ["Basic dXNlcjpwYXNz", "Bearer ", "Bearer", ""] {
            assert_eq!(
                presented(Request::new(Form::Raw).header("authorization", value)),
                [],
                "{value}"
            );
        }
    }

    #[test]
    fn a_key_of_ours_must_be_on_record_and_others_need_not() {
        let mapping = Mapping::default();
        let refused = mapping.recognise(&shown(Maker::Bursar), None, None).unwrap_err();
        assert_eq!(refused.code, RefusalCode::UnknownKey);
        assert!(refused.message.contains("authorization"));
        assert_eq!(mapping.recognise(&shown(Maker::Other), None, None), Ok(None));
        assert!(mapping.can_do_without(&shown(Maker::Other)));
        assert!(!mapping.can_do_without(&shown(Maker::Bursar)));
        let strict = Mapping { unknown_keys: UnknownKeys::Refuse, ..Mapping::default() };
        assert!(strict.recognise(&shown(Maker::Other), None, None).is_err());
        assert!(!strict.can_do_without(&shown(Maker::Other)));
    }

    #[test]
    fn a_provider_credential_beside_a_known_key_changes_nothing() {
        let known = Arc::new(key("ws1", None));
        let mapping = Mapping::default();
        assert_eq!(
            mapping.recognise(&shown(Maker::Other), None, Some(known.clone())),
            Ok(Some(known))
        );
    }

    #[test]
    fn two_different_known_keys_contradict_each_other() {
        let [first, second] = ["ws1", "ws2"].map(|workspace| Arc::new(key(workspace, None)));
        let mapping = Mapping::default();
        let both = mapping.recognise(&shown(Maker::Bursar), Some(second), Some(first.clone()));
        assert_eq!(both.map_err(|refused| refused.code), Err(RefusalCode::ScopeMismatch));
        let same =
            mapping.recognise(&shown(Maker::Bursar), Some(first.clone()), Some(first.clone()));
        assert_eq!(same, Ok(Some(first)));
    }
}
