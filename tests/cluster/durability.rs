//! Skiff dies or stops; pods and data do not.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use skiff_tests::{
    Cluster, Kubectl, eventually,
    host::text,
    image::{BUSYBOX, BUSYBOX_NEXT},
};

/// Crashes in a row that the datastore must survive.
const CRASHES: usize = 5;

/// One serving pod per node.
fn daemon(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&format!(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: steady}}
spec:
  selector: {{matchLabels: {{app: steady}}}}
  template:
    metadata: {{labels: {{app: steady}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: steady
        image: {BUSYBOX}
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {{httpGet: {{port: 8080, path: /}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: steady}}
spec: {{selector: {{app: steady}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    ))?;
    kubectl.wait_pods("app=steady", 2).map(drop)
}

/// Container id and restart count of every pod with the label.
fn containers(kubectl: &Kubectl, selector: &str) -> Result<BTreeMap<String, String>> {
    let pods = kubectl.get(&["pods", "-l", selector])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    ensure!(!pods.is_empty(), "there are pods {selector}");
    let one = |pod: &serde_json::Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let name = pod["metadata"]["name"].as_str().context("name")?.to_owned();
        Ok((name, format!("{} restarted {}", status["containerID"], status["restartCount"])))
    };
    pods.iter().map(one).collect()
}

/// Every pod answers on its own address from both hosts.
fn all_answer(cluster: &Cluster, addresses: &[String]) -> Result<()> {
    for host in cluster.hosts() {
        for address in addresses {
            host.shell(&format!("busybox wget -qO- http://{address}:8080/"))?;
        }
    }
    Ok(())
}

fn addresses(kubectl: &Kubectl) -> Result<Vec<String>> {
    let text = kubectl.run(&["get", "pods", "-l", "app=steady", "-o", "jsonpath={.items[*].status.podIP}"])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn wait_both_ready(cluster: &Cluster) -> Result<()> {
    eventually("the API answers", Duration::from_secs(30), || cluster.kubectl().run(&["get", "--raw", "/readyz"]))?;
    cluster.wait_ready("server")?;
    cluster.wait_ready("agent")
}

pub fn a_rollout_survives_a_crash_of_the_server(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("crash", |cluster, kubectl| {
        daemon(kubectl)?;
        let before = containers(kubectl, "app=steady")?;
        kubectl.apply(&format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 4
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: web, image: '{BUSYBOX}', command: [sleep, infinity]}}]
"#
        ))?;
        kubectl.wait_pods("app=web", 4)?;
        kubectl.run(&["set", "image", "deployment/web", &format!("web={BUSYBOX_NEXT}")])?;
        cluster.kill_server()?;
        cluster.start_server()?;
        wait_both_ready(cluster)?;
        kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
        let pods = kubectl.wait_pods("app=web", 4)?;
        ensure!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == BUSYBOX_NEXT), "all are new");
        let after = containers(kubectl, "app=steady")?;
        ensure!(before == after, "untouched containers run on: {before:#?} became {after:#?}");
        Ok(())
    })
}

pub fn an_agent_adopts_its_containers_after_a_crash(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("adopt", |cluster, kubectl| {
        daemon(kubectl)?;
        let before = containers(kubectl, "app=steady")?;
        let addresses = addresses(kubectl)?;
        cluster.kill_agent()?;
        all_answer(cluster, &addresses)?;
        cluster.start_agent()?;
        wait_both_ready(cluster)?;
        eventually("pods of the agent can be reached by exec again", Duration::from_secs(30), || {
            let pods = kubectl.run(&["get", "pods", "--field-selector=spec.nodeName=agent", "-o", "name"])?;
            kubectl.exec(pods.trim(), "true")
        })?;
        kubectl.wait_pods("app=steady", 2)?;
        let after = containers(kubectl, "app=steady")?;
        ensure!(before == after, "{before:#?} became {after:#?}");
        // Adopted means supervised: a container that dies is started again.
        cluster.agent()?.shell("pkill -9 httpd")?;
        let pods = ["get", "pods", "--field-selector=spec.nodeName=agent", "-o"];
        eventually("the container is started again", Duration::from_secs(30), || {
            let path = "jsonpath={.items[0].status.containerStatuses[0]['restartCount','ready']}";
            let state = kubectl.run(&[pods.as_slice(), &[path]].concat())?;
            if state == "1 true" { Ok(()) } else { bail!("restarts and readiness are {state}") }
        })?;
        all_answer(cluster, &addresses)
    })
}

