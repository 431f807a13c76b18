//! Reads JSON requests field by field: every complaint names its field, every number is read from its decimal text, and
//! a field that is left out is not the same as `null`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// What a request says about a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given<T> {
    /// Nothing: an update keeps what is there.
    Omitted,
    /// `null`: an update removes what is there.
    Null,
    /// This.
    Value(T),
}

impl<T> Given<T> {
    /// Reads the value, if there is one.
    pub(super) fn read<U>(
        self,
        reader: impl FnOnce(T) -> Result<U, Fault>,
    ) -> Result<Given<U>, Fault> {
        Ok(match self {
            Self::Omitted => Given::Omitted,
            Self::Null => Given::Null,
            Self::Value(value) => Given::Value(reader(value)?),
        })
    }

    /// The value, where leaving out and `null` mean the same.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Omitted | Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// Changes what is there, as an update does.
    pub(super) fn put(self, field: &mut Option<T>) {
        match self {
            Self::Omitted => {}
            Self::Null => *field = None,
            Self::Value(value) => *field = Some(value),
        }
    }
}

impl<T: Default> Given<T> {
    /// Changes what is there; `null` brings the default back.
    pub(super) fn put_or_default(self, field: &mut T) {
        match self {
            Self::Omitted => {}
            Self::Null => *field = T::default(),
            Self::Value(value) => *field = value,
        }
    }
}

/// A JSON object whose fields are taken one by one. Nested values stay text until they are asked for, so that depth
/// costs nothing.
pub(super) struct Object<'a> {
    path: String,
    fields: BTreeMap<String, &'a RawValue>,
    asked: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// Reads a request's body.
    pub(super) fn parse(body: &'a str) -> Result<Self, Fault> {
        Self::at(String::new(), body)
    }

    fn at(path: String, text: &'a str) -> Result<Self, Fault> {
        let what = if path.is_empty() { "the body" } else { path.as_str() };
        let fields: Fields<'a> =
            serde_json::from_str(text).map_err(|error| match error.classify() {
                Category::Syntax | Category::Eof | Category::Io => {
                    Fault::invalid(format!("the body is not JSON: {error}"))
                }
                Category::Data => Fault::invalid(format!("{what} must be a JSON object")),
            })?;
        match fields.repeated {
            Some(name) => Err(Fault::invalid(format!("{} is given twice", joined(&path, &name)))),
            None => Ok(Self { path, fields: fields.fields, asked: Vec::new() }),
        }
    }

    /// Takes a field.
    pub(super) fn take(&mut self, name: &'static str) -> Given<Field<'a>> {
        self.asked.push(name);
        match self.fields.remove(name) {
            None => Given::Omitted,
            Some(raw) if raw.get() == "null" => Given::Null,
            Some(raw) => Given::Value(Field { path: joined(&self.path, name), text: raw.get() }),
        }
    }

    /// Takes an id that need not be there.
    pub(super) fn id(&mut self, name: &'static str) -> Result<Option<Id>, Fault> {
        Ok(self.take(name).read(Field::id)?.value())
    }

    /// Complains about fields that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.fields.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Fault::invalid(format!(
                "{} is not a known field; known are {}",
                joined(&self.path, &name),
                self.asked.join(", ")
            ))),
        }
    }
}

/// One value and where it stands.
pub(super) struct Field<'a> {
    path: String,
    text: &'a str,
}

impl<'a> Field<'a> {
    /// Complains: the field's path, then `problem`.
    pub(super) fn fault(&self, problem: impl fmt::Display) -> Fault {
        Fault::invalid(format!("{} {problem}", self.path))
    }

