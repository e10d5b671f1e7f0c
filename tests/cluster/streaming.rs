//! Streams to pods of the agent, whose inbound ports are all closed: only the
//! tunnel that the agent opened itself can carry them.

use std::fs;

use anyhow::{Result, ensure};
use skiff_tests::{Cluster, Kubectl, image::BUSYBOX};

/// Refuses every new connection from outside; the overlay's packets are let
/// through so that pods can talk.
const CLOSE: &str = "nft add table inet closed && \
    nft add chain inet closed in '{ type filter hook input priority -300; policy accept; }' && \
    nft add rule inet closed in iifname eth0 udp dport { 4789, 8472 } accept && \
    nft add rule inet closed in iifname eth0 ct state new counter drop";

fn pod_on_agent(kubectl: &Kubectl) -> Result<()> {
    let script = "mkdir /www; echo afar > /www/index.html; httpd -p 8080 -h /www; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2; done";
    let container =
        format!("nodeName: agent\ncontainers:\n- {{name: far, image: '{BUSYBOX}', command: [sh, -c, '{script}']}}");
    kubectl.apply_pod("far", "", &container)?;
    kubectl.wait_pod("far").map(drop)
}

pub fn logs_exec_copy_and_forward_need_no_inbound_port_of_the_agent(cluster: &mut Cluster) -> Result<()> {
    cluster.agent()?.shell(CLOSE)?;
    let result = cluster.in_namespace("closed", |cluster, kubectl| {
        let refused = cluster.server.command("busybox").args(["nc", "-w", "1", "10.99.0.2", "10250"]).output()?;
        ensure!(!refused.status.success(), "the ports are closed");
        pod_on_agent(kubectl)?;
        let follow = kubectl.start(&["logs", "-f", "far"])?;
        follow.wait_for("line 3\n")?;
        let code = kubectl.output(&["exec", "far", "--", "sh", "-c", "exit 3"])?.status.code();
        ensure!(code == Some(3), "{code:?}");
        let echoed = kubectl.run_with_input(&["exec", "-i", "far", "--", "cat"], "over the tunnel")?;
        ensure!(echoed == "over the tunnel", "{echoed}");
        let file = cluster.folder.join("closed.txt");
        fs::write(&file, "freight")?;
        kubectl.run(&["cp", &file.display().to_string(), "far:/tmp/freight"])?;
        ensure!(kubectl.exec("far", "cat /tmp/freight")? == "freight");
        let forward = kubectl.start(&["port-forward", "pod/far", "18081:8080"])?;
        forward.wait_for("Forwarding from 127.0.0.1:18081")?;
        let answer = cluster.server.shell("busybox wget -qO- http://127.0.0.1:18081/")?;
        ensure!(answer == "afar\n", "{answer}");
        follow.wait_for("line 10\n")
    });
    cluster.agent()?.shell("nft delete table inet closed")?;
    result
}

pub fn large_transfers_arrive_complete(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("large", |cluster, kubectl| {
        pod_on_agent(kubectl)?;
        // Beyond every window and buffer on the way.
        let sum = kubectl.exec("far", "head -c 30000000 /dev/urandom > /tmp/large; md5sum < /tmp/large")?;
        let output = kubectl.output(&["exec", "far", "--", "cat", "/tmp/large"])?;
        ensure!(output.stdout.len() == 30_000_000, "{} bytes out", output.stdout.len());
        let path = cluster.folder.join("large");
        fs::write(&path, &output.stdout)?;
        let mut command = kubectl.command(&["exec", "-i", "far", "--", "md5sum"]);
        let back = command.stdin(fs::File::open(&path)?).output()?;
        fs::remove_file(&path)?;
        ensure!(back.stdout == sum.as_bytes(), "{sum} became {}", String::from_utf8_lossy(&back.stdout));
        Ok(())
    })
}
