//! Frees memory and disk before the kernel or the disk run out: unused images
//! first, then whole pods, the least deserving first.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use skiff_host::{fs::FsUsage, process::memory_available_bytes};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{EvictionConfig, RuntimeConfig},
    container_config::resources::pod_requirements,
    context::Context,
    images::{ImageGc, ImageImporter},
    limits,
    pods::{PodSet, spec},
};

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    Memory,
    Disk,
}

/// After an eviction the machine gets this long to recover before the next.
const PAUSE_AFTER_EVICTION: Duration = Duration::from_secs(30);

/// Watches memory and disk until `token` is cancelled.
pub async fn run(
    context: Arc<Context>,
    pods: Arc<PodSet>,
    gc: ImageGc,
    importer: Option<Arc<ImageImporter>>,
    token: CancellationToken,
) {
    loop {
        let mut pause = limits::NODE_CHECK_PERIOD;
        let disk = skiff_host::fs::usage(&context.config.data_dir).unwrap_or_default();
        let shortage = shortage(&context.config.eviction, disk, memory_available_bytes());
        let mut keep: BTreeSet<String> = importer.as_ref().map(|importer| importer.imported()).unwrap_or_default();
        if let RuntimeConfig::Supervised(containerd) = &context.config.runtime {
            keep.insert(containerd.sandbox_image.clone());
        }
        if let Err(error) = gc.collect(&keep, shortage == Some(Shortage::Disk)).await {
            tracing::debug!(component = "image-gc", %error, "look at images");
        }
        let disk = skiff_host::fs::usage(&context.config.data_dir).unwrap_or_default();
        if let Some(shortage) = self::shortage(&context.config.eviction, disk, memory_available_bytes())
            && let Some(victim) = victim(&pods.pods())
        {
            let message = match shortage {
                Shortage::Memory => "The node was low on resource: memory.",
                Shortage::Disk => "The node was low on resource: ephemeral-storage.",
            };
            tracing::warn!(component = "eviction", pod = spec::full_name(&victim), message, "evicting pod");
            pods.evict(spec::uid(&victim), message);
            pause = PAUSE_AFTER_EVICTION;
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn shortage(config: &EvictionConfig, disk: FsUsage, memory_available: u64) -> Option<Shortage> {
    let below = |free: u64, all: u64, percent: u64| all > 0 && free < all / 100 * percent;
    if memory_available < config.memory_available_bytes {
        return Some(Shortage::Memory);
    }
    let disk_short = below(disk.available_bytes, disk.capacity_bytes, config.nodefs_available_percent)
        || below(disk.inodes_free, disk.inodes, config.nodefs_inodes_free_percent);
    disk_short.then_some(Shortage::Disk)
}

/// The pod to end first: without requests before with, low priority before high.
fn victim(pods: &[Arc<Pod>]) -> Option<Arc<Pod>> {
    let evictable = pods.iter().filter(|pod| {
        let critical = spec::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000);
        !critical && !spec::is_deleting(pod) && !spec::is_terminal(pod)
    });
    let rank = |pod: &&Arc<Pod>| {
        let class = match spec::qos_class(pod).as_str() {
            "BestEffort" => 0,
            "Burstable" => 1,
            _ => 2,
        };
        let requested = pod_requirements(pod).0.get("memory").copied().unwrap_or_default();
        (spec::spec(pod).priority.unwrap_or_default(), class, requested)
    };
    evictable.min_by_key(rank).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shortages_are_noticed_at_their_thresholds() {
        let config = EvictionConfig::default();
        let disk =
            |available| FsUsage { capacity_bytes: 100_000, available_bytes: available, inodes: 1000, inodes_free: 500 };
        assert_eq!(shortage(&config, disk(50_000), 1 << 30), None);
        assert_eq!(shortage(&config, disk(50_000), 1 << 20), Some(Shortage::Memory));
        assert_eq!(shortage(&config, disk(1000), 1 << 30), Some(Shortage::Disk));
        assert_eq!(shortage(&config, FsUsage::default(), 1 << 30), None, "an unknown disk is not full");
    }

    #[test]
    fn the_least_deserving_pod_goes_first() {
        let pod = |name: &str, priority: i32, request: Option<&str>| -> Arc<Pod> {
            let resources = request.map(|memory| json!({"requests": {"memory": memory}}));
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
                    "containers": [{"name": "c", "resources": resources}]}}))
                .unwrap(),
            )
        };
        let pods = [
            pod("critical", 2_000_000_000, None),
            pod("asks", 0, Some("1Mi")),
            pod("free", 0, None),
            pod("high", 5, None),
        ];
        assert_eq!(spec::name(&victim(&pods).unwrap()), "free");
        assert!(victim(&pods[..1]).is_none());
    }
}
