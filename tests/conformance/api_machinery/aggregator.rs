//! An API server in pods behind an APIService.

use anyhow::{Context as _, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::{
    api::{core, group, name},
    context::{Context, LIMIT, eventually},
    operations::unique,
};

crate::rows! { "api-machinery";
    "Aggregator" {
        "Should be able to support the 1.17 Sample API Server using the current Aggregator" => sample_server,
    }
}

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const SAMPLE: &str = "v1alpha1.wardle.example.com";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1";

/// Certificate, key and the authority of both, PEM.
pub fn certificate(host: &str) -> Result<(String, String, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "sample-api-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &authority)?;
    Ok((leaf.pem(), key.serialize_pem(), authority.pem()))
}

/// Starts the server with a service in front of it; returns its authority.
async fn deploy(context: &Context, namespace: &str) -> Result<String> {
    let (certificate, key, authority) = certificate(&format!("sample-api.{namespace}.svc"))?;
    let map = context.get(&format!("{}/extension-apiserver-authentication", core("kube-system", "configmaps"))).await?;
    let front_proxy = map["data"]["requestheader-client-ca-file"].as_str().context("no front-proxy authority")?;
    let secret = json!({"metadata": {"name": "sample-apiserver-secret"}, "stringData": {
        "tls.crt": certificate, "tls.key": key, "front-proxy.crt": front_proxy}});
    context.create(&core(namespace, "secrets"), &secret).await?;
    let labels = json!({"apiserver": "true", "app": "sample-apiserver"});
    let container = json!({"name": "sample-apiserver", "image": context.agnhost, "imagePullPolicy": "IfNotPresent",
        "args": ["sample-apiserver", "--tls-cert-file", "/certs/tls.crt", "--tls-private-key-file", "/certs/tls.key",
            "--requestheader-client-ca-file", "/certs/front-proxy.crt", "--secure-port", "8443"],
        "volumeMounts": [{"name": "certs", "mountPath": "/certs", "readOnly": true}]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sample-apiserver-deployment", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0, "containers": [container],
            "volumes": [{"name": "certs", "secret": {"secretName": "sample-apiserver-secret"}}]}}}});
    let deployments = group("apps/v1", namespace, "deployments");
    context.create(&deployments, &deployment).await?;
    let path = format!("{deployments}/sample-apiserver-deployment");
    context.until_within(&path, "is available", LIMIT * 4, |object| object["status"]["availableReplicas"] == 1).await?;
    let service = json!({"metadata": {"name": "sample-api", "labels": {"test": "aggregator"}}, "spec": {
        "selector": {"apiserver": "true"}, "ports": [{"port": 7443, "protocol": "TCP", "targetPort": 8443}]}});
    context.create(&core(namespace, "services"), &service).await?;
    Ok(authority)
}

async fn sample_server(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let authority = deploy(&context, &namespace).await?;
    let label = unique();
    let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": SAMPLE, "labels": {"e2e": label}}, "spec": {
            "service": {"namespace": namespace, "name": "sample-api", "port": 7443},
            "group": "wardle.example.com", "version": "v1alpha1", "caBundle": BASE64.encode(authority),
            "groupPriorityMinimum": 2000, "versionPriority": 200}});
    let path = format!("{API_SERVICES}/{SAMPLE}");
    context.leftover(&path);
    context.create(API_SERVICES, &object).await?;
    let available = |object: &Value| crate::pods::condition(object, "Available")["status"] == "True";
    context.until(&path, "is available", available).await?;
    flunders(&context, &namespace).await.context("flunders")?;
    discovery(&context).await.context("discovery")?;
    emptied(&context).await.context("a namespace with flunders")?;
    status(&context, &path).await.context("status of the APIService")?;
    let patched = context.merge(&path, json!({"spec": {"versionPriority": 400}})).await?;
    ensure!(patched["spec"]["versionPriority"] == 400, "{patched}");
    let listed = context.list(API_SERVICES).await?;
    ensure!(
        listed.iter().any(|object| name(object) == SAMPLE && object["spec"]["versionPriority"] == 400),
        "not listed"
    );
    context.delete(&format!("{API_SERVICES}?labelSelector=e2e={label}")).await?;
    context.until_gone(&path).await?;
    eventually("the group is gone", LIMIT, || async {
        let groups = context.get("/apis").await?;
        let there =
            groups["groups"].as_array().into_iter().flatten().any(|group| group["name"] == "wardle.example.com");
        ensure!(!there, "still there");
        Ok(())
    })
    .await
}

