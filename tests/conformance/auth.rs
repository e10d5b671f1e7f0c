//! Rows of the area auth.

mod bundles;
mod certificates;
mod pod_certificates;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    api::{core, merge, uid},
    context::Context,
    operations::{Operations, contains, three},
    pods::{pod, shell, with},
};

mod table {
    use super::*;

    crate::rows! { "auth";
        "ServiceAccounts" {
            "should allow opting out of API token automount" => opting_out,
            "should create a serviceAccountToken and ensure a successful TokenReview" => review,
            "should guarantee kube-root-ca.crt exist in any namespace" => root_certificate,
            "should mount an API token into pods" => mounted_token,
            "should mount projected service account token" => projected_token,
            "should run through the lifecycle of a ServiceAccount" => lifecycle,
            "should update a ServiceAccount" => update,
        }
        "SubjectReview" {
            "should support SubjectReview API operations" => subject_review,
        }
        "ClusterTrustBundle CRUD Tests" {
            "certificates.k8s.io/v1 ClusterTrustBundles" => trust_bundles,
        }
    }
}

pub fn tests() -> Vec<Test> {
    [table::tests(), bundles::tests(), certificates::tests(), pod_certificates::tests()].into_iter().flatten().collect()
}

/// Where pods find the credentials of their account.
const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

async fn opting_out(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let accounts = core(&namespace, "serviceaccounts");
    for (name, mounts) in [("default-sa", None), ("mount", Some(true)), ("nomount", Some(false))] {
        if name != "default-sa" {
            context
                .create(&accounts, &json!({"metadata": {"name": name}, "automountServiceAccountToken": mounts}))
                .await?;
        }
        for spec in [None, Some(true), Some(false)] {
            let account = if name == "default-sa" { "default" } else { name };
            let mut object =
                pod(&format!("pod-{name}-{spec:?}").to_lowercase().replace(['(', ')'], ""), &[shell(&context, "true")]);
            merge(&mut object["spec"], &json!({"serviceAccountName": account, "nodeSelector": {"no": "node"}}));
            if let Some(spec) = spec {
                object["spec"]["automountServiceAccountToken"] = spec.into();
            }
            let created = context.create_pod(&namespace, &object).await?;
            let wanted = spec.or(mounts).unwrap_or(true);
            let volume_mounts =
                created["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let has = volume_mounts.iter().any(|mount| mount["mountPath"] == FOLDER);
            ensure!(has == wanted, "account {name}, pod {spec:?}: mounted is {has}");
        }
    }
    Ok(())
}

/// A token of an account, made by request.
async fn token(context: &Context, namespace: &str, account: &str, spec: Value) -> Result<String> {
    let path = format!("{}/{account}/token", core(namespace, "serviceaccounts"));
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = context.create(&path, &body).await?;
    Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
}

async fn reviewed(context: &Context, token: &str) -> Result<Value> {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let review = context.create("/apis/authentication.k8s.io/v1/tokenreviews", &body).await?;
    ensure!(review["status"]["authenticated"] == true, "{}", review["status"]);
    Ok(review["status"]["user"].clone())
}

fn is_account(user: &Value, namespace: &str, account: &str) -> Result<()> {
    let name = format!("system:serviceaccount:{namespace}:{account}");
    let groups = [
        "system:authenticated".to_owned(),
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ];
    contains(user, &json!({"username": name, "groups": groups}))
}

async fn review(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = core(&namespace, "serviceaccounts");
    context.create(&path, &json!({"metadata": {"name": "e2e"}, "automountServiceAccountToken": true})).await?;
    let token = token(&context, &namespace, "e2e", json!({"expirationSeconds": 3600})).await?;
    is_account(&reviewed(&context, &token).await?, &namespace, "e2e")?;
    context.delete(&format!("{path}/e2e")).await.map(drop)
}

async fn root_certificate(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = format!("{}/kube-root-ca.crt", core(&namespace, "configmaps"));
    let first = context.get_soon(&path).await?;
    context.delete(&path).await?;
    context.until(&path, "is made again", |object| uid(object) != uid(&first)).await?;
    context.modify(&path, |object| object["data"] = json!({"ca.crt": ""})).await?;
    context.until(&path, "is repaired", |object| object["data"] == first["data"]).await.map(drop)
}

async fn mounted_token(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = core(&namespace, "serviceaccounts");
    context.create(&path, &json!({"metadata": {"name": "mounted"}})).await?;
    let object =
        with(pod("reads", &[shell(&context, "sleep 1000")]), json!({"spec": {"serviceAccountName": "mounted"}}));
    let started = context.start_pod(&namespace, &object).await?;
    let read = |file: &'static str| {
        let (context, namespace) = (context.clone(), namespace.clone());
        async move { context.exec(&namespace, "reads", "main", &format!("cat {FOLDER}/{file}")).await }
    };
    ensure!(read("namespace").await? == namespace, "another namespace");
    let certificate = context.get(&format!("{}/kube-root-ca.crt", core(&namespace, "configmaps"))).await?;
    ensure!(certificate["data"]["ca.crt"] == read("ca.crt").await?, "another certificate");
    let user = reviewed(&context, read("token").await?.trim()).await?;
    is_account(&user, &namespace, "mounted")?;
    let extra = json!({"extra": {"authentication.kubernetes.io/pod-name": ["reads"],
        "authentication.kubernetes.io/pod-uid": [uid(&started)]}});
    contains(&user, &extra)
}

