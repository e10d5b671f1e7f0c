//! Durations and timestamps in the language's text forms.

use std::fmt::Write as _;

const SECOND: i128 = 1_000_000_000;

/// RFC 3339, or a plain date.
pub fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    if text.len() == 10 {
        let date: jiff::civil::Date = text.parse().ok()?;
        return date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    }
    let strict = text.len() >= 20 && matches!(text.as_bytes()[10], b'T' | b't');
    text.parse().ok().filter(|_| strict)
}

/// Go's form: `1h30m`, `-1.5s`, `300ms`; nanoseconds.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit_on) = rest.split_at(digits);
        let end = unit_on.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit_on.len());
        let (unit, next) = unit_on.split_at(end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let part: i128 = fraction.parse().ok()?;
            total += part * scale / 10i128.pow(fraction.len() as u32);
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// As `string(duration)` gives it: seconds with a fraction.
pub fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let mut text = format!("{sign}{}", nanos / 1_000_000_000);
    let fraction = nanos % 1_000_000_000;
    if fraction > 0 {
        let _ = write!(text, ".{}", format!("{fraction:09}").trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_does() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("-1.5s"), Some(-1_500_000_000));
        assert_eq!(duration("300ms"), Some(300_000_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "1", "1x", ".s", "1h-1m", "99999999999999999999h", "1e3s", "-"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(duration_text(-1_500_000_000), "-1.5s");
    }

    #[test]
    fn timestamps_need_date_and_time_or_a_date() {
        assert!(timestamp("2024-01-02T03:04:05Z").is_some());
        assert!(timestamp("2024-01-02T03:04:05.123+02:00").is_some());
        assert!(timestamp("2024-01-02").is_some());
        assert!(timestamp("2024-01-02 03:04:05Z").is_none());
        assert!(timestamp("20240102T030405Z").is_none());
        assert!(timestamp("never").is_none());
    }
}
