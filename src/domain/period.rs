//! Calendar windows: a pure function of period, time zone, week start and instant.

use std::sync::Arc;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Span, Timestamp};
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

impl Period {
    /// All periods, shortest first.
    pub const ALL: [Self; 5] =
        [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly, Self::OneTime];

    /// `daily`, `weekly`, `monthly`, `yearly` or `one_time`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::OneTime => "one_time",
        }
    }

    /// The period with this name, as [`Period::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.as_str() == name)
    }
}

impl WeekStart {
    /// All days, Monday first.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    /// `monday` to `sunday`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monday => "monday",
            Self::Tuesday => "tuesday",
            Self::Wednesday => "wednesday",
            Self::Thursday => "thursday",
            Self::Friday => "friday",
            Self::Saturday => "saturday",
            Self::Sunday => "sunday",
        }
    }

    /// The day with this name, as [`WeekStart::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|day| day.as_str() == name)
    }

    const fn weekday(self) -> Weekday {
        match self {
            Self::Monday => Weekday::Monday,
            Self::Tuesday => Weekday::Tuesday,
            Self::Wednesday => Weekday::Wednesday,
            Self::Thursday => Weekday::Thursday,
            Self::Friday => Weekday::Friday,
            Self::Saturday => Weekday::Saturday,
            Self::Sunday => Weekday::Sunday,
        }
    }
}

impl Zone {
    /// Coordinated universal time, the default of every budget.
    #[must_use]
    pub fn utc() -> Self {
        Self { name: Arc::from("UTC"), zone: TimeZone::UTC }
    }

    /// Looks a name up in the bundled database, so that all replicas agree whatever their machines have installed.
    /// The name is written as IANA writes it, upper and lower case included: one zone, one spelling.
    ///
    /// # Errors
    /// [`UnknownZone`] when the database has no such name.
    pub fn parse(name: &str) -> Result<Self, UnknownZone> {
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| UnknownZone)?;
        if zone.is_unknown() || zone.iana_name() != Some(name) {
            return Err(UnknownZone);
        }
        Ok(Self { name: Arc::from(name), zone })
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The local date at an instant. Instants outside the years −9999 to 9999 count as the first or the last of them.
    fn date_at(&self, at: Wall) -> Date {
        let nearest = if at < Wall::from_ms(0) { Timestamp::MIN } else { Timestamp::MAX };
        let instant = Timestamp::from_millisecond(at.as_ms()).unwrap_or(nearest);
        self.zone.to_datetime(instant).date()
    }

    /// The first instant at which a clock in this zone shows this date or a later one; `None` beyond the calendar.
    /// Clocks may skip midnight (the day then starts where they land) or show it twice (the day starts at the first).
    fn first_instant(&self, date: Date) -> Option<Wall> {
        let midnight = self.zone.to_ambiguous_timestamp(date.to_datetime(Time::midnight()));
        let instant = match midnight.offset() {
            // Read with the offset of after the gap, midnight lies before the gap, so the gap is the next change.
            AmbiguousOffset::Gap { .. } => {
                self.zone.following(midnight.earlier().ok()?).next()?.timestamp()
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                midnight.earlier().ok()?
            }
        };
        Some(Wall::from_ms(instant.as_millisecond()))
    }
}

impl Schedule {
    /// The window that an instant falls in: calendar days, weeks, months or years of the zone, whatever their length
    /// in hours. A window ends where the next begins, so each instant is in exactly one. At the ends of the calendar
    /// (the years −9999 and 9999) the first and the last window extend to the limits of [`Wall`].
    #[must_use]
    pub fn window_at(&self, at: Wall) -> Window {
        let Some(span) = self.span() else {
            return Window { start: Wall::from_ms(0), end: None, label: Arc::from("") };
        };
        let next_of = |first: Date| first.checked_add(span).ok();
        let start_of = |first: Date| self.zone.first_instant(first);
        let mut first = self.first_day(self.zone.date_at(at));
        // A clock set back over midnight shows yesterday's date again when today has already begun.
        if let Some(next) = next_of(first)
            && start_of(next).is_some_and(|begun| begun <= at)
        {
            first = next;
        }
        Window {
            start: start_of(first).unwrap_or(Wall::from_ms(i64::MIN)),
            end: next_of(first).and_then(start_of).or(Some(Wall::from_ms(i64::MAX))),
            label: self.label(first),
        }
    }

