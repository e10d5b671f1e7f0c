//! Counters of the API server and their Prometheus text.
//!
//! Counters live in one table per process: the series of a label combination
//! is made when it is first needed. Names are upstream's, so dashboards work.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use skiff_api::Resource;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if seconds <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn text(&self, out: &mut String, name: &str, labels: &str) {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            line(out, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), number(bucket));
        }
        line(out, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), number(&self.count));
        line(out, &format!("{name}_sum"), labels, number(&self.micros) as f64 / 1e6);
        line(out, &format!("{name}_count"), labels, number(&self.count));
    }
}

/// All series of the process.
#[derive(Default)]
pub struct Metrics {
    requests: RwLock<BTreeMap<String, Arc<AtomicU64>>>,
    durations: RwLock<BTreeMap<String, Arc<Histogram>>>,
    long_running: RwLock<BTreeMap<String, Arc<AtomicI64>>>,
    /// Calls of the store: by operation, those that succeeded and all.
    stored: RwLock<BTreeMap<String, Arc<Histogram>>>,
    stored_errors: RwLock<BTreeMap<String, Arc<AtomicU64>>>,
    /// Requests that priority and fairness refused.
    rejected: RwLock<BTreeMap<String, Arc<AtomicU64>>>,
    pub reads_in_flight: AtomicI64,
    pub writes_in_flight: AtomicI64,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// The series of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

fn series<T: Default>(table: &RwLock<BTreeMap<String, Arc<T>>>, labels: &str) -> Arc<T> {
    if let Some(found) = table.read().get(labels) {
        return Arc::clone(found);
    }
    Arc::clone(table.write().entry(labels.to_owned()).or_default())
}

/// What a finished request counts under.
pub struct Labels<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub scope: &'a str,
}

impl Metrics {
    /// Counts one finished request.
    pub fn finished(&self, labels: &Labels<'_>, code: u16, took: Duration, long_running: bool) {
        let common = format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            labels.group,
            labels.resource,
            labels.scope,
            labels.subresource,
            labels.verb.to_uppercase(),
            labels.version
        );
        series(&self.requests, &format!("code=\"{code}\",{common}")).fetch_add(1, Ordering::Relaxed);
        if long_running {
            return;
        }
        series(&self.durations, &common).observe(took);
    }

    /// Counts one call of the store.
    pub fn stored(&self, operation: &'static str, took: Duration, good: bool) {
        let labels = format!("operation=\"{operation}\"");
        series(&self.stored, &labels).observe(took);
        if !good {
            series(&self.stored_errors, &labels).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request that got no seat.
    pub fn rejected(&self, level: &str, schema: &str, reason: &str) {
        let labels = format!("flow_schema=\"{schema}\",priority_level=\"{level}\",reason=\"{reason}\"");
        series(&self.rejected, &labels).fetch_add(1, Ordering::Relaxed);
    }

    /// The Prometheus text of all series, with the number of objects by resource.
    pub fn text(&self, objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        head(&mut out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for (labels, count) in self.requests.read().iter() {
            line(&mut out, "apiserver_request_total", labels, number(count));
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut out, name, "histogram", "Time of requests that are not long-running.");
        for (labels, histogram) in self.durations.read().iter() {
            histogram.text(&mut out, name, labels);
        }
        let name = "etcd_request_duration_seconds";
        head(&mut out, name, "histogram", "Time of calls of the store.");
        for (labels, histogram) in self.stored.read().iter() {
            histogram.text(&mut out, name, labels);
        }
        let name = "etcd_requests_total";
        head(&mut out, name, "counter", "Calls of the store.");
        for (labels, histogram) in self.stored.read().iter() {
            line(&mut out, name, labels, number(&histogram.count));
        }
        let name = "etcd_request_errors_total";
        head(&mut out, name, "counter", "Calls of the store that failed.");
        for (labels, count) in self.stored_errors.read().iter() {
            line(&mut out, name, labels, number(count));
        }
        let name = "apiserver_longrunning_requests";
        head(&mut out, name, "gauge", "Watches and other long requests now.");
        for (labels, count) in self.long_running.read().iter() {
            line(&mut out, name, labels, count.load(Ordering::Relaxed));
        }
        let name = "apiserver_current_inflight_requests";
        head(&mut out, name, "gauge", "Requests being worked on.");
        line(&mut out, name, "request_kind=\"readOnly\"", self.reads_in_flight.load(Ordering::Relaxed));
        line(&mut out, name, "request_kind=\"mutating\"", self.writes_in_flight.load(Ordering::Relaxed));
        let name = "apiserver_flowcontrol_rejected_requests_total";
        head(&mut out, name, "counter", "Requests refused by API priority and fairness.");
        for (labels, count) in self.rejected.read().iter() {
            line(&mut out, name, labels, number(count));
        }
        for name in ["apiserver_storage_objects", "apiserver_resource_objects"] {
            head(&mut out, name, "gauge", "Stored objects by resource.");
            for (resource, count) in objects {
                line(&mut out, name, &format!("resource=\"{resource}\""), count);
            }
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

/// Counts a long-running request while it lives.
pub struct LongRunning(Arc<AtomicI64>);

impl LongRunning {
    pub fn start(row: &Resource, verb: &str) -> LongRunning {
        let labels =
            format!("group=\"{}\",resource=\"{}\",verb=\"{verb}\",version=\"{}\"", row.group, row.plural, row.version);
        let gauge = series(&metrics().long_running, &labels);
        gauge.fetch_add(1, Ordering::Relaxed);
        LongRunning(gauge)
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_appears_in_counter_and_buckets() {
        let metrics = Metrics::default();
        let labels =
            Labels { verb: "get", group: "", version: "v1", resource: "pods", subresource: "", scope: "resource" };
        metrics.finished(&labels, 200, Duration::from_millis(30), false);
        let text = metrics.text(&[("pods".to_owned(), 3)]);
        assert!(text.contains("apiserver_request_total{code=\"200\",group=\"\",resource=\"pods\""));
        assert!(text.contains("le=\"0.025\"} 0"));
        assert!(text.contains("le=\"0.05\"} 1"));
        assert!(text.contains("apiserver_storage_objects{resource=\"pods\"} 3"));
    }
}
