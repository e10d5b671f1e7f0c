//! Removes unused images when the disk fills up.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::cri::{Cri, v1};

/// When to start removing and where to stop, in percent of the disk, and how long an image is safe.
#[derive(Clone, Copy, Debug)]
pub struct ImageGcSettings {
    pub high_percent: u64,
    pub low_percent: u64,
    pub age_min: SignedDuration,
}

impl Default for ImageGcSettings {
    fn default() -> Self {
        ImageGcSettings { high_percent: 85, low_percent: 80, age_min: SignedDuration::from_mins(2) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    last_used: Timestamp,
}

/// Remembers which images are used, and removes the others when asked.
pub struct ImageGc {
    cri: Cri,
    settings: ImageGcSettings,
    /// A path on the disk that holds images.
    directory: PathBuf,
    seen: Mutex<HashMap<String, Seen>>,
}

impl ImageGc {
    pub fn new(cri: Cri, settings: ImageGcSettings, directory: PathBuf) -> ImageGc {
        ImageGc { cri, settings, directory, seen: Mutex::default() }
    }

    /// Looks at the images in use and, if the disk is too full (or `force`), removes unused ones,
    /// least recently used first. `keep` are names that must stay.
    pub async fn collect(&self, keep: &BTreeSet<String>, force: bool) -> Result<(), crate::cri::CriError> {
        let now = Timestamp::now();
        let images = self.cri.list_images().await?;
        let used: BTreeSet<String> =
            self.cri.list_containers().await?.into_iter().map(|container| container.image_ref).collect();
        let order = {
            let mut seen = self.seen.lock();
            update(&mut seen, &images, &used, now);
            candidates(&seen, &images, &used, keep, self.settings.age_min, now)
        };
        let Ok(disk) = skiff_host::fs::usage(&self.directory) else { return Ok(()) };
        let Some(mut excess) = excess_bytes(disk.capacity_bytes, disk.available_bytes, &self.settings, force) else {
            return Ok(());
        };
        for (id, size) in order {
            if excess == 0 {
                break;
            }
            tracing::info!(component = "image-gc", image = id, size, "removing unused image");
            match self.cri.remove_image(&id).await {
                Ok(()) => excess = excess.saturating_sub(size),
                Err(error) => tracing::warn!(component = "image-gc", image = id, %error, "remove image"),
            }
        }
        Ok(())
    }
}

/// How much to free, or `None` when there is room.
fn excess_bytes(capacity: u64, available: u64, settings: &ImageGcSettings, force: bool) -> Option<u64> {
    if force {
        return Some(u64::MAX);
    }
    let used = capacity.saturating_sub(available);
    if capacity == 0 || used * 100 < capacity * settings.high_percent {
        return None;
    }
    Some(used.saturating_sub(capacity * settings.low_percent / 100))
}

/// The runtime reports names in full; settings may leave out the default registry.
fn is_same_name(full: &str, name: &str) -> bool {
    let short = full.strip_prefix("docker.io/").unwrap_or(full);
    name == full || name == short || Some(name) == short.strip_prefix("library/")
}

fn update(seen: &mut HashMap<String, Seen>, images: &[v1::Image], used: &BTreeSet<String>, now: Timestamp) {
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let entry = seen.entry(image.id.clone()).or_insert(Seen { first: now, last_used: Timestamp::UNIX_EPOCH });
        if used.contains(&image.id) {
            entry.last_used = now;
        }
    }
}

fn candidates(
    seen: &HashMap<String, Seen>,
    images: &[v1::Image],
    used: &BTreeSet<String>,
    keep: &BTreeSet<String>,
    age_min: SignedDuration,
    now: Timestamp,
) -> Vec<(String, u64)> {
    let mut free: Vec<(&v1::Image, Seen)> = images
        .iter()
        .filter(|image| {
            let mut names = image.repo_tags.iter().chain(&image.repo_digests);
            let kept = names.any(|name| keep.iter().any(|keep| is_same_name(name, keep)));
            !used.contains(&image.id) && !image.pinned && !kept
        })
        .filter_map(|image| Some((image, *seen.get(&image.id)?)))
        .filter(|(_, seen)| now.duration_since(seen.first) >= age_min)
        .collect();
    free.sort_by_key(|(_, seen)| (seen.last_used, seen.first));
    free.into_iter().map(|(image, _)| (image.id.clone(), image.size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_freed_down_to_the_low_mark_only_above_the_high_one() {
        let settings = ImageGcSettings::default();
        assert_eq!(excess_bytes(100, 16, &settings, false), None);
        assert_eq!(excess_bytes(100, 10, &settings, false), Some(10));
        assert_eq!(excess_bytes(100, 90, &settings, true), Some(u64::MAX));
    }

    #[test]
    fn used_pinned_kept_and_young_images_stay_and_the_longest_unused_goes_first() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let image = |id: &str, pinned| v1::Image {
            id: id.into(),
            repo_tags: vec![format!("docker.io/library/{id}:1")],
            pinned,
            ..v1::Image::default()
        };
        let images = [
            image("used", false),
            image("pinned", true),
            image("kept", false),
            image("old", false),
            image("older", false),
        ];
        let mut seen = HashMap::new();
        update(&mut seen, &images, &["old".to_owned(), "used".to_owned()].into(), at(1000));
        let used = ["used".to_owned()].into();
        let keep = ["kept:1".to_owned()].into();
        let pick = |now| {
            let list = candidates(&seen, &images, &used, &keep, SignedDuration::from_mins(2), at(now));
            list.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert!(pick(1010).is_empty());
        assert_eq!(pick(1200), ["older", "old"]);
    }
}
