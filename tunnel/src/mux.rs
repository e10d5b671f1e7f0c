//! The multiplexer: which streams exist, what may be sent on them, and what every event means.
//!
//! A pure state machine. It holds no bytes, no clock and no socket: [`Mux::step`] takes what happened and returns what has to be
//! done. A protocol violation of the peer is an error and ends the session; a local event for a stream that has meanwhile gone
//! is not an error, because the two sides race by nature.
//!
//! Invariants: never more than `streams_max` streams per opener; a stream that left the table was announced by exactly one
//! [`Action::Closed`]; sent data never exceeds the window the peer granted.

use std::collections::HashMap;

use bytes::Bytes;

use crate::frame::{Frame, FrameError, ResetReason, StreamId, Target};
use crate::limits::WINDOW_MAX;

/// Which end of the websocket this is; decides the parity of the stream ids it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that was dialled. Opens odd ids.
    Server,
    /// The side that dialled. Opens even ids.
    Agent,
}

impl Role {
    /// The first id this side opens; the following ones are two apart.
    pub fn first_id(self) -> StreamId {
        match self {
            Role::Server => 1,
            Role::Agent => 2,
        }
    }

    fn owns(self, stream: StreamId) -> bool {
        stream % 2 == self.first_id() % 2
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The peer sent a frame.
    Received(Frame),
    /// This side wants a new stream; the id has this side's parity and was never used.
    Open { stream: StreamId, target: Target },
    /// The dial for a stream of the peer succeeded.
    Accept { stream: StreamId },
    /// The dial for a stream of the peer failed or was not allowed.
    Refuse { stream: StreamId, message: String },
    /// Bytes to send, at most [`Mux::sendable`].
    Transmit { stream: StreamId, data: Bytes },
    /// Everything was sent in this direction.
    CloseWrite { stream: StreamId },
    /// The application has taken bytes.
    Consumed { stream: StreamId, len: usize },
    /// The application dropped the stream.
    Abandon { stream: StreamId },
    /// Time to exchange stream lists.
    Resync,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send to the peer, in order.
    Send(Frame),
    /// The peer wants a stream to `target`; answer with [`Event::Accept`] or [`Event::Refuse`].
    Incoming { stream: StreamId, target: Target },
    /// A stream of ours is connected.
    Opened { stream: StreamId },
    /// A stream of ours could not be connected. Followed by Closed.
    OpenFailed { stream: StreamId, message: String },
    /// Bytes for the application.
    Deliver { stream: StreamId, data: Bytes },
    /// The peer has no more bytes.
    DeliverEof { stream: StreamId },
    /// The stream failed. Followed by Closed.
    DeliverReset { stream: StreamId, reason: ResetReason },
    /// The stream may send (more).
    Writable { stream: StreamId },
    /// The stream left the table.
    Closed { stream: StreamId },
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("stream {0} was opened with an id of the wrong side")]
    WrongParity(StreamId),
    #[error("stream {0} was opened twice")]
    Reused(StreamId),
    #[error("stream {0} was answered but is not being opened")]
    UnexpectedAnswer(StreamId),
    #[error("stream {0} carried data before it was open")]
    NotOpen(StreamId),
    #[error("stream {0} carried data after its end")]
    AfterEnd(StreamId),
    #[error("stream {0} exceeded its window")]
    WindowExceeded(StreamId),
    #[error("stream {0} granted too much credit")]
    CreditOverflow(StreamId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// We sent Open.
    Opening,
    /// The peer sent Open, we are connecting.
    Dialing,
    /// Both sides know it.
    Open,
}

#[derive(Debug)]
struct StreamState {
    phase: Phase,
    /// Bytes we may still send.
    send_window: u32,
    /// Bytes the peer may still send.
    receive_window: u32,
    /// Bytes the application took since the last credit.
    unreported: u32,
    peer_closed: bool,
    self_closed: bool,
}

/// The state of one session's streams.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    accepts: bool,
    window: u32,
    streams_max: usize,
    peer_id_last: StreamId,
    streams: HashMap<StreamId, StreamState>,
}

type Actions = Vec<Action>;

impl Mux {
    /// A session without streams. `accepts` tells whether the peer may open any.
    pub fn new(role: Role, accepts: bool, window: u32, streams_max: usize) -> Self {
        Mux { role, accepts, window, streams_max, peer_id_last: 0, streams: HashMap::new() }
    }

    /// Number of streams in the table.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether no stream is in the table.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Bytes that may be sent on the stream now.
    pub fn sendable(&self, stream: StreamId) -> usize {
        match self.streams.get(&stream) {
            Some(s) if s.phase == Phase::Open && !s.self_closed => s.send_window as usize,
            _ => 0,
        }
    }

