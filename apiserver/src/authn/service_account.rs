//! Service account tokens: signed JWTs bound to an account and optionally to a
//! pod, node or secret, and invalid as soon as one of those is gone.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::{rand::SystemRandom, signature};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_client::Snapshot;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use super::{TokenAuthenticator, UserInfo};

/// Clocks of hosts may differ by this much.
const LEEWAY: Duration = Duration::from_secs(60);

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read service account key: no {0} block in the PEM file")]
    Missing(&'static str),
    #[error("read service account key: {0}")]
    Rejected(String),
}

/// What a token is bound to beside its account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Binding {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Claims {
    #[serde(deserialize_with = "one_or_many")]
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    binding: Binding,
    nbf: i64,
    sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// A key that verifies.
#[derive(Clone)]
struct VerifyingKey {
    id: String,
    algorithm: &'static str,
    /// Uncompressed point (EC) or PKCS#1 (RSA).
    raw: Vec<u8>,
}

enum Signer {
    Ecdsa(signature::EcdsaKeyPair),
    Rsa(signature::RsaKeyPair),
}

/// Signs and verifies the tokens of this cluster.
pub struct TokenIssuer {
    issuer: String,
    audiences: Vec<String>,
    signer: Signer,
    signing_key: VerifyingKey,
    /// The signing key first, then older keys whose tokens are still honoured.
    verifying: Vec<VerifyingKey>,
    random: SystemRandom,
}

/// A fresh token.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub token: String,
    pub expires: Timestamp,
}

impl TokenIssuer {
    /// `private_key` is PEM (PKCS#8; ECDSA P-256 or RSA); `old_keys` are PEM
    /// public keys that stay valid. `audiences` are those of the API server,
    /// usually just the issuer.
    pub fn new(
        issuer: impl Into<String>,
        audiences: Vec<String>,
        private_key: &str,
        old_keys: &[String],
    ) -> Result<TokenIssuer, KeyError> {
        let der = pem_block(private_key, "PRIVATE KEY").ok_or(KeyError::Missing("PRIVATE KEY"))?;
        let random = SystemRandom::new();
        let signer =
            match signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random) {
                Ok(pair) => Signer::Ecdsa(pair),
                Err(_) => Signer::Rsa(
                    signature::RsaKeyPair::from_pkcs8(&der).map_err(|error| KeyError::Rejected(error.to_string()))?,
                ),
            };
        let signing_key = signer.verifying_key();
        let mut verifying = vec![signing_key.clone()];
        for pem in old_keys {
            let der = pem_block(pem, "PUBLIC KEY").ok_or(KeyError::Missing("PUBLIC KEY"))?;
            let key = VerifyingKey::from_spki(&der)?;
            if key.raw != signing_key.raw {
                verifying.push(key);
            }
        }
        let issuer = issuer.into();
        let audiences = if audiences.is_empty() { vec![issuer.clone()] } else { audiences };
        Ok(TokenIssuer { issuer, audiences, signer, signing_key, verifying, random })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences that mean the API server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Makes a token for an account. Empty `audiences` means the API server.
    pub fn issue(&self, binding: Binding, audiences: &[String], lifetime: Duration, now: Timestamp) -> IssuedToken {
        let issued = now.as_second();
        let expires = issued.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let claims = Claims {
            aud: if audiences.is_empty() { self.audiences.clone() } else { audiences.to_vec() },
            exp: expires,
            iat: issued,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", binding.namespace, binding.serviceaccount.name),
            binding,
            nbf: issued,
        };
        let header = json!({"alg": self.signing_key.algorithm, "kid": self.signing_key.id});
        let input = format!("{}.{}", encode_part(&header), encode_part(&json!(claims)));
        let signature = self.signer.sign(&self.random, input.as_bytes());
        IssuedToken {
            token: format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)),
            expires: Timestamp::from_second(expires).unwrap_or(now),
        }
    }

    /// The JSON Web Key Set of `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.verifying.iter().map(VerifyingKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// The document of `/.well-known/openid-configuration`.
    pub fn discovery(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.signing_key.algorithm],
        })
    }

    /// Checks signature, issuer, time and audience.
    fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Option<Claims> {
        let (input, signature) = token.rsplit_once('.')?;
        let (header, payload) = input.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let algorithm = header["alg"].as_str()?;
        let id = header["kid"].as_str().unwrap_or_default();
        let signed = self
            .verifying
            .iter()
            .filter(|key| key.algorithm == algorithm && (id.is_empty() || key.id == id))
            .any(|key| key.verify(input.as_bytes(), &signature));
        if !signed {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or(0);
        let now = now.as_second();
        let timely = now < claims.exp.saturating_add(leeway) && now >= claims.nbf.saturating_sub(leeway);
        let meant = claims.aud.iter().any(|audience| wanted.contains(audience));
        (claims.iss == self.issuer && timely && meant).then_some(claims)
    }
}

