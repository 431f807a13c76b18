//! The prices of one model: by how much input there is, by how it is served, and by when.

use crate::domain::pricing::{ByKind, ByUnit, Rate, ServiceTier};
use crate::domain::time::Wall;

/// What each kind of token costs.
pub type Rates = ByKind<Rate>;

/// Rates that hold together: of one tier of service, at certain times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// How a request is served for them.
    pub service: ServiceTier,
    /// When they hold.
    pub when: When,
    /// What a request costs that no tier applies to.
    pub rates: Rates,
    /// Other rates for requests with more input, in ascending order.
    pub tiers: Box<[Tier]>,
    /// What units other than tokens cost.
    pub units: ByUnit<Rate>,
}

/// Rates that hold for the whole of a request with more input than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// More input tokens than this, cache included.
    pub above: u64,
    /// The rates then.
    pub rates: Rates,
}

/// When an offer holds; the default is always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// From this instant on.
    pub since: Option<Wall>,
    /// In these hours only.
    pub hours: Option<Hours>,
}

/// Hours of a week, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// The first second of the day.
    pub from: u32,
    /// The second after the last; up to `from` it is one of the next day.
    pub until: u32,
    /// On these days: bit 0 is Monday.
    pub days: u8,
}

/// Milliseconds in a second.
const MS_PER_SECOND: i64 = 1_000;
/// Seconds in a day.
pub(super) const SECONDS_PER_DAY: i64 = 86_400;
/// 1970-01-01 was a Thursday, the fourth day of the week.
const EPOCH_WEEKDAY: i64 = 3;
/// Days in a week.
const DAYS_PER_WEEK: i64 = 7;

impl Rates {
    /// The same rate for every token of input, and another for every token of output.
    #[must_use]
    pub const fn flat(input: Rate, output: Rate) -> Self {
        Self {
            input,
            cached: input,
            cache_write: input,
            cache_write_1h: input,
            input_audio: input,
            cached_audio: input,
            input_image: input,
            output,
            reasoning: output,
            output_audio: output,
            output_image: output,
        }
    }
}

impl Offer {
    /// An offer without tiers and units.
    #[must_use]
    pub fn flat(service: ServiceTier, input: Rate, output: Rate) -> Self {
        Self { service, rates: Rates::flat(input, output), ..Self::default() }
    }

    /// The rates that hold for a request with this much input.
    #[must_use]
    pub fn rates_for(&self, input_tokens: u64) -> &Rates {
        let tier = self.tiers.iter().rev().find(|tier| input_tokens > tier.above);
        tier.map_or(&self.rates, |tier| &tier.rates)
    }
}

impl When {
    /// Whether it includes this instant. Without one, prices of certain hours do not hold, and all dates have come.
    #[must_use]
    pub fn includes(&self, at: Option<Wall>) -> bool {
        match at {
            None => self.hours.is_none(),
            Some(at) => {
                self.since.is_none_or(|since| at >= since)
                    && self.hours.is_none_or(|hours| hours.include(at))
            }
        }
    }
}

impl Hours {
    /// Every day of the week.
    pub const EVERY_DAY: u8 = 0b111_1111;

    fn include(self, at: Wall) -> bool {
        let seconds = at.as_ms().div_euclid(MS_PER_SECOND);
        let second = u32::try_from(seconds.rem_euclid(SECONDS_PER_DAY)).unwrap_or(0);
        let day = seconds.div_euclid(SECONDS_PER_DAY).saturating_add(EPOCH_WEEKDAY);
        let weekday = u32::try_from(day.rem_euclid(DAYS_PER_WEEK)).unwrap_or(0);
        let yesterday = if weekday == 0 { 6 } else { weekday.saturating_sub(1) };
        let on = |day: u32| self.days.checked_shr(day).is_some_and(|days| days & 1 == 1);
        if self.from < self.until {
            return on(weekday) && (self.from..self.until).contains(&second);
        }
        (on(weekday) && second >= self.from) || (on(yesterday) && second < self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sunday 2026-11-22T00:00:00Z and so many hours later.
    fn sunday(hours: i64) -> Option<Wall> {
        Some(Wall::from_ms((20_779 * 24 + hours) * 3_600_000))
    }

    #[test]
    fn an_offer_holds_at_its_time() {
        let hours = |from: u32, until: u32, days| When {
            since: None,
            hours: Some(Hours { from: from * 3_600, until: until * 3_600, days }),
        };
        let weekend = 0b110_0000;
        for (when, at, holds) in [
            (When::default(), None, true),
            (When { since: sunday(0), hours: None }, None, true),
            (When { since: sunday(0), hours: None }, sunday(0), true),
            (When { since: sunday(0), hours: None }, sunday(-1), false),
            (hours(1, 4, Hours::EVERY_DAY), None, false),
            (hours(1, 4, Hours::EVERY_DAY), sunday(1), true),
            (hours(1, 4, Hours::EVERY_DAY), sunday(4), false),
            (hours(22, 2, Hours::EVERY_DAY), sunday(23), true),
            (hours(22, 2, Hours::EVERY_DAY), sunday(1), true),
            (hours(22, 2, Hours::EVERY_DAY), sunday(2), false),
            (hours(0, 0, weekend), sunday(12), true),
            (hours(0, 0, weekend), sunday(24), false),
            (hours(22, 2, weekend), sunday(25), true),
            (hours(22, 2, weekend), sunday(47), false),
        ] {
            assert_eq!(when.includes(at), holds, "{when:?} at {at:?}");
        }
    }
}
