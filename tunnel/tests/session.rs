//! Sessions over real websocket framing on an in-memory pipe.
//!
//! Goal: streams carry bytes intact, do not disturb each other, and leave nothing behind however they end. Method: a server
//! registry and a node dialler joined by `tokio::io::duplex`; the node's "services" are functions over a duplex pipe. Time is
//! paused where time matters.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use skiff_tunnel::dialer::BoxedIo;
use skiff_tunnel::{
    ConnectionState, DialError, Dialer, DialerConfig, OpenError, SessionConfig, Sessions, Target, TunnelStream,
    websocket_config,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role as WebSocketRole;
use tokio_util::sync::CancellationToken;

const ECHO: u16 = 7;
const SINKHOLE: u16 = 9;
const DIGEST: u16 = 10;
const CLOSED: u16 = 11;
const STUCK: u16 = 12;
const FORBIDDEN: u16 = 666;

type Socket = WebSocketStream<DuplexStream>;

struct World {
    sessions: Arc<Sessions>,
    token: CancellationToken,
    tasks: JoinSet<()>,
    state: tokio::sync::watch::Receiver<ConnectionState>,
    /// Cuts the present connection without a word.
    cut: mpsc::Sender<()>,
    /// Stuck services whose peer has gone.
    hang_ups: mpsc::Receiver<()>,
}

async fn service(port: u16, mut io: DuplexStream, hung_up: mpsc::Sender<()>) -> io::Result<()> {
    match port {
        ECHO => {
            let (mut read, mut write) = tokio::io::split(io);
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
        SINKHOLE => std::future::pending().await,
        // Reads nothing, and after ten seconds tells whether its peer has hung up.
        STUCK => {
            tokio::time::sleep(Duration::from_secs(10)).await;
            match io.write_all(b".").await {
                Ok(()) => std::future::pending().await,
                Err(_) => hung_up.send(()).await.map_err(|_| io::ErrorKind::BrokenPipe.into()),
            }
        }
        // Reads to the end, then answers: works only if half-close is kept.
        DIGEST => {
            let mut all = Vec::new();
            io.read_to_end(&mut all).await?;
            let sum: u64 = all.iter().map(|&b| u64::from(b)).sum();
            io.write_all(format!("{} {sum}", all.len()).as_bytes()).await?;
            io.shutdown().await
        }
        _ => Ok(()),
    }
}

async fn dial(target: Target, spawn: mpsc::Sender<(u16, DuplexStream)>) -> io::Result<BoxedIo> {
    let Target::Local(port) = target else { return Err(io::ErrorKind::Unsupported.into()) };
    if port == CLOSED {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
    }
    let (near, far) = duplex(4096);
    spawn.send((port, far)).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    Ok(Box::new(near))
}

/// A server and a node. Every connect makes a new pipe, so reconnecting works.
fn world(config: SessionConfig, pipe_len: usize) -> World {
    let sessions = Arc::new(Sessions::new(config.clone(), Duration::from_secs(10)));
    let token = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let (hung_up, hang_ups) = mpsc::channel(16);
    let (spawn, mut spawned) = mpsc::channel::<(u16, DuplexStream)>(16);
    tasks.spawn(async move {
        let mut services = JoinSet::new();
        while let Some((port, io)) = spawned.recv().await {
            services.spawn(service(port, io, hung_up.clone()));
            while services.try_join_next().is_some() {}
        }
    });

    let (sockets, mut accepted) = mpsc::channel::<(Socket, CancellationToken)>(1);
    let (cut, mut cuts) = mpsc::channel::<()>(1);
    let serve = (sessions.clone(), token.clone());
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Some((socket, gone)) = accepted.recv().await {
            let (sessions, token) = serve.clone();
            serving.spawn(async move {
                tokio::select! {
                    _ = sessions.serve("node-1", socket, &token) => {}
                    () = gone.cancelled() => {}
                }
            });
        }
    });
    let current = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
    let for_cut = current.clone();
    tasks.spawn(async move {
        while cuts.recv().await.is_some() {
            for_cut.lock().expect("not poisoned").cancel();
        }
    });
    let connect = move || {
        let (sockets, current) = (sockets.clone(), current.clone());
        async move {
            let (near, far) = duplex(pipe_len);
            let gone = CancellationToken::new();
            *current.lock().expect("not poisoned") = gone.clone();
            let far = WebSocketStream::from_raw_socket(far, WebSocketRole::Server, Some(websocket_config())).await;
            let near = WebSocketStream::from_raw_socket(near, WebSocketRole::Client, Some(websocket_config())).await;
            sockets.send((far, gone)).await.map_err(|_| "the server is gone")?;
            Ok::<_, &str>(near)
        }
    };
    let mut dialer = DialerConfig::new(connect, |target| *target != Target::Local(FORBIDDEN));
    dialer.session = config;
    dialer.acceptor.dial = Arc::new(move |target| Box::pin(dial(target, spawn.clone())));
    let dialer = Dialer::new(dialer);
    let state = dialer.state();
    tasks.spawn(dialer.run(token.clone()));
    World { sessions, token, tasks, state, cut, hang_ups }
}

