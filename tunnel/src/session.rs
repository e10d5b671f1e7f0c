//! A session: one websocket, one task, many streams.
//!
//! [`Session::new`] gives a cheap handle to open streams with and a [`SessionDriver`], whose `run` is the only owner of the
//! websocket. The driver always reads; what the peer may send is bounded by windows, so nothing queues. It writes
//! control frames first, then lets the streams that have bytes and credit take turns, one Data frame each.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, Message, protocol::WebSocketConfig};
use tokio_util::sync::CancellationToken;

use crate::dialer::BoxedIo;
use crate::frame::{Frame, StreamId, Target};
use crate::keepalive::{Due, KeepAlive};
use crate::limits::{
    CONTROL_FRAMES_MAX, DATA_LEN_MAX, DEAD_AFTER, FAREWELL_TIMEOUT, FRAME_LEN_MAX, OPEN_TIMEOUT, PING_INTERVAL,
    RESET_GRACE, RESYNC_INTERVAL, STREAMS_MAX, WINDOW_DEFAULT, WINDOW_MAX, WINDOW_MIN,
};
use crate::mux::{Action, Event, Mux, ProtocolError, Role, credit_threshold};
use crate::stream::{Answer, DirtyList, Outgoing, Shared, TunnelStream, connected};

/// Times and bounds of a session. The defaults are those of `limits.rs`.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Time between two pings.
    pub ping_interval: Duration,
    /// Silence after which the session ends.
    pub dead_after: Duration,
    /// Time between two exchanges of stream lists.
    pub resync_interval: Duration,
    /// Longest wait for the peer to answer an open.
    pub open_timeout: Duration,
    /// Bytes the peer may have outstanding per stream; clamped to the bounds of `limits.rs`.
    pub window: u32,
    /// Streams per opener.
    pub streams_max: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            ping_interval: PING_INTERVAL,
            dead_after: DEAD_AFTER,
            resync_interval: RESYNC_INTERVAL,
            open_timeout: OPEN_TIMEOUT,
            window: WINDOW_DEFAULT,
            streams_max: STREAMS_MAX,
        }
    }
}

/// The websocket settings both sides should use: no message longer than a frame is ever buffered.
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(FRAME_LEN_MAX)
        .write_buffer_size(FRAME_LEN_MAX)
        .max_message_size(Some(FRAME_LEN_MAX))
        .max_frame_size(Some(FRAME_LEN_MAX))
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer answered that it could not or would not connect.
    #[error("{0}")]
    Refused(String),
    /// The session ended before the peer answered.
    #[error("the tunnel session ended")]
    SessionEnded,
    /// The session holds as many streams as it may.
    #[error("too many streams in the tunnel session")]
    TooManyStreams,
    /// The peer did not answer in time.
    #[error("the peer did not answer within {0:?}")]
    Timeout(Duration),
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::Refused(_) => io::ErrorKind::ConnectionRefused,
            OpenError::SessionEnded => io::ErrorKind::ConnectionReset,
            OpenError::TooManyStreams => io::ErrorKind::ResourceBusy,
            OpenError::Timeout(_) => io::ErrorKind::TimedOut,
        };
        io::Error::new(kind, error)
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// This side was told to stop.
    #[error("stopped")]
    Cancelled,
    /// The peer closed the websocket.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing was heard for too long.
    #[error("nothing heard from the peer for {0:?}")]
    Dead(Duration),
    /// The websocket failed.
    #[error("websocket: {0}")]
    WebSocket(Box<tungstenite::Error>),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(#[from] ProtocolError),
    /// The peer asks and does not read the answers.
    #[error("the peer does not read its control frames")]
    ControlOverflow,
    /// Every stream id was used.
    #[error("stream ids are used up")]
    IdsExhausted,
}

impl From<tungstenite::Error> for SessionEnd {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => SessionEnd::Closed,
            other => SessionEnd::WebSocket(Box::new(other)),
        }
    }
}

/// Connects the targets that the peer asks for.
pub type DialFn = Arc<dyn Fn(Target) -> BoxFuture<'static, io::Result<BoxedIo>> + Send + Sync>;

/// Which streams of the peer are allowed, and how they are connected.
#[derive(Clone)]
pub struct Acceptor {
    /// Decides on a target before anything is connected.
    pub allow: Arc<dyn Fn(&Target) -> bool + Send + Sync>,
    /// Connects an allowed target.
    pub dial: DialFn,
}

