//! Rows of the area scheduling, and of architecture.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, name},
    context::{Context, LIMIT, eventually},
    operations::{Operations, contains, three, unique},
    pods::{condition, pause, pod, with},
};

mod architecture {
    use super::*;

    crate::rows! { "architecture";
        "Conformance Tests" {
            "should have at least two untainted nodes" => two_nodes,
        }
    }
}

mod table {
    use super::*;

    crate::rows! { "scheduling";
        "LimitRange" {
            "should create a LimitRange with defaults and ensure pod has those defaults applied." => limit_defaults,
            "should list, patch and delete a LimitRange by collection" => limit_ranges,
        }
        "SchedulerPredicates" {
            "validates resource limits of pods that are allowed to run" => too_big,
            "validates that NodeSelector is respected if matching" => |c| node_selector(c, true),
            "validates that NodeSelector is respected if not matching" => |c| node_selector(c, false),
            "validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP" => host_port_conflict,
        }
        "SchedulerPreemption" {
            "validates basic preemption works" => |c| preemption(c, false),
            "validates lower priority pod preemption by critical pod" => |c| preemption(c, true),
            "validates pod disruption condition is added to the preempted pod" => disruption,
        }
        "SchedulerPreemption PreemptionExecutionPath" {
            "runs ReplicaSets to verify preemption running path" => preemption_path,
        }
        "SchedulerPreemption PriorityClass endpoints" {
            "verify PriorityClass endpoints can be operated with different HTTP methods" => priority_classes,
        }
    }
}

pub fn tests() -> Vec<crate::Test> {
    [table::tests(), architecture::tests()].into_iter().flatten().collect()
}

async fn two_nodes(context: Context) -> Result<()> {
    let nodes = context.nodes().await?;
    ensure!(nodes.len() >= 2, "{} nodes", nodes.len());
    Ok(())
}

async fn limit_defaults(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = core(&namespace, "limitranges");
    let limits = json!({"type": "Container",
        "min": {"cpu": "50m", "memory": "100Mi", "ephemeral-storage": "100Gi"},
        "max": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "default": {"cpu": "500m", "memory": "500Mi", "ephemeral-storage": "500Gi"},
        "defaultRequest": {"cpu": "100m", "memory": "200Mi", "ephemeral-storage": "200Gi"}});
    let nowhere = json!({"spec": {"nodeSelector": {"no": "node"}}});
    let spec = json!({"limits": [limits]});
    context.create(&path, &json!({"metadata": {"name": "limits"}, "spec": spec})).await?;
    contains(&context.get(&format!("{path}/limits")).await?["spec"], &spec)?;
    let plain = context.create_pod(&namespace, &with(pod("plain", &[pause(&context)]), nowhere.clone())).await?;
    let sizes = |pod: &Value| pod["spec"]["containers"][0]["resources"].clone();
    contains(&sizes(&plain), &json!({"requests": limits["defaultRequest"], "limits": limits["default"]}))?;
    let partial = json!({"requests": {"cpu": "300m"}, "limits": {"memory": "300Mi"}});
    let container = with(pause(&context), json!({"resources": partial}));
    let mixed = context.create_pod(&namespace, &with(pod("mixed", &[container]), nowhere.clone())).await?;
    let wanted = json!({"requests": {"cpu": "300m", "memory": "300Mi", "ephemeral-storage": "200Gi"},
        "limits": {"cpu": "500m", "memory": "300Mi", "ephemeral-storage": "500Gi"}});
    contains(&sizes(&mixed), &wanted)?;
    for (name, sizes) in [
        ("too-small", json!({"requests": {"cpu": "10m"}})),
        ("too-big", json!({"limits": {"cpu": "600m"}, "requests": {"cpu": "600m"}})),
    ] {
        let pod = with(pod(name, &[with(pause(&context), json!({"resources": sizes}))]), nowhere.clone());
        context.call("POST", &core(&namespace, "pods"), Some(&pod)).await?.expect(403)?;
    }
    let lower = json!({"cpu": "9m"});
    context
        .modify(&format!("{path}/limits"), |range| crate::api::merge(&mut range["spec"]["limits"][0]["min"], &lower))
        .await?;
    eventually("small pods are let in", LIMIT, || async {
        let small = with(pause(&context), json!({"resources": {"requests": {"cpu": "10m"}}}));
        let pod = with(pod("small", &[small]), nowhere.clone());
        context.create_pod(&namespace, &pod).await.map(drop)
    })
    .await?;
    context.delete(&format!("{path}/limits")).await?;
    context.until_gone(&format!("{path}/limits")).await
}

