//! A real etcd on loopback, with a folder of its own, ended with the test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

pub struct Etcd {
    child: Child,
    pub url: String,
    command: Command,
    _folder: TempDir,
}

impl Etcd {
    /// Ends it as a crash would, and starts it again where it was.
    pub async fn restarted(mut self) -> Etcd {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = self.command.spawn().unwrap();
        let port = self.url.rsplit(':').next().unwrap().parse().unwrap();
        assert!(ready(&mut self, port).await, "etcd came back");
        self
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts etcd and waits until it accepts connections.
pub async fn start() -> Etcd {
    start_with(tempfile::tempdir().unwrap(), &[], |folder, _| folder.to_owned()).await
}

/// Starts etcd with TLS for clients, who must show a certificate.
pub async fn start_secure(certificate: &str, key: &str, ca: &str) -> Etcd {
    let flags = ["--cert-file", certificate, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"];
    start_with(tempfile::tempdir().unwrap(), &flags, |folder, _| folder.to_owned()).await
}

/// Starts etcd with more flags; `data_dir` says where, and may prepare that for the peer URL.
pub async fn start_with(folder: TempDir, flags: &[&str], data_dir: impl Fn(&Path, &str) -> PathBuf) -> Etcd {
    // A port can be taken between asking and binding: try again with another.
    for _ in 0..5 {
        let (client, peer) = (free_port(), free_port());
        let scheme = if flags.contains(&"--cert-file") { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{client}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new("etcd");
        command
            .args(["--name", "default", "--data-dir"])
            .arg(data_dir(&folder.path().join(client.to_string()), &peer))
            .args(flags)
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--heartbeat-interval", "20", "--election-timeout", "100"])
            .env("GODEBUG", "")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("start etcd: {error}; this test needs the real etcd: apt-get install etcd-server etcd-client")
        });
        let mut etcd = Etcd { child, url, command, _folder: tempfile::tempdir().unwrap() };
        if ready(&mut etcd, client).await {
            etcd._folder = folder;
            return etcd;
        }
    }
    panic!("etcd did not start on any of five ports");
}

async fn ready(etcd: &mut Etcd, port: u16) -> bool {
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return true;
        }
        if etcd.child.try_wait().unwrap().is_some() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
