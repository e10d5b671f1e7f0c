//! Prefers nodes that have the pod's images already, weighed by size and by how
//! widespread an image is, so that one node does not attract every pod.

use std::sync::Arc;

use super::{SCORE_MAX, View};
use crate::{node_info::NodeInfo, pod_info::PodInfo};

const SIZE_MIN: i64 = 23 << 20;
const SIZE_MAX_PER_CONTAINER: i64 = 1000 << 20;

pub fn score(pod: &PodInfo, nodes: &[&Arc<NodeInfo>], view: &View) -> Vec<i64> {
    let Some(spec) = pod.spec() else { return vec![0; nodes.len()] };
    let images: Vec<String> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|container| container.image.as_deref())
        .map(with_tag)
        .collect();
    let spread: Vec<f64> = images
        .iter()
        .map(|image| {
            let having = view.nodes.iter().filter(|node| size(node, image).is_some()).count();
            having as f64 / view.nodes.len().max(1) as f64
        })
        .collect();
    let highest = SIZE_MAX_PER_CONTAINER * images.len().max(1) as i64;
    nodes
        .iter()
        .map(|node| {
            let sum: f64 =
                images.iter().zip(&spread).filter_map(|(image, spread)| Some(size(node, image)? as f64 * spread)).sum();
            let sum = (sum as i64).clamp(SIZE_MIN, highest);
            SCORE_MAX * (sum - SIZE_MIN) / (highest - SIZE_MIN)
        })
        .collect()
}

fn size(node: &NodeInfo, image: &str) -> Option<i64> {
    let images = node.node.status.as_ref()?.images.as_ref()?;
    let found = images.iter().find(|have| have.names.iter().flatten().any(|name| name == image))?;
    found.size_bytes
}

/// Nodes list images with tags; a name without one means `latest`.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
