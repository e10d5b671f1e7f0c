//! Status conditions in their raw form: setting one keeps the time of its last
//! transition unless its status changes.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::write::time;

/// A condition as a reconciler decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl Condition {
    pub fn new(kind: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Condition {
        Condition { kind, status, reason: reason.to_owned(), message: message.into() }
    }
}

/// The conditions of a status.
pub fn of(status: &Value) -> Vec<Value> {
    status["conditions"].as_array().cloned().unwrap_or_default()
}

pub fn find<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|condition| condition["type"] == kind)
}

pub fn remove(conditions: &mut Vec<Value>, kind: &str) {
    conditions.retain(|condition| condition["type"] != kind);
}

/// Sets a condition; nothing changes when type, status, reason and message are as they were.
pub fn set(conditions: &mut Vec<Value>, condition: Condition, now: Timestamp) {
    let mut new = json!({"type": condition.kind, "status": condition.status, "lastTransitionTime": time(now)});
    if !condition.reason.is_empty() {
        new["reason"] = condition.reason.into();
    }
    if !condition.message.is_empty() {
        new["message"] = condition.message.into();
    }
    match conditions.iter_mut().find(|have| have["type"] == condition.kind) {
        None => conditions.push(new),
        Some(have) => {
            if have["status"] == new["status"] {
                new["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = new;
        }
    }
}
