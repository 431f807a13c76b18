//! Reads the `keys` list: who may use the HTTP API. Secrets come from the environment, or the file holds their SHA-256.

use crate::domain::ids::Id;
use crate::domain::keys::KeyHash;

use super::env::{Environment, MANAGEMENT_KEY, secret};
use super::fault::FaultLog;
use super::parse;
use super::settings::{AccessKey, Role};
use super::walk::{Node, Section};

/// The most keys that a configuration may hold: each is compared on every call, so that the time taken tells nothing.
const KEYS_MAX: usize = 64;

/// The keys, and the names of the variables that the file takes secrets from.
pub(super) struct Keys {
    pub(super) keys: Vec<AccessKey>,
    pub(super) variables: Vec<String>,
}

/// The form of a role before its workspace is known.
#[derive(Clone, Copy)]
enum RoleName {
    Operator,
    Manage,
    Check,
}

const ROLES: [(&str, RoleName); 3] =
    [("operator", RoleName::Operator), ("manage", RoleName::Manage), ("check", RoleName::Check)];

/// Reads the list, and the variable that makes a management key without any file.
pub(super) fn read(
    root: &mut Section<'_>,
    environment: &Environment,
    workspace: &Id,
    log: &FaultLog,
) -> Keys {
    let nodes = root.list("keys").unwrap_or_default();
    if let Some(extra) = nodes.get(KEYS_MAX) {
        extra.fault(format!("is one key too many; there are at most {KEYS_MAX}"));
    }
    let mut variables = Vec::new();
    let mut keys: Vec<AccessKey> = nodes
        .into_iter()
        .filter_map(|node| key(node, environment, workspace, &mut variables, log))
        .collect();
    let management = environment.read(MANAGEMENT_KEY, log, secret);
    keys.extend(management.map(|hash| AccessKey { role: Role::Manage(workspace.clone()), hash }));
    Keys { keys, variables }
}

fn key(
    node: Node<'_>,
    environment: &Environment,
    workspace: &Id,
    variables: &mut Vec<String>,
    log: &FaultLog,
) -> Option<AccessKey> {
    let mut section = node.clone().section();
    let role = role(&node, &mut section, workspace);
    let hash = match (section.node("env"), section.node("sha256")) {
        (Some(variable), None) => from_environment(&variable, environment, variables, log),
        (None, Some(written)) => written.read(parse::sha256),
        (Some(_), Some(_)) => {
            node.fault("has two secrets; write either env or sha256");
            None
        }
        (None, None) => {
            node.fault("has no secret; name a variable with env, or write the secret's SHA-256 with sha256");
            None
        }
    };
    section.close();
    Some(AccessKey { role: role?, hash: hash? })
}

fn role(node: &Node<'_>, section: &mut Section<'_>, workspace: &Id) -> Option<Role> {
    let name = section.node("role");
    let named = section.node("workspace");
    let workspace =
        || named.as_ref().map_or_else(|| Some(workspace.clone()), |named| named.read(parse::id));
    let Some(name) = name else {
        node.fault("has no role; it is operator, manage or check");
        return None;
    };
    match name.read(parse::one_of(&ROLES))? {
        RoleName::Operator => {
            if let Some(named) = &named {
                named.fault("does not belong here: an operator's key opens every workspace");
            }
            Some(Role::Operator)
        }
        RoleName::Manage => workspace().map(Role::Manage),
        RoleName::Check => workspace().map(Role::Check),
    }
}

fn from_environment(
    node: &Node<'_>,
    environment: &Environment,
    variables: &mut Vec<String>,
    log: &FaultLog,
) -> Option<KeyHash> {
    let variable = node.read(variable_name)?;
    if !environment.has(&variable) {
        node.fault(format!("names {variable}, which the environment does not set"));
    }
    let hash = environment.read(&variable, log, secret);
    variables.push(variable);
    hash
}

fn variable_name(text: &str) -> Result<String, String> {
    let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if !text.is_empty() && text.bytes().all(name) {
        return Ok(text.to_owned());
    }
    // What was written may be the secret itself, so it is not repeated.
    Err("is not the name of an environment variable, such as BURSAR_OPERATOR_KEY".to_owned())
}
