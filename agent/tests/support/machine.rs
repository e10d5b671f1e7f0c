//! What the machine must have for tests with a real containerd.

use std::path::Path;

/// Fails with what to do when the machine lacks something.
pub fn check() {
    let found = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).exists())
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    assert!(is_root, "this test runs containers: run it as root");
    for name in ["containerd", "runc", "ctr"] {
        assert!(found(name), "{name} is missing: `cargo xtask setup --tests` installs it");
    }
    assert!(Path::new("/bin/busybox").exists(), "busybox-static is missing: `cargo xtask setup --tests` installs it");
}
