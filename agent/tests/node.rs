//! Runs the whole agent with a real containerd, against an API in memory.
//!
//! Pods use the host's network, so that no network plugin is needed. Needs
//! root, containerd, runc and a static busybox; says what to install when one
//! of them is missing. All parts run in one test, because a machine has one
//! control group tree.

mod support;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skiff_agent::{Agent, AgentConfig, AgentEvent, EvictionThresholds, RuntimeConfig, containerd::ContainerdConfig};
use skiff_client::Client;
use support::{api::FakeApi, image, machine};
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "docker.io/skiff/test:1";
const PAUSE: &str = "docker.io/skiff/pause:1";
const PODS: &str = "/api/v1/namespaces/default/pods";

struct Node {
    api: FakeApi,
    root: PathBuf,
    cgroup_root: String,
    events: Arc<Mutex<Vec<String>>>,
}

impl Node {
    fn containerd(&self) -> ContainerdConfig {
        let mut config = ContainerdConfig::below(&self.root.join("data"), &self.root.join("run"));
        config.sandbox_image = PAUSE.to_owned();
        config
    }

    fn config(&self) -> AgentConfig {
        let client = Client::new(Arc::new(self.api.clone()), "kubelet");
        let runtime = RuntimeConfig::Supervised(Box::new(self.containerd()));
        let mut config = AgentConfig::new("node-1", self.root.join("data"), runtime, client);
        config.node_ips = vec!["127.0.0.1".parse().unwrap()];
        config.pod_log_dir = Some(self.root.join("logs"));
        config.cgroup_root = self.cgroup_root.clone();
        // How full the disk of this machine is must not end the pods.
        config.eviction = EvictionThresholds::parse("").unwrap();
        config
    }

    async fn start(&self) -> (Agent, CancellationToken) {
        let token = CancellationToken::new();
        let events = Arc::clone(&self.events);
        let sink = Arc::new(move |event: AgentEvent| events.lock().unwrap().push(format!("{event:?}")));
        (Agent::start(self.config(), sink, token.clone()).await.unwrap(), token)
    }

