//! Every verb of stock kubectl on a running application.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skiff_tests::{
    Cluster, Kubectl, eventually,
    image::{BUSYBOX, BUSYBOX_NEXT},
};

use crate::application::{client_on, manifest, running};

/// Namespace of the application that these tests share.
const SHOP: &str = "shop";

pub fn get_prints_every_format(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let wide = kubectl.run(&["get", "deployments,services,pods", "-o", "wide", "--show-labels"])?;
    for expected in ["3/3", "10.42.", "80/TCP", "app=web", "SELECTOR"] {
        ensure!(wide.contains(expected), "{expected} is missing: {wide}");
    }
    let yaml = kubectl.run(&["get", "deployment", "web", "-o", "yaml"])?;
    ensure!(yaml.contains("readyReplicas: 3"), "{yaml}");
    let columns = kubectl.run(&[
        "get",
        "pods",
        "--no-headers",
        "-o",
        "custom-columns=A:.status.phase",
        "--sort-by=.metadata.name",
    ])?;
    ensure!(columns.lines().count() == 5 && columns.lines().all(|line| line == "Running"), "{columns}");
    let limited = kubectl.run(&["get", "pods", "--chunk-size=2", "-o", "name"])?;
    ensure!(limited.lines().count() == 5, "{limited}");
    let all = kubectl.run(&["get", "all"])?;
    ensure!(all.contains("daemonset.apps/client") && all.contains("replicaset.apps/web-"), "{all}");
    let missing = kubectl.output(&["get", "pod", "nobody"])?;
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(message.contains("Error from server (NotFound): pods \"nobody\" not found"), "{message}");
    let watch = kubectl.start(&["get", "configmaps", "--watch-only"])?;
    eventually("a watch shows what is new", Duration::from_secs(20), || {
        kubectl.run(&["create", "configmap", "seen"])?;
        kubectl.run(&["delete", "configmap", "seen"])?;
        let output = watch.output();
        if output.contains("seen") { Ok(()) } else { bail!("it printed {output:?}") }
    })
}

pub fn describe_tells_the_story(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let deployment = kubectl.run(&["describe", "deployment", "web"])?;
    for expected in ["3 desired | 3 updated | 3 total | 3 available", "ScalingReplicaSet", "RollingUpdate"] {
        ensure!(deployment.contains(expected), "{expected} is missing: {deployment}");
    }
    let pod = kubectl.run(&["describe", "pods", "-l", "app=web"])?;
    for expected in
        ["Scheduled", "Started", "QoS Class:                   Burstable", "SecretName:  credentials", "http-get"]
    {
        ensure!(pod.contains(expected), "{expected} is missing: {pod}");
    }
    let service = kubectl.run(&["describe", "service", "web"])?;
    ensure!(service.matches(":8080").count() >= 3, "{service}");
    let node = kubectl.run(&["describe", "node", "agent"])?;
    for expected in ["Allocated resources", "KubeletReady", "web-", "PodCIDR"] {
        ensure!(node.contains(expected), "{expected} is missing: {node}");
    }
    Ok(())
}

pub fn explain_reads_the_schemas(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let strategy = kubectl.run(&["explain", "deployment.spec.strategy.rollingUpdate"])?;
    ensure!(strategy.contains("maxSurge") && strategy.contains("GROUP:      apps"), "{strategy}");
    let recursive = kubectl.run(&["explain", "pods", "--recursive"])?;
    ensure!(recursive.contains("terminationGracePeriodSeconds"), "{recursive}");
    Ok(())
}

pub fn logs_select_and_limit(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let all = kubectl.run(&["logs", "-l", "app=web", "--prefix", "--tail=-1"])?;
    ensure!(all.matches("started").count() == 3, "{all}");
    let one = kubectl.run(&["logs", "deploy/web", "--tail=1", "--timestamps"])?;
    ensure!(one.lines().count() == 1 && one.starts_with("20"), "{one}");
    let limited = kubectl.run(&["logs", "deploy/web", "--limit-bytes=4"])?;
    ensure!(limited == "star", "{limited}");
    let wrong = kubectl.output(&["logs", "deploy/web", "-c", "nobody"])?;
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(!wrong.status.success() && message.contains("nobody"), "{message}");
    Ok(())
}

