//! Certificates that nodes have made for pods, by a signer of the test itself.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use x509_parser::{
    pem::Pem,
    prelude::{FromDer, GeneralName, X509Certificate},
};

use crate::{
    api::{core, group, name},
    context::Context,
    operations::unique,
    pods::{POD_LIMIT, pod, shell, with},
};

crate::rows! { "auth";
    "Projected PodCertificate" {
        "should allow server and client pods to establish an mTLS connection" => mutual,
        "should honor UserAnnotations for SPIFFE URI path" => annotations,
    }
    "Projected PodCertificate MaxExpirationSeconds validations" {
        "should issue certificate with default life time (24h) when MaxExpirationSeconds is not set" => |c| life_time(c, None),
        "should issue certificate with specified duration (1h) when MaxExpirationSeconds is set" => |c| life_time(c, Some(3600)),
        "should reject pod creation when MaxExpirationSeconds exceeds maximum (91d)" => |c| refused(c, 91 * 86_400 + 1, "if provided, maxExpirationSeconds must be <= 7862400"),
        "should reject pod creation when MaxExpirationSeconds is less than minimum (1h)" => |c| refused(c, 3599, "if provided, maxExpirationSeconds must be >= 3600"),
    }
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/podcertificaterequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
/// The annotation by which pods choose the path of their identity.
const PATH: &str = "spiffe/path-overriding";

/// Answers requests for its name until it is dropped, and publishes its authority.
struct Signer {
    name: String,
    _work: JoinSet<()>,
}

impl Signer {
    async fn start(context: &Context) -> Result<Signer> {
        let name = format!("e2e.example.com/signer-{}", unique());
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "pod certificates");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.pem();
        let bundle = format!("{}:primary-bundle", name.replace('/', ":"));
        context.leftover(&format!("{BUNDLES}/{bundle}"));
        let object = json!({"metadata": {"name": bundle}, "spec": {"signerName": name, "trustBundle": authority}});
        context.create(BUNDLES, &object).await?;
        let path = format!("{REQUESTS}?fieldSelector=spec.signerName%3D{}", name.replace('/', "%2F"));
        let mut watch = context.watch(&path).await?;
        let (context, issuer, mut work) = (context.clone(), Issuer::new(params, key), JoinSet::new());
        work.spawn(async move {
            // Ends with the test, or when the watch does; then requests stay open and the test says so.
            while let Ok(event) = watch.next(Duration::from_secs(600)).await {
                if event["type"] == "ADDED"
                    && let Err(error) = sign(&context, &issuer, &event["object"]).await
                {
                    eprintln!("sign {}: {error:#}", name_of(&event["object"]));
                }
            }
        });
        Ok(Signer { name, _work: work })
    }

    fn source(&self, more: Value) -> Value {
        let base = json!({"signerName": self.name, "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem"});
        json!({"podCertificate": with(base, more)})
    }
}

fn name_of(request: &Value) -> String {
    format!("{}/{}", request["metadata"]["namespace"].as_str().unwrap_or_default(), name(request))
}

