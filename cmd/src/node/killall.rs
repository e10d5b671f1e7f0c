//! Ends what runs on this host because of one Skiff, and removes what it put
//! into the kernel: containers, mounts, cgroups, links, nftables tables. Other
//! things of the host, and data, are left alone.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use skiff_host::{
    cgroup::Cgroups,
    mount::{is_mount_point, mounts_below, unmount},
    netlink::Netlink,
    nftables::Nft,
    route::ROUTE_PROTOCOL_SKIFF,
};
use skiff_network::cni::ipam::Pool;

use super::Layout;
use crate::{payload, progress::Progress};

/// Links that a node makes.
const LINKS: &[&str] = &["flannel.1", "flannel-v6.1"];
/// nftables tables that a node makes.
const TABLES: &[&str] = &["skiff", "skiff-masquerade", "skiff-hostport"];

/// Ends everything; with `dry_run` only says what would be done.
pub async fn killall(data_dir: &Path, dry_run: bool) -> Result<()> {
    let layout = Layout::recorded(data_dir).context("read the layout of the node")?;
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
    let step = progress.step("Removing network namespaces, links and packet rules");
    let namespaces = remove_namespaces(&layout)?;
    let binaries = payload::prepare(data_dir, false, &progress)?;
    let mut netlink = Netlink::route()?;
    let links = links(&layout)?;
    for name in &links {
        if let Some(link) = netlink.link(name)? {
            netlink.delete_link(link.index)?;
        }
    }
    // Their names do not tell one Skiff from another: where no node ran, they are somebody else's.
    if layout.has_run() {
        remove_routes(&mut netlink)?;
        if let Some(program) = binaries.find("nft") {
            remove_tables(&Nft::new(program))?;
        }
    }
    step.done(&format!("{namespaces} pods, {} links", links.len()));
    remove_cgroup_root(&layout)?;
    remove_folder(&layout.run_dir)
}

/// Unmounts the network namespaces that the CNI plugin's leases name: with the
/// last reference the kernel removes the pod's link. Returns how many.
fn remove_namespaces(layout: &Layout) -> Result<usize> {
    let folder = skiff_network::flannel::lease_dir(&layout.cni_data_dir());
    if !folder.is_dir() {
        return Ok(0);
    }
    let pool = Pool::open(&folder).context("read the leases of the CNI plugin")?;
    let namespaces: BTreeSet<PathBuf> = pool.leases().map(|(_, _, lease)| PathBuf::from(&lease.netns)).collect();
    for path in &namespaces {
        // The runtime names them by /var/run, which is a link; the kernel lists mounts without links.
        let Ok(real) = path.canonicalize() else { continue };
        let path = &real;
        if is_mount_point(path).unwrap_or(false) {
            unmount(path).with_context(|| format!("unmount {}", path.display()))?;
        }
        remove_file(path)?;
    }
    drop(pool);
    remove_folder(&layout.cni_data_dir())?;
    Ok(namespaces.len())
}

/// The parent of all our pods' cgroups, when it is ours alone.
fn remove_cgroup_root(layout: &Layout) -> Result<()> {
    if !layout.owns_cgroup_root() {
        return Ok(());
    }
    Cgroups::detect()?.remove(&layout.cgroup_root).context("remove cgroup")
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
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

/// Routes to other nodes' pods that go through no link of ours (host-gw). They
/// carry our protocol number, so that nobody else's are met.
fn remove_routes(netlink: &mut Netlink) -> Result<()> {
    for route in netlink.routes()?.iter().filter(|route| route.protocol == ROUTE_PROTOCOL_SKIFF) {
        netlink.delete_route(route).with_context(|| format!("remove the route to {}", route.destination))?;
    }
    Ok(())
}

/// The tables of service proxy, masquerading and host ports.
fn remove_tables(nft: &Nft) -> Result<()> {
    let tables = nft.output(&["list", "tables"]).context("list nftables tables")?;
    for line in tables.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(family), Some(name)) = (words.next(), words.next()) else { continue };
        if TABLES.contains(&name) {
            nft.apply(&format!("delete table {family} {name}\n"))?;
        }
    }
    Ok(())
}
