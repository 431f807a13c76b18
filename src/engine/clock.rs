//! The one place that reads clocks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::{Mono, Now, Wall};

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, read together.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// On Linux a suspended machine's time counts, so that a lease does not outlive a nap.
#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;
/// Elsewhere this is the nearest there is.
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = clock_gettime(ClockId::Realtime);
        let mono = clock_gettime(MONOTONIC);
        let wall_ms = wall.tv_sec.saturating_mul(1000).saturating_add(wall.tv_nsec / 1_000_000);
        let mono_ns = mono.tv_sec.saturating_mul(1_000_000_000).saturating_add(mono.tv_nsec);
        Now {
            wall: Wall::from_ms(wall_ms),
            mono: Mono::from_ns(u64::try_from(mono_ns).unwrap_or(0)),
        }
    }
}

/// A clock that moves only when it is told to, for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    /// A clock that stands at this wall time, an hour after boot.
    #[must_use]
    pub fn at(wall: Wall) -> Self {
        let mono = Mono::from_ns(0).plus(Duration::from_secs(3600));
        Self(Mutex::new(Now { wall, mono }))
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Now { wall: now.wall.plus(by), mono: now.mono.plus(by) };
    }

    /// Steps the wall clock forward, as when a machine learns the time after it stood still.
    pub fn step_wall(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.wall = now.wall.plus(by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
