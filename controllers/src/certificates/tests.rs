//! The way of a request through approval, signing and removal.

use super::*;
use crate::simulation::Simulation;

/// Made by openssl: `CN=system:node:a`, `O=system:nodes`, P-256.
const NODE_REQUEST: &str = include_str!("testdata/node.csr");

struct Authority(&'static str);

impl CertificateAuthority for Authority {
    fn sign(&self, signer: Signer, _: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String> {
        Ok(format!("{signer:?} {usages:?} {}", lifetime.as_secs()))
    }

    fn lifetime_max(&self) -> Duration {
        Duration::from_secs(1000)
    }

    fn may_create(&self, requester: &Requester, subresource: &str) -> bool {
        requester.groups == ["system:nodes"] && subresource == self.0
    }
}

fn world(signer: &str, usages: &str, status: &str) -> Simulation {
    let request = BASE64.encode(NODE_REQUEST);
    Simulation::new(&format!(
        "apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: c, creationTimestamp: '2026-01-01T00:00:00Z'}}
spec: {{signerName: {signer}, username: 'system:node:a', groups: ['system:nodes'], usages: {usages}, request: {request}}}
status: {status}"
    ))
}

fn run(simulation: &mut Simulation, allowed: &'static str) -> Value {
    let controller = CertificateController { authority: Arc::new(Authority(allowed)) };
    simulation.settle(&[&controller], false, |_| {});
    simulation.value("certificatesigningrequests.certificates.k8s.io", "", "c").unwrap_or_default()
}

const KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const USAGES: &str = "['digital signature', 'client auth']";

#[test]
fn a_nodes_own_request_is_approved_and_signed() {
    let done = run(&mut world(KUBELET, USAGES, "{}"), "selfnodeclient");
    assert_eq!(done["status"]["conditions"][0]["reason"], "AutoApproved");
    assert!(done["status"]["conditions"][0]["message"].as_str().unwrap().contains("self kubelet"));
    let certificate = BASE64.decode(done["status"]["certificate"].as_str().unwrap()).unwrap();
    assert_eq!(certificate, b"KubeletClient [\"digital signature\", \"client auth\"] 1000");
}

#[test]
fn nobody_is_approved_without_the_right_or_for_another_signer() {
    assert!(run(&mut world(KUBELET, USAGES, "{}"), "nothing")["status"]["conditions"].is_null());
    let other = run(&mut world("kubernetes.io/kube-apiserver-client", USAGES, "{}"), "selfnodeclient");
    assert!(other["status"]["conditions"].is_null());
}

#[test]
fn an_approved_request_that_breaks_the_rules_fails() {
    let approved = "{conditions: [{type: Approved, status: 'True', lastUpdateTime: '2026-01-01T00:00:00Z'}]}";
    let failed = run(&mut world(KUBELET, "['server auth']", approved), "");
    assert_eq!(failed["status"]["conditions"][1]["reason"], "SignerValidationFailure");
    assert!(failed["status"]["certificate"].is_null());
    let foreign = run(&mut world("example.com/mine", USAGES, approved), "");
    assert_eq!(foreign["status"]["conditions"].as_array().unwrap().len(), 1, "another signer's business");
}
