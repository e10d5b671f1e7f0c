//! A host for tests: its own network, mount and host-name namespaces on this
//! machine, with an empty `/run`. Everything in it ends with it.

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
    /// A process that does nothing but keep the namespaces.
    holder: Child,
    /// Own folder for data and logs, removed at the end.
    pub folder: PathBuf,
}

impl Host {
    /// A host without any network but loopback.
    pub fn new(name: &str, folder: &Path) -> Result<Host> {
        fs::create_dir_all(folder)?;
        // Prints a line when the set-up is complete, then waits to be killed.
        let script = format!(
            "mount -t tmpfs tmpfs /run && hostname {name} && ip link set lo up && touch {ready} && exec sleep infinity",
            ready = folder.join(".ready").display()
        );
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .context("run unshare")?;
        let host = Host { name: name.to_owned(), holder, folder: folder.to_owned() };
        let ready = folder.join(".ready");
        eventually("namespaces are set up", Duration::from_secs(10), || {
            fs::metadata(&ready).map(drop).context("not yet")
        })?;
        Ok(host)
    }

    /// Process id of the namespaces' holder.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command inside the host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "-m", "-u", "--"]).arg(program);
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
        a.0.shell(&script)?;
        b.0.shell(&format!("ip addr add {} dev eth0 && ip link set eth0 up", b.1))?;
        for (host, other) in [(a.0, b.1), (b.0, a.1)] {
            let gateway = other.split('/').next().unwrap_or(other);
            host.shell(&format!("ip route add default via {gateway}"))?;
        }
        Ok(())
    }

    /// Processes whose command line names this host's folder.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let marker = self.folder.display().to_string();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| {
                let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                (line.contains(&marker) && pid != self.pid() && pid != std::process::id()).then_some((pid, line))
            })
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Children of the host first (a shim ends its container), then the namespaces.
        for _ in 0..3 {
            for (pid, _) in self.processes() {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Standard output of a command that succeeded.
pub fn text(what: &str, output: Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{what}: {}: {}{}", output.status, String::from_utf8_lossy(&output.stderr), out);
    }
    Ok(out)
}
