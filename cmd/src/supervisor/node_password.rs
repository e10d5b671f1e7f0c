//! Node passwords: proof that a node name belongs to the host that first used it.
//!
//! Every host makes a random password once; the server keeps a salted hash of
//! it in the Secret `<node>.node-password.skiff` of `kube-system`. Someone who
//! only knows the join token cannot take over the identity of an existing node.

use std::num::NonZeroU32;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::StatusCode;
use ring::pbkdf2;
use serde_json::json;
use skiff_api::GroupVersionResource;
use skiff_client::Client;

use super::{Refusal, internal};

const SECRETS: GroupVersionResource = GroupVersionResource::new("", "v1", "secrets");
const NAMESPACE: &str = "kube-system";
/// The password is 128 random bits, so the hash need not be slow.
const ROUNDS: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

/// Accepts the password of a node, remembering it when the name is new.
pub async fn check(client: &Client, node: &str, password: &str) -> Result<(), Refusal> {
    if password.len() < 16 {
        return Err(Refusal(StatusCode::BAD_REQUEST, "the node password is too short".to_owned()));
    }
    let name = format!("{node}.node-password.skiff");
    // Two rounds: someone else may create the Secret between our look and our write.
    for _ in 0..2 {
        match client.get(&SECRETS, Some(NAMESPACE), &name).await {
            Ok(secret) => return verify(&secret.value().map_err(internal)?, node, password),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(internal(error)),
        }
        match client.create(&SECRETS, Some(NAMESPACE), &secret(&name, password)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(internal(error)),
        }
    }
    Err(internal(format!("the Secret {name} comes and goes")))
}

fn secret(name: &str, password: &str) -> serde_json::Value {
    let salt: [u8; 16] = rand::random();
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "skiff.io/node-password", "immutable": true,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"salt": encode(&salt), "hash": encode(&hash(&salt, password))},
    })
}

fn verify(secret: &serde_json::Value, node: &str, password: &str) -> Result<(), Refusal> {
    let field = |name: &str| {
        let text = secret["data"][name].as_str()?;
        BASE64_STANDARD.decode(text).ok()
    };
    let (Some(salt), Some(expected)) = (field("salt"), field("hash")) else {
        return Err(internal(format!("the Secret {node}.node-password.skiff has no salt and hash")));
    };
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::verify(algorithm, ROUNDS, &salt, password.as_bytes(), &expected).map_err(|_| {
        let message = format!(
            "a node named {node} exists and its password is another one. If that node is gone for good: \
             kubectl -n kube-system delete secret {node}.node-password.skiff; else give this host another --node-name"
        );
        Refusal(StatusCode::FORBIDDEN, message)
    })
}

fn hash(salt: &[u8], password: &str) -> [u8; 32] {
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, password.as_bytes(), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_password_of_a_name_is_accepted() {
        let secret = secret("n.node-password.skiff", "0123456789abcdef");
        assert!(verify(&secret, "n", "0123456789abcdef").is_ok());
        let refusal = verify(&secret, "n", "0123456789abcdeX").unwrap_err();
        assert!(refusal.1.contains("delete secret n.node-password.skiff"));
    }
}
