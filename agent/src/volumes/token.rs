//! Service account tokens for projected volumes.
//!
//! A token is asked for once and again when four fifths of its life, or a day,
//! have passed. While the API cannot be reached an unexpired token is kept.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::GroupVersionResource;
use skiff_client::Client;

use crate::pods::spec;

#[derive(Clone, Debug)]
struct Token {
    text: String,
    refresh_at: Timestamp,
    expires_at: Timestamp,
}

/// Tokens by pod and what they are for.
#[derive(Default)]
pub struct TokenCache(Mutex<HashMap<(String, String), Token>>);

impl TokenCache {
    /// The token and when it must be renewed.
    pub async fn get(
        &self,
        client: &Client,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<(String, Timestamp), String> {
        let account = spec::spec(pod).service_account_name.clone().unwrap_or_else(|| "default".to_owned());
        let seconds = projection.expiration_seconds.unwrap_or(3600);
        let audience = projection.audience.clone().unwrap_or_default();
        let key = (spec::uid(pod).to_owned(), format!("{account}/{audience}/{seconds}"));
        let now = Timestamp::now();
        let cached = self.0.lock().get(&key).cloned();
        if let Some(token) = cached.as_ref().filter(|token| token.refresh_at > now) {
            return Ok((token.text.clone(), token.refresh_at));
        }
        match request(client, pod, &account, &audience, seconds, now).await {
            Ok(token) => {
                let answer = (token.text.clone(), token.refresh_at);
                self.0.lock().insert(key, token);
                Ok(answer)
            }
            Err(error) => match cached.filter(|token| token.expires_at > now) {
                Some(token) => {
                    tracing::warn!(component = "volumes", pod = spec::full_name(pod), error, "keeping an older token");
                    let retry = now + Duration::from_secs(60);
                    Ok((token.text, retry))
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    /// Drops the tokens of a pod.
    pub fn forget(&self, pod_uid: &str) {
        self.0.lock().retain(|(uid, _), _| uid != pod_uid);
    }
}

async fn request(
    client: &Client,
    pod: &Pod,
    account: &str,
    audience: &str,
    seconds: i64,
    now: Timestamp,
) -> Result<Token, String> {
    let audiences: Vec<&str> = if audience.is_empty() { vec![] } else { vec![audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": spec::name(pod), "uid": spec::uid(pod)},
        },
    });
    let accounts = GroupVersionResource::of::<ServiceAccount>();
    let answer = client
        .create_subresource(&accounts, Some(spec::namespace(pod)), account, "token", &body)
        .await
        .map_err(|error| error.to_string())?;
    let text = answer["status"]["token"].as_str().ok_or("the answer holds no token")?.to_owned();
    let expires_at: Timestamp = answer["status"]["expirationTimestamp"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(now + Duration::from_secs(seconds.unsigned_abs()));
    Ok(Token { text, refresh_at: refresh_time(now, expires_at), expires_at })
}

fn refresh_time(now: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = expires_at.duration_since(now);
    now + (life * 4 / 5).min(SignedDuration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time_and_at_least_daily() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(refresh_time(at(0), at(3600)), at(2880));
        assert_eq!(refresh_time(at(0), at(31_536_000)), at(86_400));
    }
}