    /// How far apart windows start on the calendar; `None` for one-time.
    fn span(&self) -> Option<Span> {
        match self.period {
            Period::Daily => Some(Span::new().days(1)),
            Period::Weekly => Some(Span::new().weeks(1)),
            Period::Monthly => Some(Span::new().months(1)),
            Period::Yearly => Some(Span::new().years(1)),
            Period::OneTime => None,
        }
    }

    /// The first day of the window that a date is in.
    fn first_day(&self, date: Date) -> Date {
        match self.period {
            Period::Daily | Period::OneTime => date,
            Period::Weekly => {
                let days_in = date.weekday().since(self.week_start.weekday());
                date.saturating_sub(Span::new().days(days_in))
            }
            Period::Monthly => date.first_of_month(),
            Period::Yearly => date.first_of_year(),
        }
    }

    /// Names the window that starts on a day. A week belongs to the year that holds its fourth day, and is numbered
    /// by how many such days that year has had: with weeks from Monday that is ISO 8601, and with any other start it
    /// numbers every week once, too.
    fn label(&self, first: Date) -> Arc<str> {
        Arc::from(match self.period {
            Period::Daily => format!("{:04}-{:02}-{:02}", first.year(), first.month(), first.day()),
            Period::Weekly => {
                let middle = first.saturating_add(Span::new().days(3));
                let week = middle.day_of_year().unsigned_abs().div_ceil(7);
                format!("{:04}-W{week:02}", middle.year())
            }
            Period::Monthly => format!("{:04}-{:02}", first.year(), first.month()),
            Period::Yearly => format!("{:04}", first.year()),
            Period::OneTime => String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(period: Period, zone: &str, week_start: WeekStart) -> Schedule {
        Schedule { period, zone: Zone::parse(zone).unwrap(), week_start }
    }

    fn wall(instant: &str) -> Wall {
        Wall::from_ms(instant.parse::<Timestamp>().unwrap().as_millisecond())
    }

    /// `START END LABEL` of the window that an instant falls in.
    fn shown(schedule: &Schedule, at: &str) -> String {
        let window = schedule.window_at(wall(at));
        let instant = |wall: Wall| Timestamp::from_millisecond(wall.as_ms()).unwrap().to_string();
        format!(
            "{} {} {}",
            instant(window.start),
            window.end.map_or("never".to_owned(), instant),
            window.label
        )
        .trim_end()
        .to_owned()
    }

    /// Checks a table of `PERIOD ZONE INSTANT → START END [LABEL]`, one row a line; `PERIOD` may be `weekly/sunday`.
    fn check(table: &str) {
        for row in
            table.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#'))
        {
            let (asked, expected) = row.split_once(" → ").unwrap();
            let [period, zone, at] =
                asked.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
            let (period, week_start) = period.split_once('/').unwrap_or((period, "monday"));
            let schedule = schedule(
                Period::from_name(period).unwrap(),
                zone,
                WeekStart::from_name(week_start).unwrap(),
            );
            assert_eq!(shown(&schedule, at), expected.trim_start(), "{row}");
        }
    }

    #[test]
    fn each_period_has_its_windows_and_labels() {
        check(
            "daily    UTC            2026-11-22T13:00:00Z     → 2026-11-22T00:00:00Z 2026-11-23T00:00:00Z 2026-11-22
             daily    Asia/Tokyo     2026-11-22T15:00:00Z     → 2026-11-22T15:00:00Z 2026-11-23T15:00:00Z 2026-11-23
             daily    Asia/Tokyo     2026-11-22T14:59:59.999Z → 2026-11-21T15:00:00Z 2026-11-22T15:00:00Z 2026-11-22
             weekly   UTC            2026-11-22T13:00:00Z     → 2026-11-16T00:00:00Z 2026-11-23T00:00:00Z 2026-W47
             monthly  UTC            2026-11-22T13:00:00Z     → 2026-11-01T00:00:00Z 2026-12-01T00:00:00Z 2026-11
             monthly  Europe/Berlin  2026-10-31T23:00:00Z     → 2026-10-31T23:00:00Z 2026-11-30T23:00:00Z 2026-11
             monthly  UTC            2028-02-29T23:59:59.999Z → 2028-02-01T00:00:00Z 2028-03-01T00:00:00Z 2028-02
             yearly   UTC            2026-11-22T13:00:00Z     → 2026-01-01T00:00:00Z 2027-01-01T00:00:00Z 2026
             yearly   Asia/Kolkata   2026-12-31T18:30:00Z     → 2026-12-31T18:30:00Z 2027-12-31T18:30:00Z 2027
             one_time Asia/Tokyo     2026-11-22T13:00:00Z     → 1970-01-01T00:00:00Z never",
        );
    }

    #[test]
    fn days_keep_to_the_calendar_when_clocks_change() {
        check(
            "# 23 and 25 hours.
             daily Europe/Berlin     2026-03-29T12:00:00Z → 2026-03-28T23:00:00Z 2026-03-29T22:00:00Z 2026-03-29
             daily Europe/Berlin     2026-10-25T12:00:00Z → 2026-10-24T22:00:00Z 2026-10-25T23:00:00Z 2026-10-25
             # Midnight is skipped: the day starts at 01:00.
             daily America/Sao_Paulo 2018-11-04T12:00:00Z → 2018-11-04T03:00:00Z 2018-11-05T02:00:00Z 2018-11-04
             daily Africa/Cairo      2026-04-24T12:00:00Z → 2026-04-23T22:00:00Z 2026-04-24T21:00:00Z 2026-04-24
             daily Asia/Beirut       2026-03-29T12:00:00Z → 2026-03-28T22:00:00Z 2026-03-29T21:00:00Z 2026-03-29
             # The hour before midnight comes twice.
             daily America/Sao_Paulo 2018-02-18T02:30:00Z → 2018-02-17T02:00:00Z 2018-02-18T03:00:00Z 2018-02-17
             daily Asia/Beirut       2026-10-24T21:30:00Z → 2026-10-23T21:00:00Z 2026-10-24T22:00:00Z 2026-10-24
             # The gap lies around midnight: the day starts at 00:30, where the clock lands.
             daily America/Toronto   1919-03-31T12:00:00Z → 1919-03-31T04:30:00Z 1919-04-01T04:00:00Z 1919-03-31
             # Clocks go back from 00:01 to 23:01: the day has begun and stays begun.
             daily America/St_Johns  2006-10-29T03:00:00Z → 2006-10-29T02:30:00Z 2006-10-30T03:30:00Z 2006-10-29
             # A day that never was.
             daily Pacific/Apia      2011-12-30T09:59:59Z → 2011-12-29T10:00:00Z 2011-12-30T10:00:00Z 2011-12-29
             daily Pacific/Apia      2011-12-30T10:00:00Z → 2011-12-30T10:00:00Z 2011-12-31T10:00:00Z 2011-12-31",
        );
    }

    #[test]
    fn weeks_start_where_they_are_told_to() {
        check(
            "weekly/monday   UTC 2026-11-23T00:00:00Z → 2026-11-23T00:00:00Z 2026-11-30T00:00:00Z 2026-W48
             weekly/sunday   UTC 2026-11-22T00:00:00Z → 2026-11-22T00:00:00Z 2026-11-29T00:00:00Z 2026-W47
             weekly/saturday UTC 2026-11-22T00:00:00Z → 2026-11-21T00:00:00Z 2026-11-28T00:00:00Z 2026-W47
             weekly/monday   UTC 2027-01-03T12:00:00Z → 2026-12-28T00:00:00Z 2027-01-04T00:00:00Z 2026-W53
             weekly/sunday   UTC 2027-01-03T12:00:00Z → 2027-01-03T00:00:00Z 2027-01-10T00:00:00Z 2027-W01",
        );
    }

    #[test]
    fn the_far_past_and_the_far_future_have_windows_too() {
        for zone in ["UTC", "Pacific/Kiritimati", "America/Los_Angeles", "Asia/Manila"] {
            for period in [Period::Daily, Period::Weekly, Period::Monthly, Period::Yearly] {
                let schedule = schedule(period, zone, WeekStart::Sunday);
                for at in [
                    i64::MIN,
                    i64::MIN + 1,
                    -377_705_023_201_000,
                    253_402_207_200_000,
                    i64::MAX - 1,
                ] {
                    let window = schedule.window_at(Wall::from_ms(at));
                    assert!(
                        window.start <= Wall::from_ms(at) && Some(Wall::from_ms(at)) < window.end,
                        "{zone} {at}"
                    );
                }
                assert_eq!(
                    schedule.window_at(Wall::from_ms(i64::MAX)).end,
                    Some(Wall::from_ms(i64::MAX))
                );
            }
        }
    }

    #[test]
    fn names_read_back_what_they_show() {
        for period in Period::ALL {
            assert_eq!(Period::from_name(period.as_str()), Some(period));
        }
        for day in WeekStart::ALL {
            assert_eq!(WeekStart::from_name(day.as_str()), Some(day));
        }
        assert_eq!(Period::from_name("Daily"), None);
        assert_eq!(WeekStart::from_name("mon"), None);
    }

    #[test]
    fn a_zone_is_named_as_iana_names_it() {
        assert_eq!(Zone::parse("UTC"), Ok(Zone::utc()));
        for name in
            ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "Asia/Calcutta"]
        {
            assert_eq!(Zone::parse(name).unwrap().name(), name);
        }
        for bad in [
            "",
            "europe/berlin",
            "utc",
            "Mars/Olympus",
            "+01:00",
            "Etc/Unknown",
            "../etc/passwd",
            "Europe/Berlin ",
        ] {
            assert_eq!(Zone::parse(bad), Err(UnknownZone), "{bad}");
        }
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        const ZONES: [&str; 10] = [
            "UTC",
            "Europe/Berlin",
            "America/Sao_Paulo",
            "America/St_Johns",
            "Africa/Cairo",
            "Asia/Beirut",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Pacific/Kwajalein",
        ];
        const PERIODS: [Period; 4] =
            [Period::Daily, Period::Weekly, Period::Monthly, Period::Yearly];
        (
            prop::sample::select(&PERIODS),
            prop::sample::select(&ZONES),
            prop::sample::select(&WeekStart::ALL),
        )
            .prop_map(|(period, zone, week_start)| schedule(period, zone, week_start))
    }

    proptest! {
        /// From 1970 to 2100.
        #[test]
        fn windows_follow_each_other_without_gap_or_overlap(
            schedule in any_schedule(),
            at in (0_i64..4_102_444_800_000).prop_map(Wall::from_ms),
        ) {
            let window = schedule.window_at(at);
            let end = window.end.unwrap();
            prop_assert!(window.start <= at && at < end);
            prop_assert_eq!(&schedule.window_at(window.start), &window);
            prop_assert_eq!(&schedule.window_at(Wall::from_ms(end.as_ms() - 1)), &window);
            let next = schedule.window_at(end);
            prop_assert_eq!(next.start, end);
            prop_assert_ne!(next.label, window.label);
        }

        #[test]
        fn weeks_from_monday_are_numbered_as_iso_8601_does(at in (0_i64..4_102_444_800_000).prop_map(Wall::from_ms)) {
            let week = Zone::utc().date_at(at).iso_week_date();
            let schedule = schedule(Period::Weekly, "UTC", WeekStart::Monday);
            prop_assert_eq!(&*schedule.window_at(at).label, format!("{:04}-W{:02}", week.year(), week.week()));
        }
    }

    #[test]
    fn no_two_weeks_share_a_label() {
        for week_start in WeekStart::ALL {
            let schedule = schedule(Period::Weekly, "UTC", week_start);
            let mut window = schedule.window_at(Wall::from_ms(0));
            let mut labels = std::collections::BTreeSet::new();
            while window.start < wall("2100-01-01T00:00:00Z") {
                assert!(labels.insert(window.label.clone()), "{week_start:?} {}", window.label);
                window = schedule.window_at(window.end.unwrap());
            }
        }
    }
}
