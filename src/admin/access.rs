//! Who may call: keys, their roles, and the workspace that a call is about.

use std::time::Duration;

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::Code;

use super::fault::Fault;
use crate::domain::ids::Id;
use crate::domain::keys::KeyHash;

/// Names the workspace of an operator's call.
pub(super) const WORKSPACE_HEADER: &str = "x-bursar-workspace";

/// Which keys the HTTP API and `bursar.v1` accept, and what they default to.
#[derive(Clone)]
pub struct Settings {
    /// Every accepted key. Without one, every call is refused with an answer that says how to set one.
    pub keys: Vec<AdminKey>,
    /// The workspace of an operator's call that names none.
    pub default_workspace: Id,
    /// How long a check waits for a lease: as long as a request behind Envoy does.
    pub patience: Duration,
}

/// A key that callers of the API show as `Authorization: Bearer KEY`.
#[derive(Clone)]
pub struct AdminKey {
    /// SHA-256 of the key, so that its secret is nowhere in memory for longer than a call.
    pub hash: KeyHash,
    /// What it may do.
    pub role: Role,
}

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything in any workspace, named in the request.
    Operator,
    /// Everything in this workspace.
    Manage(Id),
    /// Check and report usage in this workspace.
    Check(Id),
}

/// What a call needs of its key. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// To check and to report usage.
    Use,
    /// To read and change budgets, keys and credits.
    Manage,
    /// To make Bursar reach out to somewhere.
    Operate,
}

/// A caller that showed a key with the right that the call needs.
#[derive(Debug)]
pub(super) struct Caller {
    role: Role,
    default_workspace: Id,
}

impl Settings {
    /// Looks up the key of an `authorization` value.
    pub(super) fn caller(
        &self,
        authorization: Option<&[u8]>,
        right: Right,
    ) -> Result<Caller, Fault> {
        if self.keys.is_empty() {
            return Err(Fault::forbidden(
                "no key is configured, so nobody may call; set BURSAR_MANAGEMENT_KEY or list keys in the configuration file, then start Bursar again",
            ));
        }
        let secret = bearer(authorization).ok_or_else(|| {
            Fault::new(Code::Unauthenticated, "send a key as `authorization: Bearer KEY`")
        })?;
        let role = self
            .role_of(&Sha256::digest(secret).into())
            .ok_or_else(|| Fault::new(Code::Unauthenticated, "the key is not known"))?;
        if role.right() < right {
            return Err(Fault::forbidden("not authorized for this endpoint"));
        }
        Ok(Caller { role: role.clone(), default_workspace: self.default_workspace.clone() })
    }

    /// Compares with every key, whichever matches, so that time tells nothing.
    fn role_of(&self, hash: &KeyHash) -> Option<&Role> {
        self.keys.iter().fold(None, |found, key| {
            if bool::from(key.hash.ct_eq(hash)) { Some(&key.role) } else { found }
        })
    }
}

impl Role {
    /// The most that it may do.
    const fn right(&self) -> Right {
        match self {
            Self::Operator => Right::Operate,
            Self::Manage(_) => Right::Manage,
            Self::Check(_) => Right::Use,
        }
    }
}

impl Caller {
    /// The most that it may do, whatever this call needs.
    pub(super) const fn right(&self) -> Right {
        self.role.right()
    }

    /// The workspace that the call is about. All places that name one must agree, with each other and with the key.
    pub(super) fn workspace(
        &self,
        named: impl IntoIterator<Item = Option<Id>>,
    ) -> Result<Id, Fault> {
        let own = match &self.role {
            Role::Operator => None,
            Role::Manage(workspace) | Role::Check(workspace) => Some(workspace.clone()),
        };
        let mut workspace = own.clone();
        for name in named.into_iter().flatten() {
            match &workspace {
                Some(one) if *one != name && own.is_some() => {
                    return Err(Fault::forbidden(format!("this key is not for workspace {name}")));
                }
                Some(one) if *one != name => {
                    return Err(Fault::forbidden(format!(
                        "the call names two workspaces, {one} and {name}"
                    )));
                }
                _ => workspace = Some(name),
            }
        }
        Ok(workspace.unwrap_or_else(|| self.default_workspace.clone()))
    }
}

