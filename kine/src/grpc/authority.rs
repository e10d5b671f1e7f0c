//! Lets old Go clients in by a unix socket.
//!
//! grpc-go before 1.30, and with it etcdctl 3.4, sends the socket's path as `:authority`. Our
//! HTTP/2 library resets such streams, rightly, since a path is no authority. On a unix socket
//! the field means nothing, so it is replaced in every request before the library reads it.
//!
//! Only the outline of HPACK is needed: a literal with name index 1 is `:authority`. The
//! new value is one byte, not longer than any old one, so the entry it makes in the
//! receiver's dynamic table is not larger than the one in the sender's, the receiver evicts no
//! earlier, and all later indices still mean the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const READ_BYTES: usize = 16 * 1024;
/// Frames above the protocol's default size are not ours to buffer.
const FRAME_BYTES_MAX: usize = 16 * 1024;

const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A unix connection whose requests carry a valid authority.
pub(crate) struct UnixConnection {
    stream: UnixStream,
    rewriter: Rewriter,
    buffer: Box<[u8]>,
}

impl UnixConnection {
    pub(crate) fn new(stream: UnixStream) -> UnixConnection {
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        UnixConnection { stream, rewriter: Rewriter::new(), buffer }
    }
}

impl AsyncRead for UnixConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rewriter.ready.is_empty() {
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter.push(read.filled());
        }
        let count = into.remaining().min(this.rewriter.ready.len());
        into.put_slice(&this.rewriter.ready[..count]);
        this.rewriter.ready.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UnixConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Finds frames in the bytes that arrive, and rewrites those that hold headers.
struct Rewriter {
    /// Bytes to hand on as they are: the preface, or the rest of a frame.
    passing: usize,
    /// The beginning of a frame that is not complete enough to decide.
    pending: BytesMut,
    ready: BytesMut,
}

impl Rewriter {
    fn new() -> Rewriter {
        Rewriter { passing: PREFACE_BYTES, pending: BytesMut::new(), ready: BytesMut::new() }
    }

    fn push(&mut self, mut bytes: &[u8]) {
        if self.pending.is_empty() {
            let count = self.passing.min(bytes.len());
            self.ready.extend_from_slice(&bytes[..count]);
            self.passing -= count;
            bytes = &bytes[count..];
        }
        self.pending.extend_from_slice(bytes);
        while self.passing == 0 && self.pending.len() >= FRAME_HEADER_BYTES {
            if !self.frame() {
                return;
            }
        }
    }

    /// Hands on the frame at the front; false if more of it is needed.
    fn frame(&mut self) -> bool {
        let header = &self.pending[..FRAME_HEADER_BYTES];
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        let whole = FRAME_HEADER_BYTES + length;
        if kind == HEADERS && flags & END_HEADERS != 0 && length <= FRAME_BYTES_MAX {
            if self.pending.len() < whole {
                return false;
            }
            let frame = self.pending.split_to(whole);
            match rewritten(&frame) {
                Some(frame) => self.ready.extend_from_slice(&frame),
                // Not understood: the library shall judge it.
                None => self.ready.extend_from_slice(&frame),
            }
            return true;
        }
        let count = whole.min(self.pending.len());
        self.ready.extend_from_slice(&self.pending[..count]);
        self.pending.advance(count);
        self.passing = whole - count;
        true
    }
}

/// The HEADERS frame without padding and with the new authority; `None` if it is malformed.
fn rewritten(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let mut payload = &frame[FRAME_HEADER_BYTES..];
    if flags & PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    let priority = if flags & PRIORITY != 0 { payload.get(..5)? } else { &[] };
    let block = with_authority(&payload[priority.len()..])?;
    let length = u32::try_from(priority.len() + block.len()).ok()?.to_be_bytes();
    let mut new = Vec::with_capacity(FRAME_HEADER_BYTES + priority.len() + block.len());
    new.extend_from_slice(&length[1..]);
    new.extend_from_slice(&[frame[3], flags & !PADDED]);
    new.extend_from_slice(&frame[5..FRAME_HEADER_BYTES]);
    new.extend_from_slice(priority);
    new.extend_from_slice(&block);
    Some(new)
}

