//! Reads the hours in which a provider is cheaper, in LiteLLM's form.

use super::field::Field;
use super::sheet::Sheet;
use crate::domain::json::{self, Raw};
use crate::domain::pricing::{ByUnit, Hours, Offer, Rate, ServiceTier, When};

/// Rates that hold in some hours of the week.
#[derive(Debug)]
pub(super) struct OffPeak {
    sheet: Sheet,
    hours: Vec<Hours>,
}

impl OffPeak {
    /// One offer for each range of hours.
    pub(super) fn offers(&self, standard: &Sheet, units: ByUnit<Rate>) -> Vec<Offer> {
        let offer = |hours| {
            let when = When { since: None, hours: Some(hours) };
            self.sheet.offer(ServiceTier::Standard, when, standard, units)
        };
        self.hours.iter().copied().map(offer).collect()
    }
}

/// Reads `{"input_cost_per_token": …, "windows": [{"hours_utc": ["00:00-01:00"], "weekdays": [1, 2]}]}`; Monday is 1.
/// `None` where weekdays are those of another time zone than the hours: there the price at any hour holds.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(value: Raw<'_>) -> Result<Option<OffPeak>, String> {
    let mut off_peak = OffPeak { sheet: Sheet::default(), hours: Vec::new() };
    for (key, value) in json::members(value.bytes()) {
        let key = key.decoded().unwrap_or_default();
        match &*key {
            "weekday_timezone" => return Ok(None),
            "windows" => {
                for window in json::elements(value.bytes()) {
                    off_peak.hours.extend(hours_of(window)?);
                }
            }
            _ => {
                if let Some(Field::Tokens(kind, above, ServiceTier::Standard)) =
                    Field::of_name(&key)
                {
                    let rate = Rate::from_usd_per_token(value.scalar().unwrap_or_default())
                        .map_err(|error| format!("has a {key} that {error}"))?;
                    *off_peak.sheet.above(above).slot(kind) = Some(rate);
                }
            }
        }
    }
    Ok(Some(off_peak))
}

fn hours_of(window: Raw<'_>) -> Result<Vec<Hours>, String> {
    let member = |name: &str| match json::find(window.bytes(), &[name]) {
        json::Found::Value(value) => Some(value),
        json::Found::Absent | json::Found::Cut | json::Found::Malformed => None,
    };
    let days = member("weekdays").map_or(Ok(Hours::EVERY_DAY), weekdays)?;
    let Some(hours) = member("hours_utc") else {
        return Err("has a window without hours_utc".to_owned());
    };
    let ranges = match hours.as_str() {
        Some(range) => vec![range.into_owned()],
        None => json::elements(hours.bytes())
            .map(|range| range.as_str().unwrap_or_default().into_owned())
            .collect(),
    };
    let read = |range: &String| {
        let (from, until) = range.split_once('-')?;
        Some(Hours { from: second_of(from)?, until: second_of(until)?, days })
    };
    ranges
        .iter()
        .map(|range| {
            read(range).ok_or_else(|| {
                format!("has the hours {range:?}, which are not like \"10:00-16:30\"")
            })
        })
        .collect()
}

fn weekdays(value: Raw<'_>) -> Result<u8, String> {
    json::elements(value.bytes()).try_fold(0, |days, day| match day.as_u64() {
        Some(day @ 1..=7) => Ok(days | 1 << (day - 1)),
        _ => Err("has a weekday that is not 1 (Monday) to 7 (Sunday)".to_owned()),
    })
}

/// `10:30` as seconds of the day.
fn second_of(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 3_600 + minute * 60)
}
