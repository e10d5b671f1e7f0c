//! `/metrics/cadvisor`: use of containers, pods and the machine under the names
//! of cAdvisor, which dashboards ask for.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::core::v1::Pod;
use skiff_api::Quantity;

use crate::{
    cgroups::Throttling,
    cri::v1,
    labels,
    metrics::family,
    pods::spec,
    stats::{Sample, interfaces_of},
};

/// Where the group of a pod is; part of the label `id`.
pub type GroupOf<'a> = &'a dyn Fn(&Pod) -> String;

/// Series of a metric, as they are written.
#[derive(Default)]
struct Families(BTreeMap<&'static str, (&'static str, &'static str, String)>);

impl Families {
    fn add(&mut self, name: &'static str, kind: &'static str, help: &'static str, labels: &str, value: f64, at: i64) {
        let (_, _, text) = self.0.entry(name).or_insert((kind, help, String::new()));
        let _ = write!(text, "{name}{{{labels}}} {value}");
        let _ = if at > 0 { writeln!(text, " {}", at / 1_000_000) } else { writeln!(text) };
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (name, (kind, help, series)) in self.0 {
            family(&mut text, name, kind, help);
            text.push_str(&series);
        }
        text
    }
}

/// Escapes what a label may not hold as it is; image names come from users.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What is answered when the runtime does not say: nothing but that, so that nobody takes it for an idle node.
pub fn failed() -> String {
    let mut text = String::new();
    scrape_error(&mut text, true);
    text
}

fn scrape_error(text: &mut String, failed: bool) {
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    family(text, "container_scrape_error", "gauge", help);
    let _ = writeln!(text, "container_scrape_error {}", u8::from(failed));
}

/// All of it.
pub fn metrics(sample: &Sample, group_of: GroupOf<'_>, images: &BTreeMap<String, String>) -> String {
    let mut all = Families::default();
    machine(&mut all, sample);
    for pod in &sample.pods {
        let group = group_of(pod);
        let of_pod = |found: Option<&String>| found.is_some_and(|uid| uid == spec::uid(pod));
        let place = format!("namespace=\"{}\",pod=\"{}\"", spec::namespace(pod), spec::name(pod));
        for stats in &sample.containers {
            let Some(attributes) = &stats.attributes else { continue };
            let Some(name) = attributes.labels.get(labels::CONTAINER_NAME) else { continue };
            if !of_pod(attributes.labels.get(labels::POD_UID)) {
                continue;
            }
            let id = &attributes.id;
            let image = images.get(id).map(|image| escape(image)).unwrap_or_default();
            let labels = format!("container=\"{name}\",id=\"{group}/{id}\",image=\"{image}\",name=\"{id}\",{place}");
            usage(&mut all, &labels, stats.cpu.as_ref(), stats.memory.as_ref());
            layer(&mut all, &labels, stats);
            if let Some(started) = sample.starts.get(id) {
                let help = "Start time of the container since unix epoch in seconds.";
                all.add("container_start_time_seconds", "gauge", help, &labels, started.as_second() as f64, 0);
            }
            limits(&mut all, &labels, pod, name);
            if let Some(throttling) = sample.throttling.get(id) {
                throttled(&mut all, &labels, throttling);
            }
        }
        let is_it = |stats: &&v1::PodSandboxStats| {
            stats.attributes.as_ref().is_some_and(|attributes| of_pod(attributes.labels.get(labels::POD_UID)))
        };
        let Some(stats) = sample.sandboxes.iter().find(is_it) else { continue };
        let Some(linux) = &stats.linux else { continue };
        let labels = format!("container=\"\",id=\"{group}\",image=\"\",name=\"\",{place}");
        usage(&mut all, &labels, linux.cpu.as_ref(), linux.memory.as_ref());
        let id = stats.attributes.as_ref().map(|attributes| attributes.id.as_str()).unwrap_or_default();
        if let Some(usage) = &linux.network {
            network(&mut all, usage, &format!("{group}/{id}"), id, &place);
        }
        if let Some(count) = linux.process.as_ref().and_then(|process| process.process_count.as_ref()) {
            let help = "Number of processes running inside the container.";
            all.add("container_processes", "gauge", help, &labels, count.value as f64, 0);
        }
    }
    let mut text = all.text();
    scrape_error(&mut text, false);
    text
}

fn machine(all: &mut Families, sample: &Sample) {
    let (machine, node) = (&sample.machine, &sample.node);
    let ids = format!(
        "boot_id=\"{}\",machine_id=\"{}\",system_uuid=\"{}\"",
        escape(&machine.boot_id),
        escape(&machine.machine_id),
        escape(&machine.system_uuid)
    );
    all.add("machine_cpu_cores", "gauge", "Number of logical CPU cores.", &ids, machine.cpus.into(), 0);
    let memory = machine.memory_bytes as f64;
    all.add("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", &ids, memory, 0);
    let help = "Amount of swap memory available on the machine.";
    all.add("machine_swap_bytes", "gauge", help, &ids, machine.swap_bytes as f64, 0);
    let root = "container=\"\",cpu=\"total\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"";
    all.add(CPU, "counter", CPU_HELP, root, node.cpu_seconds, 0);
    let root = "container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"";
    all.add(WORKING_SET, "gauge", WORKING_SET_HELP, root, node.memory_bytes as f64, 0);
    all.add("container_memory_usage_bytes", "gauge", USAGE_HELP, root, node.memory_bytes as f64, 0);
    for interface in &sample.interfaces {
        let labels = format!(
            "container=\"\",id=\"/\",image=\"\",interface=\"{}\",name=\"\",namespace=\"\",pod=\"\"",
            escape(&interface.name)
        );
        for (name, help, value) in counters(interface) {
            all.add(name, "counter", help, &labels, value as f64, 0);
        }
    }
}

const CPU: &str = "container_cpu_usage_seconds_total";
const CPU_HELP: &str = "Cumulative cpu time consumed in seconds.";
const WORKING_SET: &str = "container_memory_working_set_bytes";
const WORKING_SET_HELP: &str = "Current working set in bytes.";
const USAGE_HELP: &str = "Current memory usage in bytes, including all memory regardless of when it was accessed";

fn usage(all: &mut Families, labels: &str, cpu: Option<&v1::CpuUsage>, memory: Option<&v1::MemoryUsage>) {
    if let Some(cpu) = cpu
        && let Some(total) = &cpu.usage_core_nano_seconds
    {
        // Labels stand in the order of the alphabet.
        let labels = labels.replacen(",id=", ",cpu=\"total\",id=", 1);
        all.add(CPU, "counter", CPU_HELP, &labels, total.value as f64 / 1e9, cpu.timestamp);
    }
    let Some(memory) = memory else { return };
    let gauges = [
        (WORKING_SET, WORKING_SET_HELP, &memory.working_set_bytes),
        ("container_memory_usage_bytes", USAGE_HELP, &memory.usage_bytes),
        ("container_memory_rss", "Size of RSS in bytes.", &memory.rss_bytes),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            all.add(name, "gauge", help, labels, value.value as f64, memory.timestamp);
        }
    }
    let help = "Cumulative count of memory allocation failures.";
    for (kind, value) in [("pgfault", &memory.page_faults), ("pgmajfault", &memory.major_page_faults)] {
        if let Some(value) = value {
            let labels = format!("{labels},failure_type=\"{kind}\",scope=\"container\"");
            all.add("container_memory_failures_total", "counter", help, &labels, value.value as f64, memory.timestamp);
        }
    }
}

