//! Times and durations as the API writes them.
//!
//! `Time` fields have whole seconds, `MicroTime` fields six decimals, both in
//! UTC with `Z`. [`human_duration`] is the AGE notation of `kubectl get`;
//! [`parse_duration`] and [`format_duration`] speak Go's duration text.

use jiff::{SignedDuration, Timestamp};

/// Why text is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parsing time \"{0}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{0}\" as \"2006\"")]
pub struct TimeError(String);

/// Why text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration \"{0}\"")]
    Invalid(String),
    #[error("time: missing unit in duration \"{0}\"")]
    MissingUnit(String),
    #[error("time: unknown unit \"{unit}\" in duration \"{text}\"")]
    UnknownUnit { unit: String, text: String },
}

/// Reads RFC 3339 text; an offset is required, as in upstream.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    let fail = || TimeError(text.to_owned());
    let bytes = text.as_bytes();
    // jiff accepts more (a space for T, missing seconds); upstream's layout is strict.
    let shape = bytes.len() >= 20 && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':';
    if !shape { Err(fail()) } else { text.parse().map_err(|_| fail()) }
}

/// `2006-01-02T15:04:05Z`, as `Time` fields are written.
pub fn format_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2006-01-02T15:04:05.000000Z`, as `MicroTime` fields are written.
pub fn format_micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Age in the notation of `kubectl get`: two units at most, fewer as they grow.
pub fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    // Clocks of clients and servers differ a little; more than that is an error worth showing.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        two(hours / 24 / 365, "y", hours / 24 % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

/// Age of an RFC 3339 time, or `<unknown>`.
pub fn age(time: Option<&str>, now: Timestamp) -> String {
    match time.map(parse) {
        Some(Ok(then)) => human_duration(now.duration_since(then)),
        _ => "<unknown>".to_owned(),
    }
}

/// Reads Go duration text such as `1h2m3.5s` or `300ms`.
pub fn parse_duration(text: &str) -> Result<SignedDuration, DurationError> {
    let fail = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        rest = tail;
        if number.is_empty() || number == "." {
            return Err(fail());
        }
        let unit: i128 = match unit {
            "" => return Err(DurationError::MissingUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
        };
        total = total.checked_add(amount(number, unit).ok_or_else(fail)?).ok_or_else(fail)?;
    }
    let nanos = i64::try_from(if negative { -total } else { total }).map_err(|_| fail())?;
    Ok(SignedDuration::from_nanos(nanos))
}

fn amount(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(18)];
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = part * unit / 10_i128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(part)
}

/// Writes a duration as Go does: `1h2m3.5s`, `1.5ms`, `0s`.
pub fn format_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |unit: u128| {
        let text = format!("{}.{:0width$}", nanos / unit, nanos % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = nanos % 60_000_000_000;
            let text = format!("{}.{:09}", seconds / 1_000_000_000, seconds % 1_000_000_000);
            let seconds = text.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_shrink_to_the_units_that_matter() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (800 * 86400, "2y70d"),
            (3000 * 86400, "8y"),
        ] {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), want, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_in_utc_with_fixed_precision() {
        let time = parse("2024-05-06T07:08:09.123456789+02:00").unwrap();
        assert_eq!(format_seconds(time), "2024-05-06T05:08:09Z");
        assert_eq!(format_micros(time), "2024-05-06T05:08:09.123456Z");
        for bad in ["", "2024-05-06", "2024-05-06 07:08:09Z", "2024-05-06T07:08:09", "2024-13-06T07:08:09Z"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_speak_go() {
        for (text, want) in [
            ("1h2m3.5s", "1h2m3.5s"),
            ("90m", "1h30m0s"),
            ("300ms", "300ms"),
            ("1.5ms", "1.5ms"),
            ("0", "0s"),
            ("-1.5h", "-1h30m0s"),
            ("1us", "1µs"),
            ("61s", "1m1s"),
        ] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), want);
        }
        for bad in ["", "1", "h", "1x", "-", ".s", "99999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