    pub(super) fn object(self) -> Result<Object<'a>, Fault> {
        Object::at(self.path, self.text)
    }

    pub(super) fn text(&self) -> Result<String, Fault> {
        serde_json::from_str(self.text).map_err(|_| self.fault("must be a string"))
    }

    pub(super) fn id(self) -> Result<Id, Fault> {
        Id::parse(&self.text()?).map_err(|error| self.fault(error))
    }

    pub(super) fn flag(self) -> Result<bool, Fault> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.fault("must be true or false")),
        }
    }

    /// A number of dollars, zero or more.
    pub(super) fn usd(self) -> Result<NanoUsd, Fault> {
        self.usd_from(self.text)
    }

    /// A number of dollars, zero or more, or a string that holds one.
    pub(super) fn usd_or_text(self) -> Result<NanoUsd, Fault> {
        match self.text() {
            Ok(text) => self.usd_from(&text),
            Err(_) => self.usd_from(self.text),
        }
    }

    fn usd_from(&self, text: &str) -> Result<NanoUsd, Fault> {
        match NanoUsd::from_usd_text(text) {
            Ok(amount) if amount < NanoUsd::ZERO => Err(self.fault("must not be negative")),
            Ok(amount) => Ok(amount),
            Err(error) => {
                Err(self.fault(format_args!("{error}; give US dollars such as 5 or 0.25")))
            }
        }
    }

    /// A whole number from 0 to `max`, however it is written: `60`, `60.0` or `6e1`.
    pub(super) fn whole(self, max: u64) -> Result<u64, Fault> {
        match whole(self.text) {
            Some(number) if number <= u128::from(max) => {
                u64::try_from(number).map_err(|_| self.fault("is too large"))
            }
            Some(_) => Err(self.fault(format_args!("must be at most {max}"))),
            None => Err(self.fault("must be a whole number, zero or more")),
        }
    }

    /// An RFC 3339 time.
    pub(super) fn time(self) -> Result<Wall, Fault> {
        let instant: Timestamp = self
            .text()?
            .parse()
            .map_err(|_| self.fault("must be an RFC 3339 time such as 2026-11-22T00:00:00Z"))?;
        Ok(Wall::from_ms(instant.as_millisecond()))
    }

    /// One of a few names.
    pub(super) fn one_of<T: Copy>(self, names: &[(&str, T)]) -> Result<T, Fault> {
        let text = self.text()?;
        named(&text, names).ok_or_else(|| self.fault(accepted(names)))
    }
}

/// The value with this name.
pub(super) fn named<T: Copy>(text: &str, names: &[(&str, T)]) -> Option<T> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

/// `must be one of …`.
pub(super) fn accepted<T>(names: &[(&str, T)]) -> String {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    format!("must be one of {}", names.join(", "))
}

/// The value of a decimal text when it is whole and not negative; `u128::MAX` when it is beyond all limits.
fn whole(text: &str) -> Option<u128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (units, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{units}{fraction}");
    if units.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let exponent: i64 =
        exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
    let zeros =
        i64::try_from(units.len()).ok()?.saturating_sub(i64::try_from(significant.len()).ok()?);
    let power = exponent.saturating_add(zeros);
    if power < 0 {
        return None;
    }
    let power = u32::try_from(power).unwrap_or(u32::MAX);
    let value = significant.parse::<u128>().ok().zip(10u128.checked_pow(power));
    Some(value.and_then(|(value, power)| value.checked_mul(power)).unwrap_or(u128::MAX))
}

/// `limits` and `amount` make `limits.amount`.
fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { shown(name) } else { format!("{path}.{}", shown(name)) }
}

/// A name as complaints repeat it: an unknown one may be as long as the body.
pub(super) fn shown(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().take(CHARS_MAX).collect()
}

/// The fields of one object, and the first name that came twice.
struct Fields<'a> {
    fields: BTreeMap<String, &'a RawValue>,
    repeated: Option<String>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut read = Fields { fields: BTreeMap::new(), repeated: None };
        while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
            match read.fields.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(raw);
                }
                Entry::Occupied(taken) => {
                    read.repeated.get_or_insert_with(|| taken.key().clone());
                }
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
