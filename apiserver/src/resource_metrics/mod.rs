//! `metrics.k8s.io`: what nodes and containers use now, for `kubectl top` and autoscaling.
//!
//! Nothing runs while nobody asks: the first question scrapes every kubelet
//! twice, a second apart (use of the processor is a difference), later ones at
//! most every [`RESOLUTION`]. An autoscaler that reads [`ResourceMetrics::usage`]
//! keeps the scraping going. An APIService of the same name replaces all this.

mod exposition;
pub(crate) mod objects;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use skiff_client::Snapshot;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::proxy::Proxy;

use exposition::{Point, Scrape};

/// Time between two readings of a kubelet.
const RESOLUTION: Duration = Duration::from_secs(15);
/// Time between the first two.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// A reading older than this is no base for a difference.
const STALE: Duration = Duration::from_secs(120);
/// Scraping goes on this long after the last question.
const INTEREST: Duration = Duration::from_secs(90);
/// Longest wait for a kubelet. More: its node has no metrics this time.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// Kubelets read at the same time.
const SCRAPES_IN_FLIGHT: usize = 16;

/// Use over a window that ends at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub cpu_cores: f64,
    pub memory_bytes: u64,
    pub at: Timestamp,
    pub window: Duration,
}

/// Namespace, pod, container.
type ContainerKey = (String, String, String);

#[derive(Default)]
struct Readings {
    taken: Option<Instant>,
    nodes: HashMap<String, Pair>,
    containers: BTreeMap<ContainerKey, Pair>,
}

/// The last reading, and the one before.
#[derive(Clone, Copy)]
struct Pair {
    before: Option<Point>,
    last: Point,
}

impl Pair {
    fn usage(&self) -> Option<Usage> {
        let before = self.before?;
        let seconds = self.last.at_seconds - before.at_seconds;
        let cpu = self.last.cpu_seconds - before.cpu_seconds;
        // A counter that fell belongs to a container that began anew.
        if seconds <= 0.0 || cpu < 0.0 {
            return None;
        }
        Some(Usage {
            cpu_cores: cpu / seconds,
            memory_bytes: self.last.memory_bytes,
            at: Timestamp::from_millisecond((self.last.at_seconds * 1000.0) as i64).ok()?,
            window: Duration::from_secs_f64(seconds),
        })
    }
}

/// Reads kubelets on demand.
pub struct ResourceMetrics {
    proxy: Option<Arc<Proxy>>,
    snapshot: Snapshot,
    readings: Mutex<Readings>,
    /// One scraper at a time; the others wait for its result.
    scraping: tokio::sync::Mutex<()>,
    asked: Mutex<Option<Instant>>,
    wanted: Notify,
}

impl ResourceMetrics {
    pub(crate) fn new(proxy: Option<Arc<Proxy>>, snapshot: Snapshot) -> ResourceMetrics {
        ResourceMetrics {
            proxy,
            snapshot,
            readings: Mutex::default(),
            scraping: tokio::sync::Mutex::new(()),
            asked: Mutex::new(None),
            wanted: Notify::new(),
        }
    }

