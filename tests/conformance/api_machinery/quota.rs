//! Quotas count what exists and refuse what would be too much.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::{core, group, merge},
    context::Context,
    operations::contains,
    pods::{pause, pod, with},
};

crate::rows! { "api-machinery";
    "ResourceQuota" {
        "should apply changes to a resourcequota status" => status,
        "should be able to update and delete ResourceQuota." => update_and_delete,
        "should create a ResourceQuota and capture the life of a configMap." => |c| life(c, "configmaps"),
        "should create a ResourceQuota and capture the life of a pod." => life_of_pod,
        "should create a ResourceQuota and capture the life of a replica set." => |c| life(c, "replicasets"),
        "should create a ResourceQuota and capture the life of a replication controller." => |c| life(c, "replicationcontrollers"),
        "should create a ResourceQuota and capture the life of a secret." => |c| life(c, "secrets"),
        "should create a ResourceQuota and capture the life of a service." => life_of_service,
        "should create a ResourceQuota and ensure its status is promptly calculated." => calculated,
        "should manage the lifecycle of a ResourceQuota" => lifecycle,
        "should verify ResourceQuota with best effort scope." => best_effort,
        "should verify ResourceQuota with terminating scopes." => terminating,
    }
}

async fn quota(context: &Context, namespace: &str, name: &str, spec: Value) -> Result<String> {
    let path = core(namespace, "resourcequotas");
    context.create(&path, &json!({"metadata": {"name": name}, "spec": spec})).await?;
    Ok(format!("{path}/{name}"))
}

/// Waits until `status.used` has these values.
async fn used(context: &Context, path: &str, wanted: Value) -> Result<()> {
    let as_wanted = |quota: &Value| contains(&quota["status"]["used"], &wanted).is_ok();
    context.until(path, &format!("uses {wanted}"), as_wanted).await.map(drop)
}

async fn calculated(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path =
        quota(&context, &namespace, "counts", json!({"hard": {"pods": "5", "services": "10", "requests.cpu": "1"}}))
            .await?;
    used(&context, &path, json!({"pods": "0", "services": "0", "requests.cpu": "0"})).await
}

async fn status(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = quota(&context, &namespace, "counts", json!({"hard": {"cpu": "500m", "memory": "500Mi"}})).await?;
    used(&context, &path, json!({"cpu": "0", "memory": "0"})).await?;
    let at = format!("{path}/status");
    let one = json!({"status": {"hard": {"cpu": "1", "memory": "1Gi"}}});
    let updated = context.modify_at(&path, &at, |quota| merge(quota, &one)).await?;
    contains(&updated, &one)?;
    ensure!(updated["spec"]["hard"]["cpu"] == "500m", "the status changed the spec: {updated}");
    // The controller writes the status back to what the spec says.
    let restored = |quota: &Value| quota["status"]["hard"] == json!({"cpu": "500m", "memory": "500Mi"});
    context.until(&path, "status follows the spec", restored).await?;
    let two = json!({"status": {"hard": {"cpu": "2", "memory": "2Gi"}}});
    contains(&context.merge(&at, two.clone()).await?, &two)?;
    context.until(&path, "status follows the spec again", restored).await.map(drop)
}

async fn update_and_delete(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = quota(&context, &namespace, "changes", json!({"hard": {"cpu": "1", "memory": "500Mi"}})).await?;
    context.modify(&path, |quota| merge(quota, &json!({"spec": {"hard": {"cpu": "2", "memory": "1Gi"}}}))).await?;
    let read = context.get(&path).await?;
    ensure!(read["spec"]["hard"] == json!({"cpu": "2", "memory": "1Gi"}), "{read}");
    context.delete(&path).await?;
    context.until_gone(&path).await
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let objects = crate::operations::three(&json!({"spec": {"hard": {"cpu": "1", "memory": "500Mi"}}}));
    let (version, kind, plural) = ("v1", "ResourceQuota", "resourcequotas");
    crate::operations::Operations { version, kind, plural, namespace: Some(namespace), objects, status: None }
        .run(&context)
        .await
}

