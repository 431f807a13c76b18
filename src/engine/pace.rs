//! Pauses. All of them are spread at random, so that replicas which lost the store together do not come back to it in step.

use std::time::Duration;

use super::Shared;

/// The first pause after a failed attempt; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The pauses between attempts of one thing.
#[derive(Debug)]
pub(super) struct Retries {
    next: Duration,
}

impl Retries {
    pub(super) const fn new() -> Self {
        Self { next: RETRY_MIN }
    }

    /// How long to wait before the next attempt: half of the pause for certain, the other half at random.
    pub(super) fn pause(&mut self, shared: &Shared) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(RETRY_MAX);
        let half = pause.checked_div(2).unwrap_or_default();
        half.saturating_add(shared.up_to(half))
    }
}

impl Shared {
    /// A time, give or take a fifth of it.
    pub(super) fn about(&self, time: Duration) -> Duration {
        let fifth = time.checked_div(5).unwrap_or_default();
        time.saturating_sub(fifth).saturating_add(self.up_to(fifth.saturating_mul(2)))
    }

    /// A random time below this one, to the microsecond. Where the system has no random bits it is none.
    pub(super) fn up_to(&self, time: Duration) -> Duration {
        let bits = self.state().entropy.bits().unwrap_or_default();
        let micros = bits.checked_rem(time.as_micros()).unwrap_or_default();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    }
}
