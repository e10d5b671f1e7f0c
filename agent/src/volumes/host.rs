//! Makes the volumes of pods ready on this host and removes them.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use parking_lot::Mutex;
use skiff_api::GroupVersionResource;
use skiff_client::Client;
use skiff_host::mount;

use super::{
    VolumeError, atomic_writer,
    certificate::CertificateCache,
    directories, nested,
    ownership::{self, fs_group},
    payload::Collector,
    subpath,
    token::TokenCache,
    usage::Place,
};
use crate::{
    container_config::{ConfigError, downward::NodeFacts, expansion::expand_strict},
    cri::v1,
    objects::ObjectCache,
    pods::spec,
};

/// Names the folder of image volumes.
const IMAGE: &str = "image";

/// What stands behind a mounted volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory or file of this host.
    Path(PathBuf),
    /// An image that the runtime mounts itself.
    Image(String),
}

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    pub source: VolumeSource,
    /// Containers may only read, whatever their mounts say.
    pub read_only: bool,
}

/// All volumes of a pod, and when their content must be looked at again.
#[derive(Clone, Debug, Default)]
pub struct Volumes {
    pub mounted: BTreeMap<String, MountedVolume>,
    pub refresh_at: Option<Timestamp>,
}

/// The volumes of this host.
pub struct VolumeHost {
    pods_dir: PathBuf,
    client: Client,
    objects: Arc<ObjectCache>,
    tokens: TokenCache,
    certificates: CertificateCache,
    /// Claims that are mounted, by pod uid and volume.
    claims: Mutex<HashMap<String, BTreeMap<String, MountedClaim>>>,
}

#[derive(Clone)]
struct MountedClaim {
    name: String,
    path: PathBuf,
}

impl VolumeHost {
    pub fn new(
        pods_dir: PathBuf,
        client: Client,
        objects: Arc<ObjectCache>,
        certificates: CertificateCache,
    ) -> VolumeHost {
        VolumeHost { pods_dir, client, objects, tokens: TokenCache::default(), certificates, claims: Mutex::default() }
    }

