//! Test images, made on the spot from the host's static busybox.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The reference under which the test image is known.
pub const BUSYBOX: &str = "docker.io/library/busybox:test";
/// The same image under another tag, for rollouts.
pub const BUSYBOX_NEXT: &str = "docker.io/library/busybox:next";

/// The image with the program [`write_agnhost`] was given.
pub const AGNHOST: &str = "docker.io/library/agnhost:test";
/// The same image under another name, for changes of images.
pub const AGNHOST_OTHER: &str = "docker.io/library/agnhost:other";

/// Writes an OCI archive with busybox and links for all its applets.
pub fn write_busybox(path: &Path) -> Result<()> {
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    write_archive(path, &busybox_layer()?.into_inner()?, &config, &[BUSYBOX, BUSYBOX_NEXT])
}

/// Writes the same image under a name of its own.
pub fn write_archive_of(path: &Path, reference: &str) -> Result<()> {
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    write_archive(path, &busybox_layer()?.into_inner()?, &config, &[reference])
}

/// Writes an OCI archive with busybox and the test server as its entry point.
pub fn write_agnhost(path: &Path, program: &Path) -> Result<()> {
    let mut layer = busybox_layer()?;
    add(&mut layer, "agnhost", &fs::read(program)?, 0o755)?;
    let config = json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": ["PATH=/bin"]});
    write_archive(path, &layer.into_inner()?, &config, &[AGNHOST, AGNHOST_OTHER])
}

fn busybox_layer() -> Result<tar::Builder<Vec<u8>>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox is not installed: apt-get install busybox-static")?;
    let applets = Command::new(busybox).arg("--list").output().context("list the applets of busybox")?;
    let applets = String::from_utf8(applets.stdout)?;
    if !applets.lines().any(|applet| applet == "httpd") {
        bail!("this busybox has no httpd; busybox-static is needed");
    }
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "bin/busybox", &fs::read(busybox)?, 0o755)?;
    add(&mut layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n", 0o644)?;
    add(&mut layer, "etc/group", b"root:x:0:\nuser:x:1000:\n", 0o644)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    for folder in ["tmp/", "root/", "home/", "proc/", "sys/", "dev/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if folder == "tmp/" { 0o1777 } else { 0o755 });
        layer.append_data(&mut header, folder, &[][..])?;
    }
    Ok(layer)
}

fn write_archive(path: &Path, layer: &[u8], config: &Value, references: &[&str]) -> Result<()> {
    let config = json!({
        "architecture": if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" }, "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer)?)]},
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config)?,
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)?],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let entry = |reference: &&str| -> Result<Value> {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)?;
        entry["annotations"] = json!({"io.containerd.image.name": reference});
        Ok(entry)
    };
    let entries = references.iter().map(entry).collect::<Result<Vec<_>>>()?;
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries}))?;
    fs::create_dir_all(path.parent().context("the archive has a folder")?)?;
    let mut archive = tar::Builder::new(fs::File::create(path)?);
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut archive, "index.json", &index, 0o644)?;
    for blob in [config.as_slice(), &manifest, layer] {
        add(&mut archive, &format!("blobs/sha256/{}", sha256(blob)?), blob, 0o644)?;
    }
    archive.finish()?;
    Ok(())
}

fn add<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    Ok(archive.append_data(&mut header, name, content)?)
}

fn descriptor(media_type: &str, content: &[u8]) -> Result<Value> {
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(content)?), "size": content.len()}))
}

fn sha256(content: &[u8]) -> Result<String> {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
