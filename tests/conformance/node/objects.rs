//! Kinds around pods and nodes: their API.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, name},
    context::{Context, eventually},
    operations::{Operations, contains, three, unique},
    pods::{pause, pod, with},
};

crate::rows! { "node";
    "DRA CRUD Tests" {
        "resource.k8s.io/v1 DeviceClass" => |c| dra(c, "DeviceClass", "deviceclasses", false, json!({"spec": {"selectors": [{"cel": {"expression": "device.driver == 'e2e.example.com'"}}]}}), None),
        "resource.k8s.io/v1 DeviceTaintRule" => |c| dra(c, "DeviceTaintRule", "devicetaintrules", false, json!({"spec": {"deviceSelector": {"pool": "no-such-pool"}, "taint": {"key": "example.com/taint", "value": "v", "effect": "NoSchedule"}}}), Some(json!({"conditions": [{"type": "E2E", "status": "True", "reason": "Set", "message": "by a test", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}))),
        "resource.k8s.io/v1 ResourceClaim" => |c| dra(c, "ResourceClaim", "resourceclaims", true, json!({"spec": {}}), Some(json!({"allocation": {}}))),
        "resource.k8s.io/v1 ResourceClaimTemplate" => |c| dra(c, "ResourceClaimTemplate", "resourceclaimtemplates", true, json!({"spec": {"spec": {}}}), None),
        "resource.k8s.io/v1 ResourceSlice" => |c| dra(c, "ResourceSlice", "resourceslices", false, json!({"spec": {"nodeName": "no-such-node", "driver": "e2e.example.com", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}), None),
    }
    "Lease" {
        "lease API should be available" => lease,
    }
    "PodTemplates" {
        "should delete a collection of pod templates" => templates,
        "should replace a pod template" => replace_template,
        "should run the lifecycle of PodTemplates" => templates,
    }
    "Node Lifecycle" {
        "should run through the lifecycle of a node" => node_lifecycle,
    }
    "NoExecuteTaintManager Multiple Pods" {
        "evicts pods with minTolerationSeconds" => evicts_in_time,
    }
    "NoExecuteTaintManager Single Pod" {
        "removing taint cancels eviction" => taint_removed,
    }
}

async fn dra(
    context: Context,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    body: Value,
    status: Option<Value>,
) -> Result<()> {
    let namespace = if namespaced { Some(context.namespace().await?) } else { None };
    let version = "resource.k8s.io/v1";
    Operations { version, kind, plural, namespace, objects: three(&body), status }.run(&context).await
}

async fn lease(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let body = json!({"spec": {"holderIdentity": "holder", "leaseDurationSeconds": 30, "leaseTransitions": 0,
        "acquireTime": "2025-01-01T00:00:00.123456Z", "renewTime": "2025-01-01T00:00:05.654321Z"}});
    let collection = crate::api::group("coordination.k8s.io/v1", &namespace, "leases");
    let created = context.create(&collection, &with(body.clone(), json!({"metadata": {"name": "kept"}}))).await?;
    contains(&created, &body)?;
    contains(&context.get(&format!("{collection}/kept")).await?, &body)?;
    let change = json!({"spec": {"holderIdentity": "another", "leaseTransitions": 1}});
    let path = format!("{collection}/kept");
    context.modify(&path, |lease| crate::api::merge(lease, &change)).await?;
    contains(&context.get(&path).await?, &change)?;
    let (version, kind, plural) = ("coordination.k8s.io/v1", "Lease", "leases");
    let objects = three(&body);
    Operations { version, kind, plural, namespace: Some(namespace), objects, status: None }.run(&context).await
}

fn template(context: &Context) -> Value {
    json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [pause(context)]}}})
}

