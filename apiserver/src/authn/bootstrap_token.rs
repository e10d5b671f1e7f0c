//! Bootstrap tokens: `id.secret`, kept in Secrets of kube-system, for machines
//! that join.

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::GroupResource;
use skiff_client::Snapshot;

use super::{TokenAuthenticator, UserInfo};

const NAMESPACE: &str = "kube-system";
const KIND: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;

/// Knows the tokens in the Secrets of the cluster.
pub struct BootstrapTokens {
    pub snapshot: Snapshot,
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<UserInfo> {
        // Such a token is for the API server and nobody else.
        if !audiences.is_empty() {
            return None;
        }
        let (id, secret) = parts(token)?;
        let store = self.snapshot.store(&GroupResource::new("", "secrets"))?;
        let object = store.get(NAMESPACE, &format!("bootstrap-token-{id}"))?;
        if object.meta.is_deleting() {
            return None;
        }
        user(&object.value().ok()?, id, secret, Timestamp::now())
    }
}

/// Id and secret of a well-formed token.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID_LEN && secret.len() == SECRET_LEN && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user behind a token, if the Secret vouches for it now.
fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let data = |name: &str| {
        let bytes = BASE64.decode(object["data"][name].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    if object["type"] != KIND || data("token-id")? != id {
        return None;
    }
    let stored = data("token-secret")?;
    // Both are hashed, so that the time taken tells nothing of where they differ.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    if digest(&stored).as_ref() != digest(secret).as_ref() || data("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    if let Some(expiration) = data("expiration")
        && expiration.parse::<Timestamp>().ok()? <= now
    {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups").unwrap_or_default();
    for group in extra.split(',').filter(|group| !group.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(UserInfo { username: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_needs_its_secret_its_usage_and_its_time() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let object = |usage: &str, expiration: &str, groups: &str| {
            json!({"type": KIND, "data": {
                "token-id": BASE64.encode("abcdef"), "token-secret": BASE64.encode("0123456789abcdef"),
                "usage-bootstrap-authentication": BASE64.encode(usage), "expiration": BASE64.encode(expiration),
                "auth-extra-groups": BASE64.encode(groups)}})
        };
        let (id, secret) = parts("abcdef.0123456789abcdef").unwrap();
        let later = "2026-02-01T00:00:00Z";
        let found = user(&object("true", later, "system:bootstrappers:workers"), id, secret, now).unwrap();
        assert_eq!(found.username, "system:bootstrap:abcdef");
        assert_eq!(found.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
        assert!(user(&object("true", later, ""), id, "0123456789abcdee", now).is_none());
        assert!(user(&object("false", later, ""), id, secret, now).is_none());
        assert!(user(&object("true", "2025-01-01T00:00:00Z", ""), id, secret, now).is_none());
        assert!(user(&object("true", later, "system:masters"), id, secret, now).is_none());
        assert!(parts("abc.0123456789abcdef").is_none() && parts("ABCDEF.0123456789abcdef").is_none());
    }
}
