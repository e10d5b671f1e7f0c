//! A SPDY connection: open streams on it, send and receive on each.
//!
//! [`Driver::run`] owns the byte stream and must be polled for anything to move; [`Connection`] is the handle. A reader that lags
//! stops the whole connection from reading, which is all the back-pressure this protocol's peers know; so streams whose data
//! nobody wants must have their [`ReceiveHalf`] dropped, not kept unread.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::SpdyError;
use super::frame::{Frame, FrameReader, StreamId};
use super::headers::{Compressor, Headers};
use crate::streaming::limits::{DATA_PIECE_LEN_MAX, SPDY_STREAMS_MAX, STREAM_QUEUE_LEN, WRITE_QUEUE_LEN};

const STATUS_REFUSED_STREAM: u32 = 3;
const STATUS_CANCEL: u32 = 5;

type Received = Result<Bytes, u32>;

#[derive(Debug)]
struct Entry {
    /// Towards the reader; gone once the peer has finished its direction.
    data: Option<mpsc::Sender<Received>>,
    reply: Option<oneshot::Sender<Result<(), u32>>>,
    self_finished: bool,
}

#[derive(Debug)]
struct Table {
    next_id: StreamId,
    ended: bool,
    entries: HashMap<StreamId, Entry>,
}

impl Table {
    fn insert(
        &mut self,
        stream: StreamId,
        reply: Option<oneshot::Sender<Result<(), u32>>>,
    ) -> mpsc::Receiver<Received> {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE_LEN);
        self.entries.insert(stream, Entry { data: Some(sender), reply, self_finished: false });
        receiver
    }

    /// Closes one direction; a stream with both closed leaves the table.
    fn finish(&mut self, stream: StreamId, by_peer: bool) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        if by_peer {
            entry.data = None;
        } else {
            entry.self_finished = true;
        }
        if entry.data.is_none() && entry.self_finished {
            self.entries.remove(&stream);
        }
    }
}

/// Handle of a connection; cheap to clone. The connection ends when the handle and all send halves are gone.
#[derive(Debug, Clone)]
pub struct Connection {
    outgoing: mpsc::Sender<Frame>,
    table: Arc<Mutex<Table>>,
}

/// Streams the peer opened, with their headers.
pub type Accepted = mpsc::Receiver<(Headers, SpdyStream)>;

/// Owner of the byte stream; see [`Driver::run`].
pub struct Driver<S> {
    io: S,
    frames: mpsc::Receiver<Frame>,
    outgoing: mpsc::WeakSender<Frame>,
    table: Arc<Mutex<Table>>,
    accept: Option<mpsc::Sender<(Headers, SpdyStream)>>,
}

impl Connection {
    /// The client's side over an upgraded byte stream. The peer may open no streams.
    pub fn client<S: AsyncRead + AsyncWrite>(io: S) -> (Connection, Driver<S>) {
        Self::new(io, 1, None)
    }

    /// The server's side; streams of the client come out of [`Accepted`].
    pub fn server<S: AsyncRead + AsyncWrite>(io: S) -> (Connection, Driver<S>, Accepted) {
        let (accept, accepted) = mpsc::channel(STREAM_QUEUE_LEN);
        let (connection, driver) = Self::new(io, 2, Some(accept));
        (connection, driver, accepted)
    }

    fn new<S>(io: S, next_id: StreamId, accept: Option<mpsc::Sender<(Headers, SpdyStream)>>) -> (Self, Driver<S>) {
        let (outgoing, frames) = mpsc::channel(WRITE_QUEUE_LEN);
        let table = Arc::new(Mutex::new(Table { next_id, ended: false, entries: HashMap::new() }));
        let weak = outgoing.downgrade();
        let connection = Connection { outgoing, table: table.clone() };
        (connection, Driver { io, frames, outgoing: weak, table, accept })
    }