async fn sign(context: &Context, issuer: &Issuer<'_, KeyPair>, request: &Value) -> Result<()> {
    let spec = &request["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let namespace = request["metadata"]["namespace"].as_str().context("no namespace")?;
    let stub = BASE64.decode(text("stubPKCS10Request"))?;
    let mut asked = CertificateSigningRequestParams::from_der(&stub.into())?;
    let default = format!("/ns/{namespace}/sa/{}", text("serviceAccountName"));
    let path = spec["unverifiedUserAnnotations"][PATH].as_str().unwrap_or(&default);
    let uri = format!("spiffe://cluster.local{path}");
    let service = format!("server.{namespace}.svc");
    asked.params.subject_alt_names =
        vec![SanType::URI(uri.as_str().try_into()?), SanType::DnsName(service.as_str().try_into()?)];
    asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let begin = Timestamp::now().as_second() - 120;
    let end = begin + spec["maxExpirationSeconds"].as_i64().context("no life time")?;
    asked.params.not_before = time::OffsetDateTime::from_unix_timestamp(begin)?;
    asked.params.not_after = time::OffsetDateTime::from_unix_timestamp(end)?;
    let chain = asked.signed_by(issuer)?.pem();
    let at = |seconds: i64| Timestamp::from_second(seconds).map(|at| at.to_string());
    let status = json!({"certificateChain": chain, "notBefore": at(begin)?, "beginRefreshAt": at(end - 1800)?,
        "notAfter": at(end)?, "conditions": [{"type": "Issued", "status": "True", "reason": "Signed",
            "message": "by the test", "lastTransitionTime": at(begin + 120)?}]});
    let path =
        format!("{}/{}/status", group("certificates.k8s.io/v1", namespace, "podcertificaterequests"), name(request));
    context.merge(&path, json!({"status": status})).await.map(drop)
}

fn mounted(pod: Value, sources: &[Value]) -> Value {
    let volume = json!({"name": "credentials", "projected": {"sources": sources}});
    let mut pod = with(pod, json!({"spec": {"volumes": [volume]}}));
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "credentials", "mountPath": "/run/tls-config"}]);
    pod
}

/// Starts a pod that prints what is in its volume; returns that.
async fn printed(context: &Context, namespace: &str, source: Value, script: &str) -> Result<String> {
    let object = pod("inspector", &[shell(context, &format!("{script}; echo; echo END; sleep 1000"))]);
    context.start_pod(namespace, &mounted(object, &[source])).await?;
    context.wait_log(namespace, "inspector", "main", "\nEND").await?;
    context.log(namespace, "inspector", "main").await
}

/// The blocks of a label in a text.
fn blocks(text: &str, label: &str) -> Vec<Vec<u8>> {
    let all = Pem::iter_from_buffer(text.as_bytes()).flatten();
    all.filter(|block| block.label == label).map(|block| block.contents).collect()
}

async fn annotations(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let signer = Signer::start(&context).await?;
    let source = signer.source(json!({"userAnnotations": {PATH: "/custom-workload"}}));
    let log = printed(&context, &namespace, source, "cat /run/tls-config/bundle.pem").await?;
    let leaf = blocks(&log, "CERTIFICATE").into_iter().next().context("no certificate")?;
    let (_, leaf) = X509Certificate::from_der(&leaf)?;
    let names = leaf.subject_alternative_name()?.context("no names")?;
    let is_it = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if uri.ends_with("/custom-workload"));
    ensure!(names.value.general_names.iter().any(is_it), "{:?}", names.value.general_names);
    Ok(())
}

async fn life_time(context: Context, seconds: Option<i64>) -> Result<()> {
    let namespace = context.namespace().await?;
    let signer = Signer::start(&context).await?;
    let mut more = json!({"keyPath": "key.pem", "certificateChainPath": "chain.pem"});
    if let Some(seconds) = seconds {
        more["maxExpirationSeconds"] = seconds.into();
    }
    let script = "cd /run/tls-config; cat bundle.pem; cat key.pem chain.pem";
    let log = printed(&context, &namespace, signer.source(more), script).await?;
    let chain = blocks(&log, "CERTIFICATE");
    let keys = blocks(&log, "PRIVATE KEY");
    ensure!(chain.len() == 2 && chain[0] == chain[1], "the chain is {} times there", chain.len());
    ensure!(keys.len() == 2 && keys[0] == keys[1], "the key is {} times there", keys.len());
    let (_, leaf) = X509Certificate::from_der(&chain[0])?;
    let lived = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    ensure!(lived == seconds.unwrap_or(86_400), "it lives {lived} s");
    // The key in the volume is the one that was certified.
    let key = KeyPair::try_from(keys[0].as_slice())?;
    ensure!(rcgen::PublicKeyData::subject_public_key_info(&key) == leaf.public_key().raw, "another key");
    let requests = context.list(&group("certificates.k8s.io/v1", &namespace, "podcertificaterequests")).await?;
    let owner = requests.first().map(|request| request["metadata"]["ownerReferences"][0]["name"].clone());
    ensure!(requests.len() == 1 && owner == Some("inspector".into()), "{requests:?}");
    only_its_own(&context, &requests[0]).await
}

