//! Pods, services and names across the two nodes.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skiff_tests::{Cluster, Kubectl, cluster::AGENT_ADDRESS, cluster::SERVER_ADDRESS, eventually, image::BUSYBOX};

const NODES: [&str; 2] = ["server", "agent"];
/// How long rules may take to follow the objects.
const SOON: Duration = Duration::from_secs(15);

/// A web server on each node that tells its own name and who asked.
fn web_on_each_node(kubectl: &Kubectl) -> Result<Vec<Value>> {
    for node in NODES {
        let spec = format!(
            r#"
nodeName: {node}
hostname: web-{node}
subdomain: heads
containers:
- name: web
  image: {BUSYBOX}
  command:
  - sh
  - -c
  - |
    mkdir -p /www/cgi-bin
    printf '#!/bin/sh\nprintf "\\r\\n$HOSTNAME for $REMOTE_ADDR\\n"\n' > /www/cgi-bin/who
    chmod +x /www/cgi-bin/who
    exec httpd -f -p 8080 -h /www
  readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
"#
        );
        kubectl.apply_pod(&format!("web-{node}"), "app: web", &spec)?;
    }
    NODES.iter().map(|node| kubectl.wait_pod(&format!("web-{node}"))).collect()
}

fn ask(kubectl: &Kubectl, from: &str, url: &str) -> Result<String> {
    kubectl.exec(from, &format!("wget -qO- http://{url}/cgi-bin/who"))
}

pub fn pods_reach_each_other_across_nodes_with_their_own_addresses(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("pods", |_, kubectl| {
        let pods = web_on_each_node(kubectl)?;
        for from in &pods {
            for to in &pods {
                let address = |pod: &Value| pod["status"]["podIP"].as_str().map(str::to_owned).context("podIP");
                let name = from["metadata"]["name"].as_str().context("name")?;
                // busybox tells IPv4 addresses in the clothes of IPv6.
                let answer =
                    ask(kubectl, name, &format!("{}:8080", address(to)?))?.replace("[::ffff:", "").replace(']', "");
                let expected =
                    format!("{} for {}\n", to["spec"]["hostname"].as_str().unwrap_or_default(), address(from)?);
                ensure!(answer == expected, "{answer:?} is not {expected:?}");
            }
        }
        // Larger than a packet of the overlay.
        let far = pods[1]["status"]["podIP"].as_str().context("podIP")?;
        let ping = kubectl.exec("web-server", &format!("ping -c 2 -s 4000 {far}"))?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        Ok(())
    })
}

pub fn services_answer_from_pods_and_hosts_by_cluster_ip_and_node_port(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("services", |cluster, kubectl| {
        web_on_each_node(kubectl)?;
        kubectl.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  selector: {app: web}\n  \
             ports: [{port: 80, targetPort: 8080, nodePort: 30080}]\n",
        )?;
        let service = kubectl.get(&["service", "web"])?;
        let address = service["spec"]["clusterIP"].as_str().context("clusterIP")?;
        let targets = [address.to_owned(), format!("{SERVER_ADDRESS}:30080"), format!("{AGENT_ADDRESS}:30080")];
        for target in &targets {
            for pod in ["web-server", "web-agent"] {
                everyone_answers(&format!("{target} from {pod}"), || ask(kubectl, pod, target))?;
            }
            for host in cluster.hosts() {
                let script = format!("busybox wget -qO- http://{target}/cgi-bin/who");
                everyone_answers(&format!("{target} from host {}", host.name), || host.shell(&script))?;
            }
        }
        Ok(())
    })
}

/// Asks until both have answered.
fn everyone_answers(what: &str, ask: impl Fn() -> Result<String>) -> Result<()> {
    let mut seen = BTreeSet::new();
    eventually(&format!("both pods answer {what}"), SOON, || {
        let answer = ask()?;
        let name = answer.split(' ').next().unwrap_or_default().to_owned();
        ensure!(name.starts_with("web-"), "{answer:?}");
        seen.insert(name);
        if seen.len() == 2 { Ok(()) } else { bail!("only {seen:?}") }
    })
}

