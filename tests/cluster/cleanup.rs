//! `skiff killall` removes this Skiff and nothing else.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail, ensure};
use skiff_tests::{Cluster, eventually, host::text, image::BUSYBOX};

pub fn killall_leaves_nothing_of_skiff_and_all_of_others(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let spec = format!(
        "nodeName: agent\ncontainers:\n- {{name: c, image: '{BUSYBOX}', command: [sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}\nvolumes: [{{name: v, emptyDir: {{medium: Memory}}}}]\n"
    );
    kubectl.apply_pod("victim", "", &spec)?;
    kubectl.wait_pod("victim")?;
    let agent = cluster.agent()?;
    agent.shell(
        "nft add table inet foreign; ip link add foreign0 type veth peer name foreign1; \
         mkdir -p /run/foreign; mount -t tmpfs tmpfs /run/foreign; (setsid sleep 4321 >/dev/null 2>&1 &)",
    )?;
    let instance = agent.shell("basename /run/skiff*")?.trim().to_owned();
    let data = agent.folder.join("data");
    let listing = |dry_run: &[&str]| -> Result<String> {
        let mut command = agent.command(&cluster.binary);
        let output = command.args(["killall", "--data-dir"]).arg(&data).args(dry_run).output()?;
        Ok(format!("{}{}", text("killall", output.clone())?, String::from_utf8_lossy(&output.stderr)))
    };
    let announced = listing(&["--dry-run"])?;
    ensure!(announced.contains("unmount") && announced.contains("cni0"), "{announced}");
    ensure!(!announced.contains("foreign"), "{announced}");
    agent.shell("pgrep containerd")?;
    cluster.stop_agent()?;
    let agent = cluster.agent()?;
    let mut command = agent.command(&cluster.binary);
    text("killall", command.args(["killall", "--data-dir"]).arg(&data).output()?)?;
    let script = format!(
        r#"
nft list tables | sed 's/^/nft /'
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/'
awk '{{print "mount", $2}}' /proc/mounts | grep -E '{data}|/run/' || true
find /sys/fs/cgroup -type d -name '*{instance}*' | sed 's/^/cgroup /'
ip netns list | grep cni || true
"#,
        data = data.display()
    );
    eventually("only what is foreign is left", Duration::from_secs(15), || {
        let left: BTreeSet<String> = agent.shell(&script)?.lines().map(|line| line.trim().to_owned()).collect();
        let expected =
            ["link eth0", "link foreign0", "link foreign1", "link lo", "mount /run/foreign", "nft table inet foreign"];
        let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        let here: Vec<String> = agent.processes()?.into_iter().map(|(_, line)| line).collect();
        let ours = |line: &&String| {
            line.contains("containerd")
                || line.contains("infinity")
                || line.starts_with("/pause")
                || line.contains(" agent --")
        };
        let skiff: Vec<&String> = here.iter().filter(ours).collect();
        ensure!(here.iter().any(|line| line == "sleep 4321"), "the foreign process lives: {here:?}");
        let unexpected: Vec<_> =
            left.difference(&expected).filter(|line| !line.starts_with("mount /run/netns")).collect();
        let lost: Vec<_> = expected.difference(&left).collect();
        if unexpected.is_empty() && lost.is_empty() && skiff.is_empty() {
            return Ok(());
        }
        bail!("left {unexpected:?} {skiff:?}, lost {lost:?}")
    })?;
    ensure!(data.join("agent").exists(), "data stays");
    // The server did not notice, and the node comes back from its data.
    agent.shell("nft delete table inet foreign; ip link del foreign0; umount /run/foreign; pkill -f 'sleep 432[1]'")?;
    cluster.start_agent()?;
    cluster.wait_ready("agent")?;
    kubectl.wait_pod("victim")?;
    kubectl.run(&["delete", "pod", "victim"]).map(drop)
}
