//! Frees memory and disk before the kernel or the disk run out: unused images
//! first, then whole pods, the least deserving first.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use skiff_host::{fs::FsUsage, process::memory_available_bytes};
use tokio_util::sync::CancellationToken;

use crate::{
    config::RuntimeConfig,
    container_config::resources::pod_requirements,
    context::Context,
    eviction_thresholds::EvictionThresholds,
    images::{ImageGc, ImageImporter},
    limits,
    pods::{PodSet, spec},
    quantity,
    volumes::usage,
};

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    Memory,
    Disk,
}

/// After an eviction the machine gets this long to recover before the next.
const PAUSE_AFTER_EVICTION: Duration = Duration::from_secs(30);

/// A volume of a pod that holds more than it may, as the message for its end.
fn outgrown(pod: &Pod, directory: impl Fn(&str) -> PathBuf) -> Option<String> {
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let Some(source) = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref().unwrap_or("").is_empty())
        else {
            continue;
        };
        let Some(limit) = source.size_limit.as_ref() else { continue };
        let bytes = quantity::value(limit).and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let used = |directory: PathBuf| usage::walk(&directory, &mut { usize::MAX }).map_or(0, |used| used.bytes);
        if bytes.is_some_and(|bytes| used(directory(&volume.name)) > bytes) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    None
}

/// Ends pods whose volumes outgrew their limits. Walking directories may take long, so it has a thread of its own.
async fn evict_outgrown(context: &Arc<Context>, pods: &PodSet) {
    let (context, all) = (Arc::clone(context), pods.pods());
    let walk = tokio::task::spawn_blocking(move || {
        let live = all.into_iter().filter(|pod| !spec::is_deleting(pod) && !spec::is_terminal(pod));
        let found = live.filter_map(|pod| {
            let message = outgrown(&pod, |name| context.volumes.empty_dir(&pod, name))?;
            Some((pod, message))
        });
        found.collect::<Vec<_>>()
    });
    for (pod, message) in walk.await.unwrap_or_default() {
        tracing::warn!(component = "eviction", pod = spec::full_name(&pod), message, "evicting pod");
        pods.evict(spec::uid(&pod), &message);
    }
}

/// Images that volumes of pods are, which no container shows as its own.
fn mounted_images(pods: &PodSet) -> BTreeSet<String> {
    let all = pods.pods();
    let volumes = all.iter().flat_map(|pod| spec::spec(pod).volumes.iter().flatten());
    volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone()).collect()
}

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
        evict_outgrown(&context, &pods).await;
        let disk = skiff_host::fs::usage(&context.config.data_dir).unwrap_or_default();
        let memory = context.machine.memory_bytes;
        let shortage = shortage(&context.config.eviction, &disk, memory, memory_available_bytes());
        let mut keep: BTreeSet<String> = importer.as_ref().map(|importer| importer.imported()).unwrap_or_default();
        if let RuntimeConfig::Supervised(containerd) = &context.config.runtime {
            keep.insert(containerd.sandbox_image.clone());
        }
        keep.extend(mounted_images(&pods));
        if let Err(error) = gc.collect(&keep, shortage == Some(Shortage::Disk)).await {
            tracing::debug!(component = "image-gc", %error, "look at images");
        }
        let disk = skiff_host::fs::usage(&context.config.data_dir).unwrap_or_default();
        if let Some(shortage) = self::shortage(&context.config.eviction, &disk, memory, memory_available_bytes())
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

fn shortage(thresholds: &EvictionThresholds, disk: &FsUsage, memory: u64, memory_available: u64) -> Option<Shortage> {
    if thresholds.is_memory_short(memory, memory_available) {
        return Some(Shortage::Memory);
    }
    thresholds.is_disk_short(disk).then_some(Shortage::Disk)
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

    #[test]
    fn a_volume_over_its_limit_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("v/deep")).unwrap();
        std::fs::write(root.path().join("v/deep/file"), vec![1; 64 << 10]).unwrap();
        let pod = |limit: &str| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
                {"name": "v", "emptyDir": {"sizeLimit": limit}}]}}))
            .unwrap()
        };
        let check = |limit: &str| outgrown(&pod(limit), |name| root.path().join(name));
        assert_eq!(check("32Ki").unwrap(), "Usage of EmptyDir volume \"v\" exceeds the limit \"32Ki\". ");
        assert_eq!(check("1Mi"), None);
    }
}