fn layer(all: &mut Families, labels: &str, stats: &v1::ContainerStats) {
    let Some(layer) = &stats.writable_layer else { return };
    if let Some(used) = &layer.used_bytes {
        let help = "Number of bytes that are consumed by the container on this filesystem.";
        all.add("container_fs_usage_bytes", "gauge", help, labels, used.value as f64, layer.timestamp);
    }
    if let Some(used) = &layer.inodes_used {
        let help = "Number of inodes that are used by the container.";
        all.add("container_fs_inodes_used", "gauge", help, labels, used.value as f64, layer.timestamp);
    }
}

fn network(all: &mut Families, usage: &v1::NetworkUsage, id: &str, name: &str, place: &str) {
    for interface in interfaces_of(usage) {
        let device = escape(&interface.name);
        let labels = format!("container=\"\",id=\"{id}\",image=\"\",interface=\"{device}\",name=\"{name}\",{place}");
        for (name, help, value) in counters(&interface) {
            all.add(name, "counter", help, &labels, value as f64, usage.timestamp);
        }
    }
}

fn counters(interface: &crate::stats::Interface) -> [(&'static str, &'static str, u64); 4] {
    [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", interface.rx_bytes),
        (
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            interface.rx_errors,
        ),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", interface.tx_bytes),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            interface.tx_errors,
        ),
    ]
}

