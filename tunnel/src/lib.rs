//! Reverse tunnel: many byte streams over one websocket, opened by the side that was dialled.
//!
//! A node dials its server and keeps the connection; the server then opens [`TunnelStream`]s to addresses the node allows.
//! The crate knows neither Kubernetes nor TLS: callers hand in connected websockets and policies. The wire format and its
//! rules are described in `docs/tunnel.md`.
//!
//! Invariants: one task owns a websocket; every queue is bounded by a constant of [`limits`]; a stream ends when its
//! session ends; nothing here spawns a task that is not joined.

pub mod dialer;
pub mod frame;
pub mod keepalive;
pub mod limits;
pub mod mux;
pub mod registry;
pub mod session;
pub mod stream;

pub use dialer::{AsyncReadWrite, BoxedIo, ConnectionState, Dialer, DialerConfig, dial_tcp};
pub use frame::Target;
pub use mux::Role;
pub use registry::{DialError, Sessions};
pub use session::{Acceptor, DialFn, OpenError, Session, SessionConfig, SessionDriver, SessionEnd, websocket_config};
pub use stream::TunnelStream;
