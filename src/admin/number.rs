//! Numbers and times as JSON shows them: amounts from exact integers, never through a float.

use jiff::Timestamp;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// Dollars, as a JSON number with the decimals that they need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usd(pub(super) NanoUsd);

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// An instant, as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Wall);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let instant = Timestamp::from_millisecond(self.0.as_ms()).map_err(S::Error::custom)?;
        serializer.collect_str(&instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_written_exactly_as_numbers() {
        let json = |nano| serde_json::to_string(&Usd(NanoUsd::new(nano))).unwrap();
        assert_eq!(json(5_000_000_000), "5");
        assert_eq!(json(18_400), "0.0000184");
        assert_eq!(json(9_007_199_254_740_993), "9007199.254740993");
    }

    #[test]
    fn instants_are_written_in_utc() {
        let json = serde_json::to_string(&Time(Wall::from_ms(1_795_305_600_250))).unwrap();
        assert_eq!(json, "\"2026-11-22T00:00:00.25Z\"");
    }
}
