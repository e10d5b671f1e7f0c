//! When a request is old enough to be removed.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::issued;
use crate::{condition, write::parse_time};

/// Kept this long after a decision.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Kept this long without one.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Whether the request has had its time.
pub fn is_over(value: &Value, now: Timestamp) -> bool {
    end(value).is_some_and(|end| end <= now)
}

/// The pause until it may be removed.
pub fn next_look(value: &Value, now: Timestamp) -> Option<Duration> {
    let rest = end(value)?.duration_since(now);
    Duration::try_from(rest).ok().filter(|rest| !rest.is_zero())
}

/// The earliest of the times at which it may go.
fn end(value: &Value) -> Option<Timestamp> {
    let conditions = condition::of(&value["status"]);
    let since = |kind: &str| {
        let condition = condition::find(&conditions, kind)?;
        parse_time(condition["lastUpdateTime"].as_str()?)?.checked_add(DECIDED).ok()
    };
    if conditions.is_empty() {
        return parse_time(value["metadata"]["creationTimestamp"].as_str()?)?.checked_add(PENDING).ok();
    }
    let approved = since("Approved");
    if approved.is_some() && issued(value) {
        return [approved, expiry(value)].into_iter().flatten().min();
    }
    since("Denied").or_else(|| since("Failed"))
}

/// When the issued certificate ends.
fn expiry(value: &Value) -> Option<Timestamp> {
    let pem = BASE64.decode(value["status"]["certificate"].as_str()?).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decided_requests_stay_an_hour_and_open_ones_a_day() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let open = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(!is_over(&open, at("2026-01-01T23:59:00Z")) && is_over(&open, at("2026-01-02T00:00:00Z")));
        let decided =
            |kind: &str| json!({"status": {"conditions": [{"type": kind, "lastUpdateTime": "2026-01-01T00:00:00Z"}]}});
        assert!(!is_over(&decided("Denied"), at("2026-01-01T00:59:00Z")));
        assert!(is_over(&decided("Denied"), at("2026-01-01T01:00:00Z")));
        assert!(
            !is_over(&decided("Approved"), at("2026-02-01T00:00:00Z")),
            "approved but not signed by its signer yet"
        );
        let mut signed = decided("Approved");
        signed["status"]["certificate"] = "eA==".into();
        assert!(is_over(&signed, at("2026-01-01T01:00:00Z")));
        assert_eq!(next_look(&signed, at("2026-01-01T00:30:00Z")), Some(Duration::from_secs(1800)));
    }
}
