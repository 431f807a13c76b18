//! Floor 1: the operator's file and environment, checked and turned into settings. All faults are found in one go, each with its place.

mod env;
mod estimate;
mod fault;
mod file;
mod keys;
mod mapping;
mod parse;
mod settings;
mod show;
mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use env::Environment;
pub use fault::{Fault, Faults};
pub use settings::{
    AccessKey, Listen, Log, LogFormat, Mapping, NoWorkspace, OnTimeout, PrincipalPart, Reply,
    Reservation, Role, Settings, Source, StoreUrl, UnknownKeys,
};

use fault::FaultLog;
use walk::Section;

/// The largest file that is read. A real one is a few kilobytes; more is another file by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What a person should look at; shown at the start.
    pub warnings: Vec<Fault>,
}

/// Reads the settings from a file, when there is one, and the environment.
///
/// # Errors
/// [`Faults`] holds everything that is wrong with either.
pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, Faults> {
    match file.map(|path| read(path).map_err(|cause| (path, cause))).transpose() {
        Ok(text) => from_text(text.as_deref().unwrap_or_default(), environment),
        Err((path, cause)) => {
            let log = FaultLog::default();
            log.fault(None, path.display().to_string(), format!("cannot be read: {cause}"));
            refuse(log)
        }
    }
}

/// Reads the settings from the text of a file and the environment.
///
/// # Errors
/// [`Faults`] holds everything that is wrong with either.
pub fn from_text(text: &str, environment: &Environment) -> Result<Loaded, Faults> {
    let log = FaultLog::default();
    let settings = match walk::documents(text) {
        Ok(documents) => file::settings(Section::root(&documents, &log), environment, &log),
        Err(error) => {
            log.fault(
                Some(error.marker().line()),
                "the file",
                format!("is not YAML: {}", error.info()),
            );
            None
        }
    };
    match settings {
        Some(settings) => log.verdict().map(|warnings| Loaded { settings, warnings }),
        None => refuse(log),
    }
}

fn refuse(log: FaultLog) -> Result<Loaded, Faults> {
    Err(log.verdict().err().unwrap_or(Faults(Vec::new())))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        return Ok(text);
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {FILE_BYTES_MAX} bytes"),
    ))
}

#[cfg(test)]
mod tests;