async fn limit_ranges(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let objects =
        three(&json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}}]}}));
    let (version, kind, plural) = ("v1", "LimitRange", "limitranges");
    Operations { version, kind, plural, namespace: Some(namespace), objects, status: None }.run(&context).await
}

/// Waits until the scheduler says that it finds no node.
async fn unschedulable(context: &Context, namespace: &str, pod: &str) -> Result<()> {
    let told = |pod: &Value| {
        let scheduled = condition(pod, "PodScheduled");
        scheduled["status"] == "False" && scheduled["reason"] == "Unschedulable"
    };
    context.wait_pod(namespace, pod, "is told unschedulable", told).await?;
    let path = format!("{}?fieldSelector=involvedObject.name={pod},reason=FailedScheduling", core(namespace, "events"));
    eventually("an event tells it", LIMIT, || async {
        ensure!(!context.list(&path).await?.is_empty(), "no event");
        Ok(())
    })
    .await
}

async fn too_big(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let nodes = context.nodes().await?;
    let resource = "example.com/beardsecond";
    for node in &nodes {
        let path = format!("/api/v1/nodes/{}/status", name(node));
        context.merge(&path, json!({"status": {"capacity": {resource: "1000"}}})).await?;
        let read = format!("/api/v1/nodes/{}", name(node));
        context
            .until(&read, "offers the resource", |node| {
                node["status"]["allocatable"][resource] == "1k" || node["status"]["allocatable"][resource] == "1000"
            })
            .await?;
    }
    let sized = |pod_name: &str, count: &str| {
        let sizes = json!({"resources": {"requests": {resource: count}, "limits": {resource: count}}});
        pod(pod_name, &[with(pause(&context), sizes)])
    };
    let result = async {
        for number in 0..nodes.len() {
            context.start_pod(&namespace, &sized(&format!("filler-{number}"), "700")).await?;
        }
        context.create_pod(&namespace, &sized("additional", "600")).await?;
        unschedulable(&context, &namespace, "additional").await
    }
    .await;
    take_resource(&context, &nodes, resource).await?;
    result
}

async fn take_resource(context: &Context, nodes: &[Value], resource: &str) -> Result<()> {
    for node in nodes {
        let path = format!("/api/v1/nodes/{}/status", name(node));
        context
            .merge(&path, json!({"status": {"capacity": {resource: null}, "allocatable": {resource: null}}}))
            .await?;
    }
    Ok(())
}

async fn node_selector(context: Context, matching: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let selecting = |value: &str| {
        with(pod("selects", &[pause(&context)]), json!({"spec": {"nodeSelector": {"kubernetes.io/e2e-label": value}}}))
    };
    if !matching {
        context.create_pod(&namespace, &selecting("nowhere")).await?;
        return unschedulable(&context, &namespace, "selects").await;
    }
    let nodes = context.nodes().await?;
    let node = name(&nodes[nodes.len() - 1]);
    let value = unique();
    let path = format!("/api/v1/nodes/{node}");
    context.merge(&path, json!({"metadata": {"labels": {"kubernetes.io/e2e-label": value}}})).await?;
    let started = context.start_pod(&namespace, &selecting(&value)).await;
    context.merge(&path, json!({"metadata": {"labels": {"kubernetes.io/e2e-label": null}}})).await?;
    let started = started?;
    ensure!(started["spec"]["nodeName"] == node, "it runs on {}", started["spec"]["nodeName"]);
    Ok(())
}

