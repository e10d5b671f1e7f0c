//! Endpoints and their slices, and how they follow.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{address, service, told};
use crate::{
    api::{core, group},
    context::{Context, LIMIT, eventually},
    operations::{Operations, contains, three},
    pods::{netexec, pod, with},
};

crate::rows! { "network";
    "API Server" {
        "should have Endpoints and EndpointSlices pointing to API Server" => api_server_endpoints,
        "should provide secure master service" => master_service,
    }
    "EndpointSlice" {
        "should create Endpoints and EndpointSlices for Pods matching a Service" => endpoints_of_pods,
        "should create and delete EndpointSlices for a Service with a selector that matches no pods" => |c| empty_service(c, true),
        "should support creating EndpointSlice API operations" => slice_operations,
    }
    "EndpointSliceMirroring" {
        "should mirror a custom Endpoints resource through create update and delete" => mirroring,
    }
    "Endpoints" {
        "should test the lifecycle of an Endpoint" => endpoint_lifecycle,
    }
    "EndpointsController" {
        "should create Endpoints for Pods matching a Service" => endpoints_of_pods,
        "should create and delete Endpoints for a Service with a selector that matches no pods" => |c| empty_service(c, false),
    }
}

async fn api_server_endpoints(context: Context) -> Result<()> {
    let endpoints = context.get(&format!("{}/kubernetes", core("default", "endpoints"))).await?;
    let addresses = endpoints["subsets"][0]["addresses"].as_array().cloned().unwrap_or_default();
    ensure!(!addresses.is_empty(), "{endpoints}");
    let slices = context
        .list(&format!(
            "{}?labelSelector=kubernetes.io/service-name=kubernetes",
            group("discovery.k8s.io/v1", "default", "endpointslices")
        ))
        .await?;
    let listed: Vec<&Value> = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten().collect();
    for address in &addresses {
        ensure!(listed.iter().any(|endpoint| endpoint["addresses"][0] == address["ip"]), "{address} is in no slice");
    }
    Ok(())
}

async fn master_service(context: Context) -> Result<()> {
    let service = context.get(&format!("{}/kubernetes", core("default", "services"))).await?;
    contains(&service["spec"]["ports"], &json!([{"name": "https", "port": 443, "protocol": "TCP"}]))
}

async fn endpoints_of_pods(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let first = context
        .start_pod(
            &namespace,
            &with(pod("one", &[netexec(&context)]), json!({"metadata": {"labels": {"app": "both"}}})),
        )
        .await?;
    let second = context
        .start_pod(
            &namespace,
            &with(pod("two", &[netexec(&context)]), json!({"metadata": {"labels": {"app": "both"}}})),
        )
        .await?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 81, "targetPort": 8081, "protocol": "UDP"}]);
    service(&context, &namespace, "single", json!({"selector": {"name": "one"}, "ports": ports})).await?;
    service(&context, &namespace, "both", json!({"selector": {"app": "both"}, "ports": ports})).await?;
    told(&context, &namespace, "single", vec![address(&first)]).await?;
    told(&context, &namespace, "both", vec![address(&first), address(&second)]).await
}

async fn empty_service(context: Context, slices: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "empty", json!({"selector": {"no": "pod"}, "ports": [{"port": 80}]})).await?;
    told(&context, &namespace, "empty", Vec::new()).await?;
    context.delete(&format!("{}/empty", core(&namespace, "services"))).await?;
    let path = format!(
        "{}?labelSelector=kubernetes.io/service-name=empty",
        group("discovery.k8s.io/v1", &namespace, "endpointslices")
    );
    if !slices {
        return context.until_gone(&format!("{}/empty", core(&namespace, "endpoints"))).await;
    }
    eventually("the slices are gone", LIMIT, || async {
        let left = context.list(&path).await?;
        ensure!(left.is_empty(), "{} slices", left.len());
        Ok(())
    })
    .await
}

async fn slice_operations(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects = three(
        &json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"name": "http", "port": 80}]}),
    );
    let (version, kind, plural) = ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn endpoint_lifecycle(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let objects =
        three(&json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80}]}]}));
    let (version, kind, plural) = ("v1", "Endpoints", "endpoints");
    Operations { version, kind, plural, namespace, objects, status: None }.run(&context).await
}

async fn mirroring(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    service(&context, &namespace, "custom", json!({"ports": [{"name": "http", "port": 80}]})).await?;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": 80}]}]);
    let path = core(&namespace, "endpoints");
    context.create(&path, &json!({"metadata": {"name": "custom"}, "subsets": subsets("10.1.2.3")})).await?;
    told(&context, &namespace, "custom", vec!["10.1.2.3".to_owned()]).await?;
    let selected = format!(
        "{}?labelSelector=kubernetes.io/service-name=custom",
        group("discovery.k8s.io/v1", &namespace, "endpointslices")
    );
    let slices = context.list(&selected).await?;
    let by = &slices[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    ensure!(by == "endpointslicemirroring-controller.k8s.io", "managed by {by}");
    context.modify(&format!("{path}/custom"), |endpoints| endpoints["subsets"] = subsets("10.2.3.4")).await?;
    told(&context, &namespace, "custom", vec!["10.2.3.4".to_owned()]).await?;
    context.delete(&format!("{path}/custom")).await?;
    eventually("no slice is left", LIMIT, || async {
        let left = context.list(&selected).await?;
        ensure!(left.is_empty(), "{} slices", left.len());
        Ok(())
    })
    .await
}
