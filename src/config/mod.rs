//! Floor 1: the operator's files and environment, checked and turned into settings and prices. All faults are found in one
//! go, each with its place.

mod env;
mod estimate;
mod fault;
mod file;
mod keys;
mod mapping;
mod parse;
pub mod prices;
mod settings;
mod show;
mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::domain::pricing::PriceTable;

pub use env::Environment;
pub use fault::{Fault, Faults};
pub use settings::{
    AccessKey, Listen, Log, LogFormat, Mapping, NoWorkspace, PrincipalPart, RateLimitService,
    Reply, Role, Settings, Source, StoreLink, StoreUrl, UnknownKeys,
};

use fault::FaultLog;
use walk::Section;

/// The largest configuration file that is read. A real one is a few kilobytes; more is another file by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The largest file of prices that is read: twenty times the table that ships.
const PRICES_BYTES_MAX: u64 = 16 << 20;

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The prices that ship, below the operator's own.
    pub prices: PriceTable,
    /// What a person should look at; shown at the start.
    pub warnings: Vec<Fault>,
}

/// Reads the settings from a file, when there is one, and the environment, and the prices that they name.
///
/// # Errors
/// [`Faults`] holds everything that is wrong with any of them.
pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Loaded, Faults> {
    let log = FaultLog::default();
    let text = match file {
        Some(path) => read(path, FILE_BYTES_MAX, "the file", &log),
        None => Some(String::new()),
    };
    let settings = text.and_then(|text| read_settings(&text, environment, &log));
    let prices =
        settings.as_ref().and_then(|settings| read_prices(settings.prices.as_deref(), &log));
    let warnings = log.verdict()?;
    match (settings, prices) {
        (Some(settings), Some(prices)) => Ok(Loaded { settings, prices, warnings }),
        // Whoever gave nothing has told the log why.
        _ => Err(Faults(Vec::new())),
    }
}

/// Reads the settings and what is to be remarked of them from the text of a file and the environment.
///
/// # Errors
/// [`Faults`] holds everything that is wrong with either.
pub fn settings(text: &str, environment: &Environment) -> Result<(Settings, Vec<Fault>), Faults> {
    let log = FaultLog::default();
    let settings = read_settings(text, environment, &log);
    let warnings = log.verdict()?;
    settings.map(|settings| (settings, warnings)).ok_or(Faults(Vec::new()))
}

fn read_settings(text: &str, environment: &Environment, log: &FaultLog) -> Option<Settings> {
    match walk::documents(text) {
        Ok(documents) => file::settings(Section::root(&documents, log), environment, log),
        Err(error) => {
            let line = Some(error.marker().line());
            log.fault(line, "the file", format!("is not YAML: {}", error.info()));
            None
        }
    }
}

/// The place of faults in the file of prices.
const PRICES: &str = "prices.file";

fn read_prices(file: Option<&Path>, log: &FaultLog) -> Option<PriceTable> {
    let shipped = prices::shipped();
    let Some(path) = file else { return Some(shipped) };
    let text = read(path, PRICES_BYTES_MAX, PRICES, log)?;
    let table = prices::with_overrides(shipped, &text);
    let told = |faults: Vec<prices::Fault>| {
        faults
            .iter()
            .for_each(|fault| log.fault(None, PRICES, format!("{}: {fault}", path.display())));
    };
    table.map_err(told).ok()
}

/// The text of a file of prices.
///
/// # Errors
/// When it cannot be read, or is larger than any such file.
pub fn prices_text(path: &Path) -> io::Result<String> {
    read_bounded(path, PRICES_BYTES_MAX)
}

fn read(path: &Path, bytes_max: u64, place: &str, log: &FaultLog) -> Option<String> {
    let told = |cause: io::Error| {
        log.fault(None, place, format!("{} cannot be read: {cause}", path.display()))
    };
    read_bounded(path, bytes_max).map_err(told).ok()
}

fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= bytes_max) {
        return Ok(text);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")))
}

#[cfg(test)]
mod tests;
