//! Reads price tables in LiteLLM's format: the one that ships, and the operator's own entries on top; and the catalog below.
//!
//! An entry is an object of prices in USD per token or unit, a string (another entry's name whose price it shares), or
//! null (the model is known and has no price). Numbers are taken from their decimal text. A price of zero is one that nobody
//! entered, so a model that costs nothing says `"free": true`.

mod catalog;
mod entry;
mod field;
mod off_peak;
mod sheet;

use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use crate::domain::json;
use crate::domain::pricing::{Entries, Entry, How, PriceTable};

/// The table that ships, cut from LiteLLM's by `scripts/update-prices`.
const SHIPPED: &str = include_str!("../../pricing/litellm.json");
/// The catalog that is asked for what the table does not know, cut from genai-prices' by the same script.
const CATALOG: &str = include_str!("../../pricing/genai.json");
/// The releases that they were cut from.
const SHIPPED_VERSION: &str = include_str!("../../pricing/VERSION");

/// What is wrong with one value of a price table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands, such as `gpt-4o.input_cost_per_token`; empty for the text as a whole.
    pub path: String,
    /// What is wrong, and what is accepted.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}", self.path, self.problem)
    }
}

/// The table that ships, over the catalog. A test makes sure that neither has faults.
#[must_use]
pub fn shipped() -> PriceTable {
    let (entries, _) = read(SHIPPED, &PriceTable::new("", Entries::new()));
    PriceTable::new(SHIPPED_VERSION.trim(), entries)
        .over(catalog::read(CATALOG).unwrap_or_default())
}

/// The same table below the operator's own entries, which replace those of the same name as a whole.
///
/// # Errors
/// Every fault of the text at once.
pub fn with_overrides(table: PriceTable, text: &str) -> Result<PriceTable, Vec<Fault>> {
    let (entries, faults) = read(text, &table);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(table.with_operator(&version(text), entries))
}

/// The version of the table that ships below such a text of the operator's.
#[must_use]
pub fn version(text: &str) -> String {
    format!("{}+{:08x}", SHIPPED_VERSION.trim(), crc32fast::hash(text.as_bytes()))
}

/// Entries of LiteLLM's table that explain its format or steer LiteLLM itself.
const NOTES: [&str; 2] = ["sample_spec", "fallback_generalizations"];

/// The entries of a text, with aliases resolved among them and then in the table below.
fn read(text: &str, below: &PriceTable) -> (Entries, Vec<Fault>) {
    let mut entries = Entries::new();
    let mut aliases = HashMap::new();
    let mut faults = Vec::new();
    if let Err(fault) = check_syntax(text) {
        return (entries, vec![fault]);
    }
    for (name, value) in json::members(text.as_bytes()) {
        let name = name.decoded().unwrap_or_default().into_owned();
        if entries.contains_key(&*name) || aliases.contains_key(&name) {
            faults.push(Fault { path: name, problem: "is there twice".to_owned() });
        } else if let Some(target) = value.as_str() {
            aliases.insert(name, target.into_owned());
        } else if !NOTES.contains(&&*name) {
            match entry::read(&name, value) {
                Ok(entry) => drop(entries.insert(name.into(), entry)),
                Err(found) => faults.extend(found),
            }
        }
    }
    let mut resolved = Vec::with_capacity(aliases.len());
    for (name, target) in aliases {
        match entries.get(&*target).cloned().or_else(|| known(below, &target)) {
            Some(entry @ Entry::Priced(_)) => resolved.push((name.into(), entry)),
            Some(Entry::Unpriced) | None => {
                let problem = format!("is an alias of {target:?}, which is no entry with a price");
                faults.push(Fault { path: name, problem });
            }
        }
    }
    entries.extend(resolved);
    faults.sort_by(|a, b| a.path.cmp(&b.path));
    (entries, faults)
}

/// What a name stands for without guessing.
fn known(table: &PriceTable, name: &str) -> Option<Entry> {
    table.entry(name).cloned().or_else(|| {
        let found = table.find(None, name).filter(|found| found.how == How::Known);
        found.map(|found| Entry::Priced(found.price))
    })
}

/// What is walked must be JSON, and an object.
fn check_syntax(text: &str) -> Result<(), Fault> {
    let fault = |problem: String| Fault { path: String::new(), problem };
    let value: &RawValue =
        serde_json::from_str(text).map_err(|e| fault(format!("is no JSON: {e}")))?;
    if value.get().starts_with('{') {
        Ok(())
    } else {
        Err(fault("is no object of model names and their prices".to_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "how many prices were compared is a result too")]
mod differential;
#[cfg(test)]
mod tests;