    /// Everything of a pod that is on this host lives here.
    pub fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        self.pods_dir.join(pod_uid)
    }

    /// Uids that have a directory.
    pub fn pods(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.pods_dir) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn volume_dir(&self, pod: &Pod, kind: &str, name: &str) -> PathBuf {
        self.pod_dir(spec::uid(pod)).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
    }

    /// Where an emptyDir volume of a pod is.
    pub fn empty_dir(&self, pod: &Pod, name: &str) -> PathBuf {
        self.volume_dir(pod, "empty-dir", name)
    }

    /// Where the volumes of a pod lie that can be measured.
    pub fn places(&self, pod: &Pod) -> Vec<Place> {
        let claims = self.claims.lock().get(spec::uid(pod)).cloned().unwrap_or_default();
        let place = |volume: &Volume| {
            let name = &volume.name;
            let (path, claim) = if volume.empty_dir.is_some() {
                (self.empty_dir(pod, name), None)
            } else if let Some(kind) = payload_kind(volume) {
                (self.volume_dir(pod, kind, name), None)
            } else {
                let claim = claims.get(name)?;
                (claim.path.clone(), Some(claim.name.clone()))
            };
            let on_disk = |source: &EmptyDirVolumeSource| source.medium.as_deref().unwrap_or_default().is_empty();
            let is_ephemeral = volume.empty_dir.as_ref().is_some_and(on_disk)
                || volume.config_map.is_some()
                || volume.downward_api.is_some();
            Some(Place { volume: name.clone(), claim, path, is_ephemeral })
        };
        spec::spec(pod).volumes.iter().flatten().filter_map(place).collect()
    }

    /// Where an image volume is mounted if the runtime cannot do it.
    pub fn image_dir(&self, pod: &Pod, name: &str) -> PathBuf {
        self.volume_dir(pod, IMAGE, name)
    }

    /// The folder of all such mounts of a pod.
    pub fn image_dirs(&self, pod_uid: &str) -> PathBuf {
        self.pod_dir(pod_uid).join("volumes").join(format!("kubernetes.io~{IMAGE}"))
    }

    fn is_mounted_image(&self, pod: &Pod, name: &str) -> bool {
        mount::is_mount_point(&self.image_dir(pod, name)).unwrap_or(false)
    }

    /// Makes all volumes of a pod ready, or refreshes their content.
    pub async fn mount_all(&self, pod: &Pod, facts: &NodeFacts) -> Result<Volumes, VolumeError> {
        let mut volumes = Volumes::default();
        for volume in spec::spec(pod).volumes.iter().flatten() {
            let fail = |message: String| VolumeError { volume: volume.name.clone(), message };
            let mounted = self.mount(pod, volume, facts, &mut volumes.refresh_at).await.map_err(fail)?;
            volumes.mounted.insert(volume.name.clone(), mounted);
        }
        Ok(volumes)
    }

    async fn mount(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &NodeFacts,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<MountedVolume, String> {
        let ready = |path: PathBuf, read_only| MountedVolume { source: VolumeSource::Path(path), read_only };
        if let Some(source) = &volume.empty_dir {
            let directory = self.empty_dir(pod, &volume.name);
            directories::empty_dir(&directory, source, fs_group(pod))?;
            return Ok(ready(directory, false));
        }
        if let Some(source) = &volume.host_path {
            return directories::host_path(source).map(|path| ready(path, false));
        }
        if let Some(source) = &volume.persistent_volume_claim {
            return self.claim(pod, volume, &source.claim_name, source.read_only == Some(true)).await;
        }
        if volume.ephemeral.is_some() {
            return self.claim(pod, volume, &format!("{}-{}", spec::name(pod), volume.name), false).await;
        }
        if let Some(source) = &volume.image {
            let image = source.reference.clone().unwrap_or_default();
            return Ok(MountedVolume { source: VolumeSource::Image(image), read_only: true });
        }
        let collector = Collector {
            pod,
            facts,
            objects: &self.objects,
            tokens: &self.tokens,
            certificates: &self.certificates,
            client: &self.client,
        };
        let Some(collected) = collector.collect(volume).await? else {
            return Err("no volume plugin matched".to_owned());
        };
        let kind = payload_kind(volume).unwrap_or_default();
        let directory = self.volume_dir(pod, kind, &volume.name);
        directories::payload_directory(&directory, matches!(kind, "secret" | "projected"))?;
        atomic_writer::publish(&directory, &collected.files)
            .and_then(|_| nested::make(&directory, &nested::mount_points(pod, &volume.name)))
            .map_err(|error| format!("write files: {error}"))?;
        *refresh_at = match (*refresh_at, collected.refresh_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(ready(directory, true))
    }

    /// The directory behind a claim that is bound to a local volume.
    async fn claim(&self, pod: &Pod, volume: &Volume, name: &str, read_only: bool) -> Result<MountedVolume, String> {
        let mounted_as = volume.name.clone();
        let claims = GroupVersionResource::of::<PersistentVolumeClaim>();
        let claim = self.client.get(&claims, Some(spec::namespace(pod)), name).await.map_err(|e| e.to_string())?;
        let claim = claim.typed::<PersistentVolumeClaim>().map_err(|error| error.to_string())?;
        let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        if phase != "Bound" || volume_name.is_empty() {
            return Err(format!("PersistentVolumeClaim \"{name}\" is not bound"));
        }
        let volumes = GroupVersionResource::of::<PersistentVolume>();
        let volume = self.client.get(&volumes, None, &volume_name).await.map_err(|error| error.to_string())?;
        let volume = volume.typed::<PersistentVolume>().map_err(|error| error.to_string())?;
        let volume_spec = volume.spec.clone().unwrap_or_default();
        let path = if let Some(source) = &volume_spec.host_path {
            directories::host_path(source)?
        } else if let Some(source) = &volume_spec.local {
            let path = PathBuf::from(&source.path);
            if !path.exists() {
                return Err(format!("path \"{}\" does not exist", path.display()));
            }
            path
        } else {
            return Err(format!("PersistentVolume \"{volume_name}\" is of a kind that this node cannot mount"));
        };
        if let (Some(group), Some(_)) = (fs_group(pod), &volume_spec.local) {
            let policy = spec::spec(pod).security_context.as_ref().and_then(|c| c.fs_group_change_policy.clone());
            let only_root = policy.as_deref() == Some("OnRootMismatch");
            ownership::hand_over(&path, group, only_root).map_err(|error| format!("set fsGroup: {error}"))?;
        }
        let mounted = MountedClaim { name: name.to_owned(), path: path.clone() };
        let mut claims = self.claims.lock();
        claims.entry(spec::uid(pod).to_owned()).or_default().insert(mounted_as, mounted);
        drop(claims);
        Ok(MountedVolume { source: VolumeSource::Path(path), read_only })
    }

    /// The mounts of a container, with its sub-paths bound.
    pub fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        volumes: &Volumes,
        env: &[(String, String)],
    ) -> Result<Vec<v1::Mount>, ConfigError> {
        let mut mounts = Vec::new();
        for (index, volume_mount) in container.volume_mounts.iter().flatten().enumerate() {
            let name = &volume_mount.name;
            let volume = volumes.mounted.get(name).ok_or_else(|| {
                ConfigError(format!("cannot find volume \"{name}\" to mount into container \"{}\"", container.name))
            })?;
            let lookup = |key: &str| env.iter().find(|(have, _)| have == key).map(|(_, value)| value.clone());
            let sub_path = match volume_mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
                Some(expression) => expand_strict(expression, &lookup).map_err(|missing| {
                    ConfigError(format!("missing value for \"{missing}\" in subPathExpr \"{expression}\""))
                })?,
                None => volume_mount.sub_path.clone().unwrap_or_default(),
            };
            let read_only = volume.read_only || volume_mount.read_only == Some(true);
            let mut mount = v1::Mount {
                container_path: absolute(&volume_mount.mount_path),
                readonly: read_only,
                propagation: propagation(volume_mount.mount_propagation.as_deref()),
                recursive_read_only: volume_mount.recursive_read_only.as_deref() == Some("Enabled"),
                ..Default::default()
            };
            match &volume.source {
                VolumeSource::Image(image) if !self.is_mounted_image(pod, name) => {
                    mount.image = Some(v1::ImageSpec { image: image.clone(), ..Default::default() });
                    mount.image_sub_path = sub_path;
                }
                source => {
                    let path = match source {
                        VolumeSource::Path(path) => path.clone(),
                        VolumeSource::Image(_) => self.image_dir(pod, name),
                    };
                    if sub_path.is_empty() {
                        mount.host_path = path.display().to_string();
                        mounts.push(mount);
                        continue;
                    }
                    let target = self
                        .pod_dir(spec::uid(pod))
                        .join("volume-subpaths")
                        .join(name)
                        .join(&container.name)
                        .join(index.to_string());
                    subpath::bind(&path, &sub_path, &target, !volume.read_only).map_err(ConfigError)?;
                    mount.host_path = target.display().to_string();
                }
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    /// Unmounts and removes everything of a pod. Safe to repeat.
    pub fn tear_down(&self, pod_uid: &str) -> io::Result<()> {
        self.unmount(pod_uid)?;
        self.objects.forget(pod_uid);
        let directory = self.pod_dir(pod_uid);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Unmounts what an ended pod no longer needs but keeps its directory, which holds its last words.
    pub fn unmount(&self, pod_uid: &str) -> io::Result<()> {
        self.tokens.forget(pod_uid);
        self.certificates.forget(pod_uid);
        self.claims.lock().remove(pod_uid);
        unmount_below(&self.pod_dir(pod_uid))
    }
}

/// Removing a directory tree below which something is still mounted would
/// delete what belongs to others, so this fails unless all is unmounted.
fn unmount_below(directory: &Path) -> io::Result<()> {
    for point in mount::mounts_below(directory)? {
        mount::unmount(&point)?;
    }
    match mount::mounts_below(directory)?.first() {
        Some(point) => Err(io::Error::other(format!("{} is still mounted", point.display()))),
        None => Ok(()),
    }
}

/// The folder name of volumes whose files we write, as upstream's.
fn payload_kind(volume: &Volume) -> Option<&'static str> {
    match volume {
        Volume { config_map: Some(_), .. } => Some("configmap"),
        Volume { secret: Some(_), .. } => Some("secret"),
        Volume { downward_api: Some(_), .. } => Some("downward-api"),
        Volume { projected: Some(_), .. } => Some("projected"),
        _ => None,
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn propagation(text: Option<&str>) -> i32 {
    match text {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer as i32,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional as i32,
        _ => v1::MountPropagation::PropagationPrivate as i32,
    }
}
