//! The server's table of sessions: node name to the newest live session, and dialling through it.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures_util::{Sink, Stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use crate::frame::Target;
use crate::limits::SESSION_WAIT;
use crate::mux::Role;
use crate::session::{OpenError, Session, SessionConfig, SessionEnd};
use crate::stream::TunnelStream;

/// Why a node could not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The node has no session and none came in time.
    #[error("node {0} is not connected to the tunnel")]
    NotConnected(String),
    /// The node has a session but the stream did not open.
    #[error("open stream to node {node}: {error}")]
    Open { node: String, error: OpenError },
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        let kind = match &error {
            DialError::NotConnected(_) => io::ErrorKind::NotConnected,
            DialError::Open { error, .. } => io::Error::from(error.clone()).kind(),
        };
        io::Error::new(kind, error)
    }
}

struct Entry {
    serial: u64,
    session: Session,
    stop: CancellationToken,
}

#[derive(Default)]
struct Entries {
    last_serial: u64,
    by_node: HashMap<String, Entry>,
}

/// Every node that is connected now.
pub struct Sessions {
    config: SessionConfig,
    wait: Duration,
    entries: Mutex<Entries>,
    /// Counts arrivals; waiting dials watch it.
    arrivals: watch::Sender<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        Sessions::new(SessionConfig::default(), SESSION_WAIT)
    }
}

impl Sessions {
    /// An empty table. `wait` bounds how long a dial waits for a node that is reconnecting.
    pub fn new(config: SessionConfig, wait: Duration) -> Self {
        Sessions { config, wait, entries: Mutex::default(), arrivals: watch::Sender::new(0) }
    }

    /// Serves the websocket of an authenticated node until its session ends. A newer session of the same node ends it.
    pub async fn serve<S>(&self, node: &str, websocket: S, token: &CancellationToken) -> SessionEnd
    where
        S: Stream<Item = Result<Message, tungstenite::Error>>
            + Sink<Message, Error = tungstenite::Error>
            + Unpin
            + Send,
    {
        let (session, driver) = Session::new(websocket, Role::Server, self.config.clone(), None);
        let stop = token.child_token();
        let registration = self.register(node, session, stop.clone());
        tracing::info!(component = "tunnel", node, "node connected");
        let end = driver.run(&stop).await;
        drop(registration);
        tracing::info!(component = "tunnel", node, reason = %end, "node disconnected");
        end
    }

    fn register<'a>(&'a self, node: &'a str, session: Session, stop: CancellationToken) -> Registration<'a> {
        let (serial, replaced) = {
            let mut entries = self.entries.lock();
            entries.last_serial += 1;
            let serial = entries.last_serial;
            (serial, entries.by_node.insert(node.to_owned(), Entry { serial, session, stop }))
        };
        if let Some(old) = replaced {
            tracing::info!(component = "tunnel", node, "a new session of the node replaces its old one");
            old.stop.cancel();
        }
        self.arrivals.send_modify(|count| *count += 1);
        Registration { sessions: self, node, serial }
    }

    /// Opens a stream to `target` as the node reaches it. Waits shortly for a node that has no session.
    pub async fn dial(&self, node: &str, target: Target) -> Result<TunnelStream, DialError> {
        let deadline = Instant::now() + self.wait;
        let mut arrivals = self.arrivals.subscribe();
        loop {
            arrivals.mark_unchanged();
            if let Some(session) = self.session(node) {
                match session.open(target).await {
                    Ok(stream) => return Ok(stream),
                    // The session died under us; the node may be back in a moment.
                    Err(OpenError::SessionEnded) => {}
                    Err(error) => return Err(DialError::Open { node: node.to_owned(), error }),
                }
            }
            match timeout_at(deadline, arrivals.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(DialError::NotConnected(node.to_owned())),
            }
        }
    }

    /// The newest session of a node.
    pub fn session(&self, node: &str) -> Option<Session> {
        self.entries.lock().by_node.get(node).filter(|entry| !entry.session.is_ended()).map(|e| e.session.clone())
    }

    /// Names of the nodes that have a session, sorted.
    pub fn connected(&self) -> Vec<String> {
        let mut names: Vec<String> = self.entries.lock().by_node.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Whether the node has a session.
    pub fn is_connected(&self, node: &str) -> bool {
        self.session(node).is_some()
    }
}

/// Removes its entry, unless a newer session has taken the place.
struct Registration<'a> {
    sessions: &'a Sessions,
    node: &'a str,
    serial: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut entries = self.sessions.entries.lock();
        if entries.by_node.get(self.node).is_some_and(|entry| entry.serial == self.serial) {
            entries.by_node.remove(self.node);
        }
    }
}
