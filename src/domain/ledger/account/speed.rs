//! How fast an amount is used.

use std::time::Duration;

use crate::domain::money::Units;

/// What was measured before weighs as much as so much time.
const PAST_MS: i128 = 2_000;
/// Thousandths of a request per second, of one per millisecond.
const PER_MS: i128 = 1_000_000;

/// In thousandths of a typical request per second: half the size of an amount, and good enough to size a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Speed(u32);

impl Speed {
    /// Measured anew after so much more was used in this time. Less than nothing was given back.
    pub(super) fn after(self, used: Units, over: Duration, typical: Units) -> Self {
        let requests = i128::from(used.get()).saturating_mul(PER_MS);
        let Some(requests) = requests.checked_div(i128::from(typical.get())) else { return self };
        let sum = requests.saturating_add(i128::from(self.0).saturating_mul(PAST_MS));
        let speed = sum.checked_div(ms(over).saturating_add(PAST_MS)).unwrap_or(0).max(0);
        Self(u32::try_from(speed).unwrap_or(u32::MAX))
    }

    /// What is used in this time.
    pub(super) fn used_in(self, time: Duration, typical: Units) -> Units {
        let requests = i128::from(self.0).saturating_mul(ms(time));
        let used = requests.saturating_mul(i128::from(typical.get())).checked_div(PER_MS);
        Units::new(used.and_then(|used| i64::try_from(used).ok()).unwrap_or(i64::MAX))
    }

    /// How long an amount lasts.
    pub(super) fn uses_up(self, amount: Units, typical: Units) -> Duration {
        let amount = i128::from(amount.get().max(0)).saturating_mul(PER_MS);
        let per_ms = i128::from(self.0).saturating_mul(i128::from(typical.get()));
        let lasts = amount.checked_div(per_ms).and_then(|ms| u64::try_from(ms).ok());
        Duration::from_millis(lasts.unwrap_or(u64::MAX))
    }
}

fn ms(time: Duration) -> i128 {
    i128::try_from(time.as_millis()).unwrap_or(i128::MAX >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn units(amount: i64) -> Units {
        Units::new(amount)
    }

    #[test]
    fn what_was_before_fades_with_time() {
        let typical = units(1_000);
        let steady =
            (0..50).fold(Speed::default(), |speed, _| speed.after(units(7_000), SECOND, typical));
        assert_eq!(steady.used_in(SECOND * 10, typical), units(69_980), "seven a second, nearly");
        let quiet = steady.after(units(0), SECOND * 6, typical);
        assert_eq!(quiet.used_in(SECOND * 10, typical), units(17_490), "a quarter of it");
        assert_eq!(quiet.after(units(-90_000), SECOND, typical), Speed::default());
    }

    #[test]
    fn an_amount_lasts_as_long_as_it_takes_to_use_it() {
        let typical = units(500);
        let speed = Speed::default().after(units(4_000), SECOND * 2, typical);
        assert_eq!(speed.uses_up(units(3_000), typical), SECOND * 3, "two requests a second");
        assert_eq!(speed.uses_up(units(-1), typical), Duration::ZERO);
        assert_eq!(Speed::default().uses_up(units(1), typical).as_secs(), u64::MAX / 1_000);
    }

    #[test]
    fn no_amount_and_no_time_is_too_large() {
        let longest = Duration::MAX;
        for typical in [units(0), units(1), Units::MAX] {
            for used in [units(0), units(1), Units::MAX] {
                let speed = Speed(u32::MAX)
                    .after(used, Duration::ZERO, typical)
                    .after(used, longest, typical);
                for speed in [speed, Speed(u32::MAX)] {
                    speed.used_in(longest, typical);
                    speed.uses_up(Units::MAX, typical);
                }
            }
        }
    }
}
