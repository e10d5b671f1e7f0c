//! Static pods: manifests in a directory, run without the API's say.
//!
//! Each file holds one pod. Its uid comes from its content, so a changed file
//! is another pod. A mirror object shows it in the API; deleting the mirror
//! does not end the pod.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use skiff_api::GroupVersionResource;
use skiff_client::{Client, ClientError, DeleteOptions, work_queue::backoff};
use tokio_util::sync::CancellationToken;

use super::{PodSet, spec, worker::Wish};
use crate::{
    labels,
    limits::{SYNC_BACKOFF_FIRST, SYNC_BACKOFF_MAX},
};

/// Why a manifest is no pod.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("read: {0}")]
    Read(#[from] io::Error),
    #[error("not a pod: {0}")]
    Decode(String),
    #[error("pod has no name")]
    NoName,
}

/// Runs the pods of a directory until `token` is cancelled.
pub async fn run(
    directory: PathBuf,
    node_name: String,
    client: Client,
    pods: Arc<PodSet>,
    token: CancellationToken,
) -> io::Result<()> {
    fs::create_dir_all(&directory)?;
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    inotify.watches().add(&directory, mask)?;
    let mut events = inotify.into_event_stream(vec![0; 4096])?;
    let mut running: HashMap<PathBuf, Arc<Pod>> = HashMap::new();
    let mut unmirrored: HashMap<PathBuf, Arc<Pod>> = HashMap::new();
    let mut failures = 0;
    loop {
        let found = scan(&directory, &node_name);
        let ended: Vec<PathBuf> = running
            .iter()
            .filter(|(path, pod)| found.get(*path).is_none_or(|now| spec::uid(now) != spec::uid(pod)))
            .map(|(path, _)| path.clone())
            .collect();
        for path in ended {
            unmirrored.remove(&path);
            if let Some(pod) = running.remove(&path) {
                pods.wish(Wish::Gone(Arc::clone(&pod)), true);
                report(&pod, delete_mirror(&client, &pod).await);
            }
        }
        for (path, pod) in found {
            if let Entry::Vacant(entry) = running.entry(path.clone()) {
                tracing::info!(component = "static-pods", path = %path.display(), pod = spec::full_name(&pod), "running");
                pods.wish(Wish::Present(Arc::clone(&pod)), true);
                unmirrored.insert(path, Arc::clone(&pod));
                entry.insert(pod);
            }
        }
        for (path, pod) in unmirrored.clone() {
            match create_mirror(&client, &pod).await {
                Ok(()) => drop(unmirrored.remove(&path)),
                failed => report(&pod, failed),
            }
        }
        failures = if unmirrored.is_empty() { 0 } else { failures + 1 };
        // The API may come up after the pods, which do not wait for it.
        let retry = async {
            match unmirrored.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(backoff(SYNC_BACKOFF_FIRST, SYNC_BACKOFF_MAX, failures.min(16))).await,
            }
        };
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = retry => {}
            event = events.next() => if event.transpose()?.is_none() { return Ok(()) },
        }
    }
}

fn report(pod: &Pod, result: Result<(), ClientError>) {
    if let Err(error) = result {
        tracing::warn!(component = "static-pods", pod = spec::full_name(pod), %error, "mirror pod");
    }
}

fn scan(directory: &Path, node_name: &str) -> HashMap<PathBuf, Arc<Pod>> {
    let mut found = HashMap::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        match fs::read_to_string(&path).map_err(ManifestError::from).and_then(|text| parse(&text, &path, node_name)) {
            Ok(pod) => {
                found.insert(path, Arc::new(pod));
            }
            Err(error) => tracing::error!(component = "static-pods", path = %path.display(), %error, "bad manifest"),
        }
    }
    found
}

/// Reads a manifest and completes it as upstream does.
pub fn parse(text: &str, path: &Path, node_name: &str) -> Result<Pod, ManifestError> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| ManifestError::Decode(error.to_string()))?;
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| ManifestError::Decode(error.to_string()))?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or(ManifestError::NoName)?;
    let hash = digest(text, path, node_name);
    pod.metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(hash.clone());
    pod.metadata.creation_timestamp = None;
    let annotations = pod.metadata.annotations.get_or_insert_with(Default::default);
    annotations.insert(labels::CONFIG_HASH.to_owned(), hash);
    annotations.insert(labels::CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(labels::CONFIG_SEEN.to_owned(), jiff::Timestamp::now().to_string());
    let pod_spec = pod.spec.get_or_insert_with(Default::default);
    pod_spec.node_name = Some(node_name.to_owned());
    pod_spec.termination_grace_period_seconds.get_or_insert(30);
    pod.status = None;
    Ok(pod)
}

/// 32 hexadecimal digits over file, node and content.
fn digest(text: &str, path: &Path, node_name: &str) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [text.as_bytes(), path.as_os_str().as_encoded_bytes(), node_name.as_bytes()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    skiff_api::hex::encode(&context.finish().as_ref()[..16])
}

async fn create_mirror(client: &Client, pod: &Pod) -> Result<(), ClientError> {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    let annotations = mirror.metadata.annotations.get_or_insert_with(Default::default);
    annotations.insert(labels::CONFIG_MIRROR.to_owned(), spec::uid(pod).to_owned());
    // A mirror belongs to its node: nodes may create no other pods, and it goes with the node.
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let node = client.get(&GroupVersionResource::of::<Node>(), None, node_name).await?;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: node.meta.uid.to_string(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let body = serde_json::to_value(&mirror)?;
    let pods = GroupVersionResource::of::<Pod>();
    match client.create(&pods, Some(spec::namespace(pod)), &body).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => {
            // A mirror of an older file stands in the way.
            delete_mirror(client, pod).await?;
            client.create(&pods, Some(spec::namespace(pod)), &body).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

async fn delete_mirror(client: &Client, pod: &Pod) -> Result<(), ClientError> {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let pods = GroupVersionResource::of::<Pod>();
    match client.delete(&pods, Some(spec::namespace(pod)), spec::name(pod), &options).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node_and_its_content_its_identity() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: i}]\n";
        let pod = parse(text, Path::new("/m/web.yaml"), "Node1").unwrap();
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-node1", "default"));
        assert_eq!(spec::uid(&pod).len(), 32);
        let other = parse(&text.replace("image: i", "image: j"), Path::new("/m/web.yaml"), "Node1").unwrap();
        assert_ne!(spec::uid(&pod), spec::uid(&other));
        assert!(matches!(parse("kind: Pod", Path::new("/x"), "n"), Err(ManifestError::NoName)));
    }
}
