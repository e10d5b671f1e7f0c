//! Admission webhooks in the whole chain: a small HTTPS server beside the API
//! server answers reviews and keeps what it was asked.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{DEPLOYMENTS, Harness, MAPS, config_map, deployment, start};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes a JSON patch out of the request of a review.
type Patch = fn(&Value) -> Value;

/// A webhook and what it was asked.
struct Hook {
    url: String,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

async fn answer(request: Request<Incoming>, patch: Patch, asked: &Mutex<Vec<Value>>) -> Response<Full<Bytes>> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let request = &review["request"];
    let mut response = json!({"uid": request["uid"], "allowed": true});
    let patch = patch(request);
    if patch.is_array() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = BASE64.encode(patch.to_string()).into();
    }
    asked.lock().unwrap().push(request.clone());
    let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Response::builder().header("content-type", "application/json").body(Full::new(answer.to_string().into())).unwrap()
}

impl Hook {
    async fn serve(patch: Patch) -> Hook {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "hooks");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let (tls, listener) = (TlsAcceptor::from(Arc::new(tls)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("https://{}/mutate", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, kept) = (tls.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(async |request| Ok::<_, Infallible>(answer(request, patch, &kept).await));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Hook { url, bundle: BASE64.encode(authority.pem()), asked }
    }

    /// Registers it; `more` completes the webhook's entry.
    async fn register(&self, harness: &Harness, rule: Value, more: Value) {
        let mut webhook = json!({"name": "hook.example.com", "clientConfig": {"url": self.url, "caBundle": self.bundle},
            "rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1"]});
        for (name, value) in more.as_object().unwrap() {
            webhook[name] = value.clone();
        }
        let configuration = json!({"metadata": {"name": "hooks"}, "webhooks": [webhook]});
        let made = harness.post(&format!("{GROUP}/mutatingwebhookconfigurations"), configuration).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }

    fn asked(&self) -> Vec<Value> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Dry runs of a request until what came of it is as wanted: the chain reads its configuration from caches.
async fn until(harness: &Harness, path: &str, body: &Value, is_so: impl Fn(&Value) -> bool) {
    let path = format!("{path}?dryRun=All");
    loop {
        let tried = harness.post(&path, body.clone()).await;
        assert_eq!(tried.code, 201, "{}", tried.body);
        if is_so(&tried.body) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Counts its own calls in the object.
fn count(request: &Value) -> Value {
    let before = request["object"]["data"]["hook"].as_str().unwrap_or_default();
    json!([{"op": "add", "path": "/data/hook", "value": format!("{before}i")}])
}

#[tokio::test]
async fn webhooks_and_policies_that_want_it_see_what_the_other_changed_after_them() {
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]});
    for (reinvocation, wanted) in [("IfNeeded", "ii"), ("Never", "i")] {
        let (harness, hook) = (start().await, Hook::serve(count).await);
        let conditions = json!([{"name": "c", "expression": "object.metadata.name.startsWith('hooked')"}]);
        let more = json!({"reinvocationPolicy": reinvocation, "matchConditions": conditions});
        hook.register(&harness, rule.clone(), more).await;
        let expression = "Object{data: {'policy': has(object.data.hook) ? 'after ' + object.data.hook : 'before'}}";
        let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "IfNeeded", "mutations":
            [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
        let policy = json!({"metadata": {"name": "p"}, "spec": spec});
        assert_eq!(harness.post(&format!("{GROUP}/mutatingadmissionpolicies"), policy).await.code, 201);
        let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p"}});
        assert_eq!(harness.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await.code, 201);
        until(&harness, MAPS, &config_map("hooked"), |made| {
            made["data"]["hook"].is_string() && made["data"]["policy"].is_string()
        })
        .await;
        hook.asked();

        let made = harness.post(MAPS, config_map("hooked")).await;
        // The policy comes first, and sees in the second pass what the webhook made in the first.
        assert_eq!(made.body["data"], json!({"k": "v", "policy": "after i", "hook": wanted}), "{reinvocation}");
        let seen: Vec<Value> = hook.asked().iter().map(|asked| asked["object"]["data"].clone()).collect();
        let (first, second) =
            (json!({"k": "v", "policy": "before"}), json!({"k": "v", "policy": "after i", "hook": "i"}));
        assert_eq!(seen, [first, second][..wanted.len()], "{reinvocation}");
        let other = harness.post(MAPS, config_map("other")).await;
        assert_eq!(other.body["data"], json!({"k": "v", "policy": "before"}), "the condition leaves it alone");
        assert!(hook.asked().is_empty());
    }
}

fn fewer(_: &Value) -> Value {
    json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])
}

#[tokio::test]
async fn webhooks_see_the_scale_of_a_workload_and_change_it() {
    let (harness, hook) = (start().await, Hook::serve(fewer).await);
    assert_eq!(harness.post(DEPLOYMENTS, deployment("d")).await.code, 201);
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments/scale"]});
    hook.register(&harness, rule, json!({})).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    loop {
        let tried = harness.patch(&format!("{path}?dryRun=All"), "merge", json!({"spec": {"replicas": 5}})).await;
        assert_eq!(tried.code, 200, "{}", tried.body);
        if tried.body["spec"]["replicas"] == 3 {
            break;
        }
        tokio::task::yield_now().await;
    }
    hook.asked();
    let scaled = harness.patch(&path, "merge", json!({"spec": {"replicas": 5}})).await;
    assert_eq!((&scaled.body["kind"], &scaled.body["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let asked = hook.asked();
    let [asked] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(asked["resource"], json!({"group": "apps", "version": "v1", "resource": "deployments"}));
    assert_eq!((&asked["subResource"], &asked["name"]), (&json!("scale"), &json!("d")));
    let numbers = ["oldObject", "object"].map(|name| (asked[name]["kind"].clone(), asked[name]["spec"].clone()));
    assert_eq!(numbers, [2, 5].map(|replicas| (json!("Scale"), json!({"replicas": replicas}))));
    let stored = harness.get(&format!("{DEPLOYMENTS}/d")).await.body;
    assert_eq!(
        (&stored["spec"]["replicas"], &stored["spec"]["template"]["spec"]["containers"][0]["name"]),
        (&json!(3), &json!("c"))
    );
}