#[derive(Debug)]
struct Core {
    dirty: Arc<DirtyList>,
    opens: Mutex<Opens>,
    permits: Arc<Semaphore>,
    /// Streams in the driver's table.
    live: AtomicUsize,
    ended: CancellationToken,
    config: SessionConfig,
}

/// Opens the driver has not taken up yet, at most as many as there are permits.
#[derive(Debug)]
struct Opens {
    /// The next id to use. Under the same lock as the queue, because ids must reach the peer in rising order.
    next_id: StreamId,
    queue: Vec<(Arc<Shared>, Target)>,
}

impl Core {
    fn request(&self, target: Target) -> Arc<Shared> {
        let mut opens = self.opens.lock();
        let id = opens.next_id;
        opens.next_id = id.saturating_add(2);
        let threshold = credit_threshold(self.config.window) as usize;
        let shared = Shared::new(id, threshold, self.dirty.clone());
        opens.queue.push((shared.clone(), target));
        shared
    }
}

/// Handle of a running session; cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    core: Arc<Core>,
}

impl Session {
    /// A session over a connected websocket. Nothing happens until the driver runs. Without an acceptor the peer may open
    /// no streams.
    pub fn new<S>(
        websocket: S,
        role: Role,
        mut config: SessionConfig,
        acceptor: Option<Acceptor>,
    ) -> (Session, SessionDriver<S>) {
        config.window = config.window.clamp(WINDOW_MIN, WINDOW_MAX);
        config.streams_max = config.streams_max.clamp(1, STREAMS_MAX);
        let core = Arc::new(Core {
            dirty: Arc::default(),
            opens: Mutex::new(Opens { next_id: role.first_id(), queue: Vec::new() }),
            permits: Arc::new(Semaphore::new(config.streams_max)),
            live: AtomicUsize::new(0),
            ended: CancellationToken::new(),
            config,
        });
        let mux = Mux::new(role, acceptor.is_some(), core.config.window, core.config.streams_max);
        let table = Table::new(core.clone(), mux, acceptor);
        (Session { core }, SessionDriver { websocket, table })
    }

    /// Opens a stream to `target` at the peer. Cancelling the future cancels the open.
    pub async fn open(&self, target: Target) -> Result<TunnelStream, OpenError> {
        let permit = self.core.permits.clone().try_acquire_owned().map_err(|_| OpenError::TooManyStreams)?;
        if self.core.ended.is_cancelled() {
            return Err(OpenError::SessionEnded);
        }
        let stream = TunnelStream::new(self.core.request(target), Some(permit));
        self.core.dirty.changed.notify_one();
        tokio::select! {
            answer = timeout(self.core.config.open_timeout, connected(&stream)) => match answer {
                Ok(Ok(())) => Ok(stream),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(OpenError::Timeout(self.core.config.open_timeout)),
            },
            () = self.core.ended.cancelled() => Err(OpenError::SessionEnded),
        }
    }

    /// Streams in the table of the session, of both sides.
    pub fn stream_count(&self) -> usize {
        self.core.live.load(Ordering::Relaxed)
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.core.ended.is_cancelled()
    }

    /// Resolves when the session is over.
    pub async fn ended(&self) {
        self.core.ended.cancelled().await;
    }
}

/// Owner of the websocket; see [`SessionDriver::run`].
pub struct SessionDriver<S> {
    websocket: S,
    table: Table,
}

impl<S> SessionDriver<S>
where
    S: Stream<Item = Result<Message, tungstenite::Error>> + Sink<Message, Error = tungstenite::Error> + Unpin + Send,
{
    /// Drives the session until it ends; then every stream has failed and every dial is joined.
    pub async fn run(self, token: &CancellationToken) -> SessionEnd {
        let SessionDriver { websocket, mut table } = self;
        let (mut sink, mut source) = websocket.split();
        let config = table.core.config.clone();
        let mut keepalive = KeepAlive::new(config.ping_interval, config.dead_after, Instant::now());
        let mut resync_at = Instant::now() + config.resync_interval;
        let end = loop {
            let now = Instant::now();
            if now >= resync_at {
                resync_at = now + config.resync_interval;
                table.step_local(Event::Resync);
            }
            let wake_at = match keepalive.due(now) {
                Due::Dead => break SessionEnd::Dead(config.dead_after),
                Due::Ping(n) => {
                    table.control.push_back(Frame::Ping(n));
                    continue;
                }
                Due::Wait(at) => at.min(resync_at),
            };
            if let Err(end) = table.absorb() {
                break end;
            }
            let changed = table.core.dirty.clone();
            let result = tokio::select! {
                () = token.cancelled() => break SessionEnd::Cancelled,
                message = source.next() => {
                    keepalive.heard(Instant::now());
                    table.message(message)
                }
                result = poll_fn(|cx| table.poll_write(&mut sink, cx)), if table.has_outgoing() => result,
                () = changed.changed.notified() => Ok(()),
                () = sleep_until(wake_at) => Ok(()),
            };
            if let Err(end) = result {
                break end;
            }
        };
        table.finish().await;
        // The peer learns of the end from the close; if it does not read, dropping the socket has to do.
        let _ = timeout(FAREWELL_TIMEOUT, sink.close()).await;
        end
    }
}