impl World {
    async fn open(&self, port: u16) -> TunnelStream {
        self.sessions.dial("node-1", Target::Local(port)).await.expect("the service is reachable")
    }

    async fn settle(&self) {
        let session = self.sessions.session("node-1").expect("the node is connected");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while session.stream_count() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{} streams left", session.stream_count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(mut self) {
        self.token.cancel();
        self.tasks.shutdown().await;
    }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

async fn echo(stream: TunnelStream, data: Vec<u8>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        write.write_all(&data).await.expect("write");
        write.shutdown().await.expect("shutdown");
    };
    let mut back = Vec::new();
    let receive = async { read.read_to_end(&mut back).await.expect("read") };
    tokio::join!(send, receive);
    assert!(back == data, "{} of {} bytes came back, or others", back.len(), data.len());
}

#[tokio::test]
async fn bulk_data_is_intact_under_small_windows_and_small_pipes() {
    for (window, pipe_len, len) in [(16, 64, 20_000), (1000, 300, 200_000), (256 * 1024, 65536, 8 << 20)] {
        let world = world(SessionConfig { window, ..Default::default() }, pipe_len);
        let (a, b) = (world.open(ECHO).await, world.open(ECHO).await);
        tokio::join!(echo(a, pattern(len, 1)), echo(b, pattern(len, 2)));
        world.settle().await;
        world.stop().await;
    }
}

#[tokio::test]
async fn ten_thousand_streams_leave_nothing_behind() {
    let world = world(SessionConfig::default(), 65536);
    for round in 0..100 {
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(world.open(ECHO).await);
        }
        for (i, mut stream) in streams.into_iter().enumerate() {
            match (round + i) % 3 {
                // Dropped unused, dropped with unread data under way, finished in good order.
                0 => {}
                1 => stream.write_all(b"nobody reads this").await.expect("write"),
                _ => echo(stream, b"ping".to_vec()).await,
            }
        }
    }
    world.settle().await;
    world.stop().await;
}

#[tokio::test]
async fn a_stalled_reader_stalls_nobody_else() {
    let world = world(SessionConfig { window: 8192, ..Default::default() }, 4096);
    let mut stalled = world.open(SINKHOLE).await;
    let flood = async {
        let chunk = pattern(4096, 3);
        loop {
            stalled.write_all(&chunk).await.expect("write");
        }
    };
    let others = async {
        for seed in 0..20 {
            echo(world.open(ECHO).await, pattern(50_000, seed)).await;
        }
    };
    tokio::select! {
        () = flood => {}
        done = tokio::time::timeout(Duration::from_secs(30), others) => done.expect("the others get through"),
    }
    drop(stalled);
    world.settle().await;
    world.stop().await;
}

