//! A small blocking netlink socket: builds requests, waits for acknowledgements
//! and walks dumps.
//!
//! Skiff speaks rtnetlink (links, addresses, routes, neighbours) and ctnetlink
//! (connection tracking) itself instead of through an asynchronous stack, for
//! two reasons: the CNI plugin must start, act and exit within milliseconds
//! without a runtime, and every exchange with the kernel is answered at once,
//! so there is nothing to wait for. A socket belongs to the network namespace
//! of the thread that opened it, forever; see [`crate::netns::Netns`].

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket},
};

/// Largest datagram the kernel sends in a dump is 32 KiB; twice that is safe.
const RECEIVE_BYTES_MAX: usize = 64 << 10;
/// Dumps interrupted by concurrent changes are repeated at most this often.
const DUMP_ATTEMPTS_MAX: usize = 8;

const HEADER_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Flags of requests that add something.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// A refused or failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source}")]
pub struct NetlinkError {
    /// What was being done, for example `add link veth0`.
    pub context: String,
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        NetlinkError { context: context.into(), source: source.into() }
    }

    fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw)
    }

    /// The object exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// The object (link, route, neighbour, flow) does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL))
    }

    /// The kernel cannot do this at all (missing module or configuration).
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT))
    }
}

/// One request under construction. Attributes are appended in order and padded to four bytes.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Message { bytes }
    }

    /// Appends the family header (`ifinfomsg`, `rtmsg`, ...).
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        self.push(kind, value);
        self
    }

    pub(crate) fn attribute_u32(self, kind: u16, value: u32) -> Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A NUL-terminated string attribute.
    pub(crate) fn attribute_text(self, kind: u16, text: &str) -> Message {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.push(kind | NLA_F_NESTED, &[]);
        let mut filled = fill(self);
        let len = (filled.bytes.len() - start) as u16;
        filled.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let len = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32, extra_flags: u16) -> &[u8] {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// Walks attributes; malformed tails end the walk.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = read_u16(self.0, 0)? as usize;
        let kind = read_u16(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Text up to the first NUL.
pub(crate) fn read_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A netlink socket, bound to one network namespace.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Links, addresses, routes and neighbours of the calling thread's namespace.
    pub fn route() -> Result<Netlink, NetlinkError> {
        Netlink::open(SockProtocol::NetlinkRoute)
    }

    /// Connection tracking of the calling thread's namespace.
    pub fn netfilter() -> Result<Netlink, NetlinkError> {
        Netlink::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Netlink, NetlinkError> {
        let context = "open netlink socket";
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(|error| NetlinkError::new(context, error))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(|error| NetlinkError::new(context, error))?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; RECEIVE_BYTES_MAX] })
    }

    /// Sends a request and waits for the kernel's verdict.
    pub(crate) fn execute(&mut self, message: Message, context: impl FnOnce() -> String) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK, &mut |_, _| {}).map(drop).map_err(|error| NetlinkError::new(context(), error))
    }

    /// Sends a request for one object; `visit` gets its message type and body.
    pub(crate) fn get(
        &mut self,
        message: Message,
        context: impl FnOnce() -> String,
        visit: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK, visit).map(drop).map_err(|error| NetlinkError::new(context(), error))
    }

    /// Walks all objects of a kind. `message` builds the request anew and `collect` starts
    /// over when the kernel reports that the table changed during the walk.
    pub(crate) fn dump<T>(
        &mut self,
        message: impl Fn() -> Message,
        context: &str,
        mut decode: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let mut items = Vec::new();
            let mut visit = |_: u16, body: &[u8]| items.extend(decode(body));
            let interrupted = self
                .exchange(message(), NLM_F_DUMP, &mut visit)
                .map_err(|error| NetlinkError::new(context.to_owned(), error))?;
            if !interrupted || attempt == DUMP_ATTEMPTS_MAX {
                return Ok(items);
            }
            attempt += 1;
        }
    }

    /// Returns whether a dump was interrupted by a change.
    fn exchange(&mut self, mut message: Message, flags: u16, visit: &mut dyn FnMut(u16, &[u8])) -> Result<bool, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence, flags);
        let fd = self.socket.as_fd().as_raw_fd();
        retry(|| sendto(fd, bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()))?;
        let mut interrupted = false;
        loop {
            let received = retry(|| recv(fd, &mut self.buffer, MsgFlags::empty()))?;
            let mut rest = &self.buffer[..received];
            while let (Some(len), Some(kind), Some(flags), Some(sequence)) =
                (read_u32(rest, 0), read_u16(rest, 4), read_u16(rest, 6), read_u32(rest, 8))
            {
                let len = len as usize;
                let Some(body) = rest.get(HEADER_LEN..len) else { break };
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                if sequence != self.sequence {
                    continue;
                }
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = read_u32(body, 0).unwrap_or(0) as i32;
                        return if code == 0 { Ok(interrupted) } else { Err(Errno::from_raw(-code)) };
                    }
                    kind => visit(kind, body),
                }
            }
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => continue,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_round_trip() {
        let mut message = Message::new(16, 0).attribute_text(3, "lo").nested(18, |inner| inner.attribute_u32(1, 7));
        let bytes = message.finish(1, 0).to_vec();
        let attributes: Vec<_> = Attributes(&bytes[HEADER_LEN..]).collect();
        assert_eq!(attributes[0], (3, b"lo\0".as_slice()));
        assert_eq!(attributes[1].0, 18);
        assert_eq!(Attributes(attributes[1].1).next(), Some((1, 7u32.to_ne_bytes().as_slice())));
        assert_eq!(read_u32(&bytes, 0), Some(bytes.len() as u32));
    }

    #[test]
    fn truncated_attributes_end_the_walk() {
        assert_eq!(Attributes(&[9, 0, 1, 0, 1]).next(), None);
        assert_eq!(Attributes(&[1, 0]).next(), None);
    }
}
