//! Requests for certificates, and the issuer of tokens.

use anyhow::{Context as _, Result, ensure};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use crate::{
    api::{core, name},
    context::Context,
    operations::{Operations, three, unique},
    pods::{condition, pod, shell, with},
};

crate::rows! { "auth";
    "Certificates API" {
        "should support CSR API operations" => signing_requests,
    }
    "PodCertificateRequest API" {
        "should support PodCertificateRequest API operations" => pod_requests,
    }
    "ServiceAccounts ServiceAccountIssuerDiscovery" {
        "should support OIDC discovery of service account issuer" => issuer,
    }
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request() -> Result<rcgen::CertificateSigningRequest> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "e2e.example.com");
    Ok(params.serialize_request(&KeyPair::generate()?)?)
}

async fn signing_requests(context: Context) -> Result<()> {
    let signer = format!("example.com/e2e-{}", unique());
    let body = json!({"spec": {"request": BASE64.encode(request()?.pem()?), "signerName": signer,
        "expirationSeconds": 3600, "usages": ["digital signature", "key encipherment", "server auth"]}});
    let (version, kind, plural) = ("certificates.k8s.io/v1", "CertificateSigningRequest", "certificatesigningrequests");
    let all = Operations { version, kind, plural, namespace: None, objects: three(&body), status: None };
    all.run(&context).await?;
    let resources = context.get("/apis/certificates.k8s.io/v1").await?;
    for part in ["approval", "status"] {
        let wanted = format!("{plural}/{part}");
        let mut names = resources["resources"].as_array().into_iter().flatten().map(|entry| &entry["name"]);
        ensure!(names.any(|name| *name == wanted), "no {wanted}");
    }
    let path = format!("{REQUESTS}/e2e-{}", unique());
    context.leftover(&path);
    let named = with(body, json!({"metadata": {"name": path.rsplit('/').next()}}));
    context.create(REQUESTS, &named).await?;
    approval(&context, &path).await.context("approval")?;
    certificate(&context, &path).await.context("status")?;
    context.delete(&path).await?;
    context.until_gone(&path).await
}

async fn approval(context: &Context, path: &str) -> Result<()> {
    let at = format!("{path}/approval");
    let change = json!({"metadata": {"annotations": {"patchedapproval": "true"}}, "status": {"conditions": [
        {"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}});
    let patched = context.merge(&at, change).await?;
    ensure!(condition(&patched, "ApprovalPatch")["status"] == "True", "{patched}");
    ensure!(patched["metadata"]["annotations"]["patchedapproval"] == "true", "{patched}");
    let approved = context
        .modify_at(path, &at, |object| {
            let condition =
                json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "Set from an e2e test"});
            if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.push(condition);
            }
        })
        .await?;
    ensure!(condition(&approved, "Approved")["message"] == "Set from an e2e test", "{approved}");
    let read = context.get(&at).await?;
    ensure!(condition(&read, "Approved")["status"] == "True", "{read}");
    Ok(())
}

async fn certificate(context: &Context, path: &str) -> Result<()> {
    let at = format!("{path}/status");
    let certificate = BASE64.encode(self_signed()?);
    let change =
        json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}});
    let patched = context.merge(&at, change).await?;
    ensure!(patched["status"]["certificate"] == certificate.as_str(), "{patched}");
    let written = context
        .modify_at(path, &at, |object| {
            let condition =
                json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"});
            if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
                conditions.push(condition);
            }
        })
        .await?;
    ensure!(condition(&written, "StatusUpdate")["status"] == "True", "{written}");
    ensure!(condition(&written, "Approved")["status"] == "True", "{written}");
    Ok(())
}

/// Some certificate, PEM.
fn self_signed() -> Result<String> {
    let params = CertificateParams::new(vec!["e2e.example.com".to_owned()])?;
    Ok(params.self_signed(&KeyPair::generate()?)?.pem())
}

async fn pod_requests(context: Context) -> Result<()> {
    let namespace = Some(context.namespace().await?);
    let stub = BASE64.encode(request()?.der());
    let body = json!({"spec": {"signerName": format!("example.com/e2e-{}", unique()), "podName": "pod-1", "podUID": "pod-uid-1",
        "serviceAccountName": "sa-1", "serviceAccountUID": "sa-uid-1", "nodeName": "node-1", "nodeUID": "node-uid-1",
        "maxExpirationSeconds": 86400, "stubPKCS10Request": stub}});
    let (version, kind, plural) = ("certificates.k8s.io/v1", "PodCertificateRequest", "podcertificaterequests");
    let status = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "E2E", "message": "no",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let all = Operations { version, kind, plural, namespace, objects: three(&body), status: Some(status) };
    all.run(&context).await
}

/// The part of a token, decoded.
fn part(token: &str, index: usize) -> Result<Value> {
    let part = token.split('.').nth(index).context("not a token")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

/// A pod reads the issuer's documents with its own token and finds the key that signed it.
async fn issuer(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let script = format!("cat {folder}/token; echo; cat {folder}/ca.crt | head -1");
    let object = pod("reads", &[shell(&context, &script)]);
    let output = context.output(&namespace, &object).await?;
    let token = output.lines().next().context("no token")?;
    let bearer = format!("system:serviceaccount:{namespace}:default");
    let headers = [
        ("impersonate-user", bearer.as_str()),
        ("impersonate-group", "system:serviceaccounts"),
        ("impersonate-group", "system:authenticated"),
    ];
    let document = context.send("GET", "/.well-known/openid-configuration", &headers, Vec::new()).await?.expect(200)?;
    let claims = part(token, 1)?;
    ensure!(document.body["issuer"] == claims["iss"], "{} signs as {}", document.body["issuer"], claims["iss"]);
    ensure!(
        document.body["jwks_uri"].as_str().is_some_and(|uri| uri.ends_with("/openid/v1/jwks")),
        "{}",
        document.body
    );
    let keys = context.send("GET", "/openid/v1/jwks", &headers, Vec::new()).await?.expect(200)?;
    let head = part(token, 0)?;
    let mut all = keys.body["keys"].as_array().into_iter().flatten();
    let key = all.find(|key| key["kid"] == head["kid"]).context("the key of the token is not published")?;
    ensure!(key["alg"] == head["alg"] && key["use"] == "sig", "{key}");
    verify(token, key)?;
    let path = core(&namespace, "serviceaccounts");
    ensure!(!context.list(&path).await?.iter().all(|account| name(account).is_empty()), "no accounts");
    Ok(())
}

/// Checks a signature with a published elliptic key.
fn verify(token: &str, key: &Value) -> Result<()> {
    let (signed, signature) = token.rsplit_once('.').context("not a token")?;
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default());
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    let good = public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature)?);
    ensure!(good.is_ok(), "the published key did not sign this token");
    Ok(())
}