/// Everything the driver owns besides the socket.
struct Table {
    core: Arc<Core>,
    mux: Mux,
    acceptor: Option<Acceptor>,
    streams: HashMap<StreamId, Arc<Shared>>,
    control: VecDeque<Frame>,
    ready: VecDeque<StreamId>,
    ready_set: HashSet<StreamId>,
    needs_flush: bool,
    dials: JoinSet<()>,
    stop_dials: CancellationToken,
}

impl Table {
    fn new(core: Arc<Core>, mux: Mux, acceptor: Option<Acceptor>) -> Self {
        Table {
            core,
            mux,
            acceptor,
            streams: HashMap::new(),
            control: VecDeque::new(),
            ready: VecDeque::new(),
            ready_set: HashSet::new(),
            needs_flush: false,
            dials: JoinSet::new(),
            stop_dials: CancellationToken::new(),
        }
    }

    fn has_outgoing(&self) -> bool {
        self.needs_flush || !self.control.is_empty() || !self.ready.is_empty()
    }

    /// Takes up new opens and what the streams changed since the last time.
    fn absorb(&mut self) -> Result<(), SessionEnd> {
        // The dirty list is taken first: a stream that is in it has pushed its open before.
        let dirty = self.core.dirty.take();
        let opens = std::mem::take(&mut self.core.opens.lock().queue);
        for (shared, target) in opens {
            let stream = shared.id;
            if stream >= StreamId::MAX - 1 {
                return Err(SessionEnd::IdsExhausted);
            }
            self.streams.insert(stream, shared);
            self.step_local(Event::Open { stream, target });
        }
        for stream in dirty {
            let Some(shared) = self.streams.get(&stream) else { continue };
            let changes = shared.take_changes();
            match changes.answer {
                Some(Answer::Accept) => self.step_local(Event::Accept { stream }),
                Some(Answer::Refuse(message)) => self.step_local(Event::Refuse { stream, message }),
                None => {}
            }
            if changes.dropped {
                self.step_local(Event::Abandon { stream });
                continue;
            }
            if changes.consumed > 0 {
                self.step_local(Event::Consumed { stream, len: changes.consumed });
            }
            if changes.wants_to_send {
                self.make_ready(stream);
            }
        }
        // A finished dial has dropped its stream, which is what brought us here.
        while self.dials.try_join_next().is_some() {}
        self.core.live.store(self.streams.len(), Ordering::Relaxed);
        if self.control.len() > CONTROL_FRAMES_MAX { Err(SessionEnd::ControlOverflow) } else { Ok(()) }
    }

