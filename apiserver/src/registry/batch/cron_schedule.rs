//! The five-field schedule of a CronJob, and its short names, as upstream's
//! parser accepts them.

const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const SHORT: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Why a schedule is not one; `None` when it is.
pub fn check(schedule: &str) -> Option<String> {
    let schedule = schedule.trim();
    if schedule.is_empty() {
        return Some("empty spec string".to_owned());
    }
    if schedule.starts_with('@') {
        let every =
            schedule.strip_prefix("@every ").is_some_and(|rest| skiff_api::timestamp::parse_duration(rest).is_ok());
        return (!every && !SHORT.contains(&schedule)).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    parts
        .iter()
        .zip(FIELDS)
        .find_map(|(part, (_, min, max, names))| part.split(',').find_map(|range| check_range(range, min, max, names)))
}

/// `*`, `?`, `n`, `n-m`, each with an optional `/step`.
fn check_range(range: &str, min: u32, max: u32, names: &[&str]) -> Option<String> {
    let (span, step) = range.split_once('/').map_or((range, None), |(span, step)| (span, Some(step)));
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Some(format!("step of range should be a positive number: {range}")),
            Ok(_) => {}
            Err(_) => return Some(format!("failed to parse int from {step}")),
        }
    }
    if matches!(span, "*" | "?") {
        return None;
    }
    let value = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|index| index as u32 + min);
        named.or_else(|| text.parse().ok())
    };
    let (first, last) = span.split_once('-').unwrap_or((span, span));
    let (Some(low), Some(high)) = (value(first), value(last)) else {
        return Some(format!("failed to parse int from {span}"));
    };
    if low < min {
        return Some(format!("beginning of range ({low}) below minimum ({min}): {range}"));
    }
    if high > max {
        return Some(format!("end of range ({high}) above maximum ({max}): {range}"));
    }
    (low > high).then(|| format!("beginning of range ({low}) beyond end of range ({high}): {range}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_told_apart() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "0 0 ? * ?", "@hourly", "@every 1h30m"] {
            assert_eq!(check(good), None, "{good}");
        }
        for bad in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "@often", "a * * * *"] {
            assert!(check(bad).is_some(), "{bad}");
        }
    }
}
