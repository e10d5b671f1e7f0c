//! Which headers pass a proxy.
//!
//! Hop-by-hop headers end at each hop; credentials end here. The bearer token that browsers put among their websocket protocols
//! is a credential too.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A websocket protocol of this prefix carries the client's token.
const TOKEN_PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether the client asks to switch protocols.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
        && headers.contains_key(header::UPGRADE)
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn is_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "authorization"
        || name.starts_with("impersonate-")
        || name == "x-remote-user"
        || name == "x-remote-uid"
        || name == "x-remote-group"
        || name.starts_with("x-remote-extra-")
}

/// Removes what ends at this hop, including what `Connection` names.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn without_credentials(client: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(client.len());
    for (name, value) in client {
        if !is_credential(name) && name != header::SEC_WEBSOCKET_PROTOCOL {
            out.append(name.clone(), value.clone());
        }
    }
    let protocols: Vec<&str> = tokens(client, header::SEC_WEBSOCKET_PROTOCOL)
        .filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL_PREFIX))
        .collect();
    if !protocols.is_empty()
        && let Ok(value) = HeaderValue::from_str(&protocols.join(", "))
    {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    out
}

/// Headers for a kubelet that is asked to switch protocols.
pub fn for_upgrade(client: &HeaderMap) -> HeaderMap {
    let mut out = without_credentials(client);
    let upgrade = out.get(header::UPGRADE).cloned();
    remove_hop_by_hop(&mut out);
    out.remove(header::HOST);
    out.remove(header::CONTENT_LENGTH);
    if let Some(upgrade) = upgrade {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, upgrade);
    }
    out
}

/// What a backend is told about the client's request.
#[derive(Debug)]
pub struct Forwarded<'a> {
    /// The path the client asked for.
    pub path: &'a str,
    /// The host the client asked for.
    pub host: Option<HeaderValue>,
}

/// Headers for a proxied node, pod or service.
pub fn for_proxy(client: &HeaderMap, forwarded: &Forwarded<'_>, upgrade: bool) -> HeaderMap {
    let mut out = if upgrade {
        for_upgrade(client)
    } else {
        let mut out = without_credentials(client);
        remove_hop_by_hop(&mut out);
        out.remove(header::HOST);
        out
    };
    if let Ok(path) = HeaderValue::from_str(forwarded.path) {
        out.insert("x-forwarded-uri", path);
    }
    if let Some(host) = &forwarded.host {
        out.insert("x-forwarded-host", host.clone());
    }
    out.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    out
}

/// Removes from a backend's answer what ends at this hop, and what would let a page of a pod speak for the API server's origin.
pub fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    for name in [
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
    ] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    const FORWARDED: Forwarded<'static> = Forwarded { path: "/api/v1/p", host: None };

    #[test]
    fn credentials_never_pass() {
        let client = headers(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("impersonate-extra-scopes", "x"),
            ("x-remote-user", "root"),
            ("x-remote-extra-a", "b"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
            ("accept", "*/*"),
        ]);
        for out in [for_upgrade(&client), for_proxy(&client, &FORWARDED, false), for_proxy(&client, &FORWARDED, true)] {
            let text = format!("{out:?}");
            assert!(!text.contains("secret") && !text.contains("root") && !text.contains("c2Vj"), "{text}");
            assert_eq!(out["sec-websocket-protocol"], "v5.channel.k8s.io");
            assert_eq!(out["accept"], "*/*");
        }
    }

    #[test]
    fn hop_by_hop_headers_end_here_and_the_wish_to_upgrade_is_renewed() {
        let client = headers(&[
            ("connection", "keep-alive, Upgrade, X-Private"),
            ("upgrade", "SPDY/3.1"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let out = for_upgrade(&client);
        assert_eq!(out["connection"], "Upgrade");
        assert_eq!(out["upgrade"], "SPDY/3.1");
        assert_eq!(out.get_all("x-stream-protocol-version").iter().count(), 2);
        assert!(!out.contains_key("x-private") && !out.contains_key("te"));
        let out = for_proxy(&client, &FORWARDED, false);
        assert!(!out.contains_key("connection") && !out.contains_key("upgrade"));
        assert_eq!(out["x-forwarded-uri"], "/api/v1/p");
    }

    #[test]
    fn answers_lose_hop_by_hop_and_cross_origin_headers() {
        let mut answer = headers(&[
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "*"),
            ("content-type", "text/html"),
        ]);
        clean_response(&mut answer);
        assert_eq!(answer.len(), 1);
    }
}