impl Signer {
    fn verifying_key(&self) -> VerifyingKey {
        use signature::KeyPair;
        match self {
            Signer::Ecdsa(pair) => VerifyingKey::new("ES256", pair.public_key().as_ref().to_vec()),
            Signer::Rsa(pair) => VerifyingKey::new("RS256", pair.public_key().as_ref().to_vec()),
        }
    }

    /// The system's random source is the only way this can fail, and then nothing is safe to sign.
    fn sign(&self, random: &SystemRandom, input: &[u8]) -> Vec<u8> {
        match self {
            Signer::Ecdsa(pair) => {
                pair.sign(random, input).map(|signature| signature.as_ref().to_vec()).unwrap_or_default()
            }
            Signer::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                match pair.sign(&signature::RSA_PKCS1_SHA256, random, input, &mut out) {
                    Ok(()) => out,
                    Err(_) => Vec::new(),
                }
            }
        }
    }
}

impl VerifyingKey {
    fn new(algorithm: &'static str, raw: Vec<u8>) -> VerifyingKey {
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &raw));
        VerifyingKey { id, algorithm, raw }
    }

    fn from_spki(der: &[u8]) -> Result<VerifyingKey, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| KeyError::Rejected(error.to_string()))?;
        let raw = info.subject_public_key.data.to_vec();
        Ok(match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(_)) => VerifyingKey::new("RS256", raw),
            Ok(x509_parser::public_key::PublicKey::EC(_)) => VerifyingKey::new("ES256", raw),
            _ => return Err(KeyError::Rejected("neither RSA nor elliptic curve".to_owned())),
        })
    }

    fn verify(&self, input: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
            _ => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.raw).verify(input, signature).is_ok()
    }

    fn jwk(&self) -> Value {
        let common = json!({"use": "sig", "kid": self.id, "alg": self.algorithm});
        let own = if self.algorithm == "ES256" {
            // An uncompressed point: 4, then 32 bytes each.
            json!({
                "kty": "EC", "crv": "P-256",
                "x": URL_SAFE_NO_PAD.encode(self.raw.get(1..33).unwrap_or_default()),
                "y": URL_SAFE_NO_PAD.encode(self.raw.get(33..65).unwrap_or_default()),
            })
        } else {
            match x509_parser::public_key::RSAPublicKey::from_der(&self.raw) {
                Ok((_, key)) => json!({
                    "kty": "RSA",
                    "n": URL_SAFE_NO_PAD.encode(strip_zero(key.modulus)),
                    "e": URL_SAFE_NO_PAD.encode(strip_zero(key.exponent)),
                }),
                Err(_) => json!({"kty": "RSA"}),
            }
        };
        let mut jwk = common;
        if let (Value::Object(jwk), Value::Object(own)) = (&mut jwk, own) {
            jwk.extend(own);
        }
        jwk
    }
}

fn strip_zero(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0]).unwrap_or(bytes)
}