async fn templates(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(&template(&context));
    let (version, kind, plural) = ("v1", "PodTemplate", "podtemplates");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn replace_template(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = core(&namespace, "podtemplates");
    context.create(&collection, &with(template(&context), json!({"metadata": {"name": "replaced"}}))).await?;
    let path = format!("{collection}/replaced");
    context.modify(&path, |object| object["metadata"]["annotations"] = json!({"updated": "true"})).await?;
    let read = context.get(&path).await?;
    ensure!(read["metadata"]["annotations"]["updated"] == "true", "{read}");
    Ok(())
}

async fn node_lifecycle(context: Context) -> Result<()> {
    let node = format!("e2e-{}", unique());
    let path = format!("/api/v1/nodes/{node}");
    context.leftover(&path);
    let body = json!({"metadata": {"name": node, "labels": {"e2e-node": node}}, "spec": {"unschedulable": true},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "E2E"}]}});
    context.create("/api/v1/nodes", &body).await?;
    let read = context.get(&path).await?;
    ensure!(name(&read) == node, "{read}");
    let patched = context.merge(&path, json!({"metadata": {"labels": {"patched": "yes"}}})).await?;
    ensure!(patched["metadata"]["labels"]["patched"] == "yes", "{patched}");
    let listed = context.list(&format!("/api/v1/nodes?labelSelector=e2e-node={node}")).await?;
    ensure!(listed.len() == 1, "{} listed", listed.len());
    let updated = context.modify(&path, |node| node["metadata"]["labels"]["updated"] = "yes".into()).await?;
    ensure!(updated["metadata"]["labels"]["updated"] == "yes", "{updated}");
    let status = json!({"status": {"conditions": [{"type": "E2E", "status": "True", "reason": "E2E", "message": "Set by e2e"}]}});
    let status = context.patch(&format!("{path}/status"), crate::api::Patch::Strategic, &status).await?;
    ensure!(crate::pods::condition(&status, "E2E")["status"] == "True", "{status}");
    let at = format!("{path}/status");
    let written = context.modify_at(&at, &at, |node| node["metadata"]["annotations"]["e2e"] = "yes".into()).await?;
    ensure!(crate::pods::condition(&written, "E2E")["status"] == "True", "{written}");
    context.delete(&format!("/api/v1/nodes?labelSelector=e2e-node={node}")).await?;
    context.until_gone(&path).await
}

const TAINT: &str = "kubernetes.io/e2e-evict-taint-key";

fn toleration(seconds: i64) -> Value {
    json!({"key": TAINT, "operator": "Equal", "value": "evictTaintVal", "effect": "NoExecute", "tolerationSeconds": seconds})
}

/// Starts pods that tolerate the taint so long, all on one node; returns the node.
async fn tolerant(context: &Context, namespace: &str, pods: &[(&str, i64)]) -> Result<String> {
    let nodes = context.nodes().await?;
    let node = name(&nodes[nodes.len() - 1]).to_owned();
    for (pod_name, seconds) in pods {
        let pod = with(
            pod(pod_name, &[pause(context)]),
            json!({"spec": {
            "nodeSelector": {"kubernetes.io/hostname": node}, "tolerations": [toleration(*seconds)]}}),
        );
        context.start_pod(namespace, &pod).await?;
    }
    Ok(node)
}

async fn set_taint(context: &Context, node: &str, present: bool) -> Result<()> {
    let path = format!("/api/v1/nodes/{node}");
    let taint = json!({"key": TAINT, "value": "evictTaintVal", "effect": "NoExecute"});
    let change = |node: &mut Value| {
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.retain(|taint| taint["key"] != TAINT);
        if present {
            taints.push(taint.clone());
        }
        node["spec"]["taints"] = taints.into();
    };
    context.modify(&path, change).await.map(drop)
}

async fn taint_removed(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let node = tolerant(&context, &namespace, &[("tolerant", 12)]).await?;
    set_taint(&context, &node, true).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let early = context.get(&format!("{}/tolerant", core(&namespace, "pods"))).await;
    set_taint(&context, &node, false).await?;
    ensure!(early?["metadata"]["deletionTimestamp"].is_null(), "evicted too early");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let late = context.get(&format!("{}/tolerant", core(&namespace, "pods"))).await?;
    ensure!(late["metadata"]["deletionTimestamp"].is_null(), "evicted although the taint is gone");
    Ok(())
}

async fn evicts_in_time(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let node = tolerant(&context, &namespace, &[("short", 3), ("long", 20)]).await?;
    let gone = |pod: &'static str| {
        let (context, path) = (context.clone(), format!("{}/{pod}", core(&namespace, "pods")));
        async move {
            let answer = context.call("GET", &path, None).await?;
            anyhow::Ok(answer.code == 404 || !answer.body["metadata"]["deletionTimestamp"].is_null())
        }
    };
    set_taint(&context, &node, true).await?;
    let result = async {
        let limit = Duration::from_secs(15);
        eventually("the first pod is evicted", limit, || async {
            ensure!(gone("short").await?, "it is there");
            Ok(())
        })
        .await?;
        ensure!(!gone("long").await?, "both were evicted at once");
        let limit = Duration::from_secs(40);
        eventually("the second pod is evicted", limit, || async {
            ensure!(gone("long").await?, "it is there");
            Ok(())
        })
        .await
    }
    .await;
    set_taint(&context, &node, false).await?;
    result
}
