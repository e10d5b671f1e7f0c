//! The five fields of a cron schedule, and the times they mean.

use jiff::{Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// Years to look ahead before a schedule counts as never due (29 February on a Monday...).
const YEARS_MAX: i16 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A `*` in the day fields decides whether they are joined by and or by or.
    any_day: bool,
    any_weekday: bool,
    /// `@every`: a fixed number of seconds.
    every: Option<i64>,
}

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        let expanded = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(interval) = expanded.strip_prefix("@every ") {
            let seconds = skiff_api::timestamp::parse_duration(interval.trim())
                .map_err(|error| error.to_string())?
                .as_secs()
                .max(1);
            let none = Schedule { every: Some(seconds), ..Schedule::nothing() };
            return Ok(none);
        }
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {text}", fields.len()));
        };
        let is_any = |field: &str| field.split(',').any(|part| part == "*" || part == "?" || part.starts_with("*/"));
        let mut weekday_bits = parse_field(weekdays, 0, 7, &WEEKDAYS)?;
        if weekday_bits & (1 << 7) != 0 {
            // Sunday has two numbers.
            weekday_bits = (weekday_bits & !(1 << 7)) | 1;
        }
        Ok(Schedule {
            minutes: parse_field(minutes, 0, 59, &[])?,
            hours: parse_field(hours, 0, 23, &[])?,
            days: parse_field(days, 1, 31, &[])?,
            months: parse_field(months, 1, 12, &MONTHS)?,
            weekdays: weekday_bits,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
            every: None,
        })
    }

    fn nothing() -> Schedule {
        Schedule {
            minutes: 0,
            hours: 0,
            days: 0,
            months: 0,
            weekdays: 0,
            any_day: true,
            any_weekday: true,
            every: None,
        }
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Some(seconds) = self.every {
            return Timestamp::from_second(after.as_second() + seconds).ok();
        }
        let start = zone.to_datetime(after);
        let last_year = start.year() + YEARS_MAX;
        let mut at = start.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        while at.year() <= last_year {
            at = match self.skip(at) {
                Some(later) => later?,
                None => {
                    let time = zone.to_ambiguous_timestamp(at).compatible().ok()?;
                    if time > after {
                        return Some(time);
                    }
                    at.checked_add(1.minute()).ok()?
                }
            };
        }
        None
    }

    /// The last time at or before `now`, looking back a year at most.
    pub fn previous(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut span = 60;
        while span < 400 * 86_400 {
            let mut at = Timestamp::from_second(now.as_second() - span).ok()?;
            let mut found = None;
            while let Some(next) = self.next(at, zone).filter(|next| *next <= now) {
                found = Some(next);
                at = next;
            }
            if found.is_some() {
                return found;
            }
            span *= 4;
        }
        None
    }

    /// Where to look next when `at` does not fit; the outer `None` means that it fits.
    fn skip(&self, at: DateTime) -> Option<Option<DateTime>> {
        let midnight = |at: DateTime| at.with().hour(0).minute(0).build().ok();
        if self.months & (1 << at.month()) == 0 {
            let next = at.with().day(1).build().ok().and_then(midnight);
            return Some(next.and_then(|at| at.checked_add(1.month()).ok()));
        }
        if !self.has_day(at) {
            return Some(midnight(at).and_then(|at| at.checked_add(1.day()).ok()));
        }
        if self.hours & (1 << at.hour()) == 0 {
            let hour = at.with().minute(0).build().ok();
            return Some(hour.and_then(|at| at.checked_add(1.hour()).ok()));
        }
        if self.minutes & (1 << at.minute()) == 0 {
            return Some(at.checked_add(1.minute()).ok());
        }
        None
    }

    fn has_day(&self, at: DateTime) -> bool {
        let day = self.days & (1 << at.day()) != 0;
        let weekday = self.weekdays & (1 << at.weekday().to_sunday_zero_offset()) != 0;
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One field as a set of bits: lists, ranges, steps, names, `*` and `?`.
fn parse_field(field: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| -> Result<u32, String> {
        if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(index as u32 + low);
        }
        text.parse().map_err(|_| format!("failed to parse int from {text}"))
    };
    let mut bits = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => (low, high),
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                // A start with a step runs to the end.
                None => (number(range)?, if step.is_some() { high } else { number(range)? }),
            },
        };
        if first < low || last > high || first > last || step == Some(0) {
            return Err(format!("range {part} is not within {low}-{high}"));
        }
        bits |= (first..=last).step_by(step.unwrap_or(1) as usize).fold(0u64, |bits, value| bits | (1 << value));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::UTC);
        next.map(|at| at.to_string()).unwrap_or_default()
    }

    #[test]
    fn fields_lists_steps_and_names_are_understood() {
        assert_eq!(next("*/15 * * * *", "2026-01-01T00:01:00Z"), "2026-01-01T00:15:00Z");
        assert_eq!(next("* * * * ?", "2026-01-01T00:01:00Z"), "2026-01-01T00:02:00Z");
        assert_eq!(next("30 4 * * mon-fri", "2026-01-02T05:00:00Z"), "2026-01-05T04:30:00Z");
        assert_eq!(next("0 0 29 feb *", "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(next("0 0 31 2 *", "2026-01-01T00:00:00Z"), "");
        assert_eq!(next("@hourly", "2026-01-01T00:01:00Z"), "2026-01-01T01:00:00Z");
        assert_eq!(next("0 0 * * 7", "2026-01-01T00:00:00Z"), "2026-01-04T00:00:00Z");
    }

    #[test]
    fn two_restricted_day_fields_mean_either() {
        assert_eq!(next("0 0 13 * 5", "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
    }

    #[test]
    fn a_time_that_clocks_skip_happens_after_the_gap() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let schedule = Schedule::parse("30 2 * * *").unwrap();
        let next = schedule.next("2026-03-28T12:00:00Z".parse().unwrap(), &zone).unwrap();
        assert_eq!(next.to_string(), "2026-03-29T01:30:00Z");
    }

    #[test]
    fn wrong_fields_are_named() {
        assert!(Schedule::parse("* * * *").unwrap_err().contains("expected exactly 5 fields, found 4"));
        assert!(Schedule::parse("61 * * * *").is_err());
        assert!(Schedule::parse("x * * * *").unwrap_err().contains("x"));
    }
}