fn encode_part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The first PEM block with the label, decoded.
fn pem_block(pem: &str, label: &str) -> Option<Vec<u8>> {
    let start = pem.find(&format!("-----BEGIN {label}-----"))?;
    let body = &pem[start..];
    let body = &body[body.find('\n')?..];
    let end = body.find("-----END")?;
    let text: String = body[..end].chars().filter(|c| !c.is_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// Verifies tokens and that what they are bound to still exists.
pub struct ServiceAccountAuthenticator {
    pub issuer: Arc<TokenIssuer>,
    pub snapshot: Snapshot,
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountAuthenticator {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<UserInfo> {
        let now = Timestamp::now();
        let claims = self.issuer.verify(token, audiences, now)?;
        let id = claims.jti.clone();
        self.check_bound(&claims.binding, now).then(|| user_of(claims.binding, &id))
    }
}

impl ServiceAccountAuthenticator {
    fn check_bound(&self, binding: &Binding, now: Timestamp) -> bool {
        use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
        let namespace = &binding.namespace;
        let deleted_before = now - LEEWAY;
        let alive = |object: Option<Arc<skiff_api::Object>>, uid: &str| {
            object.is_some_and(|object| {
                let deleted = object.meta.deletion_timestamp.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
                (uid.is_empty() || object.meta.uid.as_str() == uid) && deleted.is_none_or(|time| time >= deleted_before)
            })
        };
        let account = &binding.serviceaccount;
        alive(self.snapshot.object::<ServiceAccount>(namespace, &account.name), &account.uid)
            && binding.pod.as_ref().is_none_or(|pod| alive(self.snapshot.object::<Pod>(namespace, &pod.name), &pod.uid))
            && binding.secret.as_ref().is_none_or(|secret| {
                alive(self.snapshot.object::<Secret>(namespace, &secret.name), &secret.uid)
            })
            // A node named beside a pod is information, alone it is a binding.
            && (binding.pod.is_some()
                || binding.node.as_ref().is_none_or(|node| alive(self.snapshot.object::<Node>("", &node.name), &node.uid)))
    }
}

fn user_of(binding: Binding, id: &str) -> UserInfo {
    let namespace = &binding.namespace;
    let mut user = UserInfo {
        username: format!("system:serviceaccount:{namespace}:{}", binding.serviceaccount.name),
        uid: binding.serviceaccount.uid.clone(),
        groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
        ..UserInfo::default()
    };
    let mut add = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    if !id.is_empty() {
        add("credential-id", format!("JTI={id}"));
    }
    if let Some(pod) = binding.pod {
        add("pod-name", pod.name);
        add("pod-uid", pod.uid);
    }
    if let Some(node) = binding.node {
        add("node-name", node.name);
        add("node-uid", node.uid);
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> TokenIssuer {
        let pair =
            signature::EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let body = base64::engine::general_purpose::STANDARD.encode(pair.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        TokenIssuer::new("https://kubernetes.default.svc.cluster.local", Vec::new(), &pem, &[]).unwrap()
    }

    fn binding() -> Binding {
        Binding {
            namespace: "n".to_owned(),
            serviceaccount: Reference { name: "a".to_owned(), uid: "u".to_owned() },
            ..Binding::default()
        }
    }

    #[test]
    fn a_token_is_valid_for_its_audience_and_time_only() {
        let issuer = issuer();
        let now = Timestamp::now();
        let issued = issuer.issue(binding(), &[], Duration::from_secs(600), now);
        let claims = issuer.verify(&issued.token, &[], now).unwrap();
        assert_eq!(claims.sub, "system:serviceaccount:n:a");
        assert_eq!(claims.binding, binding());
        assert!(issuer.verify(&issued.token, &["other".to_owned()], now).is_none());
        let late = Timestamp::from_second(now.as_second() + 700).unwrap();
        assert!(issuer.verify(&issued.token, &[], late).is_none());
    }

    #[test]
    fn a_changed_token_or_another_key_is_refused() {
        let (issuer, other) = (issuer(), issuer_other());
        let now = Timestamp::now();
        let token = issuer.issue(binding(), &[], Duration::from_secs(600), now).token;
        assert!(other.verify(&token, &[], now).is_none());
        let (head, tail) = token.split_at(token.find('.').unwrap() + 5);
        let forged = format!("{head}{}{}", if tail.starts_with('A') { 'B' } else { 'A' }, &tail[1..]);
        assert!(issuer.verify(&forged, &[], now).is_none());
        assert_eq!(issuer.jwks()["keys"][0]["crv"], "P-256");
    }

    fn issuer_other() -> TokenIssuer {
        issuer()
    }

    #[tokio::test]
    async fn a_token_dies_with_its_account() {
        let snapshot = Snapshot::new();
        let (writer, store) = skiff_client::store::store(&[]);
        snapshot.insert(skiff_api::GroupResource::new("", "serviceaccounts"), store);
        let issuer = Arc::new(issuer());
        let token = issuer.issue(binding(), &[], Duration::from_secs(600), Timestamp::now()).token;
        let authenticator = ServiceAccountAuthenticator { issuer, snapshot };
        assert!(authenticator.authenticate(&token, &[]).await.is_none());
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"}});
        writer.apply(Arc::new(skiff_api::Object::from_value(&account).unwrap()));
        let user = authenticator.authenticate(&token, &[]).await.unwrap();
        assert_eq!(user.username, "system:serviceaccount:n:a");
        assert!(user.is_in("system:serviceaccounts:n"));
        // One that is being deleted counts until its time and a little more.
        let dying = async |seconds: i64| {
            let mut dying = account.clone();
            let time = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
            dying["metadata"]["deletionTimestamp"] = json!(time.to_string());
            writer.apply(Arc::new(skiff_api::Object::from_value(&dying).unwrap()));
            authenticator.authenticate(&token, &[]).await.is_some()
        };
        assert!(dying(30).await);
        assert!(!dying(-90).await);
    }
}