    /// Keeps readings fresh while somebody is interested.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let work = async {
            loop {
                self.wanted.notified().await;
                while self.asked.lock().is_some_and(|asked| asked.elapsed() < INTEREST) {
                    self.refresh().await;
                    tokio::time::sleep(RESOLUTION).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// What the containers of a pod used lately, by name; asks for fresh readings. Empty until there are some.
    pub fn usage(&self, namespace: &str, pod: &str) -> BTreeMap<String, Usage> {
        let first = self.asked.lock().replace(Instant::now()).is_none_or(|asked| asked.elapsed() >= INTEREST);
        if first {
            self.wanted.notify_one();
        }
        self.known(namespace, pod)
    }

    fn known(&self, namespace: &str, pod: &str) -> BTreeMap<String, Usage> {
        let from = (namespace.to_owned(), pod.to_owned(), String::new());
        let readings = self.readings.lock();
        readings
            .containers
            .range(from..)
            .take_while(|((of, name, _), _)| of == namespace && name == pod)
            .filter_map(|((_, _, container), pair)| Some((container.clone(), pair.usage()?)))
            .collect()
    }

    fn node(&self, name: &str) -> Option<Usage> {
        self.readings.lock().nodes.get(name)?.usage()
    }

    /// Reads all kubelets unless that was done just now.
    pub(crate) async fn refresh(&self) {
        let _one = self.scraping.lock().await;
        let age = self.readings.lock().taken.map(|taken| taken.elapsed());
        if age.is_some_and(|age| age < RESOLUTION / 2) {
            return;
        }
        self.scrape().await;
        if age.is_none_or(|age| age > STALE) {
            tokio::time::sleep(FIRST_WINDOW).await;
            self.scrape().await;
        }
    }

    async fn scrape(&self) {
        let Some(proxy) = &self.proxy else { return };
        let nodes: Vec<String> =
            self.snapshot.list::<Node>(None).iter().filter_map(|node| node.metadata.name.clone()).collect();
        let scrapes: Vec<(String, Scrape)> = stream::iter(nodes)
            .map(|node| async move {
                let asked = tokio::time::timeout(SCRAPE_TIMEOUT, proxy.kubelet_text(&node, "/metrics/resource"));
                match asked.await {
                    Ok(Ok(text)) => Some((node, Scrape::parse(&text))),
                    Ok(Err(status)) => {
                        tracing::debug!(component = "resource-metrics", node, %status, "read kubelet");
                        None
                    }
                    Err(_) => None,
                }
            })
            .buffer_unordered(SCRAPES_IN_FLIGHT)
            .filter_map(std::future::ready)
            .collect()
            .await;
        self.readings.lock().take_over(scrapes);
    }
}

impl Readings {
    fn take_over(&mut self, scrapes: Vec<(String, Scrape)>) {
        let fresh = self.taken.is_some_and(|taken| taken.elapsed() <= STALE);
        let (nodes, containers) = (std::mem::take(&mut self.nodes), std::mem::take(&mut self.containers));
        // Readings of containers can be older than the scrape: the same one twice is no difference.
        let pair = |old: Option<&Pair>, last: Point| {
            let old = old.filter(|_| fresh);
            match old {
                Some(old) if old.last.at_seconds >= last.at_seconds => *old,
                old => Pair { before: old.map(|old| old.last), last },
            }
        };
        for (node, scrape) in scrapes {
            if let Some(point) = scrape.node {
                self.nodes.insert(node.clone(), pair(nodes.get(&node), point));
            }
            for (key, point) in scrape.containers {
                let found = pair(containers.get(&key), point);
                self.containers.insert(key, found);
            }
        }
        self.taken = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(at: f64, cpu: f64) -> Vec<(String, Scrape)> {
        let point = Point { at_seconds: at, cpu_seconds: cpu, memory_bytes: 10 };
        let key = ("n".to_owned(), "p".to_owned(), "c".to_owned());
        vec![("node".to_owned(), Scrape { node: Some(point), containers: vec![(key, point)] })]
    }

    #[tokio::test]
    async fn use_is_the_difference_of_two_readings() {
        let metrics = ResourceMetrics::new(None, Snapshot::new());
        metrics.readings.lock().take_over(scrape(100.0, 5.0));
        assert!(metrics.known("n", "p").is_empty(), "one reading says nothing");
        metrics.readings.lock().take_over(scrape(110.0, 7.5));
        let usage = metrics.known("n", "p")["c"];
        assert_eq!((usage.cpu_cores, usage.memory_bytes, usage.window.as_secs()), (0.25, 10, 10));
        assert!(metrics.known("n", "other").is_empty());
        metrics.readings.lock().take_over(scrape(110.0, 7.5));
        assert_eq!(metrics.known("n", "p")["c"].cpu_cores, 0.25, "the same reading again changes nothing");
        metrics.readings.lock().take_over(scrape(120.0, 0.5));
        assert!(metrics.known("n", "p").is_empty(), "began anew");
        metrics.readings.lock().take_over(Vec::new());
        assert!(metrics.node("node").is_none(), "a node that does not answer has no metrics");
    }
}