/// Nodes other than the pod's neither see its request nor ask in its name.
async fn only_its_own(context: &Context, request: &Value) -> Result<()> {
    let headers = [("impersonate-user", "system:node:another"), ("impersonate-group", "system:nodes")];
    let path = group(
        "certificates.k8s.io/v1",
        request["metadata"]["namespace"].as_str().unwrap_or_default(),
        "podcertificaterequests",
    );
    for path in [path.clone(), format!("{path}/{}", name(request))] {
        context.send("GET", &path, &headers, Vec::new()).await?.expect(403)?;
    }
    let copy = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {"generateName": "req-"}, "spec": request["spec"]});
    let headers = [headers[0], headers[1], ("content-type", "application/json")];
    let answer = context.send("POST", &path, &headers, serde_json::to_vec(&copy)?).await?;
    let wanted = "which is not the requesting node \"another\"";
    if answer.code != 403 || !answer.message().contains(wanted) {
        bail!("{}: {}", answer.code, answer.message());
    }
    Ok(())
}

async fn refused(context: Context, seconds: i64, why: &'static str) -> Result<()> {
    let namespace = context.namespace().await?;
    let source = json!({"podCertificate": {"signerName": "e2e.example.com/none", "keyType": "ECDSAP256",
        "credentialBundlePath": "bundle.pem", "maxExpirationSeconds": seconds}});
    let object = mounted(pod("inspector", &[shell(&context, "true")]), &[source]);
    let answer = context.call("POST", &core(&namespace, "pods"), Some(&object)).await?;
    ensure!(answer.code == 422 && answer.message().contains(why), "{}: {}", answer.code, answer.message());
    Ok(())
}

async fn mutual(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let signer = Signer::start(&context).await?;
    let sources = [
        signer.source(json!({})),
        json!({"clusterTrustBundle": {"signerName": signer.name, "labelSelector": {}, "path": "trust.pem"}}),
    ];
    let deployments = group("apps/v1", &namespace, "deployments");
    let deployment = |name: &str, args: Value| {
        let container =
            json!({"name": name, "image": context.agnhost, "imagePullPolicy": "IfNotPresent", "args": args});
        let template =
            mounted(json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}), &sources);
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": name}}, "template": template}})
    };
    let server = json!([
        "mtlsserver",
        "--listen=0.0.0.0:443",
        "--server-creds=/run/tls-config/bundle.pem",
        "--spiffe-trust-bundle=/run/tls-config/trust.pem"
    ]);
    context.create(&deployments, &deployment("server", server)).await?;
    let service =
        json!({"metadata": {"name": "server"}, "spec": {"selector": {"app": "server"}, "ports": [{"port": 443}]}});
    context.create(&core(&namespace, "services"), &service).await?;
    let url = format!("--fetch-url=https://server.{namespace}.svc/spiffe-echo");
    let client = json!([
        "mtlsclient",
        url,
        "--server-trust-bundle=/run/tls-config/trust.pem",
        "--client-cred-bundle=/run/tls-config/bundle.pem"
    ]);
    context.create(&deployments, &deployment("client", client)).await?;
    let pods = format!("{}?labelSelector=app%3Dclient", core(&namespace, "pods"));
    crate::context::eventually("the client is known to the server", POD_LIMIT, || async {
        let pods = context.list(&pods).await?;
        let log = context.log(&namespace, name(pods.first().context("no client")?), "client").await?;
        let wanted = format!("Got response body: Client Identity: spiffe://cluster.local/ns/{namespace}/sa/default");
        ensure!(log.contains(&wanted), "its log is {log:?}");
        Ok(())
    })
    .await
}
