//! The configuration of a server on the memory backend, for examples and tests:
//! a token key of its own, the usual address ranges, nothing behind nodes.

use std::sync::Arc;

use base64::Engine;
use skiff_apiserver::{Config, MemoryBackend, TokenIssuer, VersionInfo};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A fresh private key as PEM, for service account tokens.
pub fn token_key() -> Result<String, Error> {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| "generate key")?;
    let body = base64::engine::general_purpose::STANDARD.encode(key.as_ref());
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"))
}

/// A server that keeps its objects in `backend`.
pub fn config(backend: MemoryBackend) -> Result<Config, Error> {
    let issuer = TokenIssuer::new("https://kubernetes.default.svc", Vec::new(), &token_key()?, &[])?;
    Ok(Config {
        backend: Arc::new(backend),
        client_ca: Vec::new(),
        request_header_ca: Vec::new(),
        request_header_names: Vec::new(),
        anonymous: true,
        tokens: Vec::new(),
        token_issuer: Arc::new(issuer),
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_ports: 30000..=32767,
        server_address: "127.0.0.1:6443".to_owned(),
        version: VersionInfo::default(),
        proxy: None,
        health_checks: Vec::new(),
    })
}