    /// Takes one event; returns what has to be done, in order.
    pub fn step(&mut self, event: Event) -> Result<Actions, ProtocolError> {
        match event {
            Event::Received(frame) => self.received(frame),
            local => Ok(self.local(local)),
        }
    }

    fn local(&mut self, event: Event) -> Actions {
        match event {
            Event::Received(_) => unreachable!("handled by step"),
            Event::Open { stream, target } => self.open(stream, target),
            Event::Accept { stream } => match self.streams.get_mut(&stream) {
                Some(s) if s.phase == Phase::Dialing => {
                    s.phase = Phase::Open;
                    let window = s.receive_window;
                    vec![Action::Send(Frame::OpenOk { stream, window }), Action::Writable { stream }]
                }
                _ => vec![],
            },
            Event::Refuse { stream, message } => match self.streams.get(&stream) {
                Some(s) if s.phase == Phase::Dialing => {
                    self.streams.remove(&stream);
                    vec![Action::Send(Frame::OpenError { stream, message }), Action::Closed { stream }]
                }
                _ => vec![],
            },
            Event::Transmit { stream, data } => self.transmit(stream, data),
            Event::CloseWrite { stream } => self.close_write(stream),
            Event::Consumed { stream, len } => self.consumed(stream, len),
            Event::Abandon { stream } => match self.streams.remove(&stream) {
                Some(s) => {
                    let reason = if s.phase == Phase::Dialing { ResetReason::Refused } else { ResetReason::Cancelled };
                    vec![Action::Send(Frame::Reset { stream, reason }), Action::Closed { stream }]
                }
                None => vec![],
            },
            Event::Resync => {
                let mut ids: Vec<StreamId> = self.streams.keys().copied().collect();
                ids.sort_unstable();
                vec![Action::Send(Frame::Streams(ids))]
            }
        }
    }

    fn open(&mut self, stream: StreamId, target: Target) -> Actions {
        debug_assert!(self.role.owns(stream), "a local id has the local parity");
        let state = self.new_stream(Phase::Opening, 0);
        self.streams.insert(stream, state);
        vec![Action::Send(Frame::Open { stream, window: self.window, target })]
    }

    fn transmit(&mut self, stream: StreamId, data: Bytes) -> Actions {
        let sendable = self.sendable(stream);
        debug_assert!(data.len() <= sendable || !self.streams.contains_key(&stream), "more than sendable");
        match self.streams.get_mut(&stream) {
            Some(s) if data.len() <= sendable => {
                s.send_window -= data.len() as u32;
                vec![Action::Send(Frame::Data { stream, data })]
            }
            _ => vec![],
        }
    }

    fn close_write(&mut self, stream: StreamId) -> Actions {
        let Some(s) = self.streams.get_mut(&stream) else { return vec![] };
        if s.phase != Phase::Open || s.self_closed {
            return vec![];
        }
        s.self_closed = true;
        let mut actions = vec![Action::Send(Frame::CloseWrite { stream })];
        self.close_if_finished(stream, &mut actions);
        actions
    }

    fn consumed(&mut self, stream: StreamId, len: usize) -> Actions {
        let window = self.window;
        let Some(s) = self.streams.get_mut(&stream) else { return vec![] };
        s.unreported = s.unreported.saturating_add(len as u32).min(window - s.receive_window);
        if s.peer_closed || s.unreported < credit_threshold(window) {
            return vec![];
        }
        let credit = std::mem::take(&mut s.unreported);
        s.receive_window += credit;
        vec![Action::Send(Frame::Credit { stream, credit })]
    }

    fn received(&mut self, frame: Frame) -> Result<Actions, ProtocolError> {
        match frame {
            Frame::Open { stream, window, target } => self.received_open(stream, window, target),
            Frame::OpenOk { stream, window } => match self.streams.get_mut(&stream) {
                Some(s) if s.phase == Phase::Opening => {
                    s.phase = Phase::Open;
                    s.send_window = window;
                    Ok(vec![Action::Opened { stream }, Action::Writable { stream }])
                }
                Some(_) => Err(ProtocolError::UnexpectedAnswer(stream)),
                None => Ok(vec![]),
            },
            Frame::OpenError { stream, message } => match self.streams.get(&stream) {
                Some(s) if s.phase == Phase::Opening => {
                    self.streams.remove(&stream);
                    Ok(vec![Action::OpenFailed { stream, message }, Action::Closed { stream }])
                }
                Some(_) => Err(ProtocolError::UnexpectedAnswer(stream)),
                None => Ok(vec![]),
            },
            Frame::Data { stream, data } => self.received_data(stream, data),
            Frame::Credit { stream, credit } => self.received_credit(stream, credit),
            Frame::CloseWrite { stream } => {
                let Some(s) = self.streams.get_mut(&stream) else { return Ok(vec![]) };
                check_readable(stream, s)?;
                s.peer_closed = true;
                let mut actions = vec![Action::DeliverEof { stream }];
                self.close_if_finished(stream, &mut actions);
                Ok(actions)
            }
            Frame::Reset { stream, reason } => Ok(self.reset(stream, reason)),
            Frame::Ping(n) => Ok(vec![Action::Send(Frame::Pong(n))]),
            Frame::Pong(_) => Ok(vec![]),
            Frame::Streams(ids) => Ok(self.reconcile(&ids)),
        }
    }