pub fn exec_passes_input_output_and_exit_codes(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    for node in ["server", "agent"] {
        let pod = client_on(&kubectl, node)?;
        let echoed =
            kubectl.run_with_input(&["exec", "-i", &pod, "--", "sh", "-c", "tr a-z A-Z; echo done >&2"], "loud\n")?;
        ensure!(echoed == "LOUD\n", "{echoed}");
        let failed = kubectl.output(&["exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
        ensure!(failed.status.code() == Some(7), "{:?}", failed.status);
        ensure!(failed.stdout == b"out\n" && failed.stderr.starts_with(b"err\n"), "{failed:?}");
        let missing = kubectl.output(&["exec", &pod, "--", "no-such-program"])?;
        ensure!(!missing.status.success() && !missing.stderr.is_empty(), "{missing:?}");
    }
    Ok(())
}

pub fn cp_copies_both_ways(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let folder = cluster.folder.join("cp");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("there"), "cargo".repeat(100_000))?;
    let path = |name: &str| folder.join(name).display().to_string();
    for node in ["server", "agent"] {
        let pod = client_on(&kubectl, node)?;
        let pod = pod.trim_start_matches("pod/");
        kubectl.run(&["cp", &path("there"), &format!("{pod}:/tmp/there")])?;
        kubectl.run(&["cp", &format!("{pod}:/tmp/there"), &path("back")])?;
        ensure!(fs::read(folder.join("there"))? == fs::read(folder.join("back"))?, "{node}: contents differ");
        fs::remove_file(folder.join("back"))?;
    }
    Ok(())
}

pub fn attach_joins_a_running_container(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("attach", |_, kubectl| {
        let spec = format!(
            "containers:\n- name: echo\n  image: {BUSYBOX}\n  stdin: true\n  stdinOnce: true\n  \
             command: [sh, -c, 'while read line; do echo got $line; done; echo end']"
        );
        kubectl.apply_pod("echo", "", &format!("restartPolicy: Never\n{spec}"))?;
        kubectl.wait_pod("echo")?;
        let mut attached = kubectl.start(&["attach", "-i", "echo"])?;
        std::thread::sleep(Duration::from_millis(500));
        attached.write("ahoy\n")?;
        attached.wait_for("got ahoy")?;
        attached.close_input();
        kubectl.wait_ended("echo").map(drop)?;
        let log = kubectl.run(&["logs", "echo"])?;
        ensure!(log == "got ahoy\nend\n", "{log}");
        Ok(())
    })
}

pub fn port_forward_reaches_a_service(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let forward = kubectl.start(&["port-forward", "service/web", "18080:80"])?;
    forward.wait_for("Forwarding from 127.0.0.1:18080")?;
    for _ in 0..5 {
        let answer = cluster.server.shell("busybox wget -qO- http://127.0.0.1:18080/")?;
        ensure!(answer.starts_with("hello from web-"), "{answer}");
    }
    Ok(())
}

pub fn diff_shows_only_what_would_change(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let diff = |text: &str| -> Result<(Option<i32>, String)> {
        let file = cluster.folder.join("diff.yaml");
        fs::write(&file, text)?;
        let output = kubectl.output(&["diff", "-f", &file.display().to_string()])?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    };
    let (code, text) = diff(&manifest(SHOP))?;
    ensure!(code == Some(0), "nothing changes: {text}");
    let (code, text) = diff(&manifest(SHOP).replace("GREETING: hello", "GREETING: bye"))?;
    ensure!(code == Some(1) && text.contains("+  GREETING: bye"), "{code:?} {text}");
    let (code, text) = diff(&manifest(SHOP).replace("memory: 64Mi", "memory: 80Mi"))?;
    ensure!(code == Some(1) && text.contains("memory: 80Mi") && !text.contains("ConfigMap"), "{code:?} {text}");
    Ok(())
}

pub fn edit_changes_an_object(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let mut edit = kubectl.command(&["edit", "configmap", "settings"]);
    let output = edit.env("KUBE_EDITOR", "sed -i s/hello/edited/").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let data = kubectl.get(&["configmap", "settings"])?;
    ensure!(data["data"]["GREETING"] == "edited", "{data}");
    let mut edit = kubectl.command(&["edit", "deployment", "web"]);
    let output = edit.env("KUBE_EDITOR", "sed -i 's/revisionHistoryLimit: 10/revisionHistoryLimit: 9/'").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let limit = kubectl.get(&["deployment", "web"])?["spec"]["revisionHistoryLimit"].clone();
    ensure!(limit == 9, "{limit}");
    Ok(())
}

pub fn all_types_of_patches_apply(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let patch = |kind: &str, body: &str| kubectl.run(&["patch", "deployment", "web", "--type", kind, "-p", body]);
    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"PATCHED","value":"yes"}]}]}}}}"#;
    patch("strategic", strategic)?;
    patch("merge", r#"{"metadata":{"annotations":{"merged":"yes"}}}"#)?;
    patch("json", r#"[{"op":"add","path":"/metadata/annotations/jsoned","value":"yes"}]"#)?;
    let web = kubectl.get(&["deployment", "web"])?;
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    ensure!(container["image"] == BUSYBOX && container["env"][0]["name"] == "PATCHED", "merged by name: {container}");
    let annotations = &web["metadata"]["annotations"];
    ensure!(annotations["merged"] == "yes" && annotations["jsoned"] == "yes", "{annotations}");
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    let wrong =
        kubectl.output(&["patch", "deployment", "web", "--type", "merge", "-p", r#"{"spec":{"replicas":-1}}"#])?;
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(message.contains("must be greater than or equal to 0"), "{message}");
    Ok(())
}

pub fn label_and_annotate_add_and_remove(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    kubectl.run(&["label", "service", "web", "tier=front"])?;
    ensure!(kubectl.run(&["get", "services", "-l", "tier=front", "-o", "name"])? == "service/web\n");
    let refused = kubectl.output(&["label", "service", "web", "tier=back"])?;
    ensure!(!refused.status.success(), "needs --overwrite");
    kubectl.run(&["label", "service", "web", "tier=back", "--overwrite"])?;
    kubectl.run(&["label", "service", "web", "tier-"])?;
    kubectl.run(&["annotate", "service", "web", "note=a b c"])?;
    let service = kubectl.get(&["service", "web"])?;
    ensure!(service["metadata"]["labels"]["tier"].is_null(), "{service}");
    ensure!(service["metadata"]["annotations"]["note"] == "a b c", "{service}");
    Ok(())
}

pub fn scale_follows(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    kubectl.run(&["scale", "deployment", "web", "--replicas=5"])?;
    kubectl.wait_pods("app=web", 5)?;
    let refused = kubectl.output(&["scale", "deployment", "web", "--replicas=2", "--current-replicas=4"])?;
    ensure!(!refused.status.success(), "the precondition holds");
    kubectl.run(&["scale", "deployment", "web", "--replicas=1"])?;
    kubectl.wait_pods("app=web", 1)?;
    kubectl.run(&["scale", "deployment", "web", "--replicas=3"])?;
    kubectl.wait_pods("app=web", 3).map(drop)
}

pub fn rollouts_proceed_and_can_be_undone(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let image = || -> Result<Value> {
        Ok(kubectl.get(&["deployment", "web"])?["spec"]["template"]["spec"]["containers"][0]["image"].clone())
    };
    kubectl.run(&["set", "image", "deployment/web", &format!("web={BUSYBOX_NEXT}")])?;
    let status = kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(status.contains("successfully rolled out"), "{status}");
    ensure!(image()? == BUSYBOX_NEXT);
    let pods = kubectl.wait_pods("app=web", 3)?;
    ensure!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == BUSYBOX_NEXT), "all are new");
    kubectl.run(&["rollout", "undo", "deployment/web"])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(image()? == BUSYBOX);
    kubectl.run(&["set", "env", "deployment/web", "COLOUR=blue"])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    ensure!(kubectl.exec("deploy/web", "echo $COLOUR")? == "blue\n");
    let history = kubectl.run(&["rollout", "history", "deployment/web"])?;
    ensure!(history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() >= 3, "{history}");
    kubectl.run(&["rollout", "restart", "daemonset/client"])?;
    kubectl.run(&["rollout", "status", "daemonset/client", "--timeout=60s"])?;
    kubectl.wait_pods("app=client", 2).map(drop)
}

pub fn expose_makes_a_service_that_answers(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    kubectl.run(&["expose", "deployment", "web", "--name=exposed", "--port=81", "--target-port=8080"])?;
    let client = client_on(&kubectl, "agent")?;
    eventually("http://exposed:81 answers", Duration::from_secs(20), || {
        let answer = kubectl.exec(&client, "wget -qO- http://exposed:81")?;
        if answer.contains(" from web-") { Ok(()) } else { bail!(answer) }
    })?;
    kubectl.run(&["delete", "service", "exposed"]).map(drop)
}

pub fn top_says_that_metrics_are_missing_or_shows_them(cluster: &mut Cluster) -> Result<()> {
    let output = cluster.kubectl().output(&["top", "nodes"])?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() || message.contains("Metrics API not available"), "{message}");
    Ok(())
}

