//! Ends what runs on this host because of one Skiff, and removes what it put
//! into the kernel: containers, mounts, cgroups, links, nftables tables. Other
//! things of the host, and data, are left alone.

use std::path::Path;

use anyhow::{Context, Result};
use skiff_host::{
    mount::mounts_below,
    netlink::Netlink,
    nftables::Nft,
};

use super::Layout;
use crate::{config::cgroup_root, payload, progress::Progress};

/// Links that a node makes.
const LINKS: &[&str] = &["flannel.1"];

/// Ends everything; with `dry_run` only says what would be done.
pub async fn killall(data_dir: &Path, dry_run: bool) -> Result<()> {
    let layout = Layout::new(data_dir, &cgroup_root(data_dir));
    let progress = Progress::new(false);
    let config = layout.containerd();
    if dry_run {
        for point in mounts_below(data_dir)?.into_iter().chain(mounts_below(&layout.run_dir)?) {
            println!("would unmount {}", point.display());
        }
        println!("would end containerd of {} and all its containers", config.root.display());
        for link in links(&layout)? {
            println!("would remove link {link}");
        }
        return Ok(());
    }
    let step = progress.step("Ending containers");
    skiff_agent::containerd::kill_all(&config, &layout.cgroup_root, &layout.pods_dir()).await?;
    step.done("");
    let step = progress.step("Removing links and packet rules");
    let binaries = payload::prepare(data_dir, false, &progress)?;
    let mut netlink = Netlink::route()?;
    for name in links(&layout)? {
        if let Some(link) = netlink.link(&name)? {
            netlink.delete_link(link.index)?;
        }
    }
    if let Some(program) = binaries.find("nft") {
        remove_tables(&Nft::new(program), &layout.instance)?;
    }
    let _ = std::fs::remove_dir_all(layout.cni_data_dir());
    step.done("");
    Ok(())
}

/// Links of this node that exist: only those its own CNI configuration names.
fn links(layout: &Layout) -> Result<Vec<String>> {
    let folder = layout.containerd().cni_conf_dir;
    let configured = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
    if !configured {
        return Ok(Vec::new());
    }
    let mut netlink = Netlink::route()?;
    let mut found = Vec::new();
    for name in LINKS.iter().copied().chain([layout.bridge()]) {
        if netlink.link(name)?.is_some() {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// Tables called `skiff…`, of this instance only.
fn remove_tables(nft: &Nft, instance: &str) -> Result<()> {
    let tables = nft.output(&["list", "tables"]).context("list nftables tables")?;
    for line in tables.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(family), Some(name)) = (words.next(), words.next()) else { continue };
        let ours = name == "skiff" || name.starts_with("skiff-") || name.starts_with("skiff_");
        let of_instance = if instance.is_empty() { !name.contains("-x") } else { name.ends_with(instance) };
        if ours && of_instance {
            nft.apply(&format!("delete table {family} {name}\n"))?;
        }
    }
    Ok(())
}
