//! Kernel settings below `/proc/sys`.
//!
//! Settings below `net` belong to the network namespace of the calling thread.

use std::{fs, io, path::PathBuf};

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("set {name} to {value}: {source}")]
pub struct SysctlError {
    pub name: String,
    pub value: String,
    pub source: io::Error,
}

/// Sets `name` (slash-separated, for example `net/ipv4/ip_forward`) unless it
/// already has the value: `/proc/sys` is read-only in some containers where
/// the setting was made from outside.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    if get(name).is_ok_and(|have| have == value) {
        return Ok(());
    }
    fs::write(path(name), value).map_err(|source| SysctlError {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Reads a setting, without the trailing newline.
pub fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim_end().to_owned())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;

    #[test]
    fn a_network_setting_touches_only_its_namespace() {
        let outside = get("net/ipv4/ip_forward").unwrap();
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                set("net/ipv4/ip_forward", "1").unwrap();
                assert_eq!(get("net/ipv4/ip_forward").unwrap(), "1");
            })
            .unwrap();
        assert_eq!(get("net/ipv4/ip_forward").unwrap(), outside);
        assert!(set("net/ipv4/no_such_setting", "1").is_err());
    }
}