/// Counts one object of a kind, refuses another, and forgets it with its end.
async fn life(context: Context, plural: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [pause(&context)]}});
    let (collection, key, body) = match plural {
        "replicasets" => (
            group("apps/v1", &namespace, plural),
            "count/replicasets.apps",
            json!({"spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        ),
        "replicationcontrollers" => (
            core(&namespace, plural),
            plural,
            json!({"spec": {"replicas": 0, "selector": {"a": "b"}, "template": template}}),
        ),
        _ => (core(&namespace, plural), plural, json!({})),
    };
    // Some exist from the beginning, such as the certificate of the cluster.
    let before = context.list(&collection).await?.len();
    let hard = (before + 1).to_string();
    let path = quota(&context, &namespace, "counts", json!({"hard": {key: hard}})).await?;
    used(&context, &path, json!({key: before.to_string()})).await?;
    context.create(&collection, &with(body.clone(), json!({"metadata": {"name": "first"}}))).await?;
    used(&context, &path, json!({key: hard})).await?;
    let second = with(body, json!({"metadata": {"name": "second"}}));
    context.call("POST", &collection, Some(&second)).await?.expect(403)?;
    context.delete(&format!("{collection}/first")).await?;
    used(&context, &path, json!({key: before.to_string()})).await
}

async fn life_of_service(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let hard = json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"});
    let path = quota(&context, &namespace, "counts", json!({"hard": hard})).await?;
    used(&context, &path, json!({"services": "0"})).await?;
    let collection = core(&namespace, "services");
    let service =
        |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    context.create(&collection, &service("cluster", "ClusterIP")).await?;
    context.create(&collection, &service("node", "NodePort")).await?;
    used(&context, &path, json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"})).await?;
    for kind in ["LoadBalancer", "ClusterIP", "NodePort"] {
        context.call("POST", &collection, Some(&service("more", kind))).await?.expect(403)?;
    }
    context.delete(&format!("{collection}/cluster")).await?;
    context.delete(&format!("{collection}/node")).await?;
    used(&context, &path, json!({"services": "0", "services.nodeports": "0", "services.loadbalancers": "0"})).await
}

fn sized(context: &Context, name: &str, cpu: &str, memory: &str) -> Value {
    let sizes =
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}});
    with(pod(name, &[with(pause(context), sizes)]), json!({"spec": {"nodeSelector": {"no": "node"}}}))
}

async fn life_of_pod(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let hard = json!({"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "1Gi"});
    let path = quota(&context, &namespace, "counts", json!({"hard": hard})).await?;
    used(&context, &path, json!({"pods": "0", "requests.cpu": "0"})).await?;
    context.create_pod(&namespace, &sized(&context, "fits", "500m", "252Mi")).await?;
    let full = json!({"pods": "1", "requests.cpu": "500m", "requests.memory": "252Mi", "limits.cpu": "500m"});
    used(&context, &path, full.clone()).await?;
    let pods = core(&namespace, "pods");
    context.call("POST", &pods, Some(&sized(&context, "too-big", "600m", "100Mi"))).await?.expect(403)?;
    context.call("POST", &pods, Some(&with(pod("unsized", &[pause(&context)]), json!({})))).await?.expect(403)?;
    context.merge(&format!("{pods}/fits"), json!({"metadata": {"labels": {"still": "ok"}}})).await?;
    used(&context, &path, full).await?;
    context.delete_now(&format!("{pods}/fits")).await?;
    used(&context, &path, json!({"pods": "0", "requests.cpu": "0", "requests.memory": "0", "limits.cpu": "0"})).await
}

/// Two quotas with scopes; each pod counts for one of them.
async fn scopes(context: &Context, names: [&str; 2], pods: [Value; 2]) -> Result<()> {
    let namespace = context.namespace().await?;
    let mut paths = Vec::new();
    for scope in names {
        let spec = json!({"hard": {"pods": "5"}, "scopes": [scope]});
        paths.push(quota(context, &namespace, &scope.to_lowercase(), spec).await?);
    }
    for path in &paths {
        used(context, path, json!({"pods": "0"})).await?;
    }
    for (at, pod) in pods.iter().enumerate() {
        context.create_pod(&namespace, pod).await?;
        used(context, &paths[at], json!({"pods": "1"})).await?;
        used(context, &paths[1 - at], json!({"pods": "0"})).await?;
        context.delete_now(&format!("{}/{}", core(&namespace, "pods"), crate::api::name(pod))).await?;
        used(context, &paths[at], json!({"pods": "0"})).await?;
    }
    Ok(())
}

async fn best_effort(context: Context) -> Result<()> {
    let plain = with(pod("plain", &[pause(&context)]), json!({"spec": {"nodeSelector": {"no": "node"}}}));
    scopes(&context, ["BestEffort", "NotBestEffort"], [plain, sized(&context, "sized", "100m", "10Mi")]).await
}

async fn terminating(context: Context) -> Result<()> {
    let mortal = with(sized(&context, "mortal", "100m", "10Mi"), json!({"spec": {"activeDeadlineSeconds": 3600}}));
    scopes(&context, ["Terminating", "NotTerminating"], [mortal, sized(&context, "lasting", "100m", "10Mi")]).await
}
