//! Stock etcdctl on the datastore's socket.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use skiff_tests::{Background, Cluster, host::text};

fn etcdctl(cluster: &Cluster, arguments: &[&str]) -> Command {
    let socket = cluster.server.folder.join("data/server/kine.sock");
    let mut command = cluster.server.command("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=unix://{}", socket.display())).args(arguments);
    command
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = etcdctl(cluster, arguments).stdin(Stdio::null()).output()?;
    text(&format!("etcdctl {}", arguments.join(" ")), output)
}

pub fn etcdctl_reads_the_objects_of_the_cluster(cluster: &mut Cluster) -> Result<()> {
    let keys = run(cluster, &["get", "/registry/", "--prefix", "--keys-only"])?;
    ensure!(keys.lines().any(|key| key == "/registry/namespaces/default"), "{keys}");
    ensure!(keys.lines().any(|key| key.starts_with("/registry/pods/kube-system/coredns-")), "{keys}");
    let count = run(cluster, &["get", "/registry/minions/", "--prefix", "--keys-only"])?;
    ensure!(count.split_whitespace().count() == 2, "{count}");
    Ok(())
}

pub fn etcdctl_writes_in_transactions_and_watches(cluster: &mut Cluster) -> Result<()> {
    let mut command = etcdctl(cluster, &["watch", "/test/", "--prefix"]);
    command.stdin(Stdio::null());
    let watch = Background::start(command)?;
    // The watch has no sign of being ready; writes go on until it shows one.
    skiff_tests::eventually("the watch shows a write", std::time::Duration::from_secs(20), || {
        run(cluster, &["put", "/test/a", "one"])?;
        ensure!(watch.output().contains("PUT\n/test/a\none"), "{}", watch.output());
        Ok(())
    })?;
    let transaction = |compare: &str| -> Result<String> {
        let script = format!("{compare}\n\nput /test/a two\nget /test/a\n\nget /test/a\n\n");
        let mut child = etcdctl(cluster, &["txn"]);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            std::io::Write::write_all(&mut input, script.as_bytes())?;
        }
        text("etcdctl txn", child.wait_with_output()?)
    };
    let won = transaction("value(\"/test/a\") = \"one\"")?;
    ensure!(won.starts_with("SUCCESS") && won.contains("two"), "{won}");
    let lost = transaction("value(\"/test/a\") = \"one\"")?;
    ensure!(lost.starts_with("FAILURE") && lost.contains("two"), "{lost}");
    ensure!(run(cluster, &["del", "/test/", "--prefix"])? == "1\n");
    watch.wait_for("DELETE\n/test/a")
}