    fn received_open(&mut self, stream: StreamId, window: u32, target: Target) -> Result<Actions, ProtocolError> {
        if self.role.owns(stream) {
            return Err(ProtocolError::WrongParity(stream));
        }
        if stream <= self.peer_id_last {
            return Err(ProtocolError::Reused(stream));
        }
        self.peer_id_last = stream;
        let message = if !self.accepts {
            "this side accepts no streams"
        } else if self.streams.len() >= self.streams_max {
            "too many streams"
        } else {
            let state = self.new_stream(Phase::Dialing, window);
            self.streams.insert(stream, state);
            return Ok(vec![Action::Incoming { stream, target }]);
        };
        Ok(vec![Action::Send(Frame::OpenError { stream, message: message.into() })])
    }

    fn received_data(&mut self, stream: StreamId, data: Bytes) -> Result<Actions, ProtocolError> {
        let Some(s) = self.streams.get_mut(&stream) else { return Ok(vec![]) };
        check_readable(stream, s)?;
        match s.receive_window.checked_sub(data.len() as u32) {
            None => Err(ProtocolError::WindowExceeded(stream)),
            Some(rest) => {
                s.receive_window = rest;
                Ok(if data.is_empty() { vec![] } else { vec![Action::Deliver { stream, data }] })
            }
        }
    }

    fn received_credit(&mut self, stream: StreamId, credit: u32) -> Result<Actions, ProtocolError> {
        let Some(s) = self.streams.get_mut(&stream) else { return Ok(vec![]) };
        if s.phase != Phase::Open {
            return Err(ProtocolError::NotOpen(stream));
        }
        match s.send_window.checked_add(credit) {
            Some(window) if window <= WINDOW_MAX => {
                s.send_window = window;
                Ok(if s.self_closed { vec![] } else { vec![Action::Writable { stream }] })
            }
            _ => Err(ProtocolError::CreditOverflow(stream)),
        }
    }

    /// Compares the peer's list with ours; see `docs/tunnel.md` for why this judges exactly.
    fn reconcile(&mut self, peer_ids: &[StreamId]) -> Actions {
        let peer_ids: std::collections::BTreeSet<StreamId> = peer_ids.iter().copied().collect();
        let mut lost: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(id, s)| s.phase != Phase::Opening && !peer_ids.contains(id))
            .map(|(id, _)| *id)
            .collect();
        lost.sort_unstable();
        let mut actions: Actions = lost.into_iter().flat_map(|id| self.reset(id, ResetReason::Stray)).collect();
        for &stream in peer_ids.iter().filter(|id| !self.streams.contains_key(id)) {
            actions.push(Action::Send(Frame::Reset { stream, reason: ResetReason::Stray }));
        }
        actions
    }

    fn reset(&mut self, stream: StreamId, reason: ResetReason) -> Actions {
        match self.streams.remove(&stream) {
            Some(_) => vec![Action::DeliverReset { stream, reason }, Action::Closed { stream }],
            None => vec![],
        }
    }

    fn close_if_finished(&mut self, stream: StreamId, actions: &mut Actions) {
        if self.streams.get(&stream).is_some_and(|s| s.peer_closed && s.self_closed) {
            self.streams.remove(&stream);
            actions.push(Action::Closed { stream });
        }
    }

    fn new_stream(&self, phase: Phase, send_window: u32) -> StreamState {
        StreamState {
            phase,
            send_window,
            receive_window: self.window,
            unreported: 0,
            peer_closed: false,
            self_closed: false,
        }
    }
}

/// Bytes the application must have taken before credit is worth a frame: half a window, so that a sender never starves.
pub fn credit_threshold(window: u32) -> u32 {
    (window / 2).max(1)
}

fn check_readable(stream: StreamId, state: &StreamState) -> Result<(), ProtocolError> {
    match state {
        StreamState { phase: Phase::Open, peer_closed: false, .. } => Ok(()),
        StreamState { phase: Phase::Open, .. } => Err(ProtocolError::AfterEnd(stream)),
        _ => Err(ProtocolError::NotOpen(stream)),
    }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