/// Copies a header block; the value of a literal `:authority` becomes one byte.
fn with_authority(mut block: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(block.len());
    while let Some(first) = block.first() {
        let prefix_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let (index, mut size) = integer(block, prefix_bits)?;
        let is_literal = !matches!(prefix_bits, 7 | 5);
        if is_literal {
            if index == 0 {
                size += string(block.get(size..)?)?;
            }
            let value = string(block.get(size..)?)?;
            // An empty value would grow; it is refused by the library as before.
            if index == 1 && value > 1 {
                new.extend_from_slice(&block[..size]);
                new.extend_from_slice(&[1, b'k']);
                block = block.get(size + value..)?;
                continue;
            }
            size += value;
        }
        new.extend_from_slice(block.get(..size)?);
        block = &block[size..];
    }
    Some(new)
}

/// An HPACK integer and the bytes it takes.
fn integer(bytes: &[u8], prefix_bits: u32) -> Option<(usize, usize)> {
    let mask = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*bytes.first()?) & mask;
    if value < mask {
        return Some((value, 1));
    }
    for (position, byte) in bytes.iter().enumerate().skip(1).take(4) {
        value += usize::from(byte & 0x7f) << (7 * (position - 1));
        if byte & 0x80 == 0 {
            return Some((value, position + 1));
        }
    }
    None
}

/// The bytes an HPACK string takes, its length included.
fn string(bytes: &[u8]) -> Option<usize> {
    let (length, size) = integer(bytes, 7)?;
    (bytes.len() >= size + length).then_some(size + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn rewrite(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::new();
        let bytes = [&[b'P'; PREFACE_BYTES], bytes].concat();
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            rewriter.push(chunk);
            out.extend_from_slice(&rewriter.ready.split());
        }
        out[..PREFACE_BYTES].iter().for_each(|byte| assert_eq!(*byte, b'P'));
        out.split_off(PREFACE_BYTES)
    }

    /// `:method POST` indexed, `:authority` and a header with a literal name as literals.
    const BLOCK: &[u8] = b"\x83\x41\x05/sock\x40\x01a\x01b";
    const EXPECTED: &[u8] = b"\x83\x41\x01k\x40\x01a\x01b";

    #[test]
    fn the_authority_is_replaced_and_nothing_else() {
        assert_eq!(with_authority(BLOCK).unwrap(), EXPECTED);
        assert_eq!(with_authority(b"\x82\x20\x00\x01a\x01b").unwrap(), b"\x82\x20\x00\x01a\x01b");
    }

    #[test]
    fn frames_are_found_however_they_arrive() {
        let data = frame(0, 0, b"\x41\x05/sock");
        let input = [frame(4, 0, b""), frame(HEADERS, END_HEADERS, BLOCK), data.clone()].concat();
        let expected = [frame(4, 0, b""), frame(HEADERS, END_HEADERS, EXPECTED), data].concat();
        for step in [1, 2, 7, 1000] {
            assert_eq!(rewrite(&input, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn padding_goes_and_priority_stays() {
        let padded = [&[2][..], &[0, 0, 0, 0, 7], BLOCK, &[0, 0]].concat();
        let input = frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded);
        let kept = [&[0, 0, 0, 0, 7][..], EXPECTED].concat();
        assert_eq!(rewrite(&input, 5), frame(HEADERS, END_HEADERS | PRIORITY, &kept));
    }

    #[test]
    fn what_is_malformed_is_left_to_the_library() {
        for payload in [&b"\x41\x7f"[..], b"\x41\xff\xff\xff\xff\xff\xff", b"\x41"] {
            let input = frame(HEADERS, END_HEADERS, payload);
            assert_eq!(rewrite(&input, 100), input);
        }
    }
}