    /// Opens a stream and waits for the peer's reply: peers discard data that comes before it.
    pub async fn open(&self, headers: Headers) -> Result<SpdyStream, SpdyError> {
        let permit = self.outgoing.reserve().await.map_err(|_| SpdyError::Ended)?;
        let (reply, replied) = oneshot::channel();
        let (id, data) = {
            // Under one lock, so that ids are sent in rising order.
            let mut table = self.table.lock();
            if table.ended {
                return Err(SpdyError::Ended);
            }
            if table.entries.len() >= SPDY_STREAMS_MAX {
                return Err(SpdyError::TooManyStreams);
            }
            let id = table.next_id;
            table.next_id += 2;
            permit.send(Frame::SynStream { stream: id, headers, fin: false });
            (id, table.insert(id, Some(reply)))
        };
        let stream = SpdyStream::new(id, self.clone(), data);
        match replied.await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(status)) => Err(SpdyError::Reset(status)),
            Err(_) => Err(SpdyError::Ended),
        }
    }
}

/// One stream.
#[derive(Debug)]
pub struct SpdyStream {
    /// The direction towards the peer.
    pub send: SendHalf,
    /// The direction from the peer.
    pub receive: ReceiveHalf,
}

impl SpdyStream {
    fn new(id: StreamId, connection: Connection, data: mpsc::Receiver<Received>) -> Self {
        SpdyStream { send: SendHalf { id, connection, finished: false }, receive: ReceiveHalf { data } }
    }
}

/// The sending direction of a stream.
#[derive(Debug)]
pub struct SendHalf {
    id: StreamId,
    connection: Connection,
    finished: bool,
}

impl SendHalf {
    /// Sends bytes; waits while the connection is busy.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), SpdyError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(DATA_PIECE_LEN_MAX));
            self.frame(Frame::Data { stream: self.id, data: piece, fin: false }).await?;
        }
        Ok(())
    }

    /// End of file in this direction. Sending it twice does nothing.
    pub async fn finish(&mut self) -> Result<(), SpdyError> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.frame(Frame::Data { stream: self.id, data: Bytes::new(), fin: true }).await?;
        self.connection.table.lock().finish(self.id, false);
        Ok(())
    }

    /// Ends both directions.
    pub async fn reset(self) -> Result<(), SpdyError> {
        self.connection.table.lock().entries.remove(&self.id);
        self.frame(Frame::RstStream { stream: self.id, status: STATUS_CANCEL }).await
    }

    async fn frame(&self, frame: Frame) -> Result<(), SpdyError> {
        self.connection.outgoing.send(frame).await.map_err(|_| SpdyError::Ended)
    }
}

/// The receiving direction of a stream. Dropping it discards what still comes.
#[derive(Debug)]
pub struct ReceiveHalf {
    data: mpsc::Receiver<Received>,
}

impl ReceiveHalf {
    /// The next bytes; `None` at the end of file or of the connection.
    pub async fn receive(&mut self) -> Option<Result<Bytes, SpdyError>> {
        self.data.recv().await.map(|received| received.map_err(SpdyError::Reset))
    }

    /// Everything up to the end, at most `len_max` bytes. A reset is an end, too: peers close a connection by resetting its
    /// streams, after all that they had to say.
    pub async fn receive_all(&mut self, len_max: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Ok(data)) = self.receive().await {
            all.extend_from_slice(&data[..data.len().min(len_max - all.len())]);
        }
        all
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Moves frames until the peer closes, every handle is gone, or the token is cancelled. Afterwards every stream has ended.
    pub async fn run(self, token: &CancellationToken) -> Result<(), SpdyError> {
        let Driver { io, frames, outgoing, table, accept } = self;
        let _ended = EndOnDrop(table.clone());
        let (read, write) = tokio::io::split(io);
        let reading = Reading { frames: FrameReader::new(read), outgoing, table, accept };
        tokio::select! {
            () = token.cancelled() => Ok(()),
            result = reading.run() => result,
            result = write_frames(write, frames) => result,
        }
    }
}