    fn pod(&self, name: &str, spec: Value) -> Value {
        let mut spec = spec;
        spec["nodeName"] = "node-1".into();
        spec["hostNetwork"] = true.into();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = IMAGE.into();
                container["imagePullPolicy"] = "IfNotPresent".into();
            }
        }
        self.api.create(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
    }

    fn get(&self, name: &str) -> Value {
        self.api.get(&format!("{PODS}/{name}")).unwrap_or(Value::Null)
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            if Instant::now() > deadline {
                let events = self.events.lock().unwrap().join("\n");
                let log = std::fs::read_to_string(self.containerd().log_file).unwrap_or_default();
                let log: Vec<&str> = log.lines().rev().take(10).collect();
                panic!("never happened: {what}\nevents:\n{events}\ncontainerd:\n{}", log.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn phase(&self, name: &str, phase: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.get(name)["status"]["phase"] != phase {
            assert!(Instant::now() < deadline, "{name} is not {phase}: {:#}", self.get(name)["status"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self, name: &str, container: &str) -> String {
        let uid = self.get(name)["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let path = self.root.join(format!("logs/default_{name}_{uid}/{container}/0.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_report_survive_a_restart_and_end() {
    machine::check();
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).try_init();
    let root = tempfile::tempdir().unwrap();
    let cgroup_root = format!("/skiff-test-{}", std::process::id());
    let node = Node { api: FakeApi::new(), root: root.path().to_owned(), cgroup_root, events: Arc::default() };
    let images = node.root.join("data/agent/images");
    std::fs::create_dir_all(&images).unwrap();
    image::write_busybox(&images.join("test.tar.gz"), &[IMAGE, PAUSE]);
    let result = tokio::spawn(scenario(node)).await;
    // Whatever happened, nothing may stay behind.
    let config = ContainerdConfig::below(&root.path().join("data"), &root.path().join("run"));
    let pods_dir = root.path().canonicalize().unwrap().join("data/agent/kubelet/pods");
    skiff_agent::containerd::kill_all(&config, &format!("/skiff-test-{}", std::process::id()), &pods_dir)
        .await
        .unwrap();
    let cgroups = skiff_host::cgroup::Cgroups::detect().unwrap();
    cgroups.remove(&format!("/skiff-test-{}", std::process::id())).unwrap();
    result.unwrap();
}

async fn scenario(node: Node) {
    let began = Instant::now();
    let (agent, token) = node.start().await;
    node.until("node registered", || node.api.get("/api/v1/nodes/node-1").is_some()).await;
    eprintln!("registered after {:?}", began.elapsed());

    // A plain pod runs, and one that ends succeeds with its last words.
    node.pod(
        "web",
        json!({"containers": [{"name": "c", "command": ["sh", "-c", "echo hello $NAME; sleep 1000"],
        "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
        "terminationGracePeriodSeconds": 1}),
    );
    node.pod(
        "once",
        json!({"restartPolicy": "Never", "containers": [{"name": "c",
        "command": ["sh", "-c", "echo -n bye > /dev/termination-log; exit 3"]}]}),
    );
    node.phase("web", "Running").await;
    eprintln!("running after {:?}", began.elapsed());
    node.until("log of web", || node.log("web", "c").contains("stdout F hello web")).await;
    node.phase("once", "Failed").await;
    let terminated = node.get("once")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((terminated["exitCode"].as_i64(), terminated["message"].as_str()), (Some(3), Some("bye")));

    // The agent stops and starts; the container is the same and was not restarted. What was deleted
    // meanwhile ends.
    node.pod(
        "orphan",
        json!({"containers": [{"name": "c", "command": ["sleep", "1000"]}], "terminationGracePeriodSeconds": 0}),
    );
    node.phase("orphan", "Running").await;
    let orphan = node.get("orphan")["metadata"]["uid"].as_str().unwrap().to_owned();
    let id = node.get("web")["status"]["containerStatuses"][0]["containerID"].clone();
    let pid = containerd_pid(&node);
    token.cancel();
    agent.wait().await;
    node.api.remove(&format!("{PODS}/orphan"));
    let (agent, token) = node.start().await;
    assert_eq!(containerd_pid(&node), pid, "containerd was adopted");
    node.until("the orphan is gone", || !node.root.join("data/agent/kubelet/pods").join(&orphan).exists()).await;
    volumes(&node).await;
    resize(&node).await;
    refusal(&node).await;
    static_pod(&node).await;
    crash_loop(&node).await;
    liveness(&node).await;
    init_and_probes(&node).await;
    let web = node.get("web")["status"]["containerStatuses"][0].clone();
    assert_eq!((&web["containerID"], &web["restartCount"]), (&id, &json!(0)));

    // Containerd dies; the pod does not notice.
    skiff_host::process::kill_now(pid).unwrap();
    node.pod("after", json!({"restartPolicy": "Never", "containers": [{"name": "c", "command": ["true"]}]}));
    node.phase("after", "Succeeded").await;
    assert_eq!(node.get("web")["status"]["containerStatuses"][0]["containerID"], id);

    // Deletion runs the hook, ends the container, frees everything, and then the object goes.
    deletion(&node).await;
    token.cancel();
    agent.wait().await;
}

fn containerd_pid(node: &Node) -> u32 {
    let config = node.containerd().config_file;
    let config = config.parent().unwrap().canonicalize().unwrap().join(config.file_name().unwrap());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| {
        let arguments = skiff_host::process::arguments(*pid);
        arguments.iter().any(|argument| config == std::path::Path::new(argument))
    });
    pids.next().expect("containerd runs")
}

async fn volumes(node: &Node) {
    node.api.create(
        "/api/v1/namespaces/default/configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings"}, "data": {"key": "one"}}),
    );
    node.api.create(
        "/api/v1/namespaces/default/secrets",
        json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "hidden"}, "data": {"password": "c2VjcmV0"}}),
    );
    let script = "cat /config/key /sub; cat /secret/password /all/token /all/labels; echo; stat -L -c %a /secret/password; \
        echo $PASSWORD; mount | grep ' /memory ' | cut -d' ' -f5; cat /etc/hosts | head -1; \
        while [ \"$(cat /config/key)\" != two ]; do sleep 0.05; done; echo; cat /config/key /sub; echo END; sleep 1000";
    node.pod(
        "volumes",
        json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "command": ["/bin/busybox", "sh", "-c", script],
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}}],
            "volumeMounts": [
                {"name": "config", "mountPath": "/config"}, {"name": "config", "mountPath": "/sub", "subPath": "key"},
                {"name": "secret", "mountPath": "/secret"}, {"name": "all", "mountPath": "/all"},
                {"name": "memory", "mountPath": "/memory"}]}],
        "volumes": [
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "secret", "secret": {"secretName": "hidden", "defaultMode": 256}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]}),
    );
    node.phase("volumes", "Running").await;
    node.until("first log", || node.log("volumes", "c").contains("hosts file")).await;
    node.api.edit("/api/v1/namespaces/default/configmaps/settings", |object| object["data"]["key"] = "two".into());
    node.until("live update", || node.log("volumes", "c").contains("END")).await;
    let log = node.log("volumes", "c");
    let text: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let text = text.join("\n");
    assert!(text.contains("oneonesecreta-tokendefault"), "{text}");
    assert!(text.contains("\n400\nsecret\ntmpfs\n# Kubernetes-managed hosts file (host network).\n"), "{text}");
    assert!(text.contains("twoone"), "a sub-path stays what it was: {text}");
}