    fn message(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<(), SessionEnd> {
        match message {
            None | Some(Ok(Message::Close(_))) => Err(SessionEnd::Closed),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Message::Binary(bytes))) => {
                let frame = Frame::decode(bytes).map_err(ProtocolError::from)?;
                let actions = self.mux.step(Event::Received(frame))?;
                self.apply(actions);
                Ok(())
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    fn step_local(&mut self, event: Event) {
        match self.mux.step(event) {
            Ok(actions) => self.apply(actions),
            Err(error) => unreachable!("local events are never protocol errors: {error}"),
        }
    }

    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(frame) => self.control.push_back(frame),
                Action::Incoming { stream, target } => self.incoming(stream, target),
                Action::Opened { stream } => self.with(stream, Shared::connected),
                Action::OpenFailed { stream, message } => {
                    self.with(stream, |shared| shared.connect_failed(OpenError::Refused(message)));
                }
                Action::Deliver { stream, data } => self.with(stream, |shared| shared.deliver(&data)),
                Action::DeliverEof { stream } => self.with(stream, Shared::deliver_eof),
                Action::DeliverReset { stream, .. } => {
                    self.with(stream, |shared| shared.end(io::ErrorKind::ConnectionReset));
                }
                Action::Writable { stream } => self.make_ready(stream),
                Action::Closed { stream } => {
                    if let Some(shared) = self.streams.remove(&stream) {
                        shared.end(io::ErrorKind::BrokenPipe);
                    }
                    self.core.live.store(self.streams.len(), Ordering::Relaxed);
                }
            }
        }
    }

    fn with(&self, stream: StreamId, act: impl FnOnce(&Shared)) {
        if let Some(shared) = self.streams.get(&stream) {
            act(shared);
        }
    }

    fn make_ready(&mut self, stream: StreamId) {
        if self.ready_set.insert(stream) {
            self.ready.push_back(stream);
        }
    }

    /// Connects a stream the peer asked for, in a task of its own.
    fn incoming(&mut self, stream: StreamId, target: Target) {
        let acceptor = match &self.acceptor {
            Some(acceptor) if (acceptor.allow)(&target) => acceptor.clone(),
            _ => {
                tracing::warn!(component = "tunnel", %target, "refused a stream to a target that is not allowed");
                let message = format!("{target} is not allowed");
                return self.step_local(Event::Refuse { stream, message });
            }
        };
        let threshold = credit_threshold(self.core.config.window) as usize;
        let shared = Shared::new(stream, threshold, self.core.dirty.clone());
        self.streams.insert(stream, shared.clone());
        let handle = TunnelStream::new(shared, None);
        let stop = self.stop_dials.clone();
        let open_timeout = self.core.config.open_timeout;
        self.dials.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve_stream(handle, target, acceptor.dial, open_timeout) => {}
            }
        });
    }

    /// Writes until nothing is left or the socket is full.
    fn poll_write<K>(&mut self, sink: &mut K, cx: &mut Context<'_>) -> Poll<Result<(), SessionEnd>>
    where
        K: Sink<Message, Error = tungstenite::Error> + Unpin,
    {
        while !self.control.is_empty() || !self.ready.is_empty() {
            ready!(sink.poll_ready_unpin(cx))?;
            let Some(frame) = self.next_frame() else { continue };
            self.needs_flush = true;
            sink.start_send_unpin(Message::Binary(frame.encode()))?;
        }
        if self.needs_flush {
            ready!(sink.poll_flush_unpin(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame to send: control first, then one frame of the stream whose turn it is.
    fn next_frame(&mut self) -> Option<Frame> {
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        let stream = self.ready.pop_front()?;
        self.ready_set.remove(&stream);
        let shared = self.streams.get(&stream)?.clone();
        let (outgoing, more) = shared.take_outgoing(self.mux.sendable(stream).min(DATA_LEN_MAX));
        let event = match outgoing? {
            Outgoing::Data(data) => Event::Transmit { stream, data },
            Outgoing::CloseWrite => Event::CloseWrite { stream },
        };
        self.step_local(event);
        // A stream without credit leaves the round; Writable brings it back.
        if more {
            self.make_ready(stream);
        }
        self.control.pop_front()
    }

    async fn finish(&mut self) {
        self.core.ended.cancel();
        for (_, shared) in self.streams.drain() {
            shared.end(io::ErrorKind::ConnectionReset);
        }
        for (shared, _) in self.core.opens.lock().queue.drain(..) {
            shared.end(io::ErrorKind::ConnectionReset);
        }
        self.core.live.store(0, Ordering::Relaxed);
        self.stop_dials.cancel();
        while self.dials.join_next().await.is_some() {}
    }
}

impl Drop for Table {
    /// A driver that is dropped before its end still fails its streams.
    fn drop(&mut self) {
        self.core.ended.cancel();
        for (_, shared) in self.streams.drain() {
            shared.end(io::ErrorKind::ConnectionReset);
        }
    }
}

/// Connects `target` and copies both directions, half-close kept, until both are done or one fails.
async fn serve_stream(mut stream: TunnelStream, target: Target, dial: DialFn, open_timeout: Duration) {
    let mut local = match timeout(open_timeout, dial(target)).await {
        Ok(Ok(local)) => local,
        Ok(Err(error)) => return stream.refuse(format!("dial {target}: {error}")),
        Err(_) => return stream.refuse(format!("dial {target}: no answer within {open_timeout:?}")),
    };
    stream.accept();
    let reset = stream.reset_token();
    // A copy that is stuck writing to the target would not see that nobody is left at the other end.
    let gone = async {
        reset.cancelled().await;
        sleep(RESET_GRACE).await;
    };
    let result = tokio::select! {
        result = tokio::io::copy_bidirectional(&mut stream, &mut local) => result.map(|_| ()),
        () = gone => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if let Err(error) = result {
        tracing::debug!(component = "tunnel", %target, %error, "stream ended early");
    }
}
