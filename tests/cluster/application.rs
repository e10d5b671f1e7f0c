//! An application of several documents, from apply to the last trace of it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail, ensure};
use skiff_tests::{Cluster, Host, Kubectl, eventually, image::BUSYBOX};

/// Namespace, ConfigMap, Secret, Deployment of 3, Service and DaemonSet.
pub fn manifest(namespace: &str) -> String {
    let common = "terminationGracePeriodSeconds: 1";
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: {namespace}}}
data: {{GREETING: hello}}
---
apiVersion: v1
kind: Secret
metadata: {{name: credentials, namespace: {namespace}}}
stringData: {{password: open sesame}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}, labels: {{app: web}}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      {common}
      containers:
      - name: web
        image: {BUSYBOX}
        command: [sh, -c, "echo started; echo $GREETING from $(hostname) > /www/index.html; exec httpd -f -v -p 8080 -h /www"]
        envFrom: [{{configMapRef: {{name: settings}}}}]
        ports: [{{name: http, containerPort: 8080}}]
        resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{cpu: 500m, memory: 64Mi}}}}
        startupProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1}}
        livenessProbe: {{exec: {{command: [test, -e, /www/index.html]}}, periodSeconds: 5}}
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: www, mountPath: /www}}
        - {{name: credentials, mountPath: /credentials, readOnly: true}}
      volumes:
      - {{name: www, emptyDir: {{}}}}
      - {{name: credentials, secret: {{secretName: credentials}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: client, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: client}}}}
  template:
    metadata: {{labels: {{app: client}}}}
    spec:
      {common}
      containers:
      - {{name: client, image: {BUSYBOX}, command: [sleep, infinity]}}
"#
    )
}

/// The application in a namespace, applied if it is not there yet, complete and Ready.
pub fn running(cluster: &Cluster, namespace: &str) -> Result<Kubectl> {
    let kubectl = cluster.kubectl().in_namespace(namespace);
    cluster.kubectl().apply(&manifest(namespace))?;
    kubectl.wait_pods("app=web", 3)?;
    kubectl.wait_pods("app=client", 2)?;
    Ok(kubectl)
}

/// Name of the client pod on a node.
pub fn client_on(kubectl: &Kubectl, node: &str) -> Result<String> {
    let pods = kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=client",
        "--field-selector",
        &format!("spec.nodeName={node}"),
        "-o",
        "name",
    ])?;
    ensure!(pods.lines().count() == 1, "one client on {node}: {pods}");
    Ok(pods.trim().to_owned())
}

pub fn it_becomes_ready_on_both_nodes_and_answers_by_name_from_each(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, "shop")?;
    let nodes = kubectl.run(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    ensure!(nodes.contains("server") && nodes.contains("agent"), "replicas are spread: {nodes}");
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    kubectl.run(&["rollout", "status", "daemonset/client", "--timeout=60s"])?;
    for node in ["server", "agent"] {
        let client = client_on(&kubectl, node)?;
        for name in ["web", "web.shop", "web.shop.svc.cluster.local"] {
            let mut from = BTreeSet::new();
            for _ in 0..12 {
                let answer = eventually(&format!("http://{name} answers on {node}"), Duration::from_secs(20), || {
                    kubectl.exec(&client, &format!("wget -qO- http://{name}"))
                })?;
                ensure!(answer.starts_with("hello from web-"), "{answer}");
                from.insert(answer);
            }
            ensure!(from.len() > 1, "more than one replica answers: {from:?}");
        }
    }
    let password = kubectl.exec("deploy/web", "cat /credentials/password")?;
    ensure!(password == "open sesame", "{password}");
    Ok(())
}

pub fn it_is_deleted_without_residue(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl().in_namespace("kube-system").wait_pods("k8s-app=kube-dns", 1)?;
    let before: Vec<BTreeSet<String>> = cluster.hosts().map(traces).collect::<Result<_>>()?;
    let kubectl = running(cluster, "residue")?;
    let during: Vec<BTreeSet<String>> = cluster.hosts().map(traces).collect::<Result<_>>()?;
    for (before, during) in before.iter().zip(&during) {
        for kind in ["cgroup ", "link ", "mount ", "rule ", "process ", "pod folder ", "address "] {
            let count = |set: &BTreeSet<String>| set.iter().filter(|trace| trace.starts_with(kind)).count();
            ensure!(count(during) > count(before), "a running pod shows as {kind}");
        }
    }
    cluster.kubectl().in_namespace("residue").run(&["exec", "deploy/web", "--", "true"])?;
    cluster.kubectl().run_with_input(&["delete", "-f", "-", "--timeout=90s"], &manifest("residue"))?;
    drop(kubectl);
    for (host, before) in cluster.hosts().zip(&before) {
        eventually(&format!("nothing is left on {}", host.name), Duration::from_secs(30), || {
            let after = traces(host)?;
            let left: Vec<_> = after.difference(before).collect();
            let lost: Vec<_> = before.difference(&after).collect();
            if left.is_empty() && lost.is_empty() { Ok(()) } else { bail!("left {left:#?}\nlost {lost:#?}") }
        })?;
    }
    Ok(())
}

/// What pods put into the kernel and into the folders of a host, one line each.
fn traces(host: &Host) -> Result<BTreeSet<String>> {
    let script = format!(
        r#"
instance=$(basename /run/skiff*)
find /sys/fs/cgroup -type d -path "*/$instance/*/pod*" | sed 's/^/cgroup /'
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/' | grep -v 'link cni0$'
awk '{{print "mount", $2}}' /proc/mounts | grep -E 'skiff|/run/netns/cni' || true
nft list ruleset | sed -E 's/counter packets [0-9]+ bytes [0-9]+//; s/^/rule /'
find {data}/agent/kubelet/pods {data}/agent/logs/pods -mindepth 1 -maxdepth 1 2>/dev/null | sed 's/^/pod folder /'
grep -rhoE '"addresses":[^]]*' {data}/agent/cni/networks | sed 's/^/address /'
ls /run/netns 2>/dev/null | grep ^cni | sed 's/^/netns /'
"#,
        data = host.folder.join("data").display()
    );
    let mut traces: BTreeSet<String> = host.shell(&script)?.lines().map(str::to_owned).collect();
    let passing = ["sh -c", "sleep 1", "awk", "ls ", "sed "];
    for (_, line) in host.processes()? {
        // Flags of a shim name its pod; the process itself is counted by that line.
        if !line.is_empty() && !passing.iter().any(|start| line.starts_with(start)) {
            traces.insert(format!("process {line}"));
        }
    }
    Ok(traces)
}