async fn host_port_conflict(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let nodes = context.nodes().await?;
    let node = &nodes[0];
    let on_port = |pod_name: &str, address: &str| {
        let port = json!({"ports": [{"containerPort": 80, "hostPort": 54322, "protocol": "TCP", "hostIP": address}]});
        with(
            pod(pod_name, &[with(pause(&context), port)]),
            json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": name(node)}}}),
        )
    };
    context.start_pod(&namespace, &on_port("first", "")).await?;
    let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let address = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str());
    context.create_pod(&namespace, &on_port("second", address.unwrap_or_default())).await?;
    unschedulable(&context, &namespace, "second").await
}

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

/// Classes of low, middle and high priority under unique names.
async fn classes(context: &Context) -> Result<[String; 3]> {
    let suffix = unique();
    let names = ["low", "middle", "high"].map(|level| format!("e2e-{level}-{suffix}"));
    for (at, class) in names.iter().enumerate() {
        context.leftover(&format!("{CLASSES}/{class}"));
        context.create(CLASSES, &json!({"metadata": {"name": class}, "value": (at + 1) * 100})).await?;
    }
    Ok(names)
}

async fn offer(context: &Context, nodes: &[Value], resource: &str, count: &str) -> Result<()> {
    for node in nodes {
        let path = format!("/api/v1/nodes/{}/status", name(node));
        context.merge(&path, json!({"status": {"capacity": {resource: count}}})).await?;
        let read = format!("/api/v1/nodes/{}", name(node));
        context.until(&read, "offers the resource", |node| node["status"]["allocatable"][resource] == count).await?;
    }
    Ok(())
}

fn taking(context: &Context, pod_name: &str, resource: &str, count: &str, class: &str) -> Value {
    let sizes = json!({"resources": {"requests": {resource: count}, "limits": {resource: count}}});
    with(pod(pod_name, &[with(pause(context), sizes)]), json!({"spec": {"priorityClassName": class}}))
}

async fn preemption(context: Context, critical: bool) -> Result<()> {
    const RESOURCE: &str = "scheduling.k8s.io/foo";
    let namespace = context.namespace().await?;
    let [low, middle, high] = classes(&context).await?;
    let nodes = context.nodes().await?;
    offer(&context, &nodes, RESOURCE, "5").await?;
    let result = async {
        for (number, node) in nodes.iter().enumerate() {
            let class = if number == 0 { &low } else { &middle };
            let filler = taking(&context, &format!("filler-{number}"), RESOURCE, "4", class);
            let filler = with(filler, json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": name(node)}}}));
            context.start_pod(&namespace, &filler).await?;
        }
        let preemptor_space = if critical { "kube-system" } else { &namespace };
        let class = if critical { "system-cluster-critical" } else { high.as_str() };
        let preemptor = format!("preemptor-{}", unique());
        let path = format!("{}/{preemptor}", core(preemptor_space, "pods"));
        if critical {
            context.leftover(&path);
        }
        context.start_pod(preemptor_space, &taking(&context, &preemptor, RESOURCE, "4", class)).await?;
        let victim = context.call("GET", &format!("{}/filler-0", core(&namespace, "pods")), None).await?;
        ensure!(victim.code == 404 || !victim.body["metadata"]["deletionTimestamp"].is_null(), "the lowest stays");
        for number in 1..nodes.len() {
            let pod = context.get(&format!("{}/filler-{number}", core(&namespace, "pods"))).await?;
            ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "filler-{number} was preempted too");
        }
        context.delete_now(&path).await
    }
    .await;
    take_resource(&context, &nodes, RESOURCE).await?;
    result
}

async fn disruption(context: Context) -> Result<()> {
    const RESOURCE: &str = "scheduling.k8s.io/bar";
    let namespace = context.namespace().await?;
    let [low, _, high] = classes(&context).await?;
    let nodes = context.nodes().await?;
    offer(&context, &nodes[..1], RESOURCE, "1").await?;
    let result = async {
        let victim = with(
            taking(&context, "victim", RESOURCE, "1", &low),
            json!({"metadata": {"finalizers": ["e2e.example.com/hold"]}}),
        );
        context.start_pod(&namespace, &victim).await?;
        context.create_pod(&namespace, &taking(&context, "preemptor", RESOURCE, "1", &high)).await?;
        let told = |pod: &Value| {
            let condition = condition(pod, "DisruptionTarget");
            condition["status"] == "True" && condition["reason"] == "PreemptionByScheduler"
        };
        let waited = context.wait_pod(&namespace, "victim", "has the condition", told).await;
        let path = format!("{}/victim", core(&namespace, "pods"));
        context.merge(&path, json!({"metadata": {"finalizers": null}})).await?;
        waited.map(drop)
    }
    .await;
    take_resource(&context, &nodes[..1], RESOURCE).await?;
    result
}

