//! The wire format: one frame per binary websocket message.
//!
//! Decoding is total: every byte string gives a frame or a [`FrameError`], never a panic, and a decoded frame encodes to
//! the bytes it came from (reset reasons unknown to us excepted, which read as cancelled).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{DATA_LEN_MAX, FRAME_LEN_MAX, MESSAGE_LEN_MAX, STREAMS_MAX, WINDOW_MAX, WINDOW_MIN};

/// Number of a stream within its session. Zero names the session itself.
pub type StreamId = u32;

const OPEN: u8 = 1;
const OPEN_OK: u8 = 2;
const OPEN_ERROR: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const CLOSE_WRITE: u8 = 6;
const RESET: u8 = 7;
const PING: u8 = 8;
const PONG: u8 = 9;
const STREAMS: u8 = 10;

const TARGET_LOCAL: u8 = 1;
const TARGET_V4: u8 = 2;
const TARGET_V6: u8 = 3;

const HEADER_LEN: usize = 5;

/// Where the acceptor of a stream shall connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP port on the acceptor's loopback address.
    Local(u16),
    /// A TCP address as the acceptor reaches it.
    Address(SocketAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local(port) => write!(f, "local port {port}"),
            Target::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// One end gave up before both directions were closed.
    Cancelled,
    /// Reconciliation found the stream on one side only.
    Stray,
    /// The acceptor went away before it had connected.
    Refused,
}

impl ResetReason {
    fn code(self) -> u8 {
        match self {
            ResetReason::Cancelled => 0,
            ResetReason::Stray => 1,
            ResetReason::Refused => 2,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => ResetReason::Stray,
            2 => ResetReason::Refused,
            _ => ResetReason::Cancelled,
        }
    }
}

/// One message of the tunnel protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Asks the peer to connect a new stream.
    Open { stream: StreamId, window: u32, target: Target },
    /// The stream is connected.
    OpenOk { stream: StreamId, window: u32 },
    /// The stream could not be connected and is gone.
    OpenError { stream: StreamId, message: String },
    /// Bytes.
    Data { stream: StreamId, data: Bytes },
    /// The reader can take that much more.
    Credit { stream: StreamId, credit: u32 },
    /// End of file in the sender's direction.
    CloseWrite { stream: StreamId },
    /// The stream is gone.
    Reset { stream: StreamId, reason: ResetReason },
    /// Are you there?
    Ping(u64),
    /// Answer to the ping with the same number.
    Pong(u64),
    /// Every stream the sender holds.
    Streams(Vec<StreamId>),
}

/// Why bytes are not a frame. Always ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {0} bytes is longer than allowed")]
    TooLong(usize),
    #[error("frame ends early")]
    Truncated,
    #[error("frame has bytes behind its end")]
    Trailing,
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    #[error("unknown target type {0}")]
    UnknownTarget(u8),
    #[error("stream id {0} does not fit the frame type")]
    BadStream(StreamId),
    #[error("window or credit of {0} is out of bounds")]
    BadWindow(u32),
    #[error("text is not UTF-8")]
    NotUtf8,
}

