//! Trust bundles in pods.

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::{
    context::{Context, consistently},
    operations::unique,
    pods::{condition, pod, shell, with},
};

crate::rows! { "auth";
    "ClusterTrustBundle" {
        "should be able to mount a big number (>100) of CTBs" => many,
        "should be able to mount a single ClusterTrustBundle by name" => by_name,
        "should be able to specify multiple CTB volumes" => volumes,
    }
    "ClusterTrustBundle should be capable to mount multiple trust bundles by signer+labels" {
        "can combine all signer CTBs with an empty label selector" => |c| by_signer(c, Some(json!({})), &["a", "b", "c"], false),
        "can combine multiple CTBs with signer name and label selector" => |c| by_signer(c, Some(json!({"matchLabels": {"live": "yes"}})), &["a", "b"], false),
        "should start if only signer name and explicit label selector matches nothing + optional=true" => |c| by_signer(c, Some(json!({"matchLabels": {"live": "never"}})), &[], true),
        "should start if only signer name and nil label selector + optional=true" => |c| by_signer(c, None, &[], true),
    }
    "ClusterTrustBundle should prevent a pod from starting if:" {
        "sets optional=false and no trust bundle matches query" => |c| prevented(c, false),
        "sets optional=false and the configured CTB does not exist" => |c| prevented(c, true),
    }
}

const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";

/// A certificate of an authority that nobody else has.
fn authority(name: &str) -> Result<String> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("{name}-{}", unique()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(params.self_signed(&KeyPair::generate()?)?.pem())
}

/// Makes a bundle; returns its certificate.
async fn bundle(context: &Context, name: &str, signer: Option<&str>, labels: Value) -> Result<String> {
    let pem = authority("e2e")?;
    context.leftover(&format!("{BUNDLES}/{name}"));
    let mut object = json!({"metadata": {"name": name, "labels": labels}, "spec": {"trustBundle": pem}});
    if let Some(signer) = signer {
        object["spec"]["signerName"] = signer.into();
    }
    context.create(BUNDLES, &object).await?;
    Ok(pem)
}

fn projected(name: &str, sources: &[Value]) -> Value {
    let sources: Vec<Value> = sources.iter().map(|source| json!({"clusterTrustBundle": source})).collect();
    json!({"name": name, "projected": {"sources": sources}})
}

/// A pod that prints the files of its volumes, all mounted below `/bundles`.
fn reader(context: &Context, volumes: &[Value], script: &str) -> Value {
    let mounts: Vec<Value> = volumes
        .iter()
        .map(|volume| json!({"name": volume["name"], "mountPath": format!("/bundles/{}", volume["name"].as_str().unwrap_or_default())}))
        .collect();
    let container = with(shell(context, script), json!({"volumeMounts": mounts}));
    with(pod("reads", &[container]), json!({"spec": {"volumes": volumes}}))
}

/// The same certificates in any order, and no other.
fn same(output: &str, wanted: &[&String]) -> Result<()> {
    let blocks = output.matches("BEGIN CERTIFICATE").count();
    ensure!(blocks == wanted.len(), "{blocks} certificates, wanted {}", wanted.len());
    let plain: String = output.chars().filter(|c| !c.is_whitespace()).collect();
    for pem in wanted {
        let pem: String = pem.chars().filter(|c| !c.is_whitespace()).collect();
        ensure!(plain.contains(&pem), "a certificate is missing");
    }
    Ok(())
}

async fn by_name(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let name = format!("e2e-single-{}", unique());
    let pem = bundle(&context, &name, None, json!({})).await?;
    let volume = projected("one", &[json!({"name": name, "path": "anchors.pem"})]);
    let output = context.output(&namespace, &reader(&context, &[volume], "cat /bundles/one/anchors.pem")).await?;
    same(&output, &[&pem])
}

async fn by_signer(
    context: Context,
    selector: Option<Value>,
    wanted: &'static [&'static str],
    optional: bool,
) -> Result<()> {
    let namespace = context.namespace().await?;
    let suffix = unique();
    let (signer, other) = (format!("example.com/e2e-{suffix}"), format!("example.com/other-{suffix}"));
    let mut all = Vec::new();
    for (name, signer, live) in
        [("a", &signer, "yes"), ("b", &signer, "yes"), ("c", &signer, "no"), ("d", &other, "yes")]
    {
        let full = format!("{}:{name}", signer.replace('/', ":"));
        all.push((name, bundle(&context, &full, Some(signer), json!({"live": live})).await?));
    }
    let mut source = json!({"signerName": signer, "path": "anchors.pem"});
    if let Some(selector) = selector {
        source["labelSelector"] = selector;
    }
    if optional {
        source["optional"] = true.into();
    }
    let volume = projected("some", &[source]);
    let output = context.output(&namespace, &reader(&context, &[volume], "cat /bundles/some/anchors.pem")).await?;
    let wanted: Vec<&String> = all.iter().filter(|(name, _)| wanted.contains(name)).map(|(_, pem)| pem).collect();
    same(&output, &wanted)
}

async fn prevented(context: Context, by_name: bool) -> Result<()> {
    let namespace = context.namespace().await?;
    let source = if by_name {
        json!({"name": format!("missing-{}", unique()), "path": "anchors.pem", "optional": false})
    } else {
        json!({"signerName": format!("example.com/none-{}", unique()), "labelSelector": {}, "path": "anchors.pem", "optional": false})
    };
    context.create_pod(&namespace, &reader(&context, &[projected("none", &[source])], "true")).await?;
    let waits = |pod: &Value| condition(pod, "ContainersReady")["reason"] == "ContainersNotReady";
    context.wait_pod(&namespace, "reads", "waits for its bundle", waits).await?;
    let path = format!("{}/reads", crate::api::core(&namespace, "pods"));
    consistently("the pod does not start", std::time::Duration::from_secs(8), || async {
        let pod = context.get(&path).await?;
        ensure!(pod["status"]["phase"] == "Pending", "it is {}", pod["status"]["phase"]);
        Ok(())
    })
    .await
}

/// Bundles enough that a mistake in handling many shows.
const MANY: usize = 150;

async fn hundred(context: &Context) -> Result<Vec<(String, String)>> {
    let suffix = unique();
    stream::iter(0..MANY)
        .map(|number| {
            let name = format!("e2e-{number}-{suffix}");
            async move {
                let pem = bundle(context, &name, None, json!({})).await?;
                anyhow::Ok((name, pem))
            }
        })
        .buffer_unordered(10)
        .try_collect()
        .await
}

async fn many(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let all = hundred(&context).await?;
    let sources: Vec<Value> =
        all.iter().map(|(name, _)| json!({"name": name, "path": format!("{name}.pem")})).collect();
    let output = context
        .output(&namespace, &reader(&context, &[projected("many", &sources)], "cat /bundles/many/*.pem"))
        .await?;
    same(&output, &all.iter().map(|(_, pem)| pem).collect::<Vec<_>>())
}

async fn volumes(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let all = hundred(&context).await?;
    let volumes: Vec<Value> = all
        .iter()
        .enumerate()
        .map(|(number, (name, _))| projected(&format!("v{number}"), &[json!({"name": name, "path": "anchors.pem"})]))
        .collect();
    let output = context.output(&namespace, &reader(&context, &volumes, "cat /bundles/*/anchors.pem")).await?;
    same(&output, &all.iter().map(|(_, pem)| pem).collect::<Vec<_>>())
}
