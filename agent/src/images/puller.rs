//! Finds or pulls the image of a container.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::credentials::credentials;
use crate::{
    container_config::security::ImageUser,
    cri::{Cri, v1},
    limits,
    pods::{backoff::BackOff, spec},
};

/// An image that is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundImage {
    pub image_ref: String,
    pub user: ImageUser,
    /// Text for the event; says how long a pull took.
    pub message: String,
}

/// Why there is no image; both texts go to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PullError {
    pub reason: &'static str,
    pub message: String,
}

struct Failure {
    at: Timestamp,
    message: String,
}

/// Pulls images, a few at a time, and waits ever longer after failures.
pub struct Puller {
    cri: Cri,
    slots: Semaphore,
    state: Mutex<(BackOff, HashMap<String, Failure>)>,
}

impl Puller {
    pub fn new(cri: Cri) -> Puller {
        let backoff = BackOff::new(limits::PULL_BACKOFF_FIRST, limits::PULL_BACKOFF_MAX);
        Puller { cri, slots: Semaphore::new(limits::IMAGE_PULLS_MAX), state: Mutex::new((backoff, HashMap::new())) }
    }

    /// The image of a container by its pull policy. `on_pull` is called when a pull starts.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Secret>],
        sandbox: Option<v1::PodSandboxConfig>,
        on_pull: impl Fn(),
    ) -> Result<FoundImage, PullError> {
        let image = container.image.clone().unwrap_or_default();
        if let Err(why) = check_name(&image) {
            let message =
                format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {why}");
            return Err(PullError { reason: "InvalidImageName", message });
        }
        let policy = pull_policy(container);
        let inspect = |error: crate::cri::CriError| PullError {
            reason: "ImageInspectError",
            message: format!("Failed to inspect image \"{image}\": {}", error.message()),
        };
        let present = self.cri.image_status(&image).await.map_err(inspect)?;
        match (present, policy) {
            (Some(found), "IfNotPresent" | "Never") => {
                let message = format!("Container image \"{image}\" already present on machine");
                return Ok(FoundImage { image_ref: found.id.clone(), user: ImageUser::from(&found), message });
            }
            (None, "Never") => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                return Err(PullError { reason: "ErrImageNeverPull", message });
            }
            _ => {}
        }
        let key = format!("{}_{image}", spec::uid(pod));
        self.check_backoff(&key, &image)?;
        on_pull();
        let began = Timestamp::now();
        match self.pull(&image, secrets, sandbox).await {
            Ok(found) => {
                let mut state = self.state.lock();
                state.0.forget(&key);
                state.1.remove(&key);
                let took = Timestamp::now().duration_since(began).as_secs_f64();
                let message =
                    format!("Successfully pulled image \"{image}\" in {took:.3}s. Image size: {} bytes.", found.size);
                Ok(FoundImage { image_ref: found.id.clone(), user: ImageUser::from(&found), message })
            }
            Err(message) => {
                let now = Timestamp::now();
                let mut state = self.state.lock();
                state.0.next(&key, now, now);
                state.1.insert(key, Failure { at: now, message: message.clone() });
                Err(PullError { reason: "ErrImagePull", message })
            }
        }
    }

    fn check_backoff(&self, key: &str, image: &str) -> Result<(), PullError> {
        let state = self.state.lock();
        let Some(failure) = state.1.get(key) else { return Ok(()) };
        match state.0.remaining(key, failure.at, Timestamp::now()) {
            None => Ok(()),
            Some(_) => Err(PullError {
                reason: "ImagePullBackOff",
                message: format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message),
            }),
        }
    }

    /// When the next pull of any of a pod's images may be tried.
    pub fn next_try(&self, pod: &Pod) -> Option<std::time::Duration> {
        let state = self.state.lock();
        let prefix = format!("{}_", spec::uid(pod));
        let now = Timestamp::now();
        let failures = state.1.iter().filter(|(key, _)| key.starts_with(&prefix));
        failures.filter_map(|(key, failure)| state.0.remaining(key, failure.at, now).map(|(left, _)| left)).min()
    }

    /// Drops what is remembered of a pod.
    pub fn forget(&self, pod_uid: &str) {
        let mut state = self.state.lock();
        let prefix = format!("{pod_uid}_");
        let keys: Vec<String> = state.1.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for key in keys {
            state.0.forget(&key);
            state.1.remove(&key);
        }
    }

    async fn pull(
        &self,
        image: &str,
        secrets: &[Arc<Secret>],
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<v1::Image, String> {
        // The semaphore is never closed, so acquiring cannot fail.
        let _slot = self.slots.acquire().await;
        let mut attempts: Vec<Option<v1::AuthConfig>> = credentials(image, secrets).into_iter().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut last = String::new();
        for auth in attempts {
            match self.cri.pull_image(image, auth, sandbox.clone()).await {
                Ok(reference) => {
                    let found = self.cri.image_status(&reference).await.map_err(|error| error.message())?;
                    return found.ok_or_else(|| format!("image \"{image}\" vanished after the pull"));
                }
                Err(error) => last = error.message(),
            }
        }
        Err(last)
    }
}

/// The policy of a container; without one the tag decides, as the API defaults it.
fn pull_policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()) {
        Some(policy) => policy,
        None => {
            let image = container.image.as_deref().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            let latest = !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        }
    }
}

/// Catches names that no registry could hold; the runtime checks the rest.
fn check_name(image: &str) -> Result<(), &'static str> {
    if image.is_empty() {
        return Err("invalid reference format");
    }
    let name = image.split('@').next().unwrap_or_default();
    let path = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(path, _)| path);
    let (_, rest) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", path),
    };
    if rest.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    if rest.is_empty() || !rest.chars().all(allowed) || rest.split('/').any(str::is_empty) {
        return Err("invalid reference format");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused_before_the_runtime_sees_them() {
        for good in ["busybox", "a/b:1", "reg.io:5000/a/b@sha256:00", "skiff/system:latest"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Upper", "a b", "a//b", "!", "docker.io/"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_tag_decides_where_no_policy_is_set() {
        let container =
            |image: &str| Container { image: Some(image.to_owned()), name: "c".into(), ..Container::default() };
        assert_eq!(pull_policy(&container("a")), "Always");
        assert_eq!(pull_policy(&container("reg:5000/a:latest")), "Always");
        assert_eq!(pull_policy(&container("a:1")), "IfNotPresent");
        assert_eq!(pull_policy(&container("a@sha256:0")), "IfNotPresent");
    }
}