impl Frame {
    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        let (kind, stream, body_len) = match self {
            Frame::Open { stream, .. } => (OPEN, *stream, 4 + 19),
            Frame::OpenOk { stream, .. } => (OPEN_OK, *stream, 4),
            Frame::OpenError { stream, message } => (OPEN_ERROR, *stream, message.len()),
            Frame::Data { stream, data } => (DATA, *stream, data.len()),
            Frame::Credit { stream, .. } => (CREDIT, *stream, 4),
            Frame::CloseWrite { stream } => (CLOSE_WRITE, *stream, 0),
            Frame::Reset { stream, .. } => (RESET, *stream, 1),
            Frame::Ping(_) => (PING, 0, 8),
            Frame::Pong(_) => (PONG, 0, 8),
            Frame::Streams(ids) => (STREAMS, 0, ids.len() * 4),
        };
        let mut out = BytesMut::with_capacity(HEADER_LEN + body_len);
        out.put_u8(kind);
        out.put_u32(stream);
        match self {
            Frame::Open { window, target, .. } => {
                out.put_u32(*window);
                put_target(&mut out, target);
            }
            Frame::OpenOk { window: n, .. } | Frame::Credit { credit: n, .. } => out.put_u32(*n),
            Frame::OpenError { message, .. } => out.put_slice(cut(message, MESSAGE_LEN_MAX).as_bytes()),
            Frame::Data { data, .. } => out.put_slice(data),
            Frame::CloseWrite { .. } => {}
            Frame::Reset { reason, .. } => out.put_u8(reason.code()),
            Frame::Ping(n) | Frame::Pong(n) => out.put_u64(*n),
            Frame::Streams(ids) => ids.iter().for_each(|id| out.put_u32(*id)),
        }
        out.freeze()
    }

    /// Reads one frame; `bytes` must hold it and nothing else.
    pub fn decode(mut bytes: Bytes) -> Result<Frame, FrameError> {
        if bytes.len() > FRAME_LEN_MAX {
            return Err(FrameError::TooLong(bytes.len()));
        }
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::Truncated);
        }
        let kind = bytes.get_u8();
        let stream = bytes.get_u32();
        let of_session = matches!(kind, PING | PONG | STREAMS);
        if (OPEN..=STREAMS).contains(&kind) && (stream == 0) != of_session {
            return Err(FrameError::BadStream(stream));
        }
        let frame = match kind {
            OPEN => {
                let window = get_window(&mut bytes)?;
                Frame::Open { stream, window, target: get_target(&mut bytes)? }
            }
            OPEN_OK => Frame::OpenOk { stream, window: get_window(&mut bytes)? },
            OPEN_ERROR => Frame::OpenError { stream, message: get_message(&mut bytes)? },
            DATA if bytes.len() > DATA_LEN_MAX => return Err(FrameError::TooLong(bytes.len())),
            DATA => Frame::Data { stream, data: std::mem::take(&mut bytes) },
            CREDIT => match get_u32(&mut bytes)? {
                credit @ 1..=WINDOW_MAX => Frame::Credit { stream, credit },
                other => return Err(FrameError::BadWindow(other)),
            },
            CLOSE_WRITE => Frame::CloseWrite { stream },
            RESET => Frame::Reset { stream, reason: ResetReason::from_code(get_u8(&mut bytes)?) },
            PING => Frame::Ping(get_u64(&mut bytes)?),
            PONG => Frame::Pong(get_u64(&mut bytes)?),
            STREAMS => Frame::Streams(get_ids(&mut bytes)?),
            other => return Err(FrameError::UnknownType(other)),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(FrameError::Trailing) }
    }
}

fn put_target(out: &mut BytesMut, target: &Target) {
    match target {
        Target::Local(port) => {
            out.put_u8(TARGET_LOCAL);
            out.put_u16(*port);
        }
        Target::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.put_u8(TARGET_V4);
                    out.put_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.put_u8(TARGET_V6);
                    out.put_slice(&ip.octets());
                }
            }
            out.put_u16(address.port());
        }
    }
}

fn get_target(bytes: &mut Bytes) -> Result<Target, FrameError> {
    let ip = match get_u8(bytes)? {
        TARGET_LOCAL => return Ok(Target::Local(get_u16(bytes)?)),
        TARGET_V4 => IpAddr::V4(Ipv4Addr::from(get_array::<4>(bytes)?)),
        TARGET_V6 => IpAddr::V6(Ipv6Addr::from(get_array::<16>(bytes)?)),
        other => return Err(FrameError::UnknownTarget(other)),
    };
    Ok(Target::Address(SocketAddr::new(ip, get_u16(bytes)?)))
}

fn get_window(bytes: &mut Bytes) -> Result<u32, FrameError> {
    match get_u32(bytes)? {
        window @ WINDOW_MIN..=WINDOW_MAX => Ok(window),
        other => Err(FrameError::BadWindow(other)),
    }
}

fn get_message(bytes: &mut Bytes) -> Result<String, FrameError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(FrameError::TooLong(bytes.len()));
    }
    let text = std::mem::take(bytes);
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::NotUtf8)
}

fn get_ids(bytes: &mut Bytes) -> Result<Vec<StreamId>, FrameError> {
    // Each side may hold STREAMS_MAX streams of its own and as many of the peer's.
    if bytes.len() > 2 * STREAMS_MAX * 4 {
        return Err(FrameError::TooLong(bytes.len()));
    }
    if !bytes.len().is_multiple_of(4) {
        return Err(FrameError::Truncated);
    }
    Ok((0..bytes.len() / 4).map(|_| bytes.get_u32()).collect())
}