async fn priority_classes(context: Context) -> Result<()> {
    let [low, ..] = classes(&context).await?;
    let path = format!("{CLASSES}/{low}");
    let headers = [("content-type", "application/merge-patch+json")];
    context.send("PATCH", &path, &headers, br#"{"value": 7}"#.to_vec()).await?.expect(422)?;
    let patched = context.merge(&path, json!({"description": "patched"})).await?;
    ensure!(patched["description"] == "patched", "{patched}");
    let objects = three(&json!({"value": 5}));
    let (version, kind, plural) = ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}

/// A pod of high priority takes the place of two replica sets of low priority; a third one stays as it is.
async fn preemption_path(context: Context) -> Result<()> {
    const RESOURCE: &str = "example.com/fakecpu";
    let namespace = context.namespace().await?;
    let suffix = unique();
    let classes: Vec<String> = (1..=4).map(|level| format!("p{level}-{suffix}")).collect();
    for (at, class) in classes.iter().enumerate() {
        context.leftover(&format!("{CLASSES}/{class}"));
        context.create(CLASSES, &json!({"metadata": {"name": class}, "value": at + 1})).await?;
    }
    let node = &context.nodes().await?[..1];
    // As the API writes 1000.
    offer(&context, node, RESOURCE, "1k").await?;
    let result = preempted_sets(&context, &namespace, name(&node[0]), &classes, RESOURCE).await;
    take_resource(&context, node, RESOURCE).await?;
    result
}

async fn preempted_sets(
    context: &Context,
    namespace: &str,
    node: &str,
    classes: &[String],
    resource: &str,
) -> Result<()> {
    let pods = core(namespace, "pods");
    let mut watch = context.watch(&pods).await?;
    let sets = crate::api::group("apps/v1", namespace, "replicasets");
    for (number, size) in [(1, "200"), (2, "300"), (3, "450")] {
        let set = format!("rs-pod{number}");
        let mut template = taking(context, "unnamed", resource, size, &classes[number - 1]);
        template["metadata"] = json!({"labels": {"name": set}});
        template["spec"]["restartPolicy"] = "Always".into();
        template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        let spec = json!({"replicas": 1, "selector": {"matchLabels": {"name": set}}, "template": template});
        context.create(&sets, &json!({"metadata": {"name": set}, "spec": spec})).await?;
        let ready = |set: &Value| set["status"]["readyReplicas"] == 1;
        context.until(&format!("{sets}/{set}"), "has its pod", ready).await?;
    }
    let preemptor = taking(context, "pod4", resource, "500", &classes[3]);
    let preemptor = with(preemptor, json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": node}}}));
    context.start_pod(namespace, &preemptor).await?;
    // Two pods of each preempted set are seen, one of the third.
    let mut seen: std::collections::BTreeMap<String, std::collections::BTreeSet<String>> = Default::default();
    let count = |seen: &std::collections::BTreeMap<String, std::collections::BTreeSet<String>>, set: &str| {
        seen.get(set).map_or(0, |uids| uids.len())
    };
    while count(&seen, "rs-pod1") < 2 || count(&seen, "rs-pod2") < 2 {
        let event = watch.next(LIMIT).await?;
        let pod = &event["object"];
        let set = pod["metadata"]["labels"]["name"].as_str().unwrap_or_default().to_owned();
        seen.entry(set).or_default().insert(crate::api::uid(pod).to_owned());
    }
    for (set, wanted) in [("rs-pod1", 2), ("rs-pod2", 2), ("rs-pod3", 1)] {
        ensure!(count(&seen, set) == wanted, "{} pods of {set} were seen", count(&seen, set));
    }
    let stays = context.get(&format!("{sets}/rs-pod3")).await?;
    ensure!(stays["status"]["readyReplicas"] == 1, "the third set was disturbed: {}", stays["status"]);
    Ok(())
}