pub fn nodes_tell_what_they_and_their_pods_use(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let pods: Value = serde_json::from_str(&kubectl.run(&["get", "pods", "-l", "app=web", "-o", "json"])?)?;
    let pod = &pods["items"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (node, name, uid) =
        (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
    let raw = |path: &str| kubectl.run(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/{path}")]);
    let summary: Value = serde_json::from_str(&raw("stats/summary")?)?;
    ensure!(summary["node"]["nodeName"] == node.as_str(), "{}", summary["node"]);
    for field in ["/node/memory/workingSetBytes", "/node/cpu/usageCoreNanoSeconds", "/node/fs/capacityBytes"] {
        ensure!(summary.pointer(field).and_then(Value::as_u64).is_some_and(|value| value > 0), "{field}: {summary}");
    }
    let mut all = summary["pods"].as_array().into_iter().flatten();
    let found = all.find(|pod| pod["podRef"]["uid"] == uid.as_str()).context("the pod is not there")?;
    let container = &found["containers"][0];
    ensure!(container["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{found}");
    ensure!(container["rootfs"]["usedBytes"].is_u64() && container["startTime"].is_string(), "{found}");
    let is_account = |volume: &&Value| volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"));
    let account = found["volume"].as_array().into_iter().flatten().find(is_account).context("no volume")?;
    ensure!(account["inodesUsed"].as_u64().is_some_and(|inodes| inodes > 3), "{account}");
    let brief: Value = serde_json::from_str(&raw("stats/summary?only_cpu_and_memory=true")?)?;
    ensure!(brief["node"]["fs"].is_null() && brief["node"]["cpu"].is_object(), "{}", brief["node"]);
    let metrics = raw("metrics/cadvisor")?;
    for family in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"] {
        let is_it = |line: &str| line.starts_with(family) && line.contains(&format!("pod=\"{name}\""));
        ensure!(metrics.lines().any(is_it), "no {family} of {name}");
    }
    ensure!(metrics.contains("machine_memory_bytes{"), "nothing of the machine");
    Ok(())
}

pub fn create_run_wait_and_delete_work(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("imperative", |_, kubectl| {
        kubectl.run(&[
            "create",
            "deployment",
            "d",
            &format!("--image={BUSYBOX}"),
            "--",
            "sh",
            "-c",
            "trap exit TERM; while :; do sleep 0.2; done",
        ])?;
        kubectl.run(&["wait", "deployment/d", "--for=condition=Available", "--timeout=60s"])?;
        let mut run = kubectl.start(&[
            "run",
            "once",
            "-i",
            "--rm",
            "--restart=Never",
            &format!("--image={BUSYBOX}"),
            "--",
            "cat",
        ])?;
        run.write("through\n")?;
        run.close_input();
        ensure!(run.wait()?.success(), "{}", run.output());
        run.wait_for("through")?;
        kubectl.run(&["create", "configmap", "c", "--from-literal=a=b"])?;
        kubectl.run(&["create", "secret", "generic", "s", "--from-literal=a=b"])?;
        kubectl.run(&["create", "serviceaccount", "robot"])?;
        let token = kubectl.run(&["create", "token", "robot"])?;
        let who =
            kubectl.run(&["auth", "whoami", "--token", token.trim(), "-o", "jsonpath={.status.userInfo.username}"]);
        // The administrator's certificate outranks a token given beside it, so only the form is certain.
        ensure!(who.is_ok() && token.split('.').count() == 3, "{who:?}");
        kubectl.run(&["delete", "deployment", "d", "--timeout=60s"])?;
        kubectl.run(&["wait", "pods", "-l", "app=d", "--for=delete", "--timeout=60s"])?;
        let left = kubectl.run(&["get", "pods,replicasets", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

pub fn cordon_and_drain_move_pods_away(cluster: &mut Cluster) -> Result<()> {
    let kubectl = running(cluster, SHOP)?;
    let drained = (|| {
        let arguments = ["drain", "agent", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"];
        kubectl.run(&arguments)?;
        let nodes = kubectl.run(&["get", "node", "agent"])?;
        ensure!(nodes.contains("SchedulingDisabled"), "{nodes}");
        let pods = kubectl.wait_pods("app=web", 3)?;
        ensure!(pods.iter().all(|pod| pod["spec"]["nodeName"] == "server"), "all are on the other node");
        Ok(())
    })();
    kubectl.run(&["uncordon", "agent"])?;
    drained?;
    kubectl.run(&["rollout", "restart", "deployment/web"])?;
    kubectl.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    kubectl.wait_pods("app=web", 3).map(drop)
}

pub fn server_side_apply_reports_conflicts(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("owners", |_, kubectl| {
        let object =
            |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{key: {value}}}");
        let apply = |manager: &str, value: &str, more: &[&str]| {
            let manager = format!("--field-manager={manager}");
            let arguments = [&["apply", "--server-side", "-f", "-", manager.as_str()], more].concat();
            kubectl.run_with_input(&arguments, &object(value))
        };
        apply("one", "a", &[])?;
        let conflict = apply("two", "b", &[]).err().context("the field has an owner")?.to_string();
        ensure!(conflict.contains("conflict with \"one\"") && conflict.contains(".data.key"), "{conflict}");
        apply("two", "b", &["--force-conflicts"])?;
        let value = kubectl.get(&["configmap", "c"])?["data"]["key"].clone();
        ensure!(value == "b", "{value}");
        Ok(())
    })
}

pub fn discovery_and_authorization_can_be_asked(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let resources = kubectl.run(&["api-resources", "--no-headers"])?;
    for expected in ["deploy ", "Addon", "networkpolicies", "customresourcedefinitions"] {
        ensure!(resources.contains(expected), "{expected} is missing: {resources}");
    }
    ensure!(kubectl.run(&["api-versions"])?.contains("apps/v1\n"));
    ensure!(kubectl.run(&["auth", "can-i", "delete", "nodes"])? == "yes\n");
    let denied = kubectl.output(&["auth", "can-i", "delete", "nodes", "--as=system:serviceaccount:default:default"])?;
    ensure!(denied.stdout == b"no\n", "{denied:?}");
    let forbidden = kubectl.output(&["get", "secrets", "--as=eve"])?;
    let message = String::from_utf8_lossy(&forbidden.stderr).into_owned();
    ensure!(message.contains("User \"eve\" cannot list resource \"secrets\""), "{message}");
    ensure!(kubectl.run(&["cluster-info"])?.contains("CoreDNS"));
    Ok(())
}

pub fn the_application_is_deleted(cluster: &mut Cluster) -> Result<()> {
    let kubectl: Kubectl = running(cluster, SHOP)?;
    kubectl.run(&["delete", "deployment", "web", "--cascade=orphan"])?;
    let orphans = kubectl.get(&["replicasets"])?["items"].as_array().map(Vec::len);
    ensure!(orphans >= Some(1), "orphaned replica sets stay");
    cluster.kubectl().run(&["delete", "namespace", SHOP, "--timeout=90s"])?;
    let gone = cluster.kubectl().output(&["get", "namespace", SHOP])?;
    ensure!(!gone.status.success(), "the namespace is gone");
    Ok(())
}
