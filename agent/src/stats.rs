//! `/stats/summary`: what the node, its pods and their containers use, in the
//! shape of upstream's `stats/v1alpha1`.
//!
//! Numbers come from the runtime and the kernel, those of volumes from a walk that may be a minute old.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use skiff_host::{fs::FsUsage, process::MachineInfo};

use crate::{cgroups::Throttling, cri::v1, labels, metrics::NodeUsage, pods::spec, volumes::usage::VolumeUsage};

/// What the runtime and the kernel say at one time.
#[derive(Default)]
pub struct Sample {
    pub node_name: String,
    pub now: Timestamp,
    pub machine: MachineInfo,
    pub node: NodeUsage,
    /// Billionths of a core since the look before; `None` at the first.
    pub node_nano_cores: Option<u64>,
    pub started: Option<Timestamp>,
    pub interfaces: Vec<Interface>,
    /// The file system of pods' files, and that of images.
    pub node_fs: Option<FsUsage>,
    pub image_fs: Option<(FsUsage, u64)>,
    pub containers: Vec<v1::ContainerStats>,
    pub sandboxes: Vec<v1::PodSandboxStats>,
    pub pods: Vec<Arc<Pod>>,
    /// Start of containers by id, and bytes of logs by pod uid and container.
    pub starts: BTreeMap<String, Timestamp>,
    pub logs: BTreeMap<(String, String), u64>,
    /// By container id.
    pub throttling: BTreeMap<String, Throttling>,
    pub volumes: Arc<VolumeTable>,
}

/// What volumes hold, by pod uid.
pub type VolumeTable = BTreeMap<String, Vec<VolumeUsage>>;

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
    /// Where packets to the world leave.
    pub is_default: bool,
}

/// Remembers a look, so that the next can tell a rate.
#[derive(Default)]
pub struct Rate(Mutex<Option<(Timestamp, f64)>>);

impl Rate {
    /// Billionths of a core since the last call.
    pub fn nano_cores(&self, now: Timestamp, cpu_seconds: f64) -> Option<u64> {
        let (before, used) = self.0.lock().replace((now, cpu_seconds))?;
        let passed = now.duration_since(before).as_secs_f64();
        (passed > 0.0).then(|| (((cpu_seconds - used) / passed).max(0.0) * 1e9) as u64)
    }
}

/// Interfaces of this network namespace, from the kernel.
pub fn interfaces() -> Vec<Interface> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    parse_interfaces(&read("/proc/net/dev"), &read("/proc/net/route"))
}

fn parse_interfaces(devices: &str, routes: &str) -> Vec<Interface> {
    let default = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, target) = (fields.next()?, fields.next()?);
        (target == "00000000").then_some(name)
    });
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let name = name.trim();
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| counters.get(index).copied().unwrap_or_default();
        (name != "lo").then(|| Interface {
            name: name.to_owned(),
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
            is_default: default == Some(name),
        })
    };
    devices.lines().skip(2).filter_map(interface).collect()
}

/// Bytes of the files of a folder, one level deep.
pub fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(|file| file.is_file())
        .map(|file| file.len())
        .sum()
}

/// When the machine was started.
pub fn boot_time() -> Option<Timestamp> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok()
}

fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

/// Time in billionths of a second, as the runtime has it.
fn time_of(nanos: i64, sample: &Sample) -> Value {
    time(Timestamp::from_nanosecond(nanos.into()).ok().filter(|_| nanos > 0).unwrap_or(sample.now))
}

