//! What users get wrong: the message names cause and remedy, the exit code is
//! not zero, and nothing half-written stays.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use skiff_tests::{
    Background, Cluster, Host,
    cluster::{AGENT_ADDRESS, SERVER_ADDRESS},
    eventually,
};

/// A wrong start must say so within this time.
const LIMIT: &str = "20";

/// Runs the binary on a host until it ends by itself.
fn run(cluster: &Cluster, host: &Host, arguments: &[&str]) -> Result<Output> {
    let mut command = host.command("timeout");
    Ok(command.args(["-s", "KILL", LIMIT]).arg(&cluster.binary).args(arguments).output()?)
}

/// The run failed by itself, with one message that contains all of these.
fn fails_saying(output: &Output, expected: &[&str]) -> Result<()> {
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code().is_some_and(|code| code != 0 && code < 124), "{:?}: {message}", output.status);
    for text in expected {
        ensure!(message.contains(text), "{text:?} is not in: {message}");
    }
    ensure!(!message.contains("panicked"), "{message}");
    Ok(())
}

/// A data folder that does not exist yet.
fn fresh(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.folder.join("bad").join(name)
}

/// No certificate, key, password or database of an attempt that failed.
fn nothing_half_written(data: &Path) -> Result<()> {
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The unpacked payload is whole by itself and reused.
            if path.is_dir() && name != "data" {
                folders.push(path);
            } else if name != "data" {
                bail!("{} was written", path.display());
            }
        }
    }
    Ok(())
}

fn join(cluster: &Cluster, name: &str, token: &str) -> Result<(Output, PathBuf)> {
    let data = fresh(cluster, name);
    let server = format!("https://{SERVER_ADDRESS}:6443");
    let folder = data.display().to_string();
    let arguments = ["agent", "--server", &server, "--token", token, "--data-dir", &folder, "--config", "/dev/null"];
    let rest = ["--node-name", "intruder", "--node-ip", AGENT_ADDRESS, "--kubelet-port", "10260"];
    Ok((run(cluster, cluster.agent()?, &[arguments.as_slice(), &rest].concat())?, data))
}

pub fn a_wrong_token_is_refused(cluster: &mut Cluster) -> Result<()> {
    let token = cluster.token()?;
    let (kept, _) = token.rsplit_once(':').unwrap_or_default();
    let (output, data) = join(cluster, "token", &format!("{kept}:0123456789abcdef0123456789abcdef"))?;
    fails_saying(&output, &["the server refused the token", "node-token"])?;
    nothing_half_written(&data)?;
    let (output, data) = join(cluster, "cut", &token[..20])?;
    fails_saying(&output, &["--token", "cut off"])?;
    nothing_half_written(&data)?;
    let nodes = cluster.kubectl().run(&["get", "nodes", "-o", "name"])?;
    ensure!(!nodes.contains("intruder"), "{nodes}");
    Ok(())
}

pub fn a_wrong_authority_is_not_trusted(cluster: &mut Cluster) -> Result<()> {
    let token = cluster.token()?;
    let (_, secret) = token.split_once("::").unwrap_or_default();
    let (output, data) = join(cluster, "authority", &format!("K10{}::{secret}", "ab".repeat(32)))?;
    fails_saying(&output, &["not the one the token is for", "abababab", "node-token"])?;
    nothing_half_written(&data)
}

pub fn an_agent_waits_for_its_server_and_says_so(cluster: &mut Cluster) -> Result<()> {
    let data = fresh(cluster, "waiting").display().to_string();
    let mut command = cluster.agent()?.command(&cluster.binary);
    command.args([
        "agent",
        "--server",
        &format!("https://{SERVER_ADDRESS}:7443"),
        "--token",
        "x",
        "--config",
        "/dev/null",
    ]);
    command.args(["--data-dir", &data, "--node-ip", AGENT_ADDRESS]);
    let agent = Background::start(command)?;
    agent.wait_for(&format!("{SERVER_ADDRESS}:7443"))?;
    std::thread::sleep(Duration::from_secs(2));
    let processes = cluster.agent()?.processes()?;
    let waiting = processes.iter().find(|(_, line)| line.contains(&data)).map(|(pid, _)| *pid);
    let Some(pid) = waiting else { bail!("it gave up: {}", agent.output()) };
    ensure!(agent.output().to_lowercase().contains("refused"), "the cause is named: {}", agent.output());
    cluster.agent()?.shell(&format!("kill -TERM {pid}"))?;
    eventually("it stops when told to", Duration::from_secs(10), || {
        let left = cluster.agent()?.processes()?.iter().any(|(other, _)| *other == pid);
        if left { bail!("still there: {}", agent.output()) } else { Ok(()) }
    })?;
    nothing_half_written(Path::new(&data))
}

fn second_server(cluster: &Cluster, data: &Path, more: &[&str]) -> Result<Output> {
    let data = data.display().to_string();
    let arguments = ["server", "--disable-agent", "--data-dir", &data, "--write-kubeconfig", "/dev/null"];
    run(cluster, &cluster.server, &[arguments.as_slice(), more].concat())
}

pub fn a_port_in_use_is_named(cluster: &mut Cluster) -> Result<()> {
    let data = fresh(cluster, "port");
    let output = second_server(cluster, &data, &["--config", "/dev/null"])?;
    fails_saying(&output, &["6443", "in use", "--https-listen-port"])?;
    nothing_half_written(&data)
}

