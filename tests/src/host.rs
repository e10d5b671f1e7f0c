//! A host for tests: its own network, process, mount and host-name namespaces on
//! this machine, with an empty `/run`. Everything in it ends with it, because
//! the kernel ends a process namespace together with its first process.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::eventually;

/// A namespaced host.
pub struct Host {
    pub name: String,
    /// Keeps the namespaces; dies with this program.
    holder: Child,
    /// The host's process 1, seen from here.
    init: u32,
    /// Own folder for data and logs.
    pub folder: PathBuf,
}

impl Host {
    /// A host without any network but loopback.
    pub fn new(name: &str, folder: &Path) -> Result<Host> {
        fs::create_dir_all(folder)?;
        let ready = folder.join(".ready");
        // Process 1 must collect orphans, which a plain sleep would not.
        let script = format!(
            "mount -t tmpfs tmpfs /run && hostname {name} && ip link set lo up && touch {ready} && \
             while :; do sleep 1 & wait; done",
            ready = ready.display()
        );
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--mount-proc"])
            .args(["--fork", "--kill-child", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("run unshare")?;
        let init = eventually("namespaces are set up", Duration::from_secs(10), || {
            fs::metadata(&ready).context("not yet")?;
            child_of(holder.id())
        })?;
        Ok(Host { name: name.to_owned(), holder, init, folder: folder.to_owned() })
    }

    /// The process whose namespaces are entered.
    pub fn pid(&self) -> u32 {
        self.init
    }

    /// A command inside the host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "-m", "-u", "-p", "--"]).arg(program);
        command
    }

    /// Runs a shell script inside and returns what it printed; failure is an error.
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = self.command("sh").args(["-c", script]).stdin(Stdio::null()).output()?;
        text(&format!("{} on {}", script, self.name), output)
    }

    /// Joins two hosts by a cable with an address at each end.
    pub fn connect(a: (&Host, &str), b: (&Host, &str)) -> Result<()> {
        let script = format!(
            "ip link add eth0 type veth peer name eth0 netns {peer} && ip addr add {address} dev eth0 && ip link set eth0 up",
            peer = b.0.pid(),
            address = a.1
        );
        // The peer is named by its process as this machine counts, not as the host does.
        let output = Command::new("nsenter")
            .args(["-t", &a.0.pid().to_string(), "-n", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output()?;
        text("join the hosts", output)?;
        b.0.shell(&format!("ip addr add {} dev eth0 && ip link set eth0 up", b.1))?;
        for (host, other) in [(a.0, b.1), (b.0, a.1)] {
            let gateway = other.split('/').next().unwrap_or(other);
            host.shell(&format!("ip route add default via {gateway}"))?;
        }
        Ok(())
    }

    /// The host's processes by their ids there, with their command lines.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let script = "for p in /proc/[0-9]*; do echo \"${p#/proc/} $(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\"; done";
        let listing = self.shell(script)?;
        Ok(listing
            .lines()
            .filter_map(|line| {
                let (pid, command) = line.split_once(' ')?;
                Some((pid.parse().ok()?, command.trim().to_owned()))
            })
            .collect())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ends process 1, and with it everything inside.
        let _ = self.holder.kill();
        let _ = Command::new("kill").args(["-9", &self.init.to_string()]).stderr(Stdio::null()).status();
        let _ = self.holder.wait();
        let gone = format!("/proc/{}", self.init);
        let _ = eventually("the host is gone", Duration::from_secs(10), || {
            if Path::new(&gone).exists() { bail!("still there") } else { Ok(()) }
        });
    }
}

/// The only child of a process that forked once.
pub fn child_of(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.split_whitespace().next().context("no child yet")?.parse().context("read children")
}

/// Standard output of a command that succeeded.
pub fn text(what: &str, output: Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what}: {}: {}{}", output.status, String::from_utf8_lossy(&output.stderr), out);
    }
    Ok(out)
}
