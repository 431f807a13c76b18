//! The environment: variables that override the file, and secrets, which are never written into it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use sha2::{Digest, Sha256};

use crate::domain::keys::KeyHash;

use super::fault::FaultLog;

/// What every variable of ours starts with.
const PREFIX: &str = "BURSAR_";
pub(super) const LISTEN_GRPC: &str = "BURSAR_LISTEN_GRPC";
pub(super) const LISTEN_UNIX: &str = "BURSAR_LISTEN_UNIX";
pub(super) const LISTEN_HTTP: &str = "BURSAR_LISTEN_HTTP";
pub(super) const STORE_URL: &str = "BURSAR_STORE_URL";
pub(super) const STORE_MIGRATION_URL: &str = "BURSAR_STORE_MIGRATION_URL";
pub(super) const WORKSPACE: &str = "BURSAR_WORKSPACE";
pub(super) const MANAGEMENT_KEY: &str = "BURSAR_MANAGEMENT_KEY";
/// The variables that mean something to us wherever they are set.
const KNOWN: [&str; 7] = [
    LISTEN_GRPC,
    LISTEN_UNIX,
    LISTEN_HTTP,
    STORE_URL,
    STORE_MIGRATION_URL,
    WORKSPACE,
    MANAGEMENT_KEY,
];

/// A process's environment, as a value. A variable that is set to nothing counts as not set.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let named = variables.into_iter().filter(|(_, value)| !value.is_empty());
        Self {
            variables: named
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        }
    }
}

impl Environment {
    /// What this variable says; `None` when it is not set or makes no sense, which is then a fault.
    pub(super) fn read<T>(
        &self,
        name: &str,
        log: &FaultLog,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.variables.get(name)?;
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(parse);
        parsed.map_err(|message| log.fault(None, name, message)).ok()
    }

    /// Whether this variable is set.
    pub(super) fn has(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    /// Warns of variables that look like ours and mean nothing, except those that the file names. Never a fault: Kubernetes sets
    /// such names for a Service called bursar.
    pub(super) fn warn_of_strangers(&self, named_in_file: &[String], log: &FaultLog) {
        let ours = self.variables.keys().filter(|name| name.starts_with(PREFIX));
        for name in
            ours.filter(|name| !KNOWN.contains(&name.as_str()) && !named_in_file.contains(name))
        {
            let hint = super::walk::nearest(name, &KNOWN).map_or_else(
                || format!("the variables are {}", KNOWN.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            log.warning(
                None,
                name.as_str(),
                format!("is not a variable that Bursar knows, and is passed over; {hint}"),
            );
        }
    }
}

/// The hash of a secret, which must be a text that a header can carry.
pub(super) fn secret(text: &str) -> Result<KeyHash, String> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(
            "holds a space, a line break or a character that a header cannot carry".to_owned()
        );
    }
    Ok(Sha256::digest(text.as_bytes()).into())
}