pub fn pods_serve_while_skiff_is_stopped(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("stopped", |cluster, kubectl| {
        daemon(kubectl)?;
        let before = containers(kubectl, "app=steady")?;
        let addresses = addresses(kubectl)?;
        let service = kubectl.run(&["get", "service", "steady", "-o", "jsonpath={.spec.clusterIP}"])?;
        cluster.stop_agent()?;
        cluster.stop_server()?;
        let served = all_answer(cluster, &addresses).and_then(|()| {
            for host in cluster.hosts() {
                host.shell(&format!("busybox wget -qO- http://{service}/"))?;
            }
            Ok(())
        });
        cluster.start_server()?;
        cluster.start_agent()?;
        wait_both_ready(cluster)?;
        served?;
        kubectl.wait_pods("app=steady", 2)?;
        let after = containers(kubectl, "app=steady")?;
        ensure!(before == after, "{before:#?} became {after:#?}");
        Ok(())
    })
}

pub fn pods_run_on_while_skiff_is_upgraded(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("upgrade", |cluster, kubectl| {
        daemon(kubectl)?;
        let before = containers(kubectl, "app=steady")?;
        let addresses = addresses(kubectl)?;
        let next = next_release(cluster)?;
        cluster.stop_agent()?;
        cluster.stop_server()?;
        cluster.binary = next;
        cluster.start_server()?;
        cluster.start_agent()?;
        wait_both_ready(cluster)?;
        all_answer(cluster, &addresses)?;
        kubectl.wait_pods("app=steady", 2)?;
        let after = containers(kubectl, "app=steady")?;
        ensure!(before == after, "{before:#?} became {after:#?}");
        for host in cluster.hosts() {
            let current = host.shell(&format!("readlink -f {}/data/data/current", host.folder.display()))?;
            let programs = host.shell("readlink /proc/[0-9]*/exe || true")?;
            let running: Vec<_> = programs.lines().filter(|path| path.ends_with("/bin/containerd")).collect();
            ensure!(running == [format!("{}/bin/containerd", current.trim())], "{running:?} of {current}");
        }
        // The new runtime rules the old containers and starts new ones.
        kubectl.run(&["rollout", "restart", "daemonset/steady"])?;
        kubectl.run(&["rollout", "status", "daemonset/steady", "--timeout=90s"])?;
        kubectl.wait_pods("app=steady", 2).map(drop)
    })
}

/// The same program with another payload, as the next release would have.
fn next_release(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let folder = cluster.folder.join("next");
    let (payload, binary) = (folder.display(), cluster.folder.join("skiff-next"));
    cluster.server.shell(&format!(
        "mkdir -p {payload}/bin && current={}/data/data/current && if [ -d $current ]; then cp -a $current/. {payload}; \
         else for tool in containerd containerd-shim-runc-v2 ctr runc nft; do cp $(command -v $tool) {payload}/bin; done; fi && \
         echo next > {payload}/release",
        cluster.server.folder.display()
    ))?;
    let mut command = cluster.server.command(&cluster.binary);
    command.args(["payload", "--level", "1", "--input"]).arg(&cluster.binary);
    let output = command.arg("--folder").arg(&folder).arg("--output").arg(&binary).output()?;
    text("skiff payload", output)?;
    Ok(binary)
}

pub fn no_acknowledged_write_is_lost_in_a_crash(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("writes", |cluster, kubectl| {
        for crash in 0..CRASHES {
            let written = write_until_killed(cluster, kubectl, crash)?;
            cluster.start_server()?;
            eventually("the API answers", Duration::from_secs(30), || {
                cluster.kubectl().run(&["get", "--raw", "/readyz"])
            })?;
            let found = kubectl.run(&["get", "configmaps", "-o", "name"])?;
            let lost: Vec<_> = written.iter().filter(|name| !found.lines().any(|line| line == name.as_str())).collect();
            ensure!(!written.is_empty() && lost.is_empty(), "crash {crash}: {} written, lost {lost:?}", written.len());
        }
        wait_both_ready(cluster)
    })
}

/// Names of the objects whose creation was confirmed before the server died.
fn write_until_killed(cluster: &mut Cluster, kubectl: &Kubectl, crash: usize) -> Result<Vec<String>> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (kubectl, written, stop) = (kubectl.clone(), Arc::clone(&written), Arc::clone(&stop));
            std::thread::spawn(move || {
                for number in 0.. {
                    let name = format!("c{crash}-{writer}-{number}");
                    let created = kubectl.run(&["create", "configmap", &name, "-o", "name", "--request-timeout=5s"]);
                    match (created, written.lock()) {
                        (Ok(name), Ok(mut written)) => written.push(name.trim().to_owned()),
                        _ => return,
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    // Each time at another moment of a write.
    std::thread::sleep(Duration::from_millis(600 + 137 * crash as u64));
    cluster.kill_server()?;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().map_err(|_| anyhow!("a writer panicked"))?;
    }
    let written = written.lock().map_err(|_| anyhow!("a writer panicked"))?.clone();
    if written.is_empty() { bail!("nothing was written") } else { Ok(written) }
}