fn get_u8(bytes: &mut Bytes) -> Result<u8, FrameError> {
    bytes.try_get_u8().map_err(|_| FrameError::Truncated)
}

fn get_u16(bytes: &mut Bytes) -> Result<u16, FrameError> {
    bytes.try_get_u16().map_err(|_| FrameError::Truncated)
}

fn get_u32(bytes: &mut Bytes) -> Result<u32, FrameError> {
    bytes.try_get_u32().map_err(|_| FrameError::Truncated)
}

fn get_u64(bytes: &mut Bytes) -> Result<u64, FrameError> {
    bytes.try_get_u64().map_err(|_| FrameError::Truncated)
}

fn get_array<const N: usize>(bytes: &mut Bytes) -> Result<[u8; N], FrameError> {
    let mut array = [0; N];
    bytes.try_copy_to_slice(&mut array).map_err(|_| FrameError::Truncated)?;
    Ok(array)
}

/// The longest prefix of `text` that has at most `len_max` bytes and ends between characters.
fn cut(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn samples() -> Vec<Frame> {
        let v6 = "[fd00::1]:443".parse().expect("a literal address");
        let v4 = "10.42.0.7:8080".parse().expect("a literal address");
        vec![
            Frame::Open { stream: 1, window: 4096, target: Target::Local(10250) },
            Frame::Open { stream: 3, window: WINDOW_MAX, target: Target::Address(v4) },
            Frame::Open { stream: 5, window: WINDOW_MIN, target: Target::Address(v6) },
            Frame::OpenOk { stream: 1, window: 65536 },
            Frame::OpenError { stream: 1, message: "connection refused".into() },
            Frame::Data { stream: 7, data: Bytes::from_static(b"hello") },
            Frame::Data { stream: 7, data: Bytes::new() },
            Frame::Credit { stream: 7, credit: 99 },
            Frame::CloseWrite { stream: 7 },
            Frame::Reset { stream: 7, reason: ResetReason::Stray },
            Frame::Ping(u64::MAX),
            Frame::Pong(7),
            Frame::Streams(vec![]),
            Frame::Streams(vec![1, 3, 2]),
        ]
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in samples() {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame.clone()), "{frame:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_fixed_length_frame_is_refused() {
        for frame in samples() {
            if matches!(frame, Frame::Data { .. } | Frame::OpenError { .. } | Frame::Streams(_)) {
                continue;
            }
            let bytes = frame.encode();
            for len in 0..bytes.len() {
                assert!(Frame::decode(bytes.slice(..len)).is_err(), "{frame:?} cut to {len}");
            }
        }
    }

    #[test]
    fn bytes_behind_a_frame_are_refused() {
        let mut bytes = BytesMut::from(&Frame::CloseWrite { stream: 2 }.encode()[..]);
        bytes.put_u8(0);
        assert_eq!(Frame::decode(bytes.freeze()), Err(FrameError::Trailing));
    }

    #[test]
    fn session_frames_have_stream_zero_and_stream_frames_do_not() {
        let mut ping = BytesMut::from(&Frame::Ping(1).encode()[..]);
        ping[4] = 1;
        assert_eq!(Frame::decode(ping.freeze()), Err(FrameError::BadStream(1)));
        let mut close = BytesMut::from(&Frame::CloseWrite { stream: 1 }.encode()[..]);
        close[4] = 0;
        assert_eq!(Frame::decode(close.freeze()), Err(FrameError::BadStream(0)));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let frame = Frame::OpenError { stream: 1, message: "é".repeat(MESSAGE_LEN_MAX) };
        let Ok(Frame::OpenError { message, .. }) = Frame::decode(frame.encode()) else { panic!("does not decode") };
        assert_eq!(message.len(), MESSAGE_LEN_MAX);
        assert!(cut("aé", 2).len() == 1);
    }

    #[test]
    fn random_bytes_never_panic_and_what_decodes_encodes_back() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut decoded = 0;
        for _ in 0..200_000 {
            let len = rng.random_range(0..40);
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            if let Some(first) = bytes.first_mut() {
                *first %= 12;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(frame) = Frame::decode(bytes.clone()) {
                decoded += 1;
                if !matches!(frame, Frame::Reset { .. }) {
                    assert_eq!(frame.encode(), bytes);
                }
            }
        }
        assert!(decoded > 1000, "the generator reaches the decoder's good paths");
    }
}
