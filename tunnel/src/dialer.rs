//! The node's loop: connect to the server, serve its streams, connect again when the session ends.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Sink, Stream};
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use crate::frame::Target;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CONNECT_TIMEOUT, STABLE_AFTER};
use crate::mux::Role;
use crate::session::{Acceptor, Session, SessionConfig};

/// A connection in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite + ?Sized> AsyncReadWrite for T {}

/// A connection of any kind.
pub type BoxedIo = Box<dyn AsyncReadWrite + Send + Unpin>;

/// Connects a target by TCP; local ports on 127.0.0.1. The usual `dial` of an [`Acceptor`].
pub async fn dial_tcp(target: Target) -> io::Result<BoxedIo> {
    let address = match target {
        Target::Local(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Target::Address(address) => address,
    };
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}

/// Where the dialler stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// No session; an attempt is under way or waiting.
    Connecting,
    /// A session is up.
    Connected,
}

/// How a node reaches its server and what it lets the server reach.
pub struct DialerConfig<C> {
    /// Makes one attempt to connect and upgrade; returns the websocket.
    pub connect: C,
    /// The streams the server may open.
    pub acceptor: Acceptor,
    /// Times and bounds of each session.
    pub session: SessionConfig,
    /// Longest time of one attempt.
    pub connect_timeout: Duration,
    /// First and last ceiling of the random wait between attempts.
    pub backoff: (Duration, Duration),
}

impl<C> DialerConfig<C> {
    /// The default times, TCP as the way to targets, and only targets that `allow` lets pass.
    pub fn new(connect: C, allow: impl Fn(&Target) -> bool + Send + Sync + 'static) -> Self {
        DialerConfig {
            connect,
            acceptor: Acceptor { allow: Arc::new(allow), dial: Arc::new(|target| Box::pin(dial_tcp(target))) },
            session: SessionConfig::default(),
            connect_timeout: CONNECT_TIMEOUT,
            backoff: (BACKOFF_MIN, BACKOFF_MAX),
        }
    }
}

/// The loop of a node; see [`Dialer::run`].
pub struct Dialer<C> {
    config: DialerConfig<C>,
    state: watch::Sender<ConnectionState>,
}

impl<C, F, S, E> Dialer<C>
where
    C: Fn() -> F,
    F: Future<Output = Result<S, E>>,
    S: Stream<Item = Result<Message, tungstenite::Error>> + Sink<Message, Error = tungstenite::Error> + Unpin + Send,
    E: std::fmt::Display,
{
    /// A dialler that has not started.
    pub fn new(config: DialerConfig<C>) -> Self {
        Dialer { config, state: watch::Sender::new(ConnectionState::Connecting) }
    }

    /// Follows whether a session is up.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Keeps a session up until the token is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut failures = 0;
        while !token.is_cancelled() {
            let started = Instant::now();
            let attempt = tokio::select! {
                () = token.cancelled() => return,
                attempt = timeout(self.config.connect_timeout, (self.config.connect)()) => attempt,
            };
            match attempt {
                Ok(Ok(websocket)) => {
                    if self.serve(websocket, &token).await >= STABLE_AFTER {
                        failures = 0;
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(component = "tunnel", %error, attempt = failures + 1, "connect to server");
                }
                Err(_) => {
                    let waited = started.elapsed();
                    tracing::warn!(component = "tunnel", ?waited, attempt = failures + 1, "connect to server: timeout");
                }
            }
            let wait = rand::rng().random_range(Duration::ZERO..=backoff_ceiling(failures, self.config.backoff));
            failures = failures.saturating_add(1);
            tokio::select! {
                () = token.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Runs one session; returns how long it lasted.
    async fn serve(&self, websocket: S, token: &CancellationToken) -> Duration {
        let started = Instant::now();
        let (_session, driver) =
            Session::new(websocket, Role::Agent, self.config.session.clone(), Some(self.config.acceptor.clone()));
        self.state.send_replace(ConnectionState::Connected);
        tracing::info!(component = "tunnel", "connected to server");
        let end = driver.run(token).await;
        self.state.send_replace(ConnectionState::Connecting);
        tracing::info!(component = "tunnel", reason = %end, "session ended");
        started.elapsed()
    }
}

/// The ceiling of the wait after `failures` failures in a row: doubling, bounded. The wait itself is drawn from zero to it.
fn backoff_ceiling(failures: u32, (min, max): (Duration, Duration)) -> Duration {
    min.saturating_mul(1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_ceiling() {
        let bounds = (Duration::from_millis(500), Duration::from_secs(15));
        let ceilings: Vec<u128> =
            [0, 1, 2, 4, 5, 40, u32::MAX].iter().map(|&n| backoff_ceiling(n, bounds).as_millis()).collect();
        assert_eq!(ceilings, [500, 1000, 2000, 8000, 15000, 15000, 15000]);
    }
}
