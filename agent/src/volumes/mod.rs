//! Volumes of pods: made ready before containers start, kept up to date, and
//! removed with everything mounted below the pod's directory.

mod atomic_writer;
mod certificate;
mod directories;
mod host;
mod keys;
mod nested;
mod ownership;
mod payload;
mod subpath;
mod token;
pub mod usage;

pub use certificate::CertificateCache;
pub use host::{MountedVolume, VolumeHost, VolumeSource, Volumes};
pub use payload::references;

/// A volume that is not ready; the text goes to the user.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
pub struct VolumeError {
    pub volume: String,
    pub message: String,
}