async fn crash_loop(node: &Node) {
    node.pod("crash", json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "command": ["false"]}]}));
    node.until("a crash loop", || {
        let status = node.get("crash")["status"]["containerStatuses"][0].clone();
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["restartCount"] == 1
            && status["lastState"]["terminated"]["exitCode"] == 1
    })
    .await;
    assert_eq!(node.get("crash")["status"]["phase"], "Running");
}

/// A container that fails its probe is restarted, at once the first time and later with back-off.
async fn liveness(node: &Node) {
    node.pod(
        "sick",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "command": ["sleep", "1000"],
        "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    node.until("a restart by the probe", || {
        let status = node.get("sick")["status"]["containerStatuses"][0].clone();
        status["restartCount"] == 1 && status["lastState"]["terminated"]["exitCode"] == 137
    })
    .await;
    node.until("a wait before the next", || {
        node.get("sick")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })
    .await;
    node.api.delete_gracefully(&format!("{PODS}/sick"), 0);
    node.until("sick is gone", || node.get("sick").is_null()).await;
}

/// New limits reach the running container without a restart; what cannot fit is said to be so.
async fn resize(node: &Node) {
    node.pod(
        "small",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "command": ["sleep", "1000"],
        "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}}]}),
    );
    node.phase("small", "Running").await;
    let id = node.get("small")["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    let uid = node.get("small")["metadata"]["uid"].as_str().unwrap().to_owned();
    let cgroups = skiff_host::cgroup::Cgroups::detect().unwrap();
    let pod_group = format!("{}/kubepods/burstable/pod{uid}", node.cgroup_root);
    let group = format!("{pod_group}/{}", id.trim_start_matches("containerd://"));
    let limit = |group: &str| {
        let directory = cgroups.directory("memory", group).unwrap();
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| directory.join(file));
        let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    assert_eq!((limit(&group), limit(&pod_group)), (64 << 20, 64 << 20));
    node.api.edit(&format!("{PODS}/small"), |object| {
        object["metadata"]["generation"] = 2.into();
        object["spec"]["containers"][0]["resources"]["limits"]["memory"] = "128Mi".into();
    });
    node.until("the new limit", || limit(&group) == 128 << 20 && limit(&pod_group) == 128 << 20).await;
    node.until("the new status", || {
        let status = node.get("small")["status"].clone();
        status["containerStatuses"][0]["resources"]["limits"]["memory"] == "128Mi" && status["observedGeneration"] == 2
    })
    .await;
    let status = node.get("small")["status"]["containerStatuses"][0].clone();
    assert_eq!((status["containerID"].as_str(), &status["restartCount"]), (Some(id.as_str()), &json!(0)));
    node.api.edit(&format!("{PODS}/small"), |object| {
        object["spec"]["containers"][0]["resources"]["requests"]["memory"] = "900Ti".into();
    });
    node.until("an infeasible resize", || {
        let conditions = node.get("small")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "PodResizePending" && c["reason"] == "Infeasible")
    })
    .await;
    node.api.delete_gracefully(&format!("{PODS}/small"), 0);
    node.until("small is gone", || node.get("small").is_null()).await;
    assert!(!cgroups.exists(&pod_group));
}

