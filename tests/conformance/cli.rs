//! Rows of the area cli: stock kubectl as a process beside the battery.

mod guestbook;
mod kubectl;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::core,
    context::{Context, LIMIT, eventually},
    pods::{self, pod, shell, with},
};
use kubectl::Kubectl;

mod table {
    use super::*;

    crate::rows! { "cli";
        "Kubectl client Guestbook application" {
            "should create and stop a working application" => guestbook::works,
        }
        "Kubectl client Kubectl api-versions" {
            "should check if v1 is in available api versions" => api_versions,
        }
        "Kubectl client Kubectl cluster-info" {
            "should check if Kubernetes control plane services is included in cluster-info" => cluster_info,
        }
        "Kubectl client Kubectl describe" {
            "should check if kubectl describe prints relevant information for rc and pods" => describe,
        }
        "Kubectl client Kubectl diff" {
            "should check if kubectl diff finds a difference for Deployments" => diff,
        }
        "Kubectl client Kubectl expose" {
            "should create services for rc" => expose,
        }
        "Kubectl client Kubectl label" {
            "should update the label on a resource" => label,
        }
        "Kubectl client Kubectl patch" {
            "should add annotations for pods in rc" => patch,
        }
        "Kubectl client Kubectl replace" {
            "should update a single-container pod's image" => replace,
        }
        "Kubectl client Kubectl run pod" {
            "should create a pod from an image when restart is Never" => run_pod,
        }
        "Kubectl client Kubectl server-side dry-run" {
            "should check if kubectl can dry-run update Pods" => dry_run,
        }
        "Kubectl client Kubectl version" {
            "should check is all data is printed" => version,
        }
        "Kubectl client Proxy server" {
            "should support --unix-socket=/path" => proxy_on_a_socket,
            "should support proxy with --port 0" => proxy_on_a_port,
        }
        "Kubectl client Update Demo" {
            "should create and stop a replication controller" => |c| update_demo(c, false),
            "should scale a replication controller" => |c| update_demo(c, true),
        }
        "Kubectl logs logs" {
            "should be able to retrieve and filter logs" => logs,
        }
    }
}

pub fn tests() -> Vec<Test> {
    table::tests()
}

/// A controller of one server pod, as manifest.
fn controller(context: &Context, name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": name, "labels": {"app": name, "role": "primary"}},
        "spec": {"replicas": replicas, "selector": {"app": name, "role": "primary"}, "template": {
            "metadata": {"labels": {"app": name, "role": "primary"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                with(pods::netexec(context), json!({"name": name, "ports": [{"name": "server", "containerPort": 8080}]}))]}}}})
}

/// Applies a controller and waits for its only pod.
async fn one_pod(context: &Context, kubectl: &Kubectl, name: &str) -> Result<String> {
    kubectl.with_input(&["create", "-f", "-"], &controller(context, name, 1)).await?;
    let path = format!("{}?labelSelector=app={name}", core(&kubectl.namespace, "pods"));
    let pod = eventually("the pod is ready", pods::POD_LIMIT, || async {
        let found = context.list(&path).await?;
        found.into_iter().find(pods::is_ready).context("not ready")
    })
    .await?;
    Ok(crate::api::name(&pod).to_owned())
}

async fn api_versions(context: Context) -> Result<()> {
    let text = Kubectl::new(&context).await?.run(&["api-versions"]).await?;
    ensure!(text.lines().any(|line| line == "v1"), "{text}");
    Ok(())
}

async fn cluster_info(context: Context) -> Result<()> {
    let text = Kubectl::new(&context).await?.run(&["cluster-info"]).await?;
    ensure!(text.contains("Kubernetes control plane") && text.contains("is running at"), "{text}");
    Ok(())
}

