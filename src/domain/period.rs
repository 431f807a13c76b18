//! Calendar windows: a pure function of period, time zone, week start and instant.

use std::sync::Arc;

use jiff::tz::TimeZone;
use thiserror::Error;

use crate::domain::time::Wall;

/// How often a limit starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    /// Calendar days.
    Daily,
    /// Calendar weeks.
    Weekly,
    /// Calendar months.
    Monthly,
    /// Calendar years.
    Yearly,
    /// Never.
    OneTime,
}

/// A day of the week on which weeks start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeekStart {
    /// As ISO 8601 has it.
    #[default]
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// A time zone that the bundled IANA database knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

/// A name that the bundled IANA database does not know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("is not a time zone of the IANA database, such as UTC or Europe/Berlin")]
pub struct UnknownZone;

/// The windows of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How often.
    pub period: Period,
    /// Whose calendar.
    pub zone: Zone,
    /// Where weeks start.
    pub week_start: WeekStart,
}

/// One period, such as November 2026 in Europe/Berlin. Holds `start ≤ t < end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its first instant.
    pub start: Wall,
    /// The first instant after it; `None` for a one-time window, which never ends.
    pub end: Option<Wall>,
    /// `2026-11-22`, `2026-W47`, `2026-11`, `2026`, or empty for one-time. Names the window within its budget's generation.
    pub label: Arc<str>,
}
