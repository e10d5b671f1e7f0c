//! [`TunnelStream`]: the application's end of one stream.
//!
//! The stream and the session's task share one small locked state and never wait for each other: the stream appends to a
//! bounded send buffer or takes from the receive buffer, marks itself dirty and wakes the task; the task picks up what changed.
//! The receive buffer cannot exceed the window the mux granted. Locks are held for a memcpy, never across an await.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::frame::StreamId;
use crate::limits::{IDLE_BUFFER_LEN_MAX, TX_BUFFER_LEN_MAX};
use crate::session::OpenError;

/// Streams that changed since the session's task last looked. Each stream is in it at most once.
#[derive(Debug, Default)]
pub(crate) struct DirtyList {
    ids: Mutex<Vec<StreamId>>,
    pub(crate) changed: Notify,
}

impl DirtyList {
    fn push(&self, stream: StreamId) {
        self.ids.lock().push(stream);
        self.changed.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<StreamId> {
        std::mem::take(&mut self.ids.lock())
    }
}

/// How far the connecting of a stream has come.
#[derive(Debug)]
enum Connect {
    Pending,
    Done,
    Failed(OpenError),
}

/// The acceptor's answer, to be carried to the mux.
#[derive(Debug)]
pub(crate) enum Answer {
    Accept,
    Refuse(String),
}

#[derive(Debug)]
struct State {
    connect: Connect,
    answer: Option<Answer>,
    rx: BytesMut,
    rx_eof: bool,
    tx: BytesMut,
    close_wanted: bool,
    close_sent: bool,
    /// The session has let go of the stream: `None` while it lives.
    ended: Option<io::ErrorKind>,
    dropped: bool,
    dirty: bool,
    consumed: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// State shared between a [`TunnelStream`] and its session.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: StreamId,
    credit_threshold: usize,
    dirty_list: Arc<DirtyList>,
    /// Cancelled when the stream failed; a stream that finished in order leaves it alone.
    pub(crate) reset: CancellationToken,
    state: Mutex<State>,
}

/// What the session's task has to tell the mux about a dirty stream.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) answer: Option<Answer>,
    pub(crate) consumed: usize,
    pub(crate) wants_to_send: bool,
    pub(crate) dropped: bool,
}

/// The next thing a stream has to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Data(Bytes),
    CloseWrite,
}

impl Shared {
    pub(crate) fn new(id: StreamId, credit_threshold: usize, dirty_list: Arc<DirtyList>) -> Arc<Self> {
        let state = State {
            connect: Connect::Pending,
            answer: None,
            rx: BytesMut::new(),
            rx_eof: false,
            tx: BytesMut::new(),
            close_wanted: false,
            close_sent: false,
            ended: None,
            dropped: false,
            dirty: false,
            consumed: 0,
            reader: None,
            writer: None,
        };
        Arc::new(Shared { id, credit_threshold, dirty_list, reset: CancellationToken::new(), state: Mutex::new(state) })
    }

    fn mark_dirty(&self, state: &mut State) {
        if !state.dirty {
            state.dirty = true;
            self.dirty_list.push(self.id);
        }
    }

    /// Takes what changed; called by the session's task for each id of the dirty list.
    pub(crate) fn take_changes(&self) -> Changes {
        let mut state = self.state.lock();
        state.dirty = false;
        Changes {
            answer: state.answer.take(),
            consumed: std::mem::take(&mut state.consumed),
            wants_to_send: state.wants_to_send(),
            dropped: state.dropped,
        }
    }

    /// Takes at most `len_max` bytes to send, or the end of file once all bytes are out.
    /// The flag tells whether there is more.
    pub(crate) fn take_outgoing(&self, len_max: usize) -> (Option<Outgoing>, bool) {
        let mut state = self.state.lock();
        let outgoing = if !state.tx.is_empty() {
            let len = state.tx.len().min(len_max);
            (len > 0).then(|| Outgoing::Data(state.tx.split_to(len).freeze()))
        } else if state.close_wanted && !state.close_sent {
            state.close_sent = true;
            Some(Outgoing::CloseWrite)
        } else {
            None
        };
        if outgoing.is_some()
            && let Some(waker) = state.writer.take()
        {
            waker.wake();
        }
        (outgoing, state.wants_to_send())
    }

    pub(crate) fn connected(&self) {
        let mut state = self.state.lock();
        state.connect = Connect::Done;
        state.wake_all();
    }

    pub(crate) fn connect_failed(&self, error: OpenError) {
        let mut state = self.state.lock();
        state.connect = Connect::Failed(error);
        state.wake_all();
    }

