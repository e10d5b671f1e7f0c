//! The server's side of the websocket handshake: recognise it, choose a protocol, answer.

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::limits::{WEBSOCKET_CLOSE_TIMEOUT, WEBSOCKET_MESSAGE_LEN_MAX};

/// Websocket settings for clients.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * WEBSOCKET_MESSAGE_LEN_MAX)
        .max_message_size(Some(WEBSOCKET_MESSAGE_LEN_MAX))
        .max_frame_size(Some(WEBSOCKET_MESSAGE_LEN_MAX))
}

/// Whether the request asks for a websocket.
pub fn is_requested<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && has_token(request.headers(), header::CONNECTION, "upgrade")
        && has_token(request.headers(), header::UPGRADE, "websocket")
}

/// Whether a comma-separated header holds a token.
pub fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token))
}

fn tokens(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The first protocol the client offers that `supported` accepts; the empty name if it offers none at all.
/// `None` if it offers some and none is supported.
pub fn choose_protocol(headers: &HeaderMap, supported: impl Fn(&str) -> bool) -> Option<String> {
    let mut offered = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Some(String::new());
    }
    offered.find(|name| supported(name)).map(str::to_owned)
}

/// The answer that switches to the websocket; `None` if the request lacks its key or names another version.
pub fn accept<B: Default>(headers: &HeaderMap, protocol: &str) -> Option<Response<B>> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return None;
    }
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?);
    if !protocol.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).ok()?);
    }
    Some(response)
}

/// Closes a websocket in good order: a normal close (clients take any other for a failure), then the client's answer, so
/// that nothing it has sent makes the kernel reset the connection and take unread output with it.
pub async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut client: WebSocketStream<S>) {
    let closing = async {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        client.close(Some(frame)).await.ok()?;
        while let Some(Ok(_)) = client.next().await {}
        client.get_mut().shutdown().await.ok()
    };
    // A client that does not answer is dropped with its connection.
    let _ = timeout(WEBSOCKET_CLOSE_TIMEOUT, closing).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in pairs {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn the_handshake_is_recognised_in_every_usual_spelling() {
        assert!(is_requested(&request(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!is_requested(&request(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])));
        assert!(!is_requested(&request(&[("upgrade", "websocket")])));
    }

    #[test]
    fn the_client_order_decides_the_protocol() {
        let supported = |name: &str| name == "a" || name == "b";
        let choose = |value| choose_protocol(request(&[("sec-websocket-protocol", value)]).headers(), supported);
        assert_eq!(choose("x, b, a").as_deref(), Some("b"));
        assert_eq!(choose("x"), None);
        assert_eq!(choose_protocol(&HeaderMap::new(), supported).as_deref(), Some(""));
    }

    #[test]
    fn the_accept_key_is_that_of_the_standard_and_the_protocol_is_echoed() {
        let request = request(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")]);
        let response: Response<String> = accept(request.headers(), "v5.channel.k8s.io").expect("a full request");
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert!(accept::<String>(&HeaderMap::new(), "").is_none());
    }
}
