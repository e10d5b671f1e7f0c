//! Lets the autoscaler read what the API server has learned from kubelets.

use std::sync::Arc;

use jiff::SignedDuration;
use skiff_apiserver::resource_metrics::ResourceMetrics;
use skiff_controllers::{
    PodMetrics,
    autoscaling::{ContainerUsage, PodUsage},
};

pub struct KubeletMetrics(pub Arc<ResourceMetrics>);

impl PodMetrics for KubeletMetrics {
    fn usage(&self, namespace: &str, pod: &str) -> Option<PodUsage> {
        let usage = self.0.usage(namespace, pod);
        let oldest = usage.values().min_by_key(|usage| usage.at)?;
        let (at, window) = (oldest.at, SignedDuration::try_from(oldest.window).unwrap_or_default());
        let containers = usage.iter().map(|(name, usage)| {
            let memory_milli = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
            (name.clone(), ContainerUsage { cpu_milli: (usage.cpu_cores * 1000.0).round() as i64, memory_milli })
        });
        Some(PodUsage { containers: containers.collect(), at, window })
    }
}
