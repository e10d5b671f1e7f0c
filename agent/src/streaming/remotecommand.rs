//! Exec and attach: a websocket client on one side, the runtime's SPDY streams on the other.
//!
//! Three loops run side by side in the caller's task: client to streams, streams to client, and the SPDY driver. The session
//! ends when the runtime has said how the command ended (its error stream ends), when the client goes, or with the token.

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::json;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use super::channels::{CLOSE, ERROR, ExecProtocol, RESIZE, STDERR, STDIN, STDOUT};
use super::limits::{RUNTIME_TIMEOUT, STATUS_LEN_MAX, WEBSOCKET_PING_INTERVAL};
use super::spdy::{Connection, Driver, Headers, ReceiveHalf, SendHalf, SpdyError};
use super::{ByteStream, StreamingError};

/// Which streams a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The SPDY streams of one exec or attach.
#[derive(Debug)]
struct Streams {
    error: ReceiveHalf,
    stdin: Option<SendHalf>,
    stdout: Option<ReceiveHalf>,
    stderr: Option<ReceiveHalf>,
    resize: Option<SendHalf>,
}

impl Streams {
    /// Opens the streams in the order in which upstream's client does. The runtime waits for exactly these.
    async fn open(connection: &Connection, wanted: Wanted) -> Result<Self, SpdyError> {
        let open = |kind| connection.open(Headers::new(&[("streamtype", kind)]));
        let error = open("error").await?.receive;
        let stdin = if wanted.stdin { Some(open("stdin").await?.send) } else { None };
        let stdout = if wanted.stdout { Some(open("stdout").await?.receive) } else { None };
        let stderr = if wanted.stderr && !wanted.tty { Some(open("stderr").await?.receive) } else { None };
        let resize = if wanted.tty { Some(open("resize").await?.send) } else { None };
        Ok(Streams { error, stdin, stdout, stderr, resize })
    }
}

/// Serves an upgraded client until the command or the client ends.
pub async fn serve<W>(
    websocket: W,
    protocol: ExecProtocol,
    wanted: Wanted,
    runtime: impl ByteStream,
    token: &CancellationToken,
) -> Result<(), StreamingError>
where
    W: Stream<Item = Result<Message, tungstenite::Error>> + Sink<Message, Error = tungstenite::Error> + Unpin + Send,
{
    let (mut sink, source) = websocket.split();
    let (connection, driver) = Connection::client(runtime);
    let session = async {
        let streams = timeout(RUNTIME_TIMEOUT, Streams::open(&connection, wanted)).await;
        let streams = streams.unwrap_or(Err(SpdyError::Ended))?;
        let Streams { error, stdin, stdout, stderr, resize } = streams;
        tokio::select! {
            result = to_streams(source, protocol, stdin, resize) => result,
            result = to_client(&mut sink, protocol, error, stdout, stderr) => result,
        }
    };
    tokio::select! {
        result = session => result,
        () = drive(driver, token) => Ok(()),
        () = token.cancelled() => Ok(()),
    }
}

/// Drives the runtime's connection and never returns: its end shows as the end of the streams, and the session still has to
/// read what came before it.
pub(super) async fn drive(driver: Driver<impl ByteStream>, token: &CancellationToken) {
    if let Err(error) = driver.run(token).await {
        tracing::debug!(component = "streaming", %error, "runtime stream ended");
    }
    std::future::pending().await
}

