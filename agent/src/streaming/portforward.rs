//! Port-forward for websocket clients: SPDY carried inside the websocket, and the older pairs of channels.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::channels::Framing;
use super::limits::{DATA_PIECE_LEN_MAX, RUNTIME_TIMEOUT, WEBSOCKET_PING_INTERVAL};
use super::remotecommand::drive;
use super::spdy::{Connection, Headers, ReceiveHalf, SendHalf, SpdyError, SpdyStream};
use super::{ByteStream, StreamingError};

/// The websocket protocol in which binary messages are a SPDY byte stream.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// The protocol inside the tunnel, and that of SPDY clients.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";

/// The framing of a channel-pair protocol by name; the empty name is binary.
pub fn channel_framing(name: &str) -> Option<Framing> {
    match name {
        "" | "v4.channel.k8s.io" => Some(Framing::Binary),
        "v4.base64.channel.k8s.io" => Some(Framing::Base64),
        _ => None,
    }
}

/// Carries the bytes of binary messages to the runtime and back, until either side ends.
pub async fn serve_tunnel<W>(
    websocket: W,
    runtime: impl ByteStream,
    token: &CancellationToken,
) -> Result<(), StreamingError>
where
    W: Stream<Item = Result<Message, tungstenite::Error>> + Sink<Message, Error = tungstenite::Error> + Unpin + Send,
{
    let (mut sink, mut source) = websocket.split();
    let (mut read, mut write) = tokio::io::split(runtime);
    let up = async {
        while let Some(message) = source.next().await {
            match message? {
                Message::Binary(data) => write.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok::<(), StreamingError>(())
    };
    let down = async {
        let mut pings = interval_at(Instant::now() + WEBSOCKET_PING_INTERVAL, WEBSOCKET_PING_INTERVAL);
        loop {
            let mut buffer = BytesMut::with_capacity(DATA_PIECE_LEN_MAX);
            tokio::select! {
                len = read.read_buf(&mut buffer) => {
                    if len? == 0 {
                        return Ok::<(), StreamingError>(());
                    }
                    sink.send(Message::Binary(buffer.freeze())).await?;
                }
                _ = pings.tick() => sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
    };
    tokio::select! {
        result = up => result,
        result = down => result,
        () = token.cancelled() => Ok(()),
    }
}

/// The two runtime streams behind one forwarded port.
struct Pair {
    data: SpdyStream,
    error: ReceiveHalf,
}

impl Pair {
    async fn open(connection: &Connection, index: usize, port: u16) -> Result<Self, SpdyError> {
        let (port, request) = (port.to_string(), index.to_string());
        let headers = |kind| Headers::new(&[("streamtype", kind), ("port", &port), ("requestid", &request)]);
        let SpdyStream { send: mut error_send, receive: error } = connection.open(headers("error")).await?;
        error_send.finish().await?;
        Ok(Pair { data: connection.open(headers("data")).await?, error })
    }
}

/// Serves channel pairs: port number `i` has channel `2i` for data and `2i + 1` for errors; each channel begins with the
/// port in two bytes, low byte first.
pub async fn serve_channels<W>(
    websocket: W,
    framing: Framing,
    ports: &[u16],
    runtime: impl ByteStream,
    token: &CancellationToken,
) -> Result<(), StreamingError>
where
    W: Stream<Item = Result<Message, tungstenite::Error>> + Sink<Message, Error = tungstenite::Error> + Unpin + Send,
{
    let (mut sink, source) = websocket.split();
    let (connection, driver) = Connection::client(runtime);
    let session = async {
        let (mut sends, mut receives) = (Vec::new(), Vec::new());
        for (index, &port) in ports.iter().enumerate() {
            let pair = timeout(RUNTIME_TIMEOUT, Pair::open(&connection, index, port)).await;
            let Pair { data, error } = pair.unwrap_or(Err(SpdyError::Ended))?;
            sends.push(data.send);
            receives.extend([data.receive, error]);
        }
        for channel in 0..receives.len() {
            sink.send(framing.encode(channel as u8, &ports[channel / 2].to_le_bytes())).await?;
        }
        tokio::select! {
            result = channels_up(source, framing, sends) => result,
            result = channels_down(&mut sink, framing, receives) => result,
        }
    };
    tokio::select! {
        result = session => result,
        () = drive(driver, token) => Ok(()),
        () = token.cancelled() => Ok(()),
    }
}

async fn channels_up(
    mut source: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    framing: Framing,
    mut sends: Vec<SendHalf>,
) -> Result<(), StreamingError> {
    while let Some(message) = source.next().await {
        let message = message?;
        if message.is_close() {
            break;
        }
        let Some((channel, data)) = framing.decode(message) else { continue };
        if channel.is_multiple_of(2)
            && let Some(send) = sends.get_mut(usize::from(channel / 2))
        {
            send.send(data).await?;
        }
    }
    Ok(())
}

async fn channels_down<K>(sink: &mut K, framing: Framing, receives: Vec<ReceiveHalf>) -> Result<(), StreamingError>
where
    K: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    let streams = receives.into_iter().enumerate().map(|(channel, receive)| {
        Box::pin(futures_util::stream::unfold(receive, move |mut receive| async move {
            let data = receive.receive().await?.ok()?;
            Some(((channel as u8, data), receive))
        }))
    });
    let mut merged = futures_util::stream::select_all(streams);
    while let Some((channel, mut data)) = merged.next().await {
        while data.has_remaining() {
            let piece = data.split_to(data.len().min(DATA_PIECE_LEN_MAX));
            sink.send(framing.encode(channel, &piece)).await?;
        }
    }
    Ok(())
}