async fn projected_token(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let volume = json!({"name": "token", "projected": {"sources": [{"serviceAccountToken": {
        "path": "token", "expirationSeconds": 3600, "audience": "e2e-audience"}}]}});
    let mount = json!({"volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/tokens"}]});
    let reads = pod("reads", &[with(shell(&context, "cat /var/run/secrets/tokens/token"), mount)]);
    let output = context.output(&namespace, &with(reads, json!({"spec": {"volumes": [volume]}}))).await?;
    ensure!(output.trim().split('.').count() == 3, "not a token: {output}");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": output.trim(), "audiences": ["e2e-audience"]}});
    let review = context.create("/apis/authentication.k8s.io/v1/tokenreviews", &body).await?;
    is_account(&review["status"]["user"], &namespace, "default")
}

async fn lifecycle(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let (version, kind, plural) = ("v1", "ServiceAccount", "serviceaccounts");
    Operations { version, kind, plural, namespace, objects: three(&json!({})), status: None }.run(&context).await
}

async fn update(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let path = core(&namespace, "serviceaccounts");
    context.create(&path, &json!({"metadata": {"name": "e2e"}, "automountServiceAccountToken": false})).await?;
    let updated =
        context.modify(&format!("{path}/e2e"), |object| object["automountServiceAccountToken"] = true.into()).await?;
    ensure!(updated["automountServiceAccountToken"] == true, "{updated}");
    Ok(())
}

/// What a review says and what the account then meets must agree.
async fn subject_review(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    context.create(&core(&namespace, "serviceaccounts"), &json!({"metadata": {"name": "e2e"}})).await?;
    let user = format!("system:serviceaccount:{namespace}:e2e");
    let headers = [("impersonate-user", user.as_str())];
    for (verb, resource) in [("get", "endpoints"), ("list", "configmaps")] {
        let spec = json!({"user": user, "resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace, "version": "v1"}});
        let wide = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let local = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "LocalSubjectAccessReview", "metadata": {"namespace": namespace}, "spec": spec});
        let wide = context.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &wide).await?;
        let path = crate::api::group("authorization.k8s.io/v1", &namespace, "localsubjectaccessreviews");
        let local = context.create(&path, &local).await?;
        ensure!(wide["status"]["allowed"] == local["status"]["allowed"], "{wide} and {local}");
        let path =
            if verb == "get" { format!("{}/none", core(&namespace, resource)) } else { core(&namespace, resource) };
        let answer = context.send("GET", &path, &headers, Vec::new()).await?;
        ensure!(
            (answer.code != 403) == (wide["status"]["allowed"] == true),
            "{} although {}",
            answer.code,
            wide["status"]
        );
    }
    Ok(())
}

async fn trust_bundles(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let map = context.get(&format!("{}/kube-root-ca.crt", core(&namespace, "configmaps"))).await?;
    let objects = three(&json!({"spec": {"trustBundle": map["data"]["ca.crt"]}}));
    let (version, kind, plural) = ("certificates.k8s.io/v1", "ClusterTrustBundle", "clustertrustbundles");
    Operations { version, kind, plural, namespace: None, objects, status: None }.run(&context).await
}
