//! Counters of work queues, with upstream's names. One table per process; the
//! API server shows it with its own metrics.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

/// Counters of one queue.
#[derive(Default)]
pub(crate) struct QueueMetrics {
    pub adds: AtomicU64,
    pub retries: AtomicU64,
    pub depth: AtomicI64,
    /// Keys handled, and the time that took.
    pub handled: AtomicU64,
    pub handled_micros: AtomicU64,
}

static QUEUES: LazyLock<Mutex<BTreeMap<String, Arc<QueueMetrics>>>> = LazyLock::new(Mutex::default);

/// The counters of a queue by its name; made when first needed.
pub(crate) fn queue(name: &str) -> Arc<QueueMetrics> {
    Arc::clone(QUEUES.lock().entry(name.to_owned()).or_default())
}

/// A family: its name, kind and help, and how a queue is read.
type Family = (&'static str, &'static str, &'static str, fn(&QueueMetrics) -> f64);

const FAMILIES: [Family; 5] = [
    ("workqueue_adds_total", "counter", "Keys added.", |queue| queue.adds.load(Ordering::Relaxed) as f64),
    ("workqueue_depth", "gauge", "Keys that wait.", |queue| queue.depth.load(Ordering::Relaxed) as f64),
    ("workqueue_retries_total", "counter", "Keys tried again.", |queue| queue.retries.load(Ordering::Relaxed) as f64),
    ("workqueue_work_duration_seconds_sum", "counter", "Time spent on keys.", |queue| {
        queue.handled_micros.load(Ordering::Relaxed) as f64 / 1e6
    }),
    ("workqueue_work_duration_seconds_count", "counter", "Keys handled.", |queue| {
        queue.handled.load(Ordering::Relaxed) as f64
    }),
];

/// The Prometheus text of all queues.
pub fn text() -> String {
    let queues: Vec<(String, Arc<QueueMetrics>)> =
        QUEUES.lock().iter().map(|(name, queue)| (name.clone(), Arc::clone(queue))).collect();
    let mut out = String::new();
    for (name, kind, help, read) in FAMILIES {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (queue, metrics) in &queues {
            let _ = writeln!(out, "{name}{{name=\"{queue}\"}} {}", read(metrics));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_shows_under_its_name() {
        queue("of-this-test").adds.fetch_add(2, Ordering::Relaxed);
        assert!(text().contains("workqueue_adds_total{name=\"of-this-test\"} 2\n"));
        assert!(text().contains("workqueue_depth{name=\"of-this-test\"} 0\n"));
    }
}