/// Client to streams, until the client goes. Ends stdin when the client says so.
async fn to_streams(
    mut source: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    protocol: ExecProtocol,
    mut stdin: Option<SendHalf>,
    mut resize: Option<SendHalf>,
) -> Result<(), StreamingError> {
    while let Some(message) = source.next().await {
        let message = message?;
        if message.is_close() {
            break;
        }
        match protocol.framing.decode(message) {
            Some((STDIN, data)) => {
                if let Some(send) = &mut stdin
                    && send.send(data).await.is_err()
                {
                    // The command has closed its stdin or ended; what it says comes on the other streams.
                    stdin = None;
                }
            }
            Some((RESIZE, data)) if protocol.has_resize() => {
                if let Some(send) = &mut resize
                    && send.send(data).await.is_err()
                {
                    // The command has ended, and how is still to be read: a window that changes now must not cut that off.
                    resize = None;
                }
            }
            Some((CLOSE, data)) if protocol.has_close() && data[..] == [STDIN] => {
                if let Some(mut send) = stdin.take() {
                    // Refused when the command has ended before its input, which is as well.
                    let _ = send.finish().await;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Streams to client, until all of them have ended; the status goes last.
async fn to_client<K>(
    sink: &mut K,
    protocol: ExecProtocol,
    mut error: ReceiveHalf,
    mut stdout: Option<ReceiveHalf>,
    mut stderr: Option<ReceiveHalf>,
) -> Result<(), StreamingError>
where
    K: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    // An empty message on the lowest channel tells the client that the streams stand.
    let first = if stdout.is_some() {
        STDOUT
    } else if stderr.is_some() {
        STDERR
    } else {
        ERROR
    };
    sink.send(protocol.framing.encode(first, &[])).await?;

    let mut pings = interval_at(Instant::now() + WEBSOCKET_PING_INTERVAL, WEBSOCKET_PING_INTERVAL);
    let mut status = None;
    let mut final_status = std::pin::pin!(error.receive_all(STATUS_LEN_MAX));
    while stdout.is_some() || stderr.is_some() || status.is_none() {
        let (channel, data) = tokio::select! {
            data = next(&mut stdout), if stdout.is_some() => (STDOUT, data),
            data = next(&mut stderr), if stderr.is_some() => (STDERR, data),
            text = &mut final_status, if status.is_none() => {
                status = Some(text);
                continue;
            }
            _ = pings.tick() => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match data {
            Some(Ok(data)) => sink.send(protocol.framing.encode(channel, &data)).await?,
            // End or reset: either way nothing more comes on this stream.
            _ if channel == STDOUT => stdout = None,
            _ => stderr = None,
        }
    }
    if let Some(text) = final_error(protocol, &status.unwrap_or_default()) {
        sink.send(protocol.framing.encode(ERROR, &text)).await?;
    }
    Ok(())
}

async fn next(half: &mut Option<ReceiveHalf>) -> Option<Result<Bytes, SpdyError>> {
    match half {
        Some(half) => half.receive().await,
        None => None,
    }
}

/// What the error channel says at the end: the runtime's status; a status of our own if it gave none; and for old protocols
/// the message of a failure only.
fn final_error(protocol: ExecProtocol, status: &[u8]) -> Option<Vec<u8>> {
    if protocol.has_status() {
        if !status.is_empty() {
            return Some(status.to_vec());
        }
        let message = "the container runtime ended the stream without saying how the command ended";
        let status = json!({
            "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500,
        });
        return Some(status.to_string().into_bytes());
    }
    match serde_json::from_slice::<serde_json::Value>(status) {
        Ok(status) if status["status"] == "Success" => None,
        Ok(status) => status["message"].as_str().map(|message| message.as_bytes().to_vec()),
        Err(_) => Some(status.to_vec()).filter(|text| !text.is_empty()),
    }
}

/// Runs a command without stdin and returns what it wrote, stdout and stderr in order of arrival.
pub async fn collect(
    runtime: impl ByteStream,
    output_len_max: usize,
    token: &CancellationToken,
) -> Result<(Vec<u8>, Vec<u8>), StreamingError> {
    let (connection, driver) = Connection::client(runtime);
    let session = async {
        let wanted = Wanted { stdout: true, stderr: true, ..Wanted::default() };
        let Streams { mut error, mut stdout, mut stderr, .. } = Streams::open(&connection, wanted).await?;
        let mut output = Vec::new();
        let outputs = async {
            while stdout.is_some() || stderr.is_some() {
                let (half, data) = tokio::select! {
                    data = next(&mut stdout), if stdout.is_some() => (&mut stdout, data),
                    data = next(&mut stderr), if stderr.is_some() => (&mut stderr, data),
                };
                match data {
                    Some(Ok(data)) => output.extend_from_slice(&data[..data.len().min(output_len_max - output.len())]),
                    _ => *half = None,
                }
            }
        };
        let (status, ()) = tokio::join!(error.receive_all(STATUS_LEN_MAX), outputs);
        Ok((output, status))
    };
    tokio::select! {
        result = session => result,
        () = drive(driver, token) => Err(SpdyError::Ended.into()),
    }
}

#[cfg(test)]
#[path = "remotecommand_tests.rs"]
mod tests;