async fn describe(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let namespace = kubectl.namespace.clone();
    let pod = one_pod(&context, &kubectl, "agnhost-primary").await?;
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "agnhost-primary", "labels": {"app": "agnhost-primary"}},
        "spec": {"ports": [{"port": 6379, "targetPort": "server"}], "selector": {"app": "agnhost-primary"}}});
    kubectl.with_input(&["create", "-f", "-"], &service).await?;
    let shows = async |words: &[&str], wanted: &[&[&str]]| -> Result<()> {
        let text = kubectl.run(&[&["describe"], words].concat()).await?;
        for line in wanted {
            ensure!(text.lines().any(|have| line.iter().all(|word| have.contains(word))), "no line {line:?} in {text}");
        }
        Ok(())
    };
    let node = context.get(&format!("{}/{pod}", core(&namespace, "pods"))).await?;
    let node = node["spec"]["nodeName"].as_str().context("the pod has a node")?.to_owned();
    shows(
        &["pod", &pod],
        &[
            &["Name:", &pod],
            &["Namespace:", &namespace],
            &["Node:", &node],
            &["Labels:", "app=agnhost-primary"],
            &["role=primary"],
            &["Annotations:"],
            &["Status:", "Running"],
            &["IP:"],
            &["Controlled By:", "ReplicationController/agnhost-primary"],
            &["Image:", &context.agnhost],
            &["State:", "Running"],
            &["QoS Class:", "BestEffort"],
        ],
    )
    .await?;
    shows(
        &["rc", "agnhost-primary"],
        &[
            &["Name:", "agnhost-primary"],
            &["Selector:", "app=agnhost-primary,role=primary"],
            &["Labels:", "app=agnhost-primary"],
            &["Replicas:", "1 current", "1 desired"],
            &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
            &["Pod Template:"],
            &["Image:", &context.agnhost],
            &["Events:"],
        ],
    )
    .await?;
    shows(
        &["service", "agnhost-primary"],
        &[
            &["Selector:", "app=agnhost-primary"],
            &["Type:", "ClusterIP"],
            &["IP:"],
            &["Port:", "<unset>", "6379/TCP"],
            &["Endpoints:"],
            &["Session Affinity:", "None"],
        ],
    )
    .await?;
    shows(
        &["node", &node],
        &[
            &["Name:", &node],
            &["Labels:"],
            &["Annotations:"],
            &["CreationTimestamp:"],
            &["Conditions:"],
            &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
            &["Addresses:"],
            &["Capacity:"],
            &["Kubelet Version:"],
            &["Non-terminated Pods:"],
        ],
    )
    .await?;
    shows(&["namespace", &namespace], &[&["Name:", &namespace], &["Labels:"], &["Status:", "Active"]]).await
}

async fn diff(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let deployment = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "httpd-deployment"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "httpd"}}, "template": {
                "metadata": {"labels": {"app": "httpd"}},
                "spec": {"terminationGracePeriodSeconds": 1,
                    "containers": [with(pods::netexec(&context), json!({"image": image}))]}}}})
    };
    kubectl.with_input(&["create", "-f", "-"], &deployment(&context.agnhost)).await?;
    let (code, text) = kubectl.outcome(&["diff", "-f", "-"], Some(&deployment(&context.busybox))).await?;
    ensure!(code == 1, "diff ended with {code}: {text}");
    for (sign, image) in [("-", &context.agnhost), ("+", &context.busybox)] {
        let wanted = |line: &&str| line.starts_with(sign) && line.contains(image.as_str());
        ensure!(text.lines().any(|line| wanted(&line)), "no {sign} {image} in {text}");
    }
    Ok(())
}

async fn expose(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let namespace = kubectl.namespace.clone();
    one_pod(&context, &kubectl, "agnhost-primary").await?;
    let answers = async |service: &str, port: u16| -> Result<()> {
        let path = format!(
            "{}?labelSelector=kubernetes.io/service-name={service}",
            crate::api::group("discovery.k8s.io/v1", &namespace, "endpointslices")
        );
        eventually(&format!("{service} has its endpoint"), LIMIT, || async {
            let slices = context.list(&path).await?;
            let found = slices.iter().any(|slice| {
                slice["ports"][0]["port"] == 8080 && slice["endpoints"].as_array().is_some_and(|list| list.len() == 1)
            });
            ensure!(found, "{slices:?}");
            Ok(())
        })
        .await?;
        let object = context.get(&format!("{}/{service}", core(&namespace, "services"))).await?;
        ensure!(object["spec"]["ports"][0]["port"] == port, "{object}");
        ensure!(object["spec"]["ports"][0]["targetPort"] == 8080, "{object}");
        Ok(())
    };
    kubectl.run(&["expose", "rc", "agnhost-primary", "--name=rm2", "--port=1234", "--target-port=8080"]).await?;
    answers("rm2", 1234).await?;
    kubectl.run(&["expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=8080"]).await?;
    answers("rm3", 2345).await
}