/// Ends every stream when the driver returns or is dropped.
struct EndOnDrop(Arc<Mutex<Table>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let mut table = self.0.lock();
        table.ended = true;
        table.entries.clear();
    }
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) -> Result<(), SpdyError> {
    let mut compressor = Compressor::new()?;
    while let Some(frame) = frames.recv().await {
        io.write_all(&frame.encode(&mut compressor)?).await?;
        while let Ok(frame) = frames.try_recv() {
            io.write_all(&frame.encode(&mut compressor)?).await?;
        }
        io.flush().await?;
    }
    io.shutdown().await?;
    Ok(())
}

struct Reading<R> {
    frames: FrameReader<R>,
    outgoing: mpsc::WeakSender<Frame>,
    table: Arc<Mutex<Table>>,
    accept: Option<mpsc::Sender<(Headers, SpdyStream)>>,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    async fn run(mut self) -> Result<(), SpdyError> {
        while let Some(frame) = self.frames.next().await? {
            match frame {
                Frame::SynStream { stream, headers, fin } => self.opened(stream, headers, fin).await,
                Frame::SynReply { stream, fin, .. } => self.replied(stream, fin),
                Frame::Headers { stream, fin: true, .. } => self.finish(stream),
                Frame::RstStream { stream, status } => self.reset(stream, status).await,
                Frame::Data { stream, data, fin } => self.data(stream, data, fin).await,
                Frame::Ping(id) => self.ping(id),
                // The peer opens nothing more; streams that are open go on.
                Frame::GoAway { .. } => {}
                Frame::Headers { .. } | Frame::Settings | Frame::WindowUpdate { .. } => {}
            }
        }
        Ok(())
    }

    /// Replies without waiting: a full queue means the peer does not read, and then it does not miss the reply.
    fn reply(&self, frame: Frame) {
        if let Some(outgoing) = self.outgoing.upgrade()
            && outgoing.try_send(frame).is_err()
        {
            tracing::debug!(component = "spdy", "dropped a reply to a peer that does not read");
        }
    }

    fn ping(&self, id: u32) {
        // Pings of our own parity are answers; we send none.
        if id % 2 != self.table.lock().next_id % 2 {
            self.reply(Frame::Ping(id));
        }
    }

    async fn opened(&mut self, stream: StreamId, headers: Headers, fin: bool) {
        let (Some(accept), Some(outgoing)) = (self.accept.clone(), self.outgoing.upgrade()) else {
            return self.reply(Frame::RstStream { stream, status: STATUS_REFUSED_STREAM });
        };
        let data = {
            let mut table = self.table.lock();
            let legal = stream % 2 != table.next_id % 2 && !table.entries.contains_key(&stream);
            (legal && table.entries.len() < SPDY_STREAMS_MAX).then(|| table.insert(stream, None))
        };
        let Some(data) = data else {
            return self.reply(Frame::RstStream { stream, status: STATUS_REFUSED_STREAM });
        };
        if fin {
            self.finish(stream);
        }
        let reply = Frame::SynReply { stream, headers: Headers::default(), fin: false };
        if outgoing.send(reply).await.is_ok() {
            // A receiver that is gone wants no more streams; this one ends by being dropped.
            let connection = Connection { outgoing, table: self.table.clone() };
            let _ = accept.send((headers, SpdyStream::new(stream, connection, data))).await;
        }
    }

    fn replied(&self, stream: StreamId, fin: bool) {
        let reply = self.table.lock().entries.get_mut(&stream).and_then(|entry| entry.reply.take());
        if let Some(reply) = reply {
            // The opener may have given up; then nobody needs to know.
            let _ = reply.send(Ok(()));
        }
        if fin {
            self.finish(stream);
        }
    }

    fn finish(&self, stream: StreamId) {
        self.table.lock().finish(stream, true);
    }

    async fn reset(&mut self, stream: StreamId, status: u32) {
        let Some(entry) = self.table.lock().entries.remove(&stream) else { return };
        if let Some(reply) = entry.reply {
            // As above.
            let _ = reply.send(Err(status));
        } else if let Some(data) = entry.data {
            // A reader that is gone does not need to know.
            let _ = data.send(Err(status)).await;
        }
    }

