//! Control groups of pods: `kubepods[/burstable|/besteffort]/pod<uid>` below a
//! configurable root, so that several agents on a machine keep apart.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use skiff_host::cgroup::{CgroupError, Cgroups, Limits, Version};

use crate::{
    container_config::resources::{MachineLimits, cpu_shares, pod_limits, pod_requirements},
    pods::spec,
};

/// The group above all pods.
pub fn kubepods(root: &str) -> String {
    format!("{}/kubepods", root.trim_end_matches('/'))
}

/// How often a group ran out of its share of the processors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled: u64,
    pub seconds: f64,
}

impl Throttling {
    /// Reads `cpu.stat` of either hierarchy; `None` for a group without a limit.
    fn parse(text: &str) -> Option<Throttling> {
        let mut found = Throttling::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else { continue };
            let value: u64 = value.trim().parse().ok()?;
            match name {
                "nr_periods" => found.periods = value,
                "nr_throttled" => found.throttled = value,
                "throttled_time" => found.seconds = value as f64 / 1e9,
                "throttled_usec" => found.seconds = value as f64 / 1e6,
                _ => {}
            }
        }
        (found.periods > 0).then_some(found)
    }
}

/// Pod groups of this agent.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    cgroups: Cgroups,
    kubepods: String,
}

impl PodCgroups {
    /// Detects the hierarchy and makes the groups of the classes.
    pub fn new(root: &str, cpus: u32) -> Result<PodCgroups, CgroupError> {
        let pods = PodCgroups { cgroups: Cgroups::detect()?, kubepods: kubepods(root) };
        let shares = |shares: i64| Limits { cpu_shares: u64::try_from(shares).ok(), ..Limits::default() };
        pods.cgroups.evacuate("skiff-init")?;
        pods.cgroups.create(&pods.kubepods)?;
        pods.cgroups.check_delegated(&pods.kubepods)?;
        pods.cgroups.set(&pods.kubepods, &shares(cpu_shares(i64::from(cpus) * 1000)))?;
        for class in ["burstable", "besteffort"] {
            let group = format!("{}/{class}", pods.kubepods);
            pods.cgroups.create(&group)?;
            pods.cgroups.set(&group, &shares(2))?;
        }
        Ok(pods)
    }

    pub fn version(&self) -> Version {
        self.cgroups.version()
    }

    /// The group of a pod.
    pub fn path(&self, pod: &Pod) -> String {
        let class = match spec::qos_class(pod).as_str() {
            "Guaranteed" => String::new(),
            other => format!("/{}", other.to_lowercase()),
        };
        format!("{}{class}/pod{}", self.kubepods, spec::uid(pod))
    }

    /// How often a container of a pod was held back.
    pub fn throttling(&self, pod: &Pod, container_id: &str) -> Option<Throttling> {
        let group = format!("{}/{container_id}", self.path(pod));
        let file = self.cgroups.directory("cpu", &group)?.join("cpu.stat");
        Throttling::parse(&std::fs::read_to_string(file).ok()?)
    }

    /// Makes the group of a pod with its limits.
    pub fn create(&self, pod: &Pod, machine: &MachineLimits) -> Result<String, CgroupError> {
        let group = self.path(pod);
        self.cgroups.create(&group)?;
        self.cgroups.set(&group, &pod_limits(pod, machine))?;
        Ok(group)
    }

    /// Gives the burstable class the weight of what its pods ask for together.
    pub fn weigh_burstable<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> Result<(), CgroupError> {
        let burstable = pods.filter(|pod| spec::qos_class(pod) == "Burstable");
        let milli: i64 = burstable.map(|pod| pod_requirements(pod).0.get("cpu").copied().unwrap_or_default()).sum();
        let limits = Limits { cpu_shares: u64::try_from(cpu_shares(milli)).ok(), ..Limits::default() };
        self.cgroups.set(&format!("{}/burstable", self.kubepods), &limits)
    }

    /// Removes the group of a pod, wherever its class put it, and what still runs in it.
    pub async fn remove(&self, uid: &str) -> Result<(), CgroupError> {
        for class in ["", "/burstable", "/besteffort"] {
            let group = format!("{}{class}/pod{uid}", self.kubepods);
            let mut wait = Duration::from_millis(5);
            // Killed processes leave their group a moment later, and nothing announces it.
            while self.cgroups.exists(&group) {
                match self.cgroups.remove(&group) {
                    Ok(()) => break,
                    Err(error) if wait > Duration::from_secs(2) => return Err(error),
                    Err(_) => tokio::time::sleep(wait).await,
                }
                wait *= 2;
            }
        }
        Ok(())
    }

    /// Uids of the pods that have a group.
    pub fn pods(&self) -> Vec<String> {
        let mut found: HashMap<String, ()> = HashMap::new();
        for class in ["", "/burstable", "/besteffort"] {
            for name in self.cgroups.children(&format!("{}{class}", self.kubepods)) {
                if let Some(uid) = name.strip_prefix("pod") {
                    found.insert(uid.to_owned(), ());
                }
            }
        }
        found.into_keys().collect()
    }
}
