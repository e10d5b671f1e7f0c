//! SPDY/3.1 frames: encoding to bytes, and a reader that hands data on in pieces.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::SpdyError;
use super::headers::{Compressor, Decompressor, Headers};
use crate::streaming::limits::{CONTROL_FRAME_LEN_MAX, DATA_PIECE_LEN_MAX};

/// Number of a stream; odd ones are the client's.
pub type StreamId = u32;

const VERSION: u16 = 3;
const CONTROL_BIT: u16 = 0x8000;
const HEADER_LEN: usize = 8;
const FLAG_FIN: u8 = 1;
const DATA_LEN_MAX: usize = 0x00ff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// One frame, or one piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream { stream: StreamId, headers: Headers, fin: bool },
    /// Accepts a stream.
    SynReply { stream: StreamId, headers: Headers, fin: bool },
    /// Ends a stream.
    RstStream { stream: StreamId, status: u32 },
    /// More headers of a stream.
    Headers { stream: StreamId, headers: Headers, fin: bool },
    /// Parameters; nothing here depends on any.
    Settings,
    /// To be returned by the peer if the id has the peer's parity.
    Ping(u32),
    /// No further streams.
    GoAway { last_stream: StreamId, status: u32 },
    /// Credit; peers of this protocol do not rely on it.
    WindowUpdate { stream: StreamId, delta: u32 },
    /// Bytes. `fin` is set on the last piece only.
    Data { stream: StreamId, data: Bytes, fin: bool },
}

impl Frame {
    /// The bytes of this frame. Header blocks go through `compressor`, so frames must be sent in the order they are encoded.
    pub fn encode(&self, compressor: &mut Compressor) -> Result<Bytes, SpdyError> {
        let (kind, fin, body) = match self {
            Frame::Data { stream, data, fin } => return encode_data(*stream, data, *fin),
            Frame::SynStream { stream, headers, fin } => {
                let mut body = stream.to_be_bytes().to_vec();
                // Associated stream, priority and slot: none.
                body.extend_from_slice(&[0; 6]);
                body.extend_from_slice(&compressor.compress(headers)?);
                (SYN_STREAM, *fin, body)
            }
            Frame::SynReply { stream, headers, fin } => (SYN_REPLY, *fin, with_block(*stream, headers, compressor)?),
            Frame::Headers { stream, headers, fin } => (HEADERS, *fin, with_block(*stream, headers, compressor)?),
            Frame::RstStream { stream, status } => (RST_STREAM, false, two(*stream, *status)),
            Frame::Settings => (SETTINGS, false, vec![0; 4]),
            Frame::Ping(id) => (PING, false, id.to_be_bytes().to_vec()),
            Frame::GoAway { last_stream, status } => (GOAWAY, false, two(*last_stream, *status)),
            Frame::WindowUpdate { stream, delta } => (WINDOW_UPDATE, false, two(*stream, *delta)),
        };
        let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
        out.put_u16(CONTROL_BIT | VERSION);
        out.put_u16(kind);
        out.put_u32((u32::from(fin as u8 * FLAG_FIN) << 24) | body.len() as u32);
        out.put_slice(&body);
        Ok(out.freeze())
    }
}

fn encode_data(stream: StreamId, data: &[u8], fin: bool) -> Result<Bytes, SpdyError> {
    if data.len() > DATA_LEN_MAX {
        return Err(SpdyError::Protocol("data is longer than a frame can be"));
    }
    let mut out = BytesMut::with_capacity(HEADER_LEN + data.len());
    out.put_u32(stream & 0x7fff_ffff);
    out.put_u32((u32::from(fin as u8 * FLAG_FIN) << 24) | data.len() as u32);
    out.put_slice(data);
    Ok(out.freeze())
}

fn with_block(stream: StreamId, headers: &Headers, compressor: &mut Compressor) -> Result<Vec<u8>, SpdyError> {
    let mut body = stream.to_be_bytes().to_vec();
    body.extend_from_slice(&compressor.compress(headers)?);
    Ok(body)
}

fn two(a: u32, b: u32) -> Vec<u8> {
    [a.to_be_bytes(), b.to_be_bytes()].concat()
}

