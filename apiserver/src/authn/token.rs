//! Bearer tokens: where they stand in a request and who can read them.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};

use super::UserInfo;

/// Prefix of the WebSocket subprotocol in which browsers carry the token.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Turns a bearer token into a user.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// `None`: not a valid token of this kind. `audiences` empty means the API server itself.
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<UserInfo>;
}

/// Several kinds of tokens, asked in order.
#[derive(Default)]
pub struct TokenUnion(pub Vec<Arc<dyn TokenAuthenticator>>);

#[async_trait]
impl TokenAuthenticator for TokenUnion {
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<UserInfo> {
        for authenticator in &self.0 {
            if let Some(user) = authenticator.authenticate(token, audiences).await {
                return Some(user);
            }
        }
        None
    }
}

/// The bearer token of a request: `Authorization`, or a WebSocket subprotocol.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().find_map(|value| {
        value.to_str().ok()?.split(',').find_map(|protocol| {
            let encoded = protocol.trim().strip_prefix(PROTOCOL_PREFIX)?;
            String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
        })
    })
}

/// Removes credentials before a request goes on to another server.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let kept: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.starts_with(PROTOCOL_PREFIX))
        .map(str::to_owned)
        .collect();
    if headers.remove(header::SEC_WEBSOCKET_PROTOCOL).is_some()
        && !kept.is_empty()
        && let Ok(value) = kept.join(", ").parse()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_from_the_header_or_a_subprotocol() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        let encoded = URL_SAFE_NO_PAD.encode("abc");
        let protocols = format!("{PROTOCOL_PREFIX}{encoded}, v5.channel.k8s.io");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        assert_eq!(bearer(&headers).as_deref(), Some("abc"));
        headers.insert(header::AUTHORIZATION, "Bearer  xyz".parse().unwrap());
        assert_eq!(bearer(&headers).as_deref(), Some("xyz"));
        strip(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(bearer(&headers), None);
    }
}
