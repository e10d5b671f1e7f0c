//! Processes that outlive us, and facts about this machine and ourselves.

use std::{io, os::unix::process::CommandExt, path::Path, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Makes the command lead its own session when it starts, so that signals and
/// hang-ups meant for us do not reach it.
pub fn detach(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and calls only setsid,
    // which is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Makes the kernel end the command's process when the thread that started it ends, however that comes about. For
/// helpers that nobody waits for once we are gone; the thread that starts one must wait for it.
pub fn end_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs between fork and exec and makes two system calls, which are async-signal-safe and touch
    // no memory of ours.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // We may have ended before the kernel was told.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
        });
    }
}

/// Whether a process with this id exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the command name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The program a process runs, or `None` when it is gone.
pub fn executable(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The arguments a process was started with.
pub fn arguments(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|arg| !arg.is_empty())
        .map(|arg| String::from_utf8_lossy(arg).into())
        .collect()
}

/// Asks a process to end (SIGTERM). A process that is gone is success.
pub fn terminate(pid: u32) -> io::Result<()> {
    send(pid, Signal::SIGTERM)
}

/// Ends a process at once (SIGKILL). A process that is gone is success.
pub fn kill_now(pid: u32) -> io::Result<()> {
    send(pid, Signal::SIGKILL)
}

fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the process has ended, without polling. A process that is
/// already gone returns at once.
pub async fn wait_for_exit(pid: u32) -> io::Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let descriptor = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // SAFETY: the descriptor is owned by the `AsyncFd` and closed only when that is dropped, and
    // nobody else closes it or swaps it, so it stays valid for as long as it is registered.
    let registered =
        unsafe { tokio::io::unix::AsyncFd::register_with_interest(descriptor, tokio::io::Interest::READABLE) };
    let ready = registered.map_err(io::Error::from)?;
    ready.readable().await.map(drop)
}

/// Whether the effective capability set holds the capability of this number.
pub fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << number) != 0)
}

/// Whether our user ids are not those of the machine.
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// `CAP_SYS_RESOURCE`: needed to lower `oom_score_adj`.
pub const CAP_SYS_RESOURCE: u32 = 24;

/// Facts about the machine, as nodes report them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub hostname: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    /// Page size in bytes and how many pages are set aside.
    pub huge_pages: Vec<(u64, u64)>,
}

/// Reads [`MachineInfo`]; what cannot be read stays empty.
pub fn machine_info() -> MachineInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let uname = rustix::system::uname();
    let meminfo = read("/proc/meminfo");
    let machine_id = [read("/etc/machine-id"), read("/var/lib/dbus/machine-id")];
    let machine_id = machine_id.into_iter().find(|id| !id.is_empty()).unwrap_or_default();
    let boot_id = read("/proc/sys/kernel/random/boot_id");
    let system_uuid = read("/sys/class/dmi/id/product_uuid");
    MachineInfo {
        system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
        machine_id,
        boot_id,
        kernel_version: uname.release().to_string_lossy().into_owned(),
        os_image: os_release(&read("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal:"),
        swap_bytes: meminfo_bytes(&meminfo, "SwapTotal:"),
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
    }
}

/// `MemAvailable` of the machine.
pub fn memory_available_bytes() -> u64 {
    meminfo_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:")
}

fn os_release(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn meminfo_bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn huge_pages(directory: &Path) -> Vec<(u64, u64)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut pages: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((kib * 1024, count.trim().parse().ok()?))
        })
        .collect();
    pages.sort_unstable();
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_detached_process_leads_a_session_and_its_end_is_noticed() {
        let mut command = Command::new("sleep");
        command.arg("60");
        detach(&mut command);
        let mut child = command.spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        assert_eq!(fields[3], child.id().to_string(), "session id");
        assert!(is_alive(child.id()));
        kill_now(child.id()).unwrap();
        wait_for_exit(child.id()).await.unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
        wait_for_exit(child.id()).await.unwrap();
    }

    #[tokio::test]
    async fn a_helper_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            end_with_us(&mut command);
            command.spawn().unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(60), wait_for_exit(child.id())).await.unwrap().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }

    #[test]
    fn machine_facts_are_read() {
        let info = machine_info();
        assert!(info.cpus > 0 && info.memory_bytes > 0 && !info.kernel_version.is_empty());
        assert_eq!(os_release("NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n").as_deref(), Some("Some Linux 1"));
    }
}
