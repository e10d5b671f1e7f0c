//! Registry credentials out of pull secrets.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::cri::v1;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Registry and repository path of an image name, without tag and digest.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let (head, rest) = match name.split_once('/') {
        Some((head, rest)) if head.contains(['.', ':']) || head == "localhost" => (head, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let path = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path.to_owned(),
        _ => rest,
    };
    format!("{head}/{path}")
}

/// The entry's key as host and path: `https://index.docker.io/v1/` means Docker Hub.
fn normalized(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.trim_end_matches("/v1").trim_end_matches("/v2");
    if key == "index.docker.io" || key == "registry-1.docker.io" { "docker.io".to_owned() } else { key.to_owned() }
}

fn matches(key: &str, repository: &str) -> bool {
    let key = normalized(key);
    let (host, path) = key.split_once('/').unwrap_or((&key, ""));
    let (wanted_host, wanted_path) = repository.split_once('/').unwrap_or((repository, ""));
    let host_matches = match host.strip_prefix("*.") {
        Some(suffix) => wanted_host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
        None => host == wanted_host,
    };
    host_matches && (path.is_empty() || wanted_path == path || wanted_path.starts_with(&format!("{path}/")))
}

/// Credentials to try for an image, the most specific first.
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<v1::AuthConfig> {
    let repository = repository(image);
    let mut found: Vec<(String, Entry)> = Vec::new();
    for secret in secrets {
        let data = secret.data.iter().flatten();
        for (name, bytes) in data {
            let auths = match name.as_str() {
                ".dockerconfigjson" => serde_json::from_slice::<Config>(&bytes.0).map(|config| config.auths),
                ".dockercfg" => serde_json::from_slice::<BTreeMap<String, Entry>>(&bytes.0),
                _ => continue,
            };
            match auths {
                Ok(auths) => found.extend(auths.into_iter().filter(|(key, _)| matches(key, &repository))),
                Err(error) => tracing::warn!(component = "images", secret = ?secret.metadata.name, %error,
                    "pull secret does not decode"),
            }
        }
    }
    found.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    found.into_iter().map(|(_, entry)| auth_config(entry)).collect()
}

fn auth_config(entry: Entry) -> v1::AuthConfig {
    let (mut username, mut password) = (entry.username, entry.password);
    if username.is_empty()
        && let Some(text) = STANDARD.decode(&entry.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        && let Some((user, secret)) = text.split_once(':')
    {
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    v1::AuthConfig {
        username,
        password,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn repositories_are_completed() {
        assert_eq!(repository("busybox"), "docker.io/library/busybox");
        assert_eq!(repository("a/b:1"), "docker.io/a/b");
        assert_eq!(repository("reg.io:5000/a/b:1"), "reg.io:5000/a/b");
        assert_eq!(repository("reg.io/a@sha256:00"), "reg.io/a");
    }

    #[test]
    fn the_most_specific_matching_entry_comes_first() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:pw")},
            "reg.io": {"username": "u", "password": "p"},
            "reg.io/team": {"username": "t", "password": "p"},
            "*.example.com": {"username": "w", "password": "p"},
        }});
        let bytes = k8s_openapi::ByteString(serde_json::to_vec(&config).unwrap());
        let secret =
            Arc::new(Secret { data: Some([(".dockerconfigjson".to_owned(), bytes)].into()), ..Secret::default() });
        let users = |image: &str| -> Vec<String> {
            credentials(image, std::slice::from_ref(&secret)).into_iter().map(|auth| auth.username).collect()
        };
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("reg.io/team/x"), ["t", "u"]);
        assert_eq!(users("reg.io/teamwork/x"), ["u"]);
        assert_eq!(users("a.example.com/x"), ["w"]);
        assert!(users("other.io/x").is_empty());
    }
}