    async fn data(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        let sender = self.table.lock().entries.get(&stream).and_then(|entry| entry.data.clone());
        if let Some(sender) = sender
            && !data.is_empty()
        {
            // Waits for the reader; a reader that is gone discards.
            let _ = sender.send(Ok(data)).await;
        }
        if fin {
            self.finish(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo(mut accepted: Accepted) {
        let mut tasks = tokio::task::JoinSet::new();
        while let Some((headers, mut stream)) = accepted.recv().await {
            tasks.spawn(async move {
                if headers.get("streamtype") == Some("reset") {
                    return stream.send.reset().await;
                }
                while let Some(data) = stream.receive.receive().await {
                    stream.send.send(data?).await?;
                }
                stream.send.finish().await
            });
        }
    }

    async fn with_echo<F: Future>(client: impl FnOnce(Connection) -> F) -> F::Output {
        let (near, far) = tokio::io::duplex(1000);
        let (connection, driver) = Connection::client(near);
        let (server, server_driver, accepted) = Connection::server(far);
        let token = CancellationToken::new();
        let background = async {
            let (near, far, ()) = tokio::join!(driver.run(&token), server_driver.run(&token), echo(accepted));
            near.and(far).expect("no protocol error");
            drop(server);
        };
        tokio::select! {
            output = client(connection) => output,
            () = background => panic!("the connection ended early"),
        }
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_with_half_close() {
        with_echo(|connection| async move {
            let transfer = |seed: u8| {
                let connection = connection.clone();
                async move {
                    let SpdyStream { mut send, mut receive } =
                        connection.open(Headers::new(&[("streamType", "data")])).await.expect("opens");
                    let data = vec![seed; 100_000];
                    let sending = async {
                        send.send(Bytes::from(data.clone())).await.expect("sends");
                        send.finish().await.expect("finishes");
                    };
                    let (back, ()) = tokio::join!(receive.receive_all(usize::MAX), sending);
                    assert!(back == data);
                }
            };
            tokio::join!(transfer(1), transfer(2), transfer(3));
        })
        .await;
    }

    #[tokio::test]
    async fn a_reset_is_told_to_the_reader() {
        with_echo(|connection| async move {
            let mut stream = connection.open(Headers::new(&[("streamType", "reset")])).await.expect("opens");
            let received = stream.receive.receive().await;
            assert!(matches!(received, Some(Err(SpdyError::Reset(STATUS_CANCEL)))), "{received:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_every_stream() {
        let (near, far) = tokio::io::duplex(1000);
        let (connection, driver) = Connection::client(near);
        let (_server, server_driver, mut accepted) = Connection::server(far);
        let (token, server_token) = (CancellationToken::new(), CancellationToken::new());
        let client = async {
            let mut stream = connection.open(Headers::default()).await.expect("opens");
            server_token.cancel();
            assert!(stream.receive.receive().await.is_none());
            assert!(matches!(connection.open(Headers::default()).await, Err(SpdyError::Ended)));
        };
        let server = async {
            let stream = accepted.recv().await;
            server_token.cancelled().await;
            drop(stream);
        };
        let (client_end, _, (), ()) =
            tokio::join!(driver.run(&token), server_driver.run(&server_token), client, server);
        client_end.expect("a clean end");
    }

    #[tokio::test]
    async fn a_client_accepts_no_streams() {
        let (near, far) = tokio::io::duplex(1000);
        let (_connection, driver) = Connection::client(near);
        let (server, server_driver, _accepted) = Connection::server(far);
        let token = CancellationToken::new();
        let open = async {
            let result = server.open(Headers::default()).await;
            assert!(matches!(result, Err(SpdyError::Reset(STATUS_REFUSED_STREAM))), "{result:?}");
            token.cancel();
        };
        let (_, _, ()) = tokio::join!(driver.run(&token), server_driver.run(&token), open);
    }
}
