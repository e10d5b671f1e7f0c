//! Names and records on the wire: reading with compression pointers, writing
//! with compression.
//!
//! Reading trusts nothing: pointers only lead backwards and are counted, every
//! length is checked. Writing never fails; the caller cuts what is too much.

use super::{
    message::{HEADER_BYTES, Record, RecordData, record_type},
    name::{NAME_BYTES_MAX, Name},
};

/// Compression pointers followed in one name.
const POINTERS_MAX: usize = 32;

/// A record whose data has not been looked at.
pub(super) struct RawRecord<'a> {
    name: Name,
    pub(super) record_type: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    /// Where the data begins in the message, for names in it.
    at: usize,
    data: &'a [u8],
}

/// Reads a message from a position on; `None` means malformed.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    /// Reads a name, following compression pointers, which may only lead backwards.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::with_capacity(64);
        let (mut at, mut after, mut pointers) = (self.at, None, 0);
        loop {
            let length = *self.bytes.get(at)?;
            match length {
                0 => {
                    wire.push(0);
                    self.at = after.unwrap_or(at + 1);
                    return (wire.len() <= NAME_BYTES_MAX).then(|| Name::from_wire(wire));
                }
                1..=63 => {
                    wire.extend_from_slice(self.bytes.get(at..at + 1 + usize::from(length))?);
                    at += 1 + usize::from(length);
                }
                0xc0.. => {
                    let target = (usize::from(length & 0x3f) << 8) | usize::from(*self.bytes.get(at + 1)?);
                    after.get_or_insert(at + 2);
                    pointers += 1;
                    if target >= at || pointers > POINTERS_MAX {
                        return None;
                    }
                    at = target;
                }
                _ => return None,
            }
            if wire.len() > NAME_BYTES_MAX {
                return None;
            }
        }
    }

    pub(super) fn record_header(&mut self) -> Option<RawRecord<'a>> {
        let name = self.name()?;
        let (record_type, class, ttl) = (self.u16()?, self.u16()?, self.u32()?);
        let length = usize::from(self.u16()?);
        let at = self.at;
        Some(RawRecord { name, record_type, class, ttl, at, data: self.take(length)? })
    }

    pub(super) fn record(&mut self) -> Option<Record> {
        let raw = self.record_header()?;
        let end = raw.at + raw.data.len();
        let mut inner = Reader { bytes: self.bytes.get(..end)?, at: raw.at };
        let data = match raw.record_type {
            record_type::A => RecordData::A(<[u8; 4]>::try_from(raw.data).ok()?.into()),
            record_type::AAAA => RecordData::Aaaa(<[u8; 16]>::try_from(raw.data).ok()?.into()),
            record_type::CNAME => RecordData::Cname(inner.name()?),
            record_type::PTR => RecordData::Ptr(inner.name()?),
            record_type::NS => RecordData::Ns(inner.name()?),
            record_type::MX => RecordData::Mx { preference: inner.u16()?, exchange: inner.name()? },
            record_type::SRV => RecordData::Srv {
                priority: inner.u16()?,
                weight: inner.u16()?,
                port: inner.u16()?,
                target: inner.name()?,
            },
            record_type::TXT => {
                let mut texts = Vec::new();
                while inner.at < end {
                    let length = usize::from(inner.take(1)?[0]);
                    texts.push(inner.take(length)?.to_vec());
                }
                RecordData::Txt(texts)
            }
            record_type::SOA => RecordData::Soa {
                primary: inner.name()?,
                mailbox: inner.name()?,
                serial: inner.u32()?,
                refresh: inner.u32()?,
                retry: inner.u32()?,
                expire: inner.u32()?,
                minimum: inner.u32()?,
            },
            record_type => RecordData::Other { record_type, bytes: raw.data.to_vec() },
        };
        Some(Record { name: raw.name, class: raw.class, ttl: raw.ttl, data })
    }
}

