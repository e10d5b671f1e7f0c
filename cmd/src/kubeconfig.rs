//! Kubeconfig files: the administrator's, and those of local components.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::pki::KeyAndCertificate;

/// A kubeconfig with everything inline; holds a private key.
pub fn render(server_url: &str, authority_pem: &str, identity: &KeyAndCertificate) -> String {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: {server_url}
    certificate-authority-data: {authority}
users:
- name: default
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
",
        authority = encode(authority_pem),
        certificate = encode(&identity.certificate_pem),
        key = encode(&identity.key_pem),
    )
}
