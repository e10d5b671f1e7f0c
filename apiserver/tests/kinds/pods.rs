//! Pods and their subresources.

use serde_json::{Value, json};

use crate::{bootstrap::bootstrapped, harness::Harness};

const PODS: &str = "/api/v1/namespaces/n/pods";

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

async fn bind(harness: &Harness, name: &str, node: &str) -> crate::harness::Answer {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    harness.post(&format!("{PODS}/{name}/binding"), binding).await
}

#[tokio::test]
async fn a_new_pod_is_complete() {
    let harness = bootstrapped().await;
    let answer = harness.post(PODS, pod("p")).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    let made = answer.body;
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let spec = &made["spec"];
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
}

#[tokio::test]
async fn an_invalid_pod_is_refused_with_every_cause() {
    let harness = bootstrapped().await;
    let mut wrong = pod("p");
    wrong["spec"]["containers"][0]["image"] = json!("");
    wrong["spec"]["restartPolicy"] = json!("X");
    let answer = harness.post(PODS, wrong).await;
    assert_eq!(answer.code, 422);
    let fields: Vec<&str> = answer.body["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["spec.containers[0].image", "spec.restartPolicy"]);
}

#[tokio::test]
async fn a_pod_is_bound_once_and_then_deleted_gracefully() {
    let harness = bootstrapped().await;
    harness.post(PODS, pod("p")).await;
    let answer = bind(&harness, "p", "node-a").await;
    assert_eq!((answer.code, &answer.body["status"]), (201, &json!("Success")), "{}", answer.body);
    let bound = harness.get(&format!("{PODS}/p")).await.body;
    assert_eq!(bound["spec"]["nodeName"], "node-a");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bind(&harness, "p", "node-b").await.code, 409);
    let dying = harness.delete(&format!("{PODS}/p"), Value::Null).await;
    assert_eq!((dying.code, &dying.body["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    let gone = harness.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(gone.code, 200);
    assert_eq!(harness.get(&format!("{PODS}/p")).await.code, 404);
}

#[tokio::test]
async fn specs_are_fixed_but_images_and_sizes_change() {
    let harness = bootstrapped().await;
    let mut sized = pod("p");
    sized["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    harness.post(PODS, sized).await;
    let path = format!("{PODS}/p");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    let answer = harness.patch(&path, "strategic-merge", image).await;
    assert_eq!((answer.code, &answer.body["metadata"]["generation"]), (200, &json!(2)), "{}", answer.body);
    let answer = harness.patch(&path, "merge", json!({"spec": {"hostname": "x"}})).await;
    assert_eq!(answer.code, 422);
    assert!(answer.body["message"].as_str().unwrap().contains("pod updates may not change fields other than"));
    let size = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}});
    let answer = harness.patch(&format!("{path}/resize"), "strategic-merge", size).await;
    assert_eq!(
        (answer.code, &answer.body["spec"]["containers"][0]["resources"]["requests"]["cpu"]),
        (200, &json!("2")),
        "{}",
        answer.body
    );
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let answer = harness.patch(&format!("{path}/ephemeralcontainers"), "strategic-merge", debug).await;
    assert_eq!(
        (answer.code, &answer.body["spec"]["ephemeralContainers"][0]["name"]),
        (200, &json!("d")),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_budget_refuses_the_second_eviction() {
    let harness = bootstrapped().await;
    for name in ["a", "b"] {
        harness.post(PODS, pod(name)).await;
        bind(&harness, name, "node").await;
        let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(harness.patch(&format!("{PODS}/{name}/status"), "merge", running).await.code, 200);
    }
    let budgets = "/apis/policy/v1/namespaces/n/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    assert_eq!(harness.post(budgets, budget).await.code, 201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let answer = harness.patch(&format!("{budgets}/b/status"), "merge", status).await;
    assert_eq!(answer.code, 200, "{}", answer.body);
    let evict = |name: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "n"}});
        let path = format!("{PODS}/{name}/eviction");
        let harness = &harness;
        async move { harness.post(&path, body).await }
    };
    let first = evict("a").await;
    assert_eq!(first.code, 201, "{}", first.body);
    let second = evict("b").await;
    assert_eq!(
        (second.code, &second.body["details"]["causes"][0]["reason"]),
        (429, &json!("DisruptionBudget")),
        "{}",
        second.body
    );
}

#[tokio::test]
async fn nothing_new_in_a_dying_namespace() {
    let harness = bootstrapped().await;
    harness.post(PODS, pod("p")).await;
    let answer = harness.delete("/api/v1/namespaces/n", Value::Null).await;
    assert_eq!((answer.code, &answer.body["status"]["phase"]), (200, &json!("Terminating")), "{}", answer.body);
    let answer = harness.post(PODS, pod("q")).await;
    assert_eq!((answer.code, &answer.body["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let finalize =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": []}});
    assert_eq!(harness.put("/api/v1/namespaces/n/finalize", finalize).await.code, 200);
    assert_eq!(harness.get("/api/v1/namespaces/n").await.code, 404);
}

#[tokio::test]
async fn pod_creation_is_quick() {
    let harness = bootstrapped().await;
    for i in 0..50 {
        harness.post(PODS, pod(&format!("warm-{i}"))).await;
    }
    let began = std::time::Instant::now();
    for i in 0..200 {
        assert_eq!(harness.post(PODS, pod(&format!("p-{i}"))).await.code, 201);
    }
    println!("one pod: {:?}", began.elapsed() / 200);
}