async fn label(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    context.start_pod(&kubectl.namespace, &pod("pause", &[pods::pause(&context)])).await?;
    let column = async || kubectl.run(&["get", "pod", "pause", "-L", "testing-label"]).await;
    kubectl.run(&["label", "pods", "pause", "testing-label=testing-label-value"]).await?;
    ensure!(column().await?.contains("testing-label-value"), "the label is shown");
    kubectl.run(&["label", "pods", "pause", "testing-label-"]).await?;
    ensure!(!column().await?.contains("testing-label-value"), "the label is gone");
    Ok(())
}

async fn patch(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let pod = one_pod(&context, &kubectl, "agnhost-primary").await?;
    kubectl.run(&["patch", "pod", &pod, "-p", "{\"metadata\":{\"annotations\":{\"x\":\"y\"}}}"]).await?;
    let patched = context.get(&format!("{}/{pod}", core(&kubectl.namespace, "pods"))).await?;
    ensure!(patched["metadata"]["annotations"]["x"] == "y", "{patched}");
    Ok(())
}

async fn replace(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let path = format!("{}/e2e-test-httpd-pod", core(&kubectl.namespace, "pods"));
    let image = format!("--image={}", context.agnhost);
    let labels = "--labels=run=e2e-test-httpd-pod";
    kubectl.run(&["run", "e2e-test-httpd-pod", &image, "--pod-running-timeout=2m0s", labels]).await?;
    context.wait_ready(&kubectl.namespace, "e2e-test-httpd-pod").await?;
    let text = kubectl.run(&["get", "pod", "e2e-test-httpd-pod", "-o", "json"]).await?;
    let replaced: Value = serde_json::from_str(&text.replace(&context.agnhost, &context.agnhost_other))?;
    // The kubelet writes status at the same time: without a version the write is unconditional.
    let replaced = with(replaced, json!({"metadata": {"resourceVersion": ""}}));
    kubectl.with_input(&["replace", "-f", "-"], &replaced).await?;
    let image = context.get(&path).await?["spec"]["containers"][0]["image"].clone();
    ensure!(image == context.agnhost_other.as_str(), "{image}");
    Ok(())
}

async fn run_pod(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let image = format!("--image={}", context.agnhost);
    kubectl.run(&["run", "e2e-test-httpd-pod", "--restart=Never", "--pod-running-timeout=2m0s", &image]).await?;
    let pod = context.get(&format!("{}/e2e-test-httpd-pod", core(&kubectl.namespace, "pods"))).await?;
    ensure!(pod["spec"]["containers"][0]["image"] == context.agnhost.as_str(), "{pod}");
    ensure!(pod["spec"]["restartPolicy"] == "Never", "{pod}");
    Ok(())
}

async fn dry_run(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let name = "e2e-test-httpd-pod";
    let image = format!("--image={}", context.agnhost);
    let labels = format!("--labels=run={name}");
    kubectl.run(&["run", name, &image, "--pod-running-timeout=2m0s", &labels]).await?;
    let change = json!({"spec": {"containers": [{"name": name, "image": context.busybox}]}}).to_string();
    kubectl.run(&["patch", "pod", name, "-p", &change, "--dry-run=server"]).await?;
    let pod = context.get(&format!("{}/{name}", core(&kubectl.namespace, "pods"))).await?;
    ensure!(pod["spec"]["containers"][0]["image"] == context.agnhost.as_str(), "a dry run changed the pod: {pod}");
    Ok(())
}

async fn version(context: Context) -> Result<()> {
    let text = Kubectl::new(&context).await?.run(&["version"]).await?;
    for wanted in ["Client Version:", "Server Version:"] {
        ensure!(text.contains(wanted), "no {wanted} in {text}");
    }
    Ok(())
}

