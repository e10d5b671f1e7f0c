//! Control groups, both hierarchies: version 2 (unified) and version 1 (one
//! tree per controller, perhaps with an unused version 2 tree beside it).
//!
//! A group is named by its path below the root, `/a/b`, the same in every
//! tree. Limits are given once, in the units of version 1, and translated.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Where the kernel mounts control groups.
pub const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Controllers without which pods cannot be limited.
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];
/// Controllers used when present.
const USED: [&str; 8] = ["cpu", "cpuset", "memory", "pids", "hugetlb", "cpuacct", "blkio", "freezer"];

/// What the kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Limits of a group; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    pub cpu_period_us: Option<u64>,
    /// Negative means unlimited.
    pub cpu_quota_us: Option<i64>,
    /// Negative means unlimited.
    pub memory_bytes: Option<i64>,
    /// Negative means unlimited.
    pub pids: Option<i64>,
    /// Kernel page size name (`2MB`) and bytes.
    pub huge_pages: BTreeMap<String, u64>,
}

/// Why a control group operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "cgroup controllers are missing on this host: {}; containers cannot be limited without them. \
         Mount or delegate them, or enable them in the kernel: on a Raspberry Pi add \
         \"cgroup_memory=1 cgroup_enable=memory\" to the kernel command line and reboot",
        .0.join(", ")
    )]
    MissingControllers(Vec<String>),
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The control group trees of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: Version,
    /// Version 1: controller to mount point. Version 2: the one mount under "".
    mounts: BTreeMap<String, PathBuf>,
    /// Trees we set nothing in, where container runtimes make groups of the same names.
    others: Vec<PathBuf>,
}

impl Cgroups {
    /// Looks at the running system and fails when a needed controller is missing.
    pub fn detect() -> Result<Cgroups, CgroupError> {
        Cgroups::detect_at(Path::new(ROOT))
    }

    fn detect_at(root: &Path) -> Result<Cgroups, CgroupError> {
        let magic = crate::fs::file_system_magic(root).map_err(fail("read", root))?;
        if magic == CGROUP2_MAGIC {
            let path = root.join("cgroup.controllers");
            let text = fs::read_to_string(&path).map_err(fail("read", &path))?;
            require(|name| text.split_whitespace().any(|have| have == name))?;
            let mounts = BTreeMap::from([(String::new(), root.to_owned())]);
            return Ok(Cgroups { version: Version::V2, mounts, others: Vec::new() });
        }
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(fail("read", path))?;
        let mounts = version1_mounts(&text);
        require(|name| mounts.contains_key(name))?;
        let others = other_mounts(&text, &mounts);
        Ok(Cgroups { version: Version::V1, mounts, others })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether a controller can be used.
    pub fn has(&self, controller: &str) -> bool {
        match self.version {
            Version::V1 => self.mounts.contains_key(controller),
            Version::V2 => self.mounts.values().any(|root| {
                let text = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                text.split_whitespace().any(|have| have == controller)
            }),
        }
    }

    /// The directories of a group, one per tree.
    pub fn directories(&self, group: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.mounts.values().map(|mount| join(mount, group)).collect();
        all.dedup();
        all
    }

    /// The directory in which a controller's files of a group are.
    pub fn directory(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let key = if self.version == Version::V2 { "" } else { controller };
        self.mounts.get(key).map(|mount| join(mount, group))
    }

    /// Creates a group and its parents in every tree, usable for processes at once.
    pub fn create(&self, group: &str) -> Result<(), CgroupError> {
        for (controller, mount) in &self.mounts {
            let mut directory = mount.clone();
            for part in group.split('/').filter(|part| !part.is_empty()) {
                if self.version == Version::V2 {
                    enable_controllers(&directory);
                }
                let child = directory.join(part);
                match fs::create_dir(&child) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(fail("create control group", &child)(error)),
                }
                if controller == "cpuset" {
                    inherit_cpuset(&directory, &child)?;
                }
                directory = child;
            }
        }
        Ok(())
    }

