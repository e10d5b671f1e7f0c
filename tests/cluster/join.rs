//! How nodes get in, and how they are kept apart.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Result, bail, ensure};
use skiff_tests::{
    Background, Cluster,
    cluster::{AGENT_ADDRESS, SERVER_ADDRESS},
    eventually,
};

pub fn keys_and_passwords_of_a_node_never_leave_it_and_are_private(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.agent()?.folder.join("data/agent");
    for name in ["client-kubelet.key", "serving-kubelet.key", "client-kube-proxy.key", "node-password"] {
        let path = folder.join(name);
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o600, "{name} has mode {mode:o}");
        let secret = fs::read_to_string(&path)?;
        let secret = secret.lines().nth(1).unwrap_or(secret.trim()).to_owned();
        let found =
            cluster.server.command("grep").args(["-rlF", &secret]).arg(cluster.server.folder.join("data")).output()?;
        ensure!(found.stdout.is_empty(), "{name} is on the server: {}", String::from_utf8_lossy(&found.stdout));
    }
    Ok(())
}

pub fn a_node_name_belongs_to_the_host_that_took_it_first(cluster: &mut Cluster) -> Result<()> {
    let data = cluster.folder.join("impostor");
    let mut command = cluster.agent()?.command("timeout");
    command.args(["-s", "KILL", "20"]).arg(&cluster.binary);
    command.args(["agent", "--server", &format!("https://{SERVER_ADDRESS}:6443"), "--token", &cluster.token()?]);
    command
        .args(["--node-name", "agent", "--node-ip", AGENT_ADDRESS, "--config", "/dev/null", "--data-dir"])
        .arg(&data);
    let output = command.output()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code().is_some_and(|code| code != 0 && code < 124), "{:?}: {message}", output.status);
    ensure!(message.contains("agent") && message.contains("password"), "{message}");
    ensure!(!data.join("agent/client-kubelet.crt").exists(), "no certificate was given out");
    cluster.wait_ready("agent")
}

pub fn a_node_may_not_touch_what_belongs_to_others(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.agent()?.folder.join("data/agent");
    let path = |name: &str| folder.join(name).display().to_string();
    let kubectl = cluster.kubectl();
    let as_node = |arguments: &[&str]| {
        let (certificate, key) = (path("client-kubelet.crt"), path("client-kubelet.key"));
        let server = format!("https://{SERVER_ADDRESS}:6443");
        let authority = path("server-ca.crt");
        let identity = [
            "--kubeconfig=/dev/null",
            "--server",
            &server,
            "--certificate-authority",
            &authority,
            "--client-certificate",
            &certificate,
            "--client-key",
            &key,
        ];
        kubectl.output(&[&identity, arguments].concat())
    };
    let own = as_node(&["get", "node", "agent", "-o", "name"])?;
    ensure!(own.stdout == b"node/agent\n", "{own:?}");
    for forbidden in [
        ["label", "node", "server", "mine=yes"].as_slice(),
        &["get", "secrets", "-n", "kube-system"],
        &["delete", "namespace", "default"],
        &["create", "configmap", "mine"],
    ] {
        let output = as_node(forbidden)?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(message.contains("orbidden"), "{forbidden:?}: {message}");
    }
    Ok(())
}

pub fn the_tunnel_comes_back_after_the_server_was_gone(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("tunnel", |cluster, kubectl| {
        let image = skiff_tests::image::BUSYBOX;
        let spec =
            format!("nodeName: agent\ncontainers:\n- {{name: c, image: '{image}', command: [sleep, infinity]}}\n");
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_pod("p")?;
        // The cable is pulled for a while, then the server dies as well.
        cluster.agent()?.shell("ip link set eth0 down")?;
        std::thread::sleep(Duration::from_secs(2));
        cluster.agent()?.shell(&format!("ip link set eth0 up && ip route replace default via {SERVER_ADDRESS}"))?;
        cluster.kill_server()?;
        cluster.start_server()?;
        eventually("exec reaches the agent again", Duration::from_secs(60), || kubectl.exec("p", "true"))?;
        cluster.wait_ready("server")?;
        cluster.wait_ready("agent")
    })
}

pub fn an_agent_without_a_server_url_says_what_is_missing(cluster: &mut Cluster) -> Result<()> {
    let data = cluster.folder.join("nowhere");
    let mut command = cluster.agent()?.command(&cluster.binary);
    command.args(["agent", "--token", "x", "--config", "/dev/null", "--data-dir"]).arg(&data);
    let mut agent = Background::start(command)?;
    let status = agent.wait()?;
    if status.success() || !agent.output().contains("--server is missing") {
        bail!("{status}: {}", agent.output());
    }
    ensure!(!data.exists(), "nothing is written");
    Ok(())
}