fn number(value: &Option<v1::UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

/// An object of the fields that are known.
fn known<const N: usize>(fields: [(&str, Option<u64>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn timed(time: Value, mut fields: Map<String, Value>) -> Value {
    fields.insert("time".to_owned(), time);
    Value::Object(fields)
}

fn cpu(usage: &v1::CpuUsage, sample: &Sample) -> Value {
    let (rate, total) = (number(&usage.usage_nano_cores), number(&usage.usage_core_nano_seconds));
    timed(time_of(usage.timestamp, sample), known([("usageNanoCores", rate), ("usageCoreNanoSeconds", total)]))
}

fn memory(usage: &v1::MemoryUsage, sample: &Sample) -> Value {
    let fields = known([
        ("availableBytes", number(&usage.available_bytes).filter(|bytes| *bytes > 0)),
        ("usageBytes", number(&usage.usage_bytes)),
        ("workingSetBytes", number(&usage.working_set_bytes)),
        ("rssBytes", number(&usage.rss_bytes)),
        ("pageFaults", number(&usage.page_faults)),
        ("majorPageFaults", number(&usage.major_page_faults)),
    ]);
    timed(time_of(usage.timestamp, sample), fields)
}

/// A file system and what of it is used here.
fn file_system(fs: Option<&FsUsage>, used: Option<u64>, inodes_used: Option<u64>, sample: &Sample) -> Value {
    let fields = known([
        ("availableBytes", fs.map(|fs| fs.available_bytes)),
        ("capacityBytes", fs.map(|fs| fs.capacity_bytes)),
        ("usedBytes", used),
        ("inodesFree", fs.map(|fs| fs.inodes_free)),
        ("inodes", fs.map(|fs| fs.inodes)),
        ("inodesUsed", inodes_used),
    ]);
    timed(time(sample.now), fields)
}

fn whole(fs: &FsUsage, sample: &Sample) -> Value {
    let used = fs.capacity_bytes.saturating_sub(fs.available_bytes);
    file_system(Some(fs), Some(used), Some(fs.inodes.saturating_sub(fs.inodes_free)), sample)
}

fn network(at: Value, interfaces: &[Interface]) -> Value {
    let counters = |interface: &Interface| {
        json!({"name": interface.name, "rxBytes": interface.rx_bytes, "rxErrors": interface.rx_errors,
            "txBytes": interface.tx_bytes, "txErrors": interface.tx_errors})
    };
    let default = interfaces.iter().find(|interface| interface.is_default);
    let mut value = default.map_or_else(|| json!({"name": ""}), counters);
    value["time"] = at;
    value["interfaces"] = interfaces.iter().map(counters).collect();
    value
}

/// The interfaces of a sandbox, the default one first.
pub fn interfaces_of(usage: &v1::NetworkUsage) -> Vec<Interface> {
    let interface = |usage: &v1::NetworkInterfaceUsage, is_default| Interface {
        name: usage.name.clone(),
        rx_bytes: number(&usage.rx_bytes).unwrap_or_default(),
        rx_errors: number(&usage.rx_errors).unwrap_or_default(),
        tx_bytes: number(&usage.tx_bytes).unwrap_or_default(),
        tx_errors: number(&usage.tx_errors).unwrap_or_default(),
        is_default,
    };
    let default = usage.default_interface.iter().map(|usage| interface(usage, true));
    default.chain(usage.interfaces.iter().map(|usage| interface(usage, false))).collect()
}

/// The whole document; with `brief`, use of processor and memory alone.
pub fn summary(sample: &Sample, brief: bool) -> Value {
    json!({"node": node(sample, brief), "pods": pods(sample, brief)})
}

fn node(sample: &Sample, brief: bool) -> Value {
    let cpu = known([
        ("usageNanoCores", sample.node_nano_cores),
        ("usageCoreNanoSeconds", Some((sample.node.cpu_seconds * 1e9) as u64)),
    ]);
    let available = sample.machine.memory_bytes.saturating_sub(sample.node.memory_bytes);
    let memory = known([
        ("availableBytes", Some(available)),
        ("usageBytes", Some(sample.node.memory_bytes)),
        ("workingSetBytes", Some(sample.node.memory_bytes)),
    ]);
    let mut node = json!({"nodeName": sample.node_name, "cpu": timed(time(sample.now), cpu),
        "memory": timed(time(sample.now), memory)});
    if let Some(started) = sample.started {
        node["startTime"] = time(started);
    }
    if brief {
        return node;
    }
    node["network"] = network(time(sample.now), &sample.interfaces);
    if let Some(fs) = &sample.node_fs {
        node["fs"] = whole(fs, sample);
    }
    if let Some((fs, used)) = &sample.image_fs {
        let inodes = fs.inodes.saturating_sub(fs.inodes_free);
        node["runtime"]["imageFs"] = file_system(Some(fs), Some(*used), Some(inodes), sample);
    }
    node
}

fn pods(sample: &Sample, brief: bool) -> Vec<Value> {
    let mut containers: BTreeMap<&str, Vec<&v1::ContainerStats>> = BTreeMap::new();
    for stats in &sample.containers {
        if let Some(uid) = stats.attributes.as_ref().and_then(|attributes| attributes.labels.get(labels::POD_UID)) {
            containers.entry(uid).or_default().push(stats);
        }
    }
    let sandbox = |uid: &str| {
        let is_it = |stats: &&v1::PodSandboxStats| {
            stats
                .attributes
                .as_ref()
                .is_some_and(|have| have.labels.get(labels::POD_UID).is_some_and(|have| have == uid))
        };
        sample.sandboxes.iter().find(is_it).and_then(|stats| stats.linux.as_ref())
    };
    let running = sample.pods.iter().filter(|pod| containers.contains_key(spec::uid(pod)));
    running.map(|pod| self::pod(pod, &containers[spec::uid(pod)], sandbox(spec::uid(pod)), sample, brief)).collect()
}

fn pod(
    pod: &Pod,
    containers: &[&v1::ContainerStats],
    sandbox: Option<&v1::LinuxPodSandboxStats>,
    sample: &Sample,
    brief: bool,
) -> Value {
    let uid = spec::uid(pod);
    let mut value = json!({"podRef": {"name": spec::name(pod), "namespace": spec::namespace(pod), "uid": uid}});
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    value["startTime"] = started.map_or(Value::Null, |at| time(at.0));
    value["containers"] = containers.iter().filter_map(|stats| container(uid, stats, sample, brief)).collect();
    if let Some(usage) = sandbox.and_then(|sandbox| sandbox.cpu.as_ref()) {
        value["cpu"] = cpu(usage, sample);
    }
    if let Some(usage) = sandbox.and_then(|sandbox| sandbox.memory.as_ref()) {
        value["memory"] = memory(usage, sample);
    }
    if brief {
        return value;
    }
    if let Some(usage) = sandbox.and_then(|sandbox| sandbox.network.as_ref()) {
        value["network"] = network(time_of(usage.timestamp, sample), &interfaces_of(usage));
    }
    if let Some(count) = sandbox.and_then(|sandbox| number(&sandbox.process.as_ref()?.process_count)) {
        value["process_stats"] = json!({"process_count": count});
    }
    let volumes = sample.volumes.get(uid).map_or(&[][..], Vec::as_slice);
    value["volume"] = volumes.iter().map(|usage| volume(usage, spec::namespace(pod), sample)).collect();
    let layers = containers.iter().filter_map(|stats| number(&stats.writable_layer.as_ref()?.used_bytes));
    let logs = sample.logs.iter().filter(|((pod, _), _)| pod == uid).map(|(_, bytes)| *bytes);
    let held = volumes.iter().filter(|usage| usage.place.is_ephemeral).map(|usage| usage.used.bytes);
    let bytes = layers.chain(logs).chain(held).sum();
    value["ephemeral-storage"] = file_system(sample.node_fs.as_ref(), Some(bytes), None, sample);
    value
}

fn volume(usage: &VolumeUsage, namespace: &str, sample: &Sample) -> Value {
    let mut value = file_system(Some(&usage.fs), Some(usage.used.bytes), Some(usage.used.inodes), sample);
    value["name"] = usage.place.volume.as_str().into();
    if let Some(claim) = &usage.place.claim {
        value["pvcRef"] = json!({"name": claim, "namespace": namespace});
    }
    value
}

fn container(pod_uid: &str, stats: &v1::ContainerStats, sample: &Sample, brief: bool) -> Option<Value> {
    let attributes = stats.attributes.as_ref()?;
    let name = attributes.labels.get(labels::CONTAINER_NAME)?;
    let mut value = json!({"name": name});
    value["startTime"] = sample.starts.get(&attributes.id).map_or(Value::Null, |at| time(*at));
    if let Some(usage) = &stats.cpu {
        value["cpu"] = cpu(usage, sample);
    }
    if let Some(usage) = &stats.memory {
        value["memory"] = memory(usage, sample);
    }
    if brief {
        return Some(value);
    }
    if let Some(layer) = &stats.writable_layer {
        let fs = sample.image_fs.as_ref().map(|(fs, _)| fs);
        value["rootfs"] = file_system(fs, number(&layer.used_bytes), number(&layer.inodes_used), sample);
    }
    let logs = sample.logs.get(&(pod_uid.to_owned(), name.clone()));
    value["logs"] = file_system(sample.node_fs.as_ref(), logs.copied(), None, sample);
    Some(value)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::volumes::usage::{Place, Used};

    fn some(value: u64) -> Option<v1::UInt64Value> {
        Some(v1::UInt64Value { value })
    }

    pub fn volume(name: &str, claim: Option<&str>, bytes: u64) -> VolumeUsage {
        VolumeUsage {
            place: Place {
                volume: name.into(),
                claim: claim.map(str::to_owned),
                path: "/v".into(),
                is_ephemeral: claim.is_none(),
            },
            fs: FsUsage { capacity_bytes: 50, available_bytes: 10, inodes: 9, inodes_free: 4 },
            used: Used { bytes, inodes: 2 },
        }
    }

    /// A node with one pod of one container.
    pub fn sample() -> Sample {
        let labels = [
            (labels::CONTAINER_NAME, "c"),
            (labels::POD_NAMESPACE, "n"),
            (labels::POD_NAME, "p"),
            (labels::POD_UID, "u"),
        ];
        let labels: std::collections::HashMap<String, String> =
            labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let cpu =
            v1::CpuUsage { timestamp: 5_000_000_000, usage_core_nano_seconds: some(7), usage_nano_cores: some(3) };
        let memory = v1::MemoryUsage {
            timestamp: 5_000_000_000,
            working_set_bytes: some(100),
            usage_bytes: some(200),
            ..Default::default()
        };
        let layer = v1::FilesystemUsage { used_bytes: some(30), inodes_used: some(4), ..Default::default() };
        let eth0 = v1::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: some(11),
            tx_bytes: some(12),
            ..Default::default()
        };
        Sample {
            node_name: "node-1".into(),
            now: Timestamp::from_second(10).unwrap(),
            machine: MachineInfo { memory_bytes: 1000, cpus: 2, ..MachineInfo::default() },
            node: NodeUsage { cpu_seconds: 2.5, memory_bytes: 400 },
            node_nano_cores: Some(9),
            started: Some(Timestamp::from_second(1).unwrap()),
            interfaces: vec![Interface { name: "eth0".into(), rx_bytes: 1, is_default: true, ..Interface::default() }],
            node_fs: Some(FsUsage { capacity_bytes: 50, available_bytes: 20, inodes: 9, inodes_free: 4 }),
            image_fs: Some((FsUsage { capacity_bytes: 50, available_bytes: 20, inodes: 9, inodes_free: 4 }, 6)),
            containers: vec![v1::ContainerStats {
                attributes: Some(v1::ContainerAttributes { id: "id".into(), labels: labels.clone(), ..Default::default() }),
                cpu: Some(cpu),
                memory: Some(memory),
                writable_layer: Some(layer),
                ..Default::default()
            }],
            sandboxes: vec![v1::PodSandboxStats {
                attributes: Some(v1::PodSandboxAttributes { id: "box".into(), labels, ..Default::default() }),
                linux: Some(v1::LinuxPodSandboxStats {
                    cpu: Some(cpu),
                    memory: Some(memory),
                    network: Some(v1::NetworkUsage { default_interface: Some(eth0), ..Default::default() }),
                    process: Some(v1::ProcessUsage { process_count: some(2), ..Default::default() }),
                    ..Default::default()
                }),
            }],
            pods: vec![Arc::new(serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "1Mi", "cpu": "500m"}}}]},
                "status": {"startTime": "1970-01-01T00:00:02Z"}})).unwrap())],
            starts: [("id".to_owned(), Timestamp::from_second(3).unwrap())].into(),
            logs: [(("u".to_owned(), "c".to_owned()), 8)].into(),
            volumes: Arc::new([("u".to_owned(), vec![volume("scratch", None, 3), volume("data", Some("claim"), 40)])].into()),
            throttling: [("id".to_owned(), Throttling { periods: 9, throttled: 2, seconds: 0.5 })].into(),
        }
    }

    #[test]
    fn node_pod_and_container_have_upstream_s_fields() {
        let all = summary(&sample(), false);
        let node = &all["node"];
        assert_eq!(
            node["cpu"],
            json!({"time": "1970-01-01T00:00:10Z", "usageNanoCores": 9, "usageCoreNanoSeconds": 2_500_000_000u64})
        );
        assert_eq!((&node["memory"]["availableBytes"], &node["memory"]["workingSetBytes"]), (&json!(600), &json!(400)));
        assert_eq!((&node["fs"]["usedBytes"], &node["fs"]["inodesUsed"]), (&json!(30), &json!(5)));
        assert_eq!(node["runtime"]["imageFs"]["usedBytes"], 6);
        assert_eq!(
            (&node["network"]["name"], &node["network"]["interfaces"][0]["rxBytes"]),
            (&json!("eth0"), &json!(1))
        );
        let pod = &all["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "n", "uid": "u"}));
        assert_eq!((&pod["network"]["rxBytes"], &pod["process_stats"]["process_count"]), (&json!(11), &json!(2)));
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 41, "layer, logs and scratch");
        assert_eq!(
            pod["volume"],
            json!([
                {"time": "1970-01-01T00:00:10Z", "availableBytes": 10, "capacityBytes": 50, "usedBytes": 3,
                    "inodesFree": 4, "inodes": 9, "inodesUsed": 2, "name": "scratch"},
                {"time": "1970-01-01T00:00:10Z", "availableBytes": 10, "capacityBytes": 50, "usedBytes": 40,
                    "inodesFree": 4, "inodes": 9, "inodesUsed": 2, "name": "data",
                    "pvcRef": {"name": "claim", "namespace": "n"}},
            ])
        );
        let container = &pod["containers"][0];
        assert_eq!((&container["name"], &container["startTime"]), (&json!("c"), &json!("1970-01-01T00:00:03Z")));
        assert_eq!(container["cpu"]["time"], "1970-01-01T00:00:05Z");
        assert_eq!((&container["rootfs"]["usedBytes"], &container["logs"]["usedBytes"]), (&json!(30), &json!(8)));
        let brief = summary(&sample(), true);
        assert!(brief["node"]["fs"].is_null() && brief["pods"][0]["network"].is_null());
        assert_eq!(brief["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 100);
    }

    #[test]
    fn interfaces_and_rates_are_read() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 20 1 3 0 0 0 0 0\n";
        let routes = "Iface\tDestination\tGateway\neth0\t0000000A\t0\neth0\t00000000\t010000FE\n";
        let found = parse_interfaces(devices, routes);
        let eth0 =
            Interface { name: "eth0".into(), rx_bytes: 10, rx_errors: 2, tx_bytes: 20, tx_errors: 3, is_default: true };
        assert_eq!(found, [eth0]);
        let rate = Rate::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(rate.nano_cores(at(0), 1.0), None);
        assert_eq!(rate.nano_cores(at(10), 6.0), Some(500_000_000));
    }
}