fn throttled(all: &mut Families, labels: &str, throttling: &Throttling) {
    let help = "Number of elapsed enforcement period intervals.";
    all.add("container_cpu_cfs_periods_total", "counter", help, labels, throttling.periods as f64, 0);
    let help = "Number of throttled period intervals.";
    all.add("container_cpu_cfs_throttled_periods_total", "counter", help, labels, throttling.throttled as f64, 0);
    let help = "Total time duration the container has been throttled.";
    all.add("container_cpu_cfs_throttled_seconds_total", "counter", help, labels, throttling.seconds, 0);
}

/// What the pod grants its container.
fn limits(all: &mut Families, labels: &str, pod: &Pod, name: &str) {
    const PERIOD: f64 = 100_000.0;
    let Some((_, container)) = spec::find_container(pod, name) else { return };
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let limit = |resource: &str| limits?.get(resource)?.0.parse::<Quantity>().ok();
    let help = "Memory limit for the container.";
    let memory = limit("memory").map_or(0.0, Quantity::as_f64);
    all.add("container_spec_memory_limit_bytes", "gauge", help, labels, memory, 0);
    let help = "CPU period of the container.";
    all.add("container_spec_cpu_period", "gauge", help, labels, PERIOD, 0);
    if let Some(cpu) = limit("cpu") {
        let help = "CPU quota of the container.";
        all.add("container_spec_cpu_quota", "gauge", help, labels, cpu.as_f64() * PERIOD, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_the_names_and_labels_that_dashboards_ask_for() {
        let images = [("id".to_owned(), "i\"x".to_owned())].into();
        let text = metrics(&crate::stats::tests::sample(), &|_| "/kubepods/podu".to_owned(), &images);
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 0.000000007 5000",
            "container_memory_working_set_bytes{container=\"c\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 100 5000",
            "container_memory_working_set_bytes{container=\"\",id=\"/kubepods/podu\",image=\"\",name=\"\",namespace=\"n\",pod=\"p\"} 100 5000",
            "container_network_receive_bytes_total{container=\"\",id=\"/kubepods/podu/box\",image=\"\",interface=\"eth0\",name=\"box\",namespace=\"n\",pod=\"p\"} 11",
            "container_spec_memory_limit_bytes{container=\"c\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 1048576",
            "container_spec_cpu_quota{container=\"c\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 50000",
            "container_cpu_cfs_throttled_periods_total{container=\"c\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 2",
            "container_start_time_seconds{container=\"c\",id=\"/kubepods/podu/id\",image=\"i\\\"x\",name=\"id\",namespace=\"n\",pod=\"p\"} 3",
            "machine_memory_bytes{boot_id=\"\",machine_id=\"\",system_uuid=\"\"} 1000",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        let heads = text.lines().filter(|line| line.starts_with("# TYPE container_memory_working_set_bytes ")).count();
        assert_eq!(heads, 1, "a family is announced once");
        assert!(text.ends_with("container_scrape_error 0\n"));
        assert!(failed().ends_with("container_scrape_error 1\n"), "a failure is no idle node");
    }
}