async fn flunders(context: &Context, namespace: &str) -> Result<()> {
    let collection = format!("{FLUNDERS}/namespaces/{namespace}/flunders");
    let flunder = format!("rest-flunder-{}", unique());
    let object = json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder",
        "metadata": {"name": flunder, "labels": {"sample-label": "true"}}});
    let made = context.create(&collection, &object).await?;
    let by = made["metadata"]["annotations"]["wardle.example.com/made-by"].as_str().unwrap_or_default();
    ensure!(!by.is_empty(), "the server was not told who asked: {made}");
    ensure!(context.list(&collection).await?.len() == 1, "not one flunder");
    ensure!(context.list(&format!("{FLUNDERS}/flunders")).await?.len() == 1, "not one flunder everywhere");
    context.modify(&format!("{collection}/{flunder}"), |object| object["spec"] = json!({"reference": "x"})).await?;
    context.delete(&format!("{collection}/{flunder}")).await?;
    ensure!(context.list(&collection).await?.is_empty(), "a flunder is left");
    let missing = context.call("GET", &format!("{collection}/{flunder}"), None).await?;
    ensure!(missing.code == 404, "{}", missing.code);
    Ok(())
}

/// A namespace takes along what the other server has of it.
async fn emptied(context: &Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let collection = format!("{FLUNDERS}/namespaces/{namespace}/flunders");
    let object = json!({"apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": {"name": "left"}});
    context.create(&collection, &object).await?;
    let path = format!("/api/v1/namespaces/{namespace}");
    context.delete(&path).await?;
    context.until_gone(&path).await?;
    ensure!(context.list(&collection).await?.is_empty(), "the flunder outlived its namespace");
    Ok(())
}

async fn discovery(context: &Context) -> Result<()> {
    let resources = context.get(FLUNDERS).await?;
    ensure!(resources["resources"][0]["name"] == "flunders", "{resources}");
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    eventually("the aggregated document has the group", LIMIT, || async {
        let answer = context.send("GET", "/apis", &accept, Vec::new()).await?.expect(200)?;
        let mut items = answer.body["items"].as_array().into_iter().flatten();
        let group = items.find(|item| name(item) == "wardle.example.com").context("no group")?;
        ensure!(group["versions"][0]["resources"][0]["resource"] == "flunders", "{group}");
        Ok(())
    })
    .await
}

async fn status(context: &Context, path: &str) -> Result<()> {
    let at = format!("{path}/status");
    ensure!(name(&context.get(&at).await?) == SAMPLE, "no status to read");
    for reason in ["StatusPatched", "StatusUpdated"] {
        let add = |object: &mut Value| {
            let condition = json!({"type": reason, "status": "True", "reason": "E2E", "message": "Set by e2e test",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            match object["status"]["conditions"].as_array_mut() {
                Some(conditions) => conditions.push(condition),
                None => object["status"]["conditions"] = json!([condition]),
            }
        };
        let written = if reason == "StatusPatched" {
            let mut object = context.get(path).await?;
            add(&mut object);
            context.merge(&at, json!({"status": object["status"]})).await?
        } else {
            context.modify_at(path, &at, add).await?
        };
        ensure!(crate::pods::condition(&written, reason)["status"] == "True", "{written}");
    }
    Ok(())
}
