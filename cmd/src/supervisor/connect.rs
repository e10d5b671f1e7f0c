//! The server's end of the reverse tunnel: a node's websocket becomes a session.

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use skiff_client::Body;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{Caller, Refusal, Supervisor, text};

/// Answers `GET /v1-skiff/connect` with 101 and serves the tunnel until it ends.
pub fn accept(supervisor: &Supervisor, mut request: Request<Body>, caller: &Caller) -> Result<Response<Body>, Refusal> {
    let Caller::Node(node) = caller else {
        return Err(Refusal(StatusCode::FORBIDDEN, "the tunnel needs a node certificate".to_owned()));
    };
    let key = websocket_key(request.headers())
        .ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "a websocket upgrade is needed".to_owned()))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (node, sessions, token) = (node.clone(), supervisor.sessions.clone(), supervisor.token.child_token());
    supervisor.tasks.spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                tracing::warn!(component = "tunnel", node, %error, "upgrade of the tunnel failed");
                return;
            }
        };
        let config = Some(skiff_tunnel::websocket_config());
        let websocket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, config).await;
        tracing::info!(component = "tunnel", node, "node connected");
        let end = sessions.serve(&node, websocket, &token).await;
        tracing::info!(component = "tunnel", node, ?end, "node disconnected");
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    let accept = header::HeaderValue::from_str(&key)
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "the websocket key is not text".to_owned()))?;
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

fn websocket_key(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    upgrade.eq_ignore_ascii_case("websocket").then(|| derive_accept_key(key.as_bytes()))
}
