//! Commands and logs over plain WebSocket, by the oldest subprotocols.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt;
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::{
    api::core,
    context::Context,
    pods::{pod, shell},
};

crate::rows! { "node";
    "Pods" {
        "should support remote command execution over websockets" => command,
        "should support retrieving logs from the container over websockets" => logs,
    }
}

const LIMIT: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn dial(context: &Context, path: &str, protocol: &str) -> Result<Socket> {
    let request = Request::builder()
        .uri(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(Body::empty())?;
    let response = context.client.send(request).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "answered {}", response.status());
    let chosen = response.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    ensure!(chosen == Some(protocol), "chose {chosen:?} instead of {protocol}");
    let upgraded = hyper::upgrade::on(response).await?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

/// The bytes of messages until the other side closes.
async fn read(socket: &mut Socket, mut take: impl FnMut(&[u8]) -> Result<bool>) -> Result<()> {
    let work = async {
        while let Some(message) = socket.next().await {
            match message? {
                Message::Binary(bytes) if take(&bytes)? => return Ok(()),
                Message::Text(text) => bail!("text instead of bytes: {text}"),
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, work).await.context("no end")?
}

async fn command(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let object = pod("exec", &[shell(&context, "echo container is alive; sleep 600")]);
    context.start_pod(&namespace, &object).await?;
    let path = format!(
        "{}/exec/exec?stderr=1&stdout=1&container=main&command=echo&command=remote+execution+test",
        core(&namespace, "pods")
    );
    let mut socket = dial(&context, &path, "channel.k8s.io").await?;
    let mut output = Vec::new();
    // The first byte of a message is its channel; channels are opened with empty messages.
    read(&mut socket, |bytes| match bytes {
        [] | [_] => Ok(false),
        [1, text @ ..] => {
            output.extend_from_slice(text);
            Ok(output.ends_with(b"remote execution test\n"))
        }
        [channel, text @ ..] => bail!("channel {channel}: {:?}", String::from_utf8_lossy(text)),
    })
    .await?;
    ensure!(output == b"remote execution test\n", "{:?}", String::from_utf8_lossy(&output));
    Ok(())
}

async fn logs(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let object = pod("logs", &[shell(&context, "echo container is alive; sleep 600")]);
    context.start_pod(&namespace, &object).await?;
    context.wait_log(&namespace, "logs", "main", "container is alive").await?;
    let path = format!("{}/logs/log?container=main", core(&namespace, "pods"));
    let mut socket = dial(&context, &path, "binary.k8s.io").await?;
    let mut output = Vec::new();
    read(&mut socket, |bytes| {
        output.extend_from_slice(bytes);
        Ok(false)
    })
    .await?;
    ensure!(output == b"container is alive\n", "{:?}", String::from_utf8_lossy(&output));
    Ok(())
}