    /// Frees the top group of version 2 from processes, which the kernel wants before controllers can
    /// be handed down. Inside a container the top is an ordinary group and our own process is in it;
    /// the real root of a machine is exempt and left alone.
    pub fn evacuate(&self, into: &str) -> Result<(), CgroupError> {
        let Some(root) = self.mounts.get("").filter(|_| self.version == Version::V2) else { return Ok(()) };
        if !root.join("cgroup.type").exists() {
            return Ok(());
        }
        let list = root.join("cgroup.procs");
        let pids = fs::read_to_string(&list).map_err(fail("read", &list))?;
        if pids.trim().is_empty() {
            return Ok(());
        }
        let target = join(root, into);
        fs::create_dir_all(&target).map_err(fail("create control group", &target))?;
        for pid in pids.lines() {
            // A process may have ended since the list was read.
            if let Err(error) = fs::write(target.join("cgroup.procs"), pid)
                && error.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32)
            {
                return Err(fail("move process into", &target)(error));
            }
        }
        Ok(())
    }

    /// Fails when the controllers that pods need did not reach a group of version 2.
    pub fn check_delegated(&self, group: &str) -> Result<(), CgroupError> {
        let Some(root) = self.mounts.get("").filter(|_| self.version == Version::V2) else { return Ok(()) };
        let path = join(root, group).join("cgroup.controllers");
        let text = fs::read_to_string(&path).map_err(fail("read", &path))?;
        require(|name| text.split_whitespace().any(|have| have == name))
    }

    /// Applies limits to an existing group.
    pub fn set(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        for (controller, file, text) in settings(self.version, limits) {
            let Some(directory) = self.directory(controller, group) else { continue };
            let path = directory.join(&file);
            // A page size or controller that this kernel lacks has nothing to limit.
            if path.exists() {
                fs::write(&path, &text).map_err(fail("write", &path))?;
            }
        }
        Ok(())
    }

    /// Whether the group exists in any tree.
    pub fn exists(&self, group: &str) -> bool {
        self.everywhere(group).any(|directory| directory.is_dir())
    }

    /// The group's directories in all trees, also those we set nothing in.
    fn everywhere(&self, group: &str) -> impl Iterator<Item = PathBuf> {
        let others: Vec<PathBuf> = self.others.iter().map(|mount| join(mount, group)).collect();
        self.directories(group).into_iter().chain(others)
    }

    /// All processes in the group and below it.
    pub fn processes(&self, group: &str) -> Vec<u32> {
        let mut pids = Vec::new();
        for directory in self.directories(group) {
            collect_processes(&directory, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the group and everything below it; kills what still runs there.
    /// Fails with `ResourceBusy` while the kernel still tears processes down.
    pub fn remove(&self, group: &str) -> Result<(), CgroupError> {
        for pid in self.processes(group) {
            let path = PathBuf::from(format!("/proc/{pid}"));
            crate::process::kill_now(pid).map_err(fail("kill process", &path))?;
        }
        for directory in self.everywhere(group) {
            remove_tree(&directory)?;
        }
        Ok(())
    }

    /// Names of the groups directly below `group`.
    pub fn children(&self, group: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for directory in self.everywhere(group) {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            names.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .filter_map(|entry| entry.file_name().into_string().ok()),
            );
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { action, path, source }
}

fn require(has: impl Fn(&str) -> bool) -> Result<(), CgroupError> {
    let missing: Vec<String> = REQUIRED.iter().filter(|name| !has(name)).map(|name| (*name).to_owned()).collect();
    if missing.is_empty() { Ok(()) } else { Err(CgroupError::MissingControllers(missing)) }
}

fn join(mount: &Path, group: &str) -> PathBuf {
    mount.join(group.trim_start_matches('/'))
}

/// Version 1 mounts carry their controllers among the super block options.
fn version1_mounts(mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut mounts = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") {
            continue;
        }
        let (Some(point), Some(options)) = (left.split(' ').nth(4), right.nth(1)) else { continue };
        for option in options.split(',') {
            if USED.contains(&option) || option == "name=systemd" {
                mounts.insert(option.to_owned(), PathBuf::from(point));
            }
        }
    }
    mounts
}

/// Every control group mount that is not among `used`.
fn other_mounts(mountinfo: &str, used: &BTreeMap<String, PathBuf>) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let is_cgroup = matches!(right.split(' ').next(), Some("cgroup" | "cgroup2"));
        is_cgroup.then(|| left.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(point).filter(|point| !used.values().any(|have| have == point)).collect()
}

/// Hands the controllers of a version 2 directory down to its children. Each
/// one by one, because one refusal must not cost the others.
fn enable_controllers(directory: &Path) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    for name in available.split_whitespace().filter(|name| USED.contains(name) || *name == "io") {
        if !enabled.split_whitespace().any(|have| have == name)
            && let Err(error) = fs::write(directory.join("cgroup.subtree_control"), format!("+{name}"))
        {
            tracing::warn!(component = "cgroup", directory = %directory.display(), controller = name, %error,
                "controller cannot be delegated");
        }
    }
}