/// The workspace that a header names.
pub(super) fn workspace_header(headers: &HeaderMap) -> Result<Option<Id>, Fault> {
    headers.get(WORKSPACE_HEADER).map(|value| workspace_name(value.as_bytes())).transpose()
}

/// Reads a header's value as a workspace.
pub(super) fn workspace_name(value: &[u8]) -> Result<Id, Fault> {
    let text = std::str::from_utf8(value)
        .map_err(|_| Fault::invalid(format!("header {WORKSPACE_HEADER} is not UTF-8")))?;
    Id::parse(text).map_err(|error| Fault::invalid(format!("header {WORKSPACE_HEADER} {error}")))
}

/// The secret in `Bearer SECRET`. The scheme's name is case-insensitive, as HTTP has it.
fn bearer(authorization: Option<&[u8]>) -> Option<&[u8]> {
    let value = authorization?.trim_ascii();
    let (scheme, secret) = value.split_at_checked(b"bearer ".len())?;
    let secret = secret.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Id {
        Id::parse(text).unwrap()
    }

    fn settings(roles: &[(&str, Role)]) -> Settings {
        let key = |(secret, role): &(&str, Role)| AdminKey {
            hash: Sha256::digest(secret).into(),
            role: role.clone(),
        };
        Settings {
            keys: roles.iter().map(key).collect(),
            default_workspace: id("default"),
            patience: Duration::ZERO,
        }
    }

    fn three_keys() -> Settings {
        settings(&[
            ("o", Role::Operator),
            ("m", Role::Manage(id("ws"))),
            ("c", Role::Check(id("ws"))),
        ])
    }

    fn code(settings: &Settings, authorization: Option<&str>, right: Right) -> Option<Code> {
        let caller = settings.caller(authorization.map(str::as_bytes), right);
        caller.err().map(|fault| tonic::Status::from(fault).code())
    }

    #[test]
    fn keys_open_what_their_role_allows() {
        let settings = three_keys();
        for key in ["Bearer o", "Bearer m", "bearer  m ", "BEARER o"] {
            assert_eq!(code(&settings, Some(key), Right::Manage), None, "{key}");
            assert_eq!(code(&settings, Some(key), Right::Use), None, "{key}");
        }
        assert_eq!(code(&settings, Some("Bearer c"), Right::Use), None);
        assert_eq!(code(&settings, Some("Bearer c"), Right::Manage), Some(Code::PermissionDenied));
    }

    #[test]
    fn without_a_key_that_is_known_nothing_opens() {
        let settings = three_keys();
        for key in [
            None,
            Some(""),
            Some("m"),
            Some("Bearer"),
            Some("Bearer "),
            Some("Basic m"),
            Some("Bearer x"),
        ] {
            assert_eq!(code(&settings, key, Right::Use), Some(Code::Unauthenticated), "{key:?}");
        }
    }

    #[test]
    fn without_any_configured_key_the_answer_says_how_to_set_one() {
        let fault = settings(&[]).caller(Some(b"Bearer m"), Right::Use).unwrap_err();
        assert!(fault.message().contains("BURSAR_MANAGEMENT_KEY"), "{}", fault.message());
    }

    #[test]
    fn a_key_stays_in_its_workspace_and_an_operator_names_one() {
        let settings = three_keys();
        let workspace = |key: &str, named: &[Option<&str>]| {
            let caller = settings.caller(Some(key.as_bytes()), Right::Use).unwrap();
            caller.workspace(named.iter().map(|name| name.map(id))).ok().map(|id| id.to_string())
        };
        let is = |name: &str| Some(name.to_owned());
        assert_eq!(workspace("Bearer m", &[None, None]), is("ws"));
        assert_eq!(workspace("Bearer m", &[Some("ws")]), is("ws"));
        assert_eq!(workspace("Bearer m", &[Some("other")]), None);
        assert_eq!(workspace("Bearer c", &[None, Some("other")]), None);
        assert_eq!(workspace("Bearer o", &[None]), is("default"));
        assert_eq!(workspace("Bearer o", &[None, Some("other")]), is("other"));
        assert_eq!(workspace("Bearer o", &[Some("one"), Some("other")]), None);
    }
}
