//! Tags, varints and lengths.
//!
//! The [`Writer`] fills its buffer backwards, so that the length of a message
//! is known when its header is written and nothing is copied twice; callers
//! write fields by descending tag.

use super::ProtobufError;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Backwards writer.
pub(super) struct Writer {
    /// The output, last byte first.
    reversed: Vec<u8>,
}

impl Writer {
    pub(super) fn with_capacity(capacity: usize) -> Writer {
        Writer { reversed: Vec::with_capacity(capacity) }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }

    fn raw_varint(&mut self, mut value: u64) {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            let more = value > 0x7f;
            bytes[length] = (value & 0x7f) as u8 | if more { 0x80 } else { 0 };
            length += 1;
            value >>= 7;
            if !more {
                break;
            }
        }
        self.reversed.extend(bytes[..length].iter().rev());
    }

    fn key(&mut self, tag: u32, wire: u32) {
        self.raw_varint(u64::from(tag << 3 | wire));
    }

    pub(super) fn varint(&mut self, tag: u32, value: u64) {
        self.raw_varint(value);
        self.key(tag, VARINT);
    }

    pub(super) fn double(&mut self, tag: u32, value: f64) {
        self.reversed.extend(value.to_le_bytes().iter().rev());
        self.key(tag, FIXED64);
    }

    pub(super) fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
        self.raw_varint(bytes.len() as u64);
        self.key(tag, BYTES);
    }

    pub(super) fn text(&mut self, tag: u32, text: &str) {
        self.bytes(tag, text.as_bytes());
    }

    /// Writes a nested message whose fields `fill` writes by descending tag.
    pub(super) fn message(
        &mut self,
        tag: u32,
        fill: impl FnOnce(&mut Writer) -> Result<(), ProtobufError>,
    ) -> Result<(), ProtobufError> {
        let before = self.reversed.len();
        fill(self)?;
        self.raw_varint((self.reversed.len() - before) as u64);
        self.key(tag, BYTES);
        Ok(())
    }
}

/// Forward reader over the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// The content of a field, still untyped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(ProtobufError::Malformed("unexpected end"))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("integer overflow"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        if length > self.rest.len() {
            return Err(ProtobufError::Malformed("unexpected end"));
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, ProtobufError> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// The next field, or `None` at the end of the message.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Content<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed("tag is too large"))?;
        let tag = key >> 3;
        if tag == 0 {
            return Err(ProtobufError::Malformed("tag is zero"));
        }
        let content = match key & 7 {
            VARINT => Content::Varint(self.varint()?),
            FIXED64 => Content::Fixed64(self.fixed64()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed("unexpected end"))?;
                Content::Bytes(self.take(length)?)
            }
            FIXED32 => {
                let bytes = self.take(4)?;
                Content::Fixed32(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
            }
            _ => return Err(ProtobufError::Malformed("unknown wire type")),
        };
        Ok(Some((tag, content)))
    }
}

impl<'a> Content<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Malformed("wrong wire type for bytes")),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::Malformed("text is not UTF-8"))
    }

    pub(super) fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Content::Varint(value) => Ok(value),
            _ => Err(ProtobufError::Malformed("wrong wire type for a number")),
        }
    }

    pub(super) fn double(self) -> Result<f64, ProtobufError> {
        match self {
            Content::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Content::Fixed32(bits) => Ok(f64::from(f32::from_bits(bits))),
            _ => Err(ProtobufError::Malformed("wrong wire type for a float")),
        }
    }
}