/// A version 1 cpuset accepts no process until its two lists are filled.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = child.join(file);
        let own = fs::read_to_string(&path).map_err(fail("read", &path))?;
        if own.trim().is_empty() {
            let from = parent.join(file);
            let text = fs::read_to_string(&from).map_err(fail("read", &from))?;
            fs::write(&path, text.trim()).map_err(fail("write", &path))?;
        }
    }
    Ok(())
}

/// CPU shares (2..262144) as a version 2 weight (1..10000).
pub fn cpu_weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

fn settings(version: Version, limits: &Limits) -> Vec<(&'static str, String, String)> {
    let mut all: Vec<(&'static str, String, String)> = Vec::new();
    let mut push = |controller, file: &str, text: String| all.push((controller, file.to_owned(), text));
    let or_max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    match version {
        Version::V1 => {
            if let Some(shares) = limits.cpu_shares {
                push("cpu", "cpu.shares", shares.max(2).to_string());
            }
            if let Some(period) = limits.cpu_period_us {
                push("cpu", "cpu.cfs_period_us", period.to_string());
            }
            if let Some(quota) = limits.cpu_quota_us {
                push("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string());
            }
            if let Some(bytes) = limits.memory_bytes {
                push("memory", "memory.limit_in_bytes", bytes.max(-1).to_string());
            }
        }
        Version::V2 => {
            if let Some(shares) = limits.cpu_shares {
                push("cpu", "cpu.weight", cpu_weight(shares).to_string());
            }
            if let Some(quota) = limits.cpu_quota_us {
                let period = limits.cpu_period_us.unwrap_or(100_000);
                push("cpu", "cpu.max", format!("{} {period}", or_max(quota)));
            }
            if let Some(bytes) = limits.memory_bytes {
                push("memory", "memory.max", or_max(bytes));
            }
        }
    }
    if let Some(pids) = limits.pids {
        push("pids", "pids.max", or_max(pids));
    }
    for (size, bytes) in &limits.huge_pages {
        let file = match version {
            Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
            Version::V2 => format!("hugetlb.{size}.max"),
        };
        push("hugetlb", &file, bytes.to_string());
    }
    all
}

fn collect_processes(directory: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect_processes(&entry.path(), pids);
    }
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fail("remove control group", directory)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version1_mounts_are_found_by_controller_even_when_shared() {
        let text = "30 1 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    31 1 0:2 / /sys/fs/cgroup/memory rw - cgroup none rw,memory\n\
                    32 1 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mounts = version1_mounts(text);
        assert_eq!(mounts["cpu"], mounts["cpuacct"]);
        assert_eq!(mounts["memory"], PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(mounts.len(), 3);
        assert_eq!(other_mounts(text, &mounts), [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn limits_translate_to_both_versions() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_period_us: Some(100_000),
            cpu_quota_us: Some(50_000),
            memory_bytes: Some(-1),
            pids: Some(7),
            huge_pages: BTreeMap::from([("2MB".to_owned(), 4)]),
        };
        let find = |version, file: &str| {
            settings(version, &limits).into_iter().find(|(_, name, _)| name == file).map(|(_, _, text)| text)
        };
        assert_eq!(find(Version::V1, "cpu.cfs_quota_us").as_deref(), Some("50000"));
        assert_eq!(find(Version::V1, "memory.limit_in_bytes").as_deref(), Some("-1"));
        assert_eq!(find(Version::V2, "cpu.weight").as_deref(), Some("39"));
        assert_eq!(find(Version::V2, "cpu.max").as_deref(), Some("50000 100000"));
        assert_eq!(find(Version::V2, "memory.max").as_deref(), Some("max"));
        assert_eq!(find(Version::V2, "hugetlb.2MB.max").as_deref(), Some("4"));
    }

    #[test]
    fn missing_controllers_are_named() {
        let error = require(|name| name == "cpu").unwrap_err();
        assert!(error.to_string().contains("memory, pids"), "{error}");
    }
}
