//! A stream for a websocket client: each piece of it (of a pod's log, of a watch) is one message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use skiff_api::Status;
use skiff_client::Body;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::WEBSOCKET_CLOSE_TIMEOUT;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Switches the client to a websocket and sends `log` to it in a task of `sessions`.
pub fn answer<B>(
    request: &mut Request<B>,
    log: Body,
    sessions: &TaskTracker,
    token: &CancellationToken,
) -> Result<Response<Body>, Status> {
    let offered: Vec<&str> = request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let known = |name: &&str| [BINARY, BASE64].into_iter().find(|protocol| protocol == name);
    match offered.iter().find_map(known) {
        Some(BASE64) => {
            switch(request, log, Some(BASE64), |data| Message::text(STANDARD.encode(&data)), sessions, token)
        }
        protocol => switch(request, log, protocol, Message::Binary, sessions, token),
    }
}

/// Switches the client to a websocket; every frame of `body` becomes a message,
/// sent in a task of `sessions`.
pub(crate) fn switch<B>(
    request: &mut Request<B>,
    body: Body,
    protocol: Option<&'static str>,
    message: fn(Bytes) -> Message,
    sessions: &TaskTracker,
    token: &CancellationToken,
) -> Result<Response<Body>, Status> {
    let invalid = || Status::bad_request("not a valid websocket handshake");
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).ok_or_else(invalid)?;
    let mut response: Response<Body> = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }

    let client = hyper::upgrade::on(request);
    let token = token.clone();
    sessions.spawn(async move {
        let work = async {
            let client = client.await.map_err(|error| tungstenite::Error::Io(std::io::Error::other(error)))?;
            let mut client = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await;
            let result = send(&mut client, body, message).await;
            finish(client).await;
            result
        };
        tokio::select! {
            () = token.cancelled() => {}
            result = work => {
                if let Err(error) = result {
                    tracing::debug!(component = "apiserver", %error, "websocket stream ended early");
                }
            }
        }
    });
    Ok(response)
}

async fn send<S>(
    client: &mut WebSocketStream<S>,
    mut body: Body,
    message: fn(Bytes) -> Message,
) -> Result<(), tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = client.split();
    // What the client sends is of no interest, but its leaving is.
    let left = async { while let Some(Ok(_)) = source.next().await {} };
    let sending = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                sink.send(message(data)).await?;
            }
        }
        Ok(())
    };
    tokio::select! {
        () = left => Ok(()),
        result = sending => result,
    }
}

/// Closes in good order: clients take any code but this for a failure, and an answer left unread resets the connection.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(mut client: WebSocketStream<S>) {
    let closing = async {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        client.close(Some(frame)).await.ok()?;
        while let Some(Ok(_)) = client.next().await {}
        client.get_mut().shutdown().await.ok()
    };
    // A client that does not answer is dropped with its connection.
    let _ = timeout(WEBSOCKET_CLOSE_TIMEOUT, closing).await;
}
