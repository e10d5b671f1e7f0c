//! The channel framing of Kubernetes' websocket protocols: each message starts with the number of a channel.
//!
//! Binary protocols put the number in the first byte; base64 protocols send text whose first character is the number as a
//! digit and whose rest is base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// Channel numbers of exec and attach.
pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
/// Since protocol v5: the payload names a channel that the sender has closed.
pub const CLOSE: u8 = 255;

/// How messages carry their channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Binary,
    Base64,
}

impl Framing {
    /// A message for `channel`.
    pub fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Framing::Binary => {
                let mut out = BytesMut::with_capacity(data.len() + 1);
                out.put_u8(channel);
                out.put_slice(data);
                Message::Binary(out.freeze())
            }
            Framing::Base64 => {
                let mut text = String::with_capacity(data.len().div_ceil(3) * 4 + 1);
                text.push((b'0' + channel) as char);
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// Channel and payload of a data message; `None` for control messages, empty and undecodable ones.
    pub fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        if data.is_empty() {
            return None;
        }
        let first = data.split_to(1)[0];
        match self {
            Framing::Binary => Some((first, data)),
            Framing::Base64 => Some((first.checked_sub(b'0')?, STANDARD.decode(&data).ok()?.into())),
        }
    }
}

/// A websocket protocol of exec and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecProtocol {
    /// How messages are framed.
    pub framing: Framing,
    /// 1, 4 or 5.
    pub version: u8,
}

/// The protocols of exec and attach by their names.
const EXEC_PROTOCOLS: [(&str, ExecProtocol); 5] = [
    ("v5.channel.k8s.io", ExecProtocol { framing: Framing::Binary, version: 5 }),
    ("v4.channel.k8s.io", ExecProtocol { framing: Framing::Binary, version: 4 }),
    ("v4.base64.channel.k8s.io", ExecProtocol { framing: Framing::Base64, version: 4 }),
    ("channel.k8s.io", ExecProtocol { framing: Framing::Binary, version: 1 }),
    ("base64.channel.k8s.io", ExecProtocol { framing: Framing::Base64, version: 1 }),
];

impl ExecProtocol {
    /// What a client speaks that offers no protocol.
    pub const OLDEST: ExecProtocol = ExecProtocol { framing: Framing::Binary, version: 1 };

    /// The protocol of that name. A client that offers none gets the oldest, like the empty name.
    pub fn named(name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(Self::OLDEST);
        }
        EXEC_PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, protocol)| *protocol)
    }

    /// Whether the exit comes as a Status object, not as plain text.
    pub fn has_status(self) -> bool {
        self.version >= 4
    }

    /// Whether the client can change the size of the terminal.
    pub fn has_resize(self) -> bool {
        self.version >= 4
    }

    /// Whether the client can close stdin.
    pub fn has_close(self) -> bool {
        self.version >= 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_framings_survive_the_wire() {
        for framing in [Framing::Binary, Framing::Base64] {
            for data in [&b""[..], b"a", b"\0\xff\x80 anything"] {
                let back = framing.decode(framing.encode(STDERR, data));
                assert_eq!(back, Some((STDERR, Bytes::copy_from_slice(data))));
            }
        }
        assert_eq!(Framing::Base64.encode(1, b"hi"), Message::text("1aGk="));
    }

    #[test]
    fn what_is_no_channel_message_is_none() {
        assert_eq!(Framing::Binary.decode(Message::Binary(Bytes::new())), None);
        assert_eq!(Framing::Binary.decode(Message::Ping(Bytes::from_static(b"1"))), None);
        assert_eq!(Framing::Base64.decode(Message::text("1%%%")), None);
        assert_eq!(Framing::Base64.decode(Message::text(" aGk=")), None);
    }

    #[test]
    fn protocols_differ_in_what_they_can() {
        let v = |name| ExecProtocol::named(name).expect("a known name");
        assert!(v("v5.channel.k8s.io").has_close());
        assert!(!v("v4.channel.k8s.io").has_close() && v("v4.channel.k8s.io").has_status());
        assert!(!v("").has_status());
        assert_eq!(ExecProtocol::named("v6.channel.k8s.io"), None);
    }
}
