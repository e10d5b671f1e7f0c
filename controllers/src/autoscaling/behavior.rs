//! How fast a count may change: stabilization windows, policies, bounds. Pure,
//! over what is remembered of an autoscaler.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Remembered recommendations and changes, newest last.
const MEMORY_MAX: usize = 256;

/// What is remembered between looks.
#[derive(Clone, Debug, Default)]
pub struct History {
    recommendations: Vec<(Timestamp, i64)>,
    /// Changes that were made: positive up, negative down.
    changes: Vec<(Timestamp, i64)>,
}

impl History {
    pub fn changed(&mut self, now: Timestamp, by: i64) {
        remember(&mut self.changes, (now, by));
    }
}

fn remember(list: &mut Vec<(Timestamp, i64)>, entry: (Timestamp, i64)) {
    if list.len() >= MEMORY_MAX {
        list.remove(0);
    }
    list.push(entry);
}

/// A count and what was in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded {
    pub replicas: i64,
    /// Reason and message of `AbleToScale`, when a window held the count.
    pub stabilized: Option<(&'static str, &'static str)>,
    /// Status, reason and message of `ScalingLimited`.
    pub limited: (&'static str, &'static str, &'static str),
}

struct Rules {
    window: Duration,
    /// `None`: no change in this direction.
    select_max: Option<bool>,
    /// Is percent, value, period.
    policies: Vec<(bool, i64, SignedDuration)>,
}

fn rules(behavior: &Value, direction: &str) -> Rules {
    let rules = &behavior[direction];
    let up = direction == "scaleUp";
    let window = rules["stabilizationWindowSeconds"].as_u64().unwrap_or(if up { 0 } else { 300 });
    let mut policies: Vec<(bool, i64, SignedDuration)> = rules["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|policy| {
            let period = SignedDuration::from_secs(policy["periodSeconds"].as_i64().unwrap_or(15));
            (policy["type"] == "Percent", policy["value"].as_i64().unwrap_or(0), period)
        })
        .collect();
    if policies.is_empty() {
        let period = SignedDuration::from_secs(15);
        policies.push((true, 100, period));
        if up {
            policies.push((false, 4, period));
        }
    }
    let select_max = match rules["selectPolicy"].as_str() {
        Some("Disabled") => None,
        Some("Min") => Some(false),
        _ => Some(true),
    };
    Rules { window: Duration::from_secs(window), select_max, policies }
}

/// The count that may be set now.
pub fn bound(
    history: &mut History,
    behavior: &Value,
    current: i64,
    wanted: i64,
    range: (i64, i64),
    now: Timestamp,
) -> Bounded {
    let (min, max) = range;
    let (up, down) = (rules(behavior, "scaleUp"), rules(behavior, "scaleDown"));
    let stabilized = stabilize(history, &up, &down, current, wanted, now);
    let held = if stabilized > wanted {
        Some((
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ))
    } else if stabilized < wanted {
        Some((
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ))
    } else {
        None
    };
    let (replicas, limited) = limit(history, &up, &down, current, stabilized, (min, max), now);
    Bounded { replicas, stabilized: held, limited }
}

/// The recommendation nearest to the present count within the windows.
fn stabilize(history: &mut History, up: &Rules, down: &Rules, current: i64, wanted: i64, now: Timestamp) -> i64 {
    let within = |at: &Timestamp, window: Duration| {
        SignedDuration::try_from(window).is_ok_and(|window| now.duration_since(*at) < window)
    };
    let recent = |window: Duration| {
        history.recommendations.iter().filter(move |(at, _)| within(at, window)).map(|(_, count)| *count)
    };
    let lowest = recent(up.window).chain([wanted]).min().unwrap_or(wanted);
    let highest = recent(down.window).chain([wanted]).max().unwrap_or(wanted);
    let longest = up.window.max(down.window);
    history.recommendations.retain(|(at, _)| within(at, longest));
    remember(&mut history.recommendations, (now, wanted));
    current.max(lowest).min(highest)
}