pub fn a_second_server_on_the_same_data_is_refused(cluster: &mut Cluster) -> Result<()> {
    let data = cluster.server.folder.join("data");
    let output = second_server(cluster, &data, &["--config", "/dev/null", "--https-listen-port", "16443"])?;
    fails_saying(&output, &[&data.display().to_string(), "another"])?;
    cluster.kubectl().run(&["get", "nodes"]).map(drop)
}

pub fn an_unknown_configuration_key_is_named_with_file_and_line(cluster: &mut Cluster) -> Result<()> {
    let data = fresh(cluster, "config");
    fs::create_dir_all(&data)?;
    let file = data.with_extension("yaml");
    fs::write(&file, "# mine\nhttps-listen-port: 16443\nclster-cidr: 10.0.0.0/8\n")?;
    let file = file.display().to_string();
    let output = second_server(cluster, &data, &["--config", &file])?;
    fails_saying(&output, &[&file, "line 3", "clster-cidr", "cluster-cidr"])?;
    let output = second_server(cluster, &data, &["--config", "/dev/null", "--cluster-cidr", "10.0.0.0/99"])?;
    fails_saying(&output, &["cluster-cidr", "10.0.0.0/99"])?;
    nothing_half_written(&data)
}

pub fn not_being_root_is_said(cluster: &mut Cluster) -> Result<()> {
    let binary = cluster.binary.display().to_string();
    for verb in ["server", "agent", "killall"] {
        let mut command = cluster.server.command("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            &binary,
            verb,
            "--data-dir",
            "/tmp/nobody",
        ]);
        let output = command.output()?;
        fails_saying(&output, &["root"])?;
    }
    ensure!(!Path::new("/tmp/nobody").exists(), "nothing is written");
    Ok(())
}

/// Runs a program where the memory controller of cgroups cannot be reached.
const WITHOUT_MEMORY_CONTROLLER: &str = r#"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/skiff-tests/none
    echo $$ > /sys/fs/cgroup/skiff-tests/none/cgroup.procs
    exec unshare --cgroup --mount sh -c 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "$@"
fi
exec unshare --mount sh -c 'umount /sys/fs/cgroup/memory && exec "$@"' sh "$@"
"#;

pub fn a_missing_cgroup_controller_is_named(cluster: &mut Cluster) -> Result<()> {
    let data = fresh(cluster, "cgroup");
    let folder = data.display().to_string();
    let mut command = cluster.server.command("timeout");
    command.args(["-s", "KILL", LIMIT, "sh", "-c", WITHOUT_MEMORY_CONTROLLER, "sh"]).arg(&cluster.binary);
    let output = command.args(["server", "--data-dir", &folder, "--config", "/dev/null"]).output()?;
    fails_saying(&output, &["cgroup controllers", "memory", "cgroup_enable=memory"])?;
    nothing_half_written(&data)
}

pub fn a_malformed_manifest_is_reported_and_others_apply(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.server.folder.join("data/server/manifests");
    fs::write(folder.join("broken.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: half\n---\nkind: [\n")?;
    fs::write(folder.join("whole.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: whole\n")?;
    let kubectl = cluster.kubectl();
    eventually("the good file is applied", Duration::from_secs(20), || kubectl.run(&["get", "configmap", "whole"]))?;
    eventually("the bad one is reported", Duration::from_secs(20), || {
        let events = kubectl.run(&[
            "get",
            "events",
            "-n",
            "kube-system",
            "--field-selector=type=Warning,involvedObject.kind=Addon",
        ])?;
        let reported = ["ApplyManifestFailed", "broken", "document 2", "line"].iter().all(|text| events.contains(text));
        if reported { Ok(()) } else { bail!(events) }
    })?;
    ensure!(kubectl.run(&["get", "configmap", "half"]).is_err(), "nothing of the bad file is applied");
    fs::remove_file(folder.join("broken.yaml"))?;
    fs::remove_file(folder.join("whole.yaml"))?;
    kubectl.run(&["delete", "configmap", "whole"]).map(drop)
}

pub fn an_unreadable_image_archive_is_reported_and_others_are_imported(cluster: &mut Cluster) -> Result<()> {
    let images = cluster.agent()?.folder.join("data/agent/images");
    fs::write(images.join("broken.tar"), "this is no archive")?;
    skiff_tests::image::write_archive_of(&images.join("late.tar"), "docker.io/library/late:test")?;
    let since = fs::metadata(cluster.agent()?.folder.join("log"))?.len() as usize;
    cluster.stop_agent()?;
    cluster.start_agent()?;
    cluster.wait_ready("agent")?;
    let kubectl = cluster.kubectl();
    let result = (|| {
        let spec = "nodeName: agent\nrestartPolicy: Never\ncontainers:\n- {name: late, image: 'docker.io/library/late:test', command: ['true']}";
        kubectl.apply_pod("late", "", spec)?;
        let pod = kubectl.wait_ended("late")?;
        ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
        let log = fs::read_to_string(cluster.agent()?.folder.join("log"))?;
        ensure!(log[since..].contains("broken.tar"), "{}", &log[since..]);
        Ok(())
    })();
    fs::remove_file(images.join("broken.tar"))?;
    kubectl.run(&["delete", "pod", "late", "--ignore-not-found"])?;
    result
}