async fn refusal(node: &Node) {
    node.pod("large", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1000"}}}]}));
    node.phase("large", "Failed").await;
    assert_eq!(node.get("large")["status"]["reason"], "OutOfcpu");
    node.api.delete_gracefully(&format!("{PODS}/large"), 0);
    node.until("large is gone", || node.get("large").is_null()).await;
}

async fn static_pod(node: &Node) {
    let manifest = node.root.join("data/agent/pod-manifests/fixed.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: fixed}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: '{IMAGE}', imagePullPolicy: IfNotPresent, command: [sleep, '1000']}}]\n"
    );
    std::fs::write(&manifest, text).unwrap();
    node.phase("fixed-node-1", "Running").await;
    let uid =
        node.get("fixed-node-1")["metadata"]["annotations"]["kubernetes.io/config.mirror"].as_str().unwrap().to_owned();
    std::fs::remove_file(&manifest).unwrap();
    node.until("the static pod is gone", || {
        node.get("fixed-node-1").is_null() && !node.root.join("data/agent/kubelet/pods").join(&uid).exists()
    })
    .await;
}

async fn init_and_probes(node: &Node) {
    node.pod("probed", json!({
        "terminationGracePeriodSeconds": 1,
        "initContainers": [
            {"name": "first", "command": ["sh", "-c", "echo from-init > /share/f"], "volumeMounts": [{"name": "s", "mountPath": "/share"}]},
            {"name": "side", "restartPolicy": "Always", "command": ["sleep", "1000"]}],
        "containers": [{"name": "c", "command": ["sh", "-c", "cat /share/f; sleep 1; touch /tmp/ready; sleep 1000"],
            "volumeMounts": [{"name": "s", "mountPath": "/share"}],
            "readinessProbe": {"exec": {"command": ["/bin/cat", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1},
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}],
        "volumes": [{"name": "s", "emptyDir": {}}]}));
    node.phase("probed", "Running").await;
    let ready = || {
        let conditions = node.get("probed")["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    assert!(!ready(), "not ready before the probe has succeeded");
    node.until("readiness", ready).await;
    assert!(node.log("probed", "c").contains("from-init"));
    let init = node.get("probed")["status"]["initContainerStatuses"].clone();
    assert_eq!((&init[0]["ready"], &init[1]["started"]), (&json!(true), &json!(true)), "{init:#}");
}

async fn deletion(node: &Node) {
    let marker = node.root.join("marker");
    node.pod("doomed", json!({
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "c", "command": ["sh", "-c", "trap 'echo term >> /marker; exit 0' TERM; while true; do sleep 0.1; done"],
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /marker"]}}},
            "volumeMounts": [{"name": "m", "mountPath": "/marker"}]}],
        "volumes": [{"name": "m", "hostPath": {"path": marker.display().to_string(), "type": "FileOrCreate"}}]}));
    node.phase("doomed", "Running").await;
    let uid = node.get("doomed")["metadata"]["uid"].as_str().unwrap().to_owned();
    let began = Instant::now();
    for name in ["doomed", "web", "once", "volumes", "crash", "probed", "after"] {
        let grace = node.get(name)["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(1);
        node.api.delete_gracefully(&format!("{PODS}/{name}"), grace);
    }
    node.until("all pods gone", || {
        ["doomed", "web", "once", "volumes", "crash", "probed", "after"].iter().all(|name| node.get(name).is_null())
    })
    .await;
    eprintln!("deleted after {:?}", began.elapsed());
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "hook\nterm\n");
    assert!(!node.root.join("data/agent/kubelet/pods").join(&uid).exists());
    node.until("logs removed", || !node.root.join(format!("logs/default_doomed_{uid}")).exists()).await;
}