pub fn names_resolve_over_udp_and_tcp(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("names", |_, kubectl| {
        let pods = web_on_each_node(kubectl)?;
        kubectl.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: heads}\nspec:\n  clusterIP: None\n  selector: {app: web}\n  \
             ports: [{name: http, port: 8080}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80, targetPort: 8080}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\nspec:\n  type: ExternalName\n  externalName: web.names.svc.cluster.local\n",
        )?;
        let cluster_ip = kubectl.get(&["service", "web"])?["spec"]["clusterIP"].as_str().context("clusterIP")?.to_owned();
        let lookup = |from: &str, arguments: &str, expected: &[&str]| {
            eventually(&format!("nslookup {arguments} from {from}"), SOON, || {
                let answer = kubectl.exec(from, &format!("nslookup {arguments} 2>&1"))?;
                ensure!(expected.iter().all(|text| answer.contains(text)), "{expected:?} not in {answer}");
                Ok(())
            })
        };
        let ip = |index: usize| pods[index]["status"]["podIP"].as_str().unwrap_or("none");
        for from in ["web-server", "web-agent"] {
            lookup(from, "web.names.svc.cluster.local", &[&cluster_ip])?;
            lookup(from, "heads.names.svc.cluster.local", &[ip(0), ip(1)])?;
            lookup(from, "web-agent.heads.names.svc.cluster.local", &[ip(1)])?;
            lookup(from, "-type=srv _http._tcp.heads.names.svc.cluster.local", &["8080", "web-server.heads"])?;
            lookup(from, "-type=cname elsewhere.names.svc.cluster.local", &["web.names.svc.cluster.local"])?;
            lookup(from, &cluster_ip, &["web.names.svc.cluster.local"])?;
            lookup(from, "kubernetes.default.svc.cluster.local", &["10.43.0.1"])?;
            let missing = kubectl.output(&["exec", from, "--", "nslookup", "nobody.names.svc.cluster.local"])?;
            ensure!(!missing.status.success(), "unknown names do not resolve");
            let by_name = eventually("an external name can be used", SOON, || ask(kubectl, from, "elsewhere"))?;
            ensure!(by_name.starts_with("web-"), "{by_name}");
            // A query of 45 bytes with its length in front, as DNS over TCP wants it.
            let query = r"printf '\000\055\022\064\001\000\000\001\000\000\000\000\000\000\003web\005names\003svc\007cluster\005local\000\000\001\000\001'";
            let answer = kubectl.exec(from, &format!("{query} | head -c 47 | nc -w 2 10.43.0.10 53 | xxd -p | tr -d '\\n'"))?;
            let octets: String = cluster_ip.split('.').map(|part| format!("{:02x}", part.parse::<u8>().unwrap_or(0))).collect();
            ensure!(answer.contains(&octets), "{octets} not in {answer}");
        }
        Ok(())
    })
}

pub fn session_affinity_keeps_a_client_at_one_pod(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("affinity", |_, kubectl| {
        web_on_each_node(kubectl)?;
        kubectl.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  sessionAffinity: ClientIP\n  selector: {app: web}\n  \
             ports: [{port: 80, targetPort: 8080}]\n",
        )?;
        for from in ["web-server", "web-agent"] {
            let first = eventually("the service answers", SOON, || ask(kubectl, from, "web"))?;
            for _ in 0..8 {
                let next = ask(kubectl, from, "web")?;
                ensure!(next == first, "{from}: {first:?}, then {next:?}");
            }
        }
        Ok(())
    })
}

pub fn a_service_without_endpoints_refuses_at_once(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("empty", |_, kubectl| {
        web_on_each_node(kubectl)?;
        kubectl.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec:\n  selector: {app: nobody}\n  ports: [{port: 80}]\n",
        )?;
        for from in ["web-server", "web-agent"] {
            eventually("the connection is refused", SOON, || {
                let output = kubectl.exec(from, "time wget -qO- http://nobody 2>&1; true")?;
                if output.contains("Connection refused") { Ok(()) } else { bail!(output) }
            })?;
        }
        Ok(())
    })
}

pub fn pods_reach_the_api_server_by_its_service(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("in-cluster", |_, kubectl| {
        kubectl.run(&["create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount=in-cluster:default"])?;
        for node in NODES {
            let pod = format!("client-{node}");
            kubectl_pod(kubectl, &pod, node)?;
            // No kubeconfig: the service, the authority and the token of the pod.
            let listed = kubectl.exec(&pod, "kubectl get pods -o name")?;
            ensure!(listed.contains(&format!("pod/client-{node}\n")), "{listed}");
            let refused = kubectl.output(&["exec", &pod, "--", "kubectl", "get", "secrets"])?;
            let message = String::from_utf8_lossy(&refused.stderr).into_owned();
            let expected = "User \"system:serviceaccount:in-cluster:default\" cannot list resource \"secrets\"";
            ensure!(message.contains(expected), "{message}");
        }
        Ok(())
    })
}

/// A pod that holds this machine's kubectl and the libraries it is linked with.
pub fn kubectl_pod(kubectl: &Kubectl, name: &str, node: &str) -> Result<()> {
    let program = kubectl.program.canonicalize().or_else(|_| which("kubectl"))?;
    let mut paths = vec![(program.display().to_string(), "/usr/bin/kubectl", "program")];
    for (folder, target, volume) in [("/usr/lib", "/lib", "lib"), ("/usr/lib64", "/lib64", "lib64")] {
        if Path::new(folder).exists() {
            paths.push((folder.to_owned(), target, volume));
        }
    }
    let mounts: String = paths
        .iter()
        .map(|(_, target, volume)| format!("  - {{name: {volume}, mountPath: {target}, readOnly: true}}\n"))
        .collect();
    let volumes: String =
        paths.iter().map(|(path, _, volume)| format!("- {{name: {volume}, hostPath: {{path: {path}}}}}\n")).collect();
    let spec = format!(
        "nodeName: {node}\ncontainers:\n- name: c\n  image: {BUSYBOX}\n  command: [sleep, infinity]\n  \
         env: [{{name: PATH, value: '/bin:/usr/bin'}}, {{name: HOME, value: /tmp}}]\n  volumeMounts:\n{mounts}volumes:\n{volumes}"
    );
    kubectl.apply_pod(name, "", &spec)?;
    kubectl.wait_pod(name).map(drop)
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists());
    found.with_context(|| format!("{program} is not in PATH"))
}
