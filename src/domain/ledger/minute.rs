//! The rolling minute: which admissions of the last 60 seconds still hold a slot.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::time::Mono;

/// How long an admission holds its slot.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Up to this limit every admission has a stamp of its own; above it, stamps share buckets to bound memory.
pub(super) const EXACT_MAX: u32 = 6000;
/// Width of a shared bucket: the most by which a slot may come back late, never early.
const BUCKET: Duration = Duration::from_millis(100);

/// Stamps of the admissions that count, oldest first. One entry is one instant and the admissions it stands for.
#[derive(Debug, Clone, Default)]
pub struct Minute {
    stamps: VecDeque<(Mono, u32)>,
    used: u32,
}

impl Minute {
    /// Admissions that hold a slot at `now`.
    pub fn used(&mut self, now: Mono) -> u32 {
        while let Some(&(at, count)) = self.stamps.front() {
            if now.since(at) < MINUTE {
                break;
            }
            self.stamps.pop_front();
            self.used = self.used.saturating_sub(count);
        }
        self.used
    }

    /// Instants at which slots were taken that still count, and how many at each.
    pub(super) fn stamps(&mut self, now: Mono) -> impl Iterator<Item = (Mono, u32)> {
        self.used(now);
        self.stamps.iter().copied()
    }

    /// Takes a slot. Above [`EXACT_MAX`] the stamp is moved to the end of its bucket, so that it leaves late rather than early.
    pub fn take(&mut self, now: Mono, limit: u32) {
        let at = if limit > EXACT_MAX { end_of_bucket(now) } else { now };
        self.used = self.used.saturating_add(1);
        match self.stamps.back_mut() {
            // A clock that never steps gives stamps in order; an equal one shares its entry.
            Some((last, count)) if *last >= at => *count = count.saturating_add(1),
            _ => self.stamps.push_back((at, 1)),
        }
    }

    /// Gives the slot back that was taken at `at`: the request never left.
    pub fn give_back(&mut self, at: Mono, limit: u32) {
        let at = if limit > EXACT_MAX { end_of_bucket(at) } else { at };
        let from = self.stamps.partition_point(|(stamp, _)| *stamp < at);
        // One that was forgotten, by a reset or with time, is not another's to give.
        if let Some((stamp, count)) = self.stamps.get_mut(from)
            && *stamp == at
            && *count > 0
        {
            *count = count.saturating_sub(1);
            self.used = self.used.saturating_sub(1);
        }
    }

    /// Time until `slots` of those in use are free: zero for none.
    pub fn until_free(&mut self, slots: u32, now: Mono) -> Duration {
        self.used(now);
        let mut freed = 0u32;
        for (at, count) in &self.stamps {
            if freed >= slots {
                break;
            }
            freed = freed.saturating_add(*count);
            if freed >= slots {
                return MINUTE.saturating_sub(now.since(*at));
            }
        }
        Duration::ZERO
    }

    /// Forgets all stamps.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The last instant of the bucket that holds `at`.
fn end_of_bucket(at: Mono) -> Mono {
    let width = u64::try_from(BUCKET.as_nanos()).unwrap_or(u64::MAX);
    Mono::from_ns(
        at.as_ns().checked_div(width).unwrap_or(0).saturating_add(1).saturating_mul(width),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Mono {
        Mono::from_ns(ms * 1_000_000)
    }

    #[test]
    fn a_slot_is_free_exactly_sixty_seconds_after_it_was_taken() {
        let mut minute = Minute::default();
        minute.take(ms(1_000), 2);
        minute.take(ms(1_500), 2);
        assert_eq!(minute.used(Mono::from_ns(ms(61_000).as_ns() - 1)), 2);
        assert_eq!(minute.until_free(1, ms(60_000)), Duration::from_secs(1));
        assert_eq!(minute.until_free(2, ms(60_000)), Duration::from_millis(1500));
        assert_eq!(minute.used(ms(61_000)), 1);
        assert_eq!(minute.used(ms(61_500)), 0);
    }

    #[test]
    fn a_request_that_never_left_gives_its_own_slot_back() {
        let mut minute = Minute::default();
        for at in [1, 2, 2, 3] {
            minute.take(ms(at), 10);
        }
        minute.give_back(ms(2), 10);
        assert_eq!(minute.used(ms(60_002)), 1);
        minute.give_back(ms(9), 10);
        assert_eq!(minute.used(ms(60_002)), 1);
    }

    #[test]
    fn a_slot_that_is_free_already_is_not_given_back_in_place_of_another() {
        let mut minute = Minute::default();
        minute.take(ms(1), 10);
        minute.take(ms(50_000), 10);
        assert_eq!(minute.used(ms(60_001)), 1);
        minute.give_back(ms(1), 10);
        assert_eq!(minute.used(ms(60_001)), 1);
    }

    #[test]
    fn above_six_thousand_slots_come_back_late_by_at_most_a_tenth_of_a_second() {
        let mut minute = Minute::default();
        for at in 0..1000 {
            minute.take(ms(at), 10_000);
        }
        assert_eq!(minute.stamps.len(), 10);
        assert_eq!(minute.used(ms(60_000)), 1000);
        assert_eq!(minute.used(ms(60_100)), 900);
        assert_eq!(minute.used(ms(61_000)), 0);
        minute.take(ms(100_050), 10_000);
        minute.give_back(ms(100_050), 10_000);
        assert_eq!(minute.used(ms(100_060)), 0);
    }
}