type Limited = (&'static str, &'static str, &'static str);

fn limit(
    history: &History,
    up: &Rules,
    down: &Rules,
    current: i64,
    wanted: i64,
    (min, max): (i64, i64),
    now: Timestamp,
) -> (i64, Limited) {
    const WITHIN: Limited = ("False", "DesiredWithinRange", "the desired count is within the acceptable range");
    const TOO_MANY: Limited =
        ("True", "TooManyReplicas", "the desired replica count is more than the maximum replica count");
    const TOO_FEW: Limited =
        ("True", "TooFewReplicas", "the desired replica count is less than the minimum replica count");
    const RISES: Limited =
        ("True", "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
    const FALLS: Limited =
        ("True", "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
    if wanted > current {
        let reach = up_to(history, up, current, now);
        if wanted > reach.min(max) {
            return if reach < max { (reach.max(current), RISES) } else { (max, TOO_MANY) };
        }
    } else if wanted < current {
        let reach = down_to(history, down, current, now);
        if wanted < reach.max(min) {
            return if reach > min { (reach.min(current), FALLS) } else { (min, TOO_FEW) };
        }
    }
    if wanted > max {
        (max, TOO_MANY)
    } else if wanted < min {
        (min, TOO_FEW)
    } else {
        (wanted, WITHIN)
    }
}

fn up_to(history: &History, rules: &Rules, current: i64, now: Timestamp) -> i64 {
    let Some(select_max) = rules.select_max else { return current };
    let reaches = rules.policies.iter().map(|(percent, value, period)| {
        let begin = current - moved(history, *period, now, 1);
        if *percent { (begin as f64 * (1.0 + *value as f64 / 100.0)).ceil() as i64 } else { begin + value }
    });
    let found = if select_max { reaches.max() } else { reaches.min() };
    found.unwrap_or(current).max(current)
}

fn down_to(history: &History, rules: &Rules, current: i64, now: Timestamp) -> i64 {
    let Some(select_max) = rules.select_max else { return current };
    let reaches = rules.policies.iter().map(|(percent, value, period)| {
        let begin = current + moved(history, *period, now, -1);
        if *percent { (begin as f64 * (1.0 - *value as f64 / 100.0)) as i64 } else { begin - value }
    });
    // The largest change is the lowest count.
    let found = if select_max { reaches.min() } else { reaches.max() };
    found.unwrap_or(current).min(current)
}

/// How far the count moved in one direction during a period.
fn moved(history: &History, period: SignedDuration, now: Timestamp, sign: i64) -> i64 {
    let recent = history.changes.iter().filter(|(at, _)| now.duration_since(*at) < period);
    recent.map(|(_, by)| (by * sign).max(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_rise_is_limited_by_its_policies_and_a_fall_waits() {
        let mut history = History::default();
        let up = bound(&mut history, &Value::Null, 2, 50, (1, 100), at(0));
        assert_eq!((up.replicas, up.limited.1), (6, "ScaleUpLimit"), "four more");
        history.changed(at(0), 4);
        assert_eq!(bound(&mut history, &Value::Null, 6, 50, (1, 100), at(1)).replicas, 6, "the period is used up");
        let down = bound(&mut history, &Value::Null, 6, 1, (1, 100), at(60));
        assert_eq!((down.replicas, down.stabilized.unwrap().0), (6, "ScaleDownStabilized"));
        assert_eq!(bound(&mut history, &Value::Null, 6, 1, (1, 100), at(400)).replicas, 1);
    }

    #[test]
    fn bounds_and_disabled_directions_hold() {
        let bounded = |behavior: Value, current, wanted| {
            bound(&mut History::default(), &behavior, current, wanted, (2, 5), at(0))
        };
        assert_eq!((bounded(json!({}), 3, 9).replicas, bounded(json!({}), 3, 9).limited.1), (5, "TooManyReplicas"));
        assert_eq!(bounded(json!({"scaleDown": {"stabilizationWindowSeconds": 0}}), 3, 1).limited.1, "TooFewReplicas");
        let never = json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}});
        assert_eq!(bounded(never, 4, 2).replicas, 4);
        let slow = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
        assert_eq!(bounded(slow, 5, 2).replicas, 4);
    }
}