async fn proxy_on_a_socket(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let folder = kubectl.folder()?;
    let socket = folder.join("socket");
    let _proxy = kubectl.start(&["proxy", &format!("--unix-socket={}", socket.display())])?;
    let answer = eventually("the proxy answers on its socket", LIMIT, || async {
        kubectl::get(tokio::net::UnixStream::connect(&socket).await?, "/api/").await
    })
    .await?;
    ensure!(answer["kind"] == "APIVersions", "{answer}");
    Ok(())
}

async fn proxy_on_a_port(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let mut proxy = kubectl.start(&["proxy", "-p", "0", "--disable-filter"])?;
    let line = proxy.line().await?;
    let port: u16 = line.rsplit(':').next().unwrap_or_default().trim().parse().with_context(|| line.clone())?;
    let answer = kubectl::get(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?, "/api/").await?;
    ensure!(answer["kind"] == "APIVersions", "{answer}");
    Ok(())
}

async fn update_demo(context: Context, scale: bool) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let manifest = controller(&context, "update-demo", 2);
    kubectl.with_input(&["create", "-f", "-"], &manifest).await?;
    let template = "{{range .items}}{{.metadata.name}} {{end}}";
    let running = "{{if (exists . \"status\" \"containerStatuses\")}}{{range .status.containerStatuses}}\
                   {{if (and (eq .name \"update-demo\") (exists . \"state\" \"running\"))}}true{{end}}{{end}}{{end}}";
    let image = "{{range .spec.containers}}{{if eq .name \"update-demo\"}}{{.image}}{{end}}{{end}}";
    let validate = async |count: usize| -> Result<()> {
        eventually(&format!("{count} pods run"), pods::POD_LIMIT, || async {
            let of = |template: &'static str| ["-o", "template", "--template", template];
            let names = kubectl.run(&[&["get", "pods", "-l", "app=update-demo"], &of(template)[..]].concat()).await?;
            let names: Vec<&str> = names.split_whitespace().collect();
            ensure!(names.len() == count, "{names:?}");
            for name in names {
                let state = kubectl.run(&[&["get", "pods", name], &of(running)[..]].concat()).await?;
                ensure!(state == "true", "{name} does not run: {state}");
                let have = kubectl.run(&[&["get", "pods", name], &of(image)[..]].concat()).await?;
                ensure!(have == context.agnhost, "{name} has image {have}");
            }
            Ok(())
        })
        .await
    };
    validate(2).await?;
    if scale {
        for count in [1, 2] {
            let replicas = format!("--replicas={count}");
            kubectl.run(&["scale", "rc", "update-demo", &replicas, "--timeout=5m"]).await?;
            validate(count).await?;
        }
    }
    kubectl.with_input(&["delete", "--grace-period=0", "--force", "-f", "-"], &manifest).await?;
    eventually("nothing is left", pods::POD_LIMIT, || async {
        let left = kubectl.run(&["get", "rc,pods", "-l", "app=update-demo", "--no-headers", "-o", "name"]).await?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
    .await
}

async fn logs(context: Context) -> Result<()> {
    let kubectl = Kubectl::new(&context).await?;
    let script = "i=0; while [ $i -lt 20 ]; do echo \"line $i of the log\"; i=$((i+1)); sleep 0.1; done; sleep 3600";
    context.start_pod(&kubectl.namespace, &pod("logs-generator", &[shell(&context, script)])).await?;
    let log = async |words: &[&str]| kubectl.run(&[&["logs", "logs-generator", "main"], words].concat()).await;
    eventually("all lines are there", LIMIT, || async {
        let text = log(&[]).await?;
        ensure!(text.lines().count() == 20, "{text}");
        Ok(())
    })
    .await?;
    let one = log(&["--tail=1"]).await?;
    ensure!(one == "line 19 of the log\n", "{one}");
    let byte = log(&["--limit-bytes=1"]).await?;
    ensure!(byte == "l", "{byte}");
    let timed = log(&["--tail=1", "--timestamps"]).await?;
    let (time, line) = timed.split_once(' ').context("a time and a line")?;
    ensure!(line == "line 19 of the log\n" && time.contains('T') && time.ends_with('Z'), "{timed}");
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let (recent, all) = (log(&["--since=1s"]).await?, log(&["--since=24h"]).await?);
    ensure!(recent.lines().count() < all.lines().count() && all.lines().count() == 20, "{recent} of {all}");
    Ok(())
}