/// Writes records behind a question, with compressed names.
pub(super) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
    /// Where names (and their parents) were written, for compression.
    names: Vec<u16>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut Vec<u8>, limit: usize) -> Writer<'a> {
        Writer { bytes, limit, names: Vec::new() }
    }

    /// Writes records while they fit; says how many, and whether that was all.
    pub(super) fn section(&mut self, records: &[Record], age: u32) -> (u16, bool) {
        let mut count = 0;
        for record in records {
            let (start, names) = (self.bytes.len(), self.names.len());
            self.record(record, age);
            if self.bytes.len() > self.limit {
                self.bytes.truncate(start);
                self.names.truncate(names);
                return (count, false);
            }
            count += 1;
        }
        (count, true)
    }

    fn record(&mut self, record: &Record, age: u32) {
        self.name(&record.name);
        self.bytes.extend_from_slice(&record.data.record_type().to_be_bytes());
        self.bytes.extend_from_slice(&record.class.to_be_bytes());
        self.bytes.extend_from_slice(&record.ttl.saturating_sub(age).to_be_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.data(&record.data);
        let length = (self.bytes.len() - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn data(&mut self, data: &RecordData) {
        match data {
            RecordData::A(address) => self.bytes.extend_from_slice(&address.octets()),
            RecordData::Aaaa(address) => self.bytes.extend_from_slice(&address.octets()),
            RecordData::Cname(name) | RecordData::Ptr(name) | RecordData::Ns(name) => self.name(name),
            RecordData::Mx { preference, exchange } => {
                self.bytes.extend_from_slice(&preference.to_be_bytes());
                self.name(exchange);
            }
            RecordData::Srv { priority, weight, port, target } => {
                for word in [priority, weight, port] {
                    self.bytes.extend_from_slice(&word.to_be_bytes());
                }
                // RFC 2782 forbids compression here.
                self.bytes.extend_from_slice(target.wire());
            }
            RecordData::Txt(texts) => {
                for text in texts {
                    self.bytes.push(text.len().min(255) as u8);
                    self.bytes.extend_from_slice(&text[..text.len().min(255)]);
                }
            }
            RecordData::Soa { primary, mailbox, serial, refresh, retry, expire, minimum } => {
                self.name(primary);
                self.name(mailbox);
                for number in [serial, refresh, retry, expire, minimum] {
                    self.bytes.extend_from_slice(&number.to_be_bytes());
                }
            }
            RecordData::Other { bytes, .. } => self.bytes.extend_from_slice(bytes),
        }
    }

    /// Writes a name, pointing to an earlier one for the part they share.
    fn name(&mut self, name: &Name) {
        let wire = name.wire();
        for start in name.starts() {
            if wire[start] == 0 {
                break;
            }
            if let Some(at) = self.find(&wire[start..]) {
                self.bytes.extend_from_slice(&(0xc000 | at).to_be_bytes());
                return;
            }
            if self.bytes.len() < 0x4000 {
                self.names.push(self.bytes.len() as u16);
            }
            let end = start + 1 + usize::from(wire[start]);
            self.bytes.extend_from_slice(&wire[start..end]);
        }
        self.bytes.push(0);
    }

    /// An earlier place of this name: the question, or one of the names written since.
    fn find(&self, wire: &[u8]) -> Option<u16> {
        let question = std::iter::successors(Some(HEADER_BYTES), |at| {
            let length = usize::from(self.bytes[*at]);
            (length != 0).then(|| at + 1 + length)
        });
        let question = question.take_while(|at| self.bytes[*at] != 0).map(|at| at as u16);
        question.chain(self.names.iter().copied()).find(|at| self.is_at(usize::from(*at), wire))
    }

    /// Whether the name at `at` of the message (perhaps ending in a pointer) is `wire`.
    fn is_at(&self, mut at: usize, mut wire: &[u8]) -> bool {
        loop {
            let Some(length) = self.bytes.get(at).copied() else { return false };
            if length >= 0xc0 {
                let Some(low) = self.bytes.get(at + 1) else { return false };
                at = (usize::from(length & 0x3f) << 8) | usize::from(*low);
                continue;
            }
            let span = 1 + usize::from(length);
            let (Some(here), Some(there)) = (self.bytes.get(at..at + span), wire.get(..span)) else { return false };
            if !here.eq_ignore_ascii_case(there) {
                return false;
            }
            if length == 0 {
                return true;
            }
            at += span;
            wire = &wire[span..];
        }
    }
}