/// Reads frames from a byte stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    decompressor: Decompressor,
    /// Stream, bytes left and fin flag of the data frame being read.
    data: Option<(StreamId, usize, bool)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader at the start of a connection.
    pub fn new(io: R) -> Self {
        FrameReader { io, decompressor: Decompressor::default(), data: None }
    }

    /// The next frame; `None` at the end of the connection. Frames of unknown type are skipped. Not cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((stream, left, fin)) = self.data.take() {
                return self.data_piece(stream, left, fin).await.map(Some);
            }
            let mut header = [0; HEADER_LEN];
            match self.io.read(&mut header[..1]).await {
                Ok(0) => return Ok(None),
                Ok(_) => self.io.read_exact(&mut header[1..]).await?,
                Err(error) => return Err(error.into()),
            };
            let mut header = &header[..];
            let first = header.get_u32();
            let flags_len = header.get_u32();
            let (fin, len) = ((flags_len >> 24) as u8 & FLAG_FIN != 0, (flags_len & 0x00ff_ffff) as usize);
            if first >> 31 == 0 {
                self.data = Some((first, len, fin));
                continue;
            }
            if (first >> 16) as u16 & !CONTROL_BIT != VERSION {
                return Err(SpdyError::Protocol("not version 3"));
            }
            if len > CONTROL_FRAME_LEN_MAX {
                return Err(SpdyError::Protocol("control frame is longer than allowed"));
            }
            let mut body = vec![0; len];
            self.io.read_exact(&mut body).await?;
            if let Some(frame) = self.control(first as u16, fin, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    async fn data_piece(&mut self, stream: StreamId, left: usize, fin: bool) -> Result<Frame, SpdyError> {
        let want = left.min(DATA_PIECE_LEN_MAX);
        let mut piece = BytesMut::with_capacity(want);
        while piece.is_empty() && want > 0 {
            if (&mut self.io).take(want as u64).read_buf(&mut piece).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        let left = left - piece.len();
        if left > 0 {
            self.data = Some((stream, left, fin));
        }
        Ok(Frame::Data { stream, data: piece.freeze(), fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let mut word = || body.try_get_u32().map_err(|_| SpdyError::Protocol("control frame ends early"));
        let frame = match kind {
            SYN_STREAM => {
                let stream = word()? & 0x7fff_ffff;
                word()?;
                let block = body.get(2..).ok_or(SpdyError::Protocol("control frame ends early"))?;
                Frame::SynStream { stream, headers: self.decompressor.decompress(block)?, fin }
            }
            SYN_REPLY => {
                let stream = word()? & 0x7fff_ffff;
                Frame::SynReply { stream, headers: self.decompressor.decompress(body)?, fin }
            }
            HEADERS => {
                let stream = word()? & 0x7fff_ffff;
                Frame::Headers { stream, headers: self.decompressor.decompress(body)?, fin }
            }
            RST_STREAM => Frame::RstStream { stream: word()? & 0x7fff_ffff, status: word()? },
            SETTINGS => Frame::Settings,
            PING => Frame::Ping(word()?),
            GOAWAY => Frame::GoAway { last_stream: word()? & 0x7fff_ffff, status: word()? },
            WINDOW_UPDATE => Frame::WindowUpdate { stream: word()? & 0x7fff_ffff, delta: word()? & 0x7fff_ffff },
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn samples() -> Vec<Frame> {
        let headers = Headers::new(&[("streamtype", "stdout")]);
        vec![
            Frame::SynStream { stream: 1, headers: headers.clone(), fin: false },
            Frame::SynStream { stream: 3, headers: headers.clone(), fin: true },
            Frame::SynReply { stream: 1, headers: Headers::default(), fin: false },
            Frame::Headers { stream: 1, headers, fin: true },
            Frame::RstStream { stream: 5, status: 3 },
            Frame::Settings,
            Frame::Ping(7),
            Frame::GoAway { last_stream: 9, status: 0 },
            Frame::WindowUpdate { stream: 1, delta: 65536 },
            Frame::Data { stream: 1, data: Bytes::from_static(b"hello"), fin: false },
            Frame::Data { stream: 1, data: Bytes::new(), fin: true },
        ]
    }

    async fn read_all(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn every_frame_survives_the_wire() {
        let mut compressor = Compressor::new().expect("zlib");
        let mut wire = Vec::new();
        for frame in samples() {
            wire.extend_from_slice(&frame.encode(&mut compressor).expect("encodes"));
        }
        assert_eq!(read_all(&wire).await.expect("reads"), samples());
    }

    #[tokio::test]
    async fn long_data_comes_in_pieces_and_only_the_last_has_fin() {
        let data = Bytes::from(vec![7; 3 * DATA_PIECE_LEN_MAX + 5]);
        let frame = Frame::Data { stream: 1, data: data.clone(), fin: true };
        let wire = frame.encode(&mut Compressor::new().expect("zlib")).expect("encodes");
        let pieces = read_all(&wire).await.expect("reads");
        assert_eq!(pieces.len(), 4);
        let (mut joined, mut fins) = (Vec::new(), Vec::new());
        for piece in pieces {
            let Frame::Data { data, fin, .. } = piece else { panic!("not data") };
            joined.extend_from_slice(&data);
            fins.push(fin);
        }
        assert_eq!(joined, data);
        assert_eq!(fins, [false, false, false, true]);
    }

    #[tokio::test]
    async fn a_connection_cut_inside_a_frame_is_an_error() {
        let mut compressor = Compressor::new().expect("zlib");
        let wire = Frame::Ping(1).encode(&mut compressor).expect("encodes");
        assert!(read_all(&wire[..wire.len() - 1]).await.is_err());
        let wire = Frame::Data { stream: 1, data: Bytes::from_static(b"abc"), fin: false };
        let wire = wire.encode(&mut compressor).expect("encodes");
        assert!(read_all(&wire[..wire.len() - 1]).await.is_err());
    }

    #[tokio::test]
    async fn unknown_control_frames_are_skipped() {
        let mut wire = vec![0x80, 3, 0, 77, 0, 0, 0, 2, 1, 2];
        wire.extend_from_slice(&Frame::Ping(5).encode(&mut Compressor::new().expect("zlib")).expect("encodes"));
        assert_eq!(read_all(&wire).await.expect("reads"), [Frame::Ping(5)]);
    }

    #[tokio::test]
    async fn random_bytes_never_panic() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..rng.random_range(0..60)).map(|_| rng.random()).collect();
            if bytes.len() > 6 && rng.random_bool(0.8) {
                bytes[..6].copy_from_slice(&[0x80, 3, 0, rng.random_range(0..11), rng.random(), 0]);
                bytes[6] = 0;
            }
            let _ = read_all(&bytes).await;
        }
    }
}
