//! Metrics in Prometheus' text form, with the names that metrics-server and dashboards read.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{cri::v1, labels, observed::ObservedPod, pods::spec, volumes::usage::VolumeUsage};

/// Use of the whole machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NodeUsage {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
}

impl NodeUsage {
    /// From the kernel; what cannot be read is zero.
    pub fn read() -> NodeUsage {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let machine = skiff_host::process::machine_info();
        let available = skiff_host::process::memory_available_bytes();
        NodeUsage { cpu_seconds: busy_seconds(&stat), memory_bytes: machine.memory_bytes.saturating_sub(available) }
    }
}

/// Hundredths of seconds of the first line, without those spent idle or waiting.
fn busy_seconds(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let ticks = line.split_whitespace().skip(1).take(8).map(|tick| tick.parse::<u64>().unwrap_or_default());
    let busy: u64 = ticks.enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, tick)| tick).sum();
    busy as f64 / 100.0
}

/// What `/metrics` holds; `claims` with the pods that use them.
pub fn kubelet(pods: &[Arc<ObservedPod>], claims: &[(Arc<Pod>, VolumeUsage)]) -> String {
    let running: usize = pods.iter().map(|pod| pod.containers.iter().filter(|c| c.is_running()).count()).sum();
    let sandboxes = pods.iter().filter(|pod| pod.ready_sandbox().is_some()).count();
    let mut text = format!(
        "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {sandboxes}\n\
         # HELP kubelet_running_containers Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"running\"}} {running}\n"
    );
    // Several pods may share a claim.
    let claims: BTreeMap<(&str, &str), &VolumeUsage> = claims
        .iter()
        .filter_map(|(pod, usage)| Some(((spec::namespace(pod), usage.place.claim.as_deref()?), usage)))
        .collect();
    for (name, help, value) in VOLUME_STATS.iter().filter(|_| !claims.is_empty()) {
        family(&mut text, name, "gauge", help);
        for ((namespace, claim), usage) in &claims {
            let value = value(usage);
            let _ = writeln!(text, "{name}{{namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"}} {value}");
        }
    }
    text
}

type VolumeStat = (&'static str, &'static str, fn(&VolumeUsage) -> u64);

/// What is told of claims.
const VOLUME_STATS: [VolumeStat; 6] = [
    ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |usage| {
        usage.fs.available_bytes
    }),
    ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |usage| usage.fs.capacity_bytes),
    ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |usage| usage.fs.inodes),
    ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |usage| usage.fs.inodes_free),
    ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |usage| usage.used.inodes),
    ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |usage| usage.used.bytes),
];

struct Sample<'a> {
    container: &'a str,
    namespace: &'a str,
    pod: &'a str,
    cpu_seconds: f64,
    memory: u64,
    started: Option<f64>,
    at_ms: i64,
}

