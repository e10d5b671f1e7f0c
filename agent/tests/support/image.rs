//! A docker archive that holds a static busybox and nothing else.

use std::{io::Write, path::Path};

use serde_json::json;

fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    builder.append_data(&mut header, name, bytes).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes `names` as one gzip-compressed archive.
pub fn write_busybox(path: &Path, names: &[&str]) {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["bin/", "etc/", "tmp/", "proc/", "dev/", "sys/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if directory == "tmp/" { 0o1777 } else { 0o755 });
        layer.append_data(&mut header, directory, &[][..]).unwrap();
    }
    entry(&mut layer, "bin/busybox", &busybox, 0o755);
    for applet in [
        "sh", "sleep", "cat", "echo", "ls", "id", "touch", "env", "nc", "httpd", "true", "false", "stat", "kill",
        "mount", "hostname", "readlink", "test",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    entry(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644);
    let layer = layer.into_inner().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep"], "Cmd": ["2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let config_name = format!("{}.json", digest(&config));
    let manifest = json!([{"Config": config_name, "RepoTags": names, "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    entry(&mut archive, &config_name, &config, 0o644);
    entry(&mut archive, "layer.tar", &layer, 0o644);
    entry(&mut archive, "manifest.json", &serde_json::to_vec(&manifest).unwrap(), 0o644);
    let bytes = archive.into_inner().unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    gzip.finish().unwrap();
}