    pub(crate) fn deliver(&self, data: &[u8]) {
        let mut state = self.state.lock();
        if !state.dropped {
            state.rx.extend_from_slice(data);
            state.wake_reader();
        }
    }

    pub(crate) fn deliver_eof(&self) {
        let mut state = self.state.lock();
        state.rx_eof = true;
        state.wake_reader();
    }

    /// The session lets go of the stream. Bytes that have arrived stay readable.
    pub(crate) fn end(&self, kind: io::ErrorKind) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(kind);
        if matches!(state.connect, Connect::Pending) {
            state.connect = Connect::Failed(OpenError::SessionEnded);
        }
        state.tx = BytesMut::new();
        state.wake_all();
        if kind == io::ErrorKind::ConnectionReset {
            self.reset.cancel();
        }
    }
}

impl State {
    fn wants_to_send(&self) -> bool {
        !self.tx.is_empty() || (self.close_wanted && !self.close_sent)
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_all(&mut self) {
        self.wake_reader();
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// One bidirectional byte stream through the tunnel.
///
/// `shutdown` closes the writing direction only and returns when everything written has left; the reading direction stays
/// open until the peer closes it. Dropping an unfinished stream resets it. When the session ends, reads and writes
/// fail with `ConnectionReset`.
#[derive(Debug)]
pub struct TunnelStream {
    shared: Arc<Shared>,
    /// Counts the stream against the session's limit.
    _permit: Option<OwnedSemaphorePermit>,
}

impl TunnelStream {
    pub(crate) fn new(shared: Arc<Shared>, permit: Option<OwnedSemaphorePermit>) -> Self {
        TunnelStream { shared, _permit: permit }
    }

    /// Waits for the peer's answer to Open.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<(), OpenError>> {
        let mut state = self.shared.state.lock();
        match &state.connect {
            Connect::Done => Poll::Ready(Ok(())),
            Connect::Failed(error) => Poll::Ready(Err(error.clone())),
            Connect::Pending => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Cancelled when the peer or the session has reset the stream, also while nobody reads or writes it.
    pub fn reset_token(&self) -> CancellationToken {
        self.shared.reset.clone()
    }

    /// Tells the opener that its stream is connected.
    pub(crate) fn accept(&self) {
        let mut state = self.shared.state.lock();
        state.connect = Connect::Done;
        state.answer = Some(Answer::Accept);
        self.shared.mark_dirty(&mut state);
    }

    /// Tells the opener that its stream cannot be connected.
    pub(crate) fn refuse(self, message: String) {
        let mut state = self.shared.state.lock();
        state.answer = Some(Answer::Refuse(message));
        self.shared.mark_dirty(&mut state);
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.dropped = true;
        state.rx = BytesMut::new();
        self.shared.mark_dirty(&mut state);
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        if state.rx.is_empty() {
            if state.rx_eof {
                return Poll::Ready(Ok(()));
            }
            if let Some(kind) = state.ended {
                return Poll::Ready(Err(kind.into()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let len = state.rx.len().min(buf.remaining());
        buf.put_slice(&state.rx[..len]);
        state.rx.advance(len);
        if state.rx.is_empty() && state.rx.capacity() > IDLE_BUFFER_LEN_MAX {
            state.rx = BytesMut::new();
        }
        state.consumed += len;
        if state.consumed >= self.shared.credit_threshold && state.ended.is_none() {
            self.shared.mark_dirty(&mut state);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.state.lock();
        if state.close_wanted {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(kind) = state.ended {
            return Poll::Ready(Err(kind.into()));
        }
        let room = TX_BUFFER_LEN_MAX - state.tx.len();
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let len = data.len().min(room);
        state.tx.extend_from_slice(&data[..len]);
        self.shared.mark_dirty(&mut state);
        Poll::Ready(Ok(len))
    }

    /// Returns at once, like a TCP socket: the bytes are on their way.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        if state.close_sent {
            return Poll::Ready(Ok(()));
        }
        if let Some(kind) = state.ended {
            return Poll::Ready(Err(kind.into()));
        }
        if !state.close_wanted {
            state.close_wanted = true;
            self.shared.mark_dirty(&mut state);
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Resolves when the peer has answered the stream's Open.
pub(crate) async fn connected(stream: &TunnelStream) -> Result<(), OpenError> {
    std::future::poll_fn(|cx| Poll::Ready(ready!(stream.poll_connected(cx)))).await
}