/// What `/metrics/resource` holds: use of containers, pods and the node; without `stats` the runtime did not tell.
pub fn resource(stats: Option<&[v1::ContainerStats]>, pods: &[Arc<ObservedPod>], node: &NodeUsage) -> String {
    let samples: Vec<Sample<'_>> = stats.unwrap_or_default().iter().filter_map(|stats| sample(stats, pods)).collect();
    let mut text = String::new();
    let now = jiff::Timestamp::now().as_millisecond();
    family(
        &mut text,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for sample in &samples {
        line(&mut text, "container_cpu_usage_seconds_total", sample, sample.cpu_seconds);
    }
    family(&mut text, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for sample in &samples {
        line(&mut text, "container_memory_working_set_bytes", sample, sample.memory as f64);
    }
    family(
        &mut text,
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for sample in &samples {
        if let Some(started) = sample.started {
            line(&mut text, "container_start_time_seconds", sample, started);
        }
    }
    family(
        &mut text,
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(text, "node_cpu_usage_seconds_total {} {now}", node.cpu_seconds);
    family(&mut text, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let _ = writeln!(text, "node_memory_working_set_bytes {} {now}", node.memory_bytes);
    pod_totals(&mut text, &samples);
    family(
        &mut text,
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    let _ = writeln!(text, "resource_scrape_error {}", u8::from(stats.is_none()));
    text
}

fn pod_totals(text: &mut String, samples: &[Sample<'_>]) {
    let mut totals: BTreeMap<(&str, &str), (f64, u64, i64)> = BTreeMap::new();
    for sample in samples {
        let total = totals.entry((sample.namespace, sample.pod)).or_default();
        *total = (total.0 + sample.cpu_seconds, total.1 + sample.memory, total.2.max(sample.at_ms));
    }
    family(text, "pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
    for ((namespace, pod), (cpu, _, at)) in &totals {
        let _ = writeln!(text, "pod_cpu_usage_seconds_total{{namespace=\"{namespace}\",pod=\"{pod}\"}} {cpu} {at}");
    }
    family(text, "pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for ((namespace, pod), (_, memory, at)) in &totals {
        let _ = writeln!(text, "pod_memory_working_set_bytes{{namespace=\"{namespace}\",pod=\"{pod}\"}} {memory} {at}");
    }
}

fn sample<'a>(stats: &'a v1::ContainerStats, pods: &[Arc<ObservedPod>]) -> Option<Sample<'a>> {
    let attributes = stats.attributes.as_ref()?;
    let label = |name: &str| attributes.labels.get(name).map(String::as_str);
    let value = |value: Option<v1::UInt64Value>| value.map(|value| value.value).unwrap_or_default();
    let cpu = stats.cpu.as_ref()?;
    let started = pods.iter().flat_map(|pod| &pod.containers).find(|container| container.id == attributes.id);
    Some(Sample {
        container: label(labels::CONTAINER_NAME)?,
        namespace: label(labels::POD_NAMESPACE)?,
        pod: label(labels::POD_NAME)?,
        cpu_seconds: value(cpu.usage_core_nano_seconds) as f64 / 1e9,
        memory: value(stats.memory.as_ref().and_then(|memory| memory.working_set_bytes)),
        started: started.and_then(|container| container.started_at).map(|at| at.as_millisecond() as f64 / 1000.0),
        at_ms: cpu.timestamp / 1_000_000,
    })
}

pub fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, sample: &Sample<'_>, value: f64) {
    // Names of containers, namespaces and pods are DNS labels, so nothing in them needs an escape.
    let _ = writeln!(
        text,
        "{name}{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {value} {}",
        sample.container, sample.namespace, sample.pod, sample.at_ms
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::tests::volume;

    #[test]
    fn a_claim_is_told_of_once_however_many_pods_share_it() {
        let pod: Arc<Pod> =
            Arc::new(serde_json::from_value(serde_json::json!({"metadata": {"namespace": "n"}})).unwrap());
        let claim = volume("data", Some("claim"), 40);
        let text = kubelet(&[], &[(Arc::clone(&pod), claim.clone()), (pod, claim)]);
        let line = "kubelet_volume_stats_used_bytes{namespace=\"n\",persistentvolumeclaim=\"claim\"} 40\n";
        assert_eq!(text.matches(line).count(), 1, "{text}");
        assert!(
            text.contains("kubelet_volume_stats_capacity_bytes{namespace=\"n\",persistentvolumeclaim=\"claim\"} 50\n")
        );
        assert!(!kubelet(&[], &[]).contains("volume_stats"));
    }

    #[test]
    fn containers_and_pods_are_summed_and_idle_time_does_not_count() {
        let container = |name: &str, nanos: u64| v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: name.into(),
                labels: [(labels::CONTAINER_NAME, name), (labels::POD_NAMESPACE, "n"), (labels::POD_NAME, "p")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                ..Default::default()
            }),
            cpu: Some(v1::CpuUsage {
                timestamp: 5_000_000,
                usage_core_nano_seconds: Some(v1::UInt64Value { value: nanos }),
                usage_nano_cores: None,
            }),
            memory: Some(v1::MemoryUsage {
                working_set_bytes: Some(v1::UInt64Value { value: 7 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let stats = [container("a", 1_500_000_000), container("b", 500_000_000)];
        let text = resource(Some(&stats), &[], &NodeUsage { cpu_seconds: 9.5, memory_bytes: 3 });
        assert!(
            text.contains("container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.5 5\n"),
            "{text}"
        );
        assert!(text.contains("pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2 5\n"), "{text}");
        assert!(text.contains("pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 14 5\n"), "{text}");
        assert!(text.contains("node_cpu_usage_seconds_total 9.5 "));
        assert!(text.ends_with("resource_scrape_error 0\n"));
        assert!(resource(None, &[], &NodeUsage::default()).ends_with("resource_scrape_error 1\n"));
        assert_eq!(busy_seconds("cpu  100 0 50 9999 9999 25 25 0 0 0\n"), 2.0);
    }
}