#[tokio::test]
async fn half_close_reaches_the_service_and_its_answer_comes_back() {
    let world = world(SessionConfig::default(), 65536);
    let mut stream = world.open(DIGEST).await;
    stream.write_all(&[2; 1000]).await.expect("write");
    stream.shutdown().await.expect("shutdown");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert_eq!(answer, "1000 2000");
    assert_eq!(stream.write(b"x").await.expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
    world.stop().await;
}

#[tokio::test]
async fn refusals_carry_their_reason() {
    let world = world(SessionConfig::default(), 65536);
    let refusal = |port| {
        let sessions = world.sessions.clone();
        async move {
            match sessions.dial("node-1", Target::Local(port)).await {
                Err(DialError::Open { error: OpenError::Refused(message), .. }) => message,
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    assert_eq!(refusal(CLOSED).await, "dial local port 11: connection refused");
    assert_eq!(refusal(FORBIDDEN).await, "local port 666 is not allowed");
    world.settle().await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_fails_its_streams_and_the_next_dial_waits_for_the_node() {
    let mut world = world(SessionConfig::default(), 65536);
    let mut stream = world.open(SINKHOLE).await;
    world.state.wait_for(|s| *s == ConnectionState::Connected).await.expect("the dialler runs");
    world.cut.send(()).await.expect("the cutter runs");
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).await.expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(stream.write(&byte).await.expect_err("cut").kind(), io::ErrorKind::ConnectionReset);
    echo(world.open(ECHO).await, b"again".to_vec()).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_node_fails_after_the_bounded_wait() {
    let sessions = Sessions::default();
    let started = tokio::time::Instant::now();
    let error = sessions.dial("node-9", Target::Local(1)).await.expect_err("nobody is there");
    assert_eq!(error, DialError::NotConnected("node-9".into()));
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_after_twenty_seconds_and_an_idle_one_is_not() {
    let sessions = Sessions::default();
    let (near, _far) = duplex(65536);
    let socket = WebSocketStream::from_raw_socket(near, WebSocketRole::Server, Some(websocket_config())).await;
    let started = tokio::time::Instant::now();
    let end = sessions.serve("node-1", socket, &CancellationToken::new()).await;
    assert!(matches!(end, skiff_tunnel::SessionEnd::Dead(_)), "{end}");
    assert!((20..=21).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let world = world(SessionConfig::default(), 65536);
    let stream = world.open(ECHO).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    echo(stream, b"still here".to_vec()).await;
    world.stop().await;
}

#[tokio::test]
async fn a_new_session_of_a_node_replaces_its_old_one() {
    let sessions = Arc::new(Sessions::default());
    let token = CancellationToken::new();
    let (near, _far) = duplex(65536);
    let socket = WebSocketStream::from_raw_socket(near, WebSocketRole::Server, None).await;
    let first = sessions.serve("node-1", socket, &token);
    let second = async {
        while !sessions.is_connected("node-1") {
            tokio::task::yield_now().await;
        }
        let (near, far) = duplex(65536);
        let socket = WebSocketStream::from_raw_socket(near, WebSocketRole::Server, None).await;
        drop(far);
        sessions.serve("node-1", socket, &token).await
    };
    let (first, _) = tokio::join!(first, second);
    assert!(matches!(first, skiff_tunnel::SessionEnd::Cancelled), "{first}");
    assert!(sessions.connected().is_empty());
}

#[tokio::test]
async fn stopping_ends_every_stream_and_task() {
    let mut world = world(SessionConfig::default(), 65536);
    let mut stream = world.open(SINKHOLE).await;
    world.token.cancel();
    let mut byte = [0];
    assert!(stream.read(&mut byte).await.is_err());
    world.state.wait_for(|s| *s == ConnectionState::Connecting).await.ok();
    world.tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_opened_from_many_threads_at_once_all_open() {
    let world = world(SessionConfig::default(), 65536);
    let mut tasks = JoinSet::new();
    for seed in 0..16 {
        let sessions = world.sessions.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                let stream = sessions.dial("node-1", Target::Local(ECHO)).await.expect("the service is reachable");
                echo(stream, pattern(3000, seed)).await;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no stream fails");
    }
    world.settle().await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_stuck_stream_frees_the_node_side_too() {
    let mut world = world(SessionConfig::default(), 65536);
    let mut stream = world.open(STUCK).await;
    let flood = async { while stream.write_all(&[0; 4096]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(5), flood).await.expect_err("the service reads nothing");
    drop(stream);
    world.settle().await;
    // The node's copy was stuck in a write, and nothing comes from the service that would wake it.
    tokio::time::timeout(Duration::from_secs(20), world.hang_ups.recv()).await.expect("in time").expect("hung up");
    world.stop().await;
}
