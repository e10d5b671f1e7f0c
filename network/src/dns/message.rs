//! DNS messages: questions in, answers out, and the other way round for
//! upstream servers. Names and records on the wire are in [`super::wire`].
//!
//! Written for this server instead of taken from a library because of the hot
//! path: a question is read without allocating more than its name, an answer is
//! written straight into the send buffer with compression, the question is
//! echoed byte by byte (some clients check the case), and records from upstream
//! that we do not understand are carried unchanged.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    name::Name,
    wire::{Reader, Writer},
};

pub const HEADER_BYTES: usize = 12;
/// What fits into a UDP answer without EDNS.
pub const UDP_BYTES_MIN: usize = 512;
/// What we accept and announce: avoids fragments on all usual links.
pub const UDP_BYTES_MAX: usize = 1232;

const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const FLAG_AUTHENTIC: u16 = 0x0020;
const FLAG_CHECKING_DISABLED: u16 = 0x0010;
const EDNS_DO: u32 = 0x8000;

/// Record types this server knows by name.
pub mod record_type {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Names of record types, for configuration, logs and metrics.
pub const TYPE_NAMES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (252, "AXFR"),
    (255, "ANY"),
    (257, "CAA"),
];

pub const CLASS_IN: u16 = 1;
pub const CLASS_CHAOS: u16 = 3;
pub const CLASS_ANY: u16 = 255;

/// A response code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rcode(pub u16);

impl Rcode {
    pub const NO_ERROR: Rcode = Rcode(0);
    pub const FORMAT_ERROR: Rcode = Rcode(1);
    pub const SERVER_FAILURE: Rcode = Rcode(2);
    pub const NAME_ERROR: Rcode = Rcode(3);
    pub const NOT_IMPLEMENTED: Rcode = Rcode(4);
    pub const REFUSED: Rcode = Rcode(5);
    pub const BAD_VERSION: Rcode = Rcode(16);

    pub const NAMES: [(Rcode, &'static str); 7] = [
        (Rcode::NO_ERROR, "NOERROR"),
        (Rcode::FORMAT_ERROR, "FORMERR"),
        (Rcode::SERVER_FAILURE, "SERVFAIL"),
        (Rcode::NAME_ERROR, "NXDOMAIN"),
        (Rcode::NOT_IMPLEMENTED, "NOTIMP"),
        (Rcode::REFUSED, "REFUSED"),
        (Rcode::BAD_VERSION, "BADVERS"),
    ];
}

/// The EDNS part of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub udp_bytes: u16,
    pub version: u8,
    pub dnssec_ok: bool,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    /// As sent, for the echo: name, type and class.
    question: Vec<u8>,
    pub name: Name,
    pub record_type: u16,
    pub class: u16,
    pub recursion_desired: bool,
    pub checking_disabled: bool,
    pub edns: Option<Edns>,
}

/// A message that is no question we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadQuery {
    /// Not worth an answer: too short, or itself an answer.
    Drop,
    /// To be answered with this code, for the message of that identity.
    Answer(u16, Rcode),
}

impl Query {
    /// A question of our own.
    pub fn new(id: u16, name: Name, record_type: u16, recursion_desired: bool) -> Query {
        let mut query = Query {
            id,
            question: Vec::new(),
            name,
            record_type,
            class: CLASS_IN,
            recursion_desired,
            checking_disabled: false,
            edns: None,
        };
        query.rewrite_question();
        query
    }

    pub fn parse(bytes: &[u8]) -> Result<Query, BadQuery> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(BadQuery::Drop)?;
        let word = |index: usize| u16::from_be_bytes([header[index * 2], header[index * 2 + 1]]);
        let (id, flags) = (word(0), word(1));
        if flags & FLAG_RESPONSE != 0 {
            return Err(BadQuery::Drop);
        }
        let opcode = (flags >> 11) & 0xf;
        if opcode != 0 {
            return Err(BadQuery::Answer(id, Rcode::NOT_IMPLEMENTED));
        }
        let malformed = BadQuery::Answer(id, Rcode::FORMAT_ERROR);
        if word(2) != 1 {
            return Err(malformed);
        }
        let mut reader = Reader { bytes, at: HEADER_BYTES };
        let name = reader.name().ok_or(malformed)?;
        let record_type = reader.u16().ok_or(malformed)?;
        let class = reader.u16().ok_or(malformed)?;
        // A compressed question name is legal but never sent; the echo would not be self-contained.
        if reader.at - HEADER_BYTES != name.wire().len() + 4 {
            return Err(malformed);
        }
        let question = bytes[HEADER_BYTES..reader.at].to_vec();
        let mut edns = None;
        for _ in 0..u32::from(word(3)) + u32::from(word(4)) + u32::from(word(5)) {
            let raw = reader.record_header().ok_or(malformed)?;
            if raw.record_type == record_type::OPT {
                edns = Some(Edns {
                    udp_bytes: raw.class,
                    version: (raw.ttl >> 16) as u8,
                    dnssec_ok: raw.ttl & EDNS_DO != 0,
                });
            }
        }
        Ok(Query {
            id,
            question,
            name,
            record_type,
            class,
            recursion_desired: flags & FLAG_RECURSION_DESIRED != 0,
            checking_disabled: flags & FLAG_CHECKING_DISABLED != 0,
            edns,
        })
    }

    /// The same question for another name or type, to ask along the way.
    pub fn ask_instead(&self, name: Name, record_type: u16) -> Query {
        let mut query = Query { name, record_type, ..self.clone() };
        query.rewrite_question();
        query
    }

    fn rewrite_question(&mut self) {
        self.question.clear();
        self.question.extend_from_slice(self.name.wire());
        self.question.extend_from_slice(&self.record_type.to_be_bytes());
        self.question.extend_from_slice(&self.class.to_be_bytes());
    }

    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// How large a UDP answer may be.
    pub fn udp_bytes(&self) -> usize {
        self.edns.map_or(UDP_BYTES_MIN, |edns| usize::from(edns.udp_bytes).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX))
    }

    /// The question as a message to an upstream server.
    pub fn encode(&self, id: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.question.len() + 11);
        let mut flags = FLAG_RECURSION_DESIRED;
        if self.checking_disabled {
            flags |= FLAG_CHECKING_DISABLED;
        }
        for word in [id, flags, 1, 0, 0, 1] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(&self.question);
        write_opt(&mut bytes, self.dnssec_ok(), 0);
        bytes
    }
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ptr(Name),
    Ns(Name),
    Mx {
        preference: u16,
        exchange: Name,
    },
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    /// Strings of at most 255 bytes each.
    Txt(Vec<Vec<u8>>),
    Soa {
        primary: Name,
        mailbox: Name,
        serial: u32,
        refresh: u32,
        retry: u32,
        expire: u32,
        minimum: u32,
    },
    /// Any other type, as it is on the wire.
    Other {
        record_type: u16,
        bytes: Vec<u8>,
    },
}

impl RecordData {
    pub fn record_type(&self) -> u16 {
        match self {
            RecordData::A(_) => record_type::A,
            RecordData::Aaaa(_) => record_type::AAAA,
            RecordData::Cname(_) => record_type::CNAME,
            RecordData::Ptr(_) => record_type::PTR,
            RecordData::Ns(_) => record_type::NS,
            RecordData::Mx { .. } => record_type::MX,
            RecordData::Srv { .. } => record_type::SRV,
            RecordData::Txt(_) => record_type::TXT,
            RecordData::Soa { .. } => record_type::SOA,
            RecordData::Other { record_type, .. } => *record_type,
        }
    }
}

/// A resource record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub name: Name,
    pub class: u16,
    pub ttl: u32,
    pub data: RecordData,
}

impl Record {
    pub fn new(name: Name, ttl: u32, data: RecordData) -> Record {
        Record { name, class: CLASS_IN, ttl, data }
    }
}

/// An answer, before it is written for one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub rcode: Rcode,
    pub is_authoritative: bool,
    pub is_authentic: bool,
    pub is_truncated: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Answer {
    /// An answer without records.
    pub fn code(rcode: Rcode) -> Answer {
        Answer { rcode, ..Answer::default() }
    }

    /// Reads an upstream server's answer; `None` when it is malformed or answers another question.
    pub fn parse(bytes: &[u8], id: u16, query: &Query) -> Option<Answer> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let word = |index: usize| u16::from_be_bytes([header[index * 2], header[index * 2 + 1]]);
        let flags = word(1);
        if word(0) != id || flags & FLAG_RESPONSE == 0 || word(2) != 1 {
            return None;
        }
        let mut reader = Reader { bytes, at: HEADER_BYTES };
        let (name, kind, _class) = (reader.name()?, reader.u16()?, reader.u16()?);
        if name != query.name || kind != query.record_type {
            return None;
        }
        let mut answer = Answer {
            rcode: Rcode(flags & 0xf),
            is_authoritative: flags & FLAG_AUTHORITATIVE != 0,
            is_authentic: flags & FLAG_AUTHENTIC != 0,
            is_truncated: flags & FLAG_TRUNCATED != 0,
            ..Answer::default()
        };
        if answer.is_truncated {
            return Some(answer);
        }
        for (section, count) in
            [(&mut answer.answers, word(3)), (&mut answer.authority, word(4)), (&mut answer.additional, word(5))]
        {
            for _ in 0..count {
                let record = reader.record()?;
                if record.data.record_type() != record_type::OPT {
                    section.push(record);
                }
            }
        }
        Some(answer)
    }

    /// Writes the answer to `query` into `bytes`, at most `limit` of them. What
    /// does not fit is left out; if it matters, the answer says it is truncated.
    pub fn encode(&self, query: &Query, limit: usize, age: u32, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&query.question);
        let reserved = if query.edns.is_some() { OPT_BYTES } else { 0 };
        let mut writer = Writer::new(bytes, limit.saturating_sub(reserved));
        let mut is_truncated = self.is_truncated;
        let (answers, all) = writer.section(&self.answers, age);
        is_truncated |= !all;
        let mut counts = [1, answers, 0, 0];
        if all {
            let (authority, all) = writer.section(&self.authority, age);
            counts[2] = authority;
            is_truncated |= !all;
            if all {
                counts[3] = writer.section(&self.additional, age).0;
            }
        }
        if query.edns.is_some() {
            write_opt(bytes, query.dnssec_ok(), (self.rcode.0 >> 4) as u8);
            counts[3] += 1;
        }
        let mut flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | (self.rcode.0 & 0xf);
        for (is_set, flag) in [
            (self.is_authoritative, FLAG_AUTHORITATIVE),
            (is_truncated, FLAG_TRUNCATED),
            (query.recursion_desired, FLAG_RECURSION_DESIRED),
            (self.is_authentic, FLAG_AUTHENTIC),
            (query.checking_disabled, FLAG_CHECKING_DISABLED),
        ] {
            if is_set {
                flags |= flag;
            }
        }
        bytes[0..2].copy_from_slice(&query.id.to_be_bytes());
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (index, count) in counts.into_iter().enumerate() {
            bytes[4 + index * 2..6 + index * 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// The answer to a message that could not be read: header only.
pub fn encode_error(id: u16, rcode: Rcode) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..2].copy_from_slice(&id.to_be_bytes());
    bytes[2..4].copy_from_slice(&(FLAG_RESPONSE | rcode.0).to_be_bytes());
    bytes
}

const OPT_BYTES: usize = 11;

fn write_opt(bytes: &mut Vec<u8>, dnssec_ok: bool, extended_rcode: u8) {
    bytes.push(0);
    bytes.extend_from_slice(&record_type::OPT.to_be_bytes());
    bytes.extend_from_slice(&(UDP_BYTES_MAX as u16).to_be_bytes());
    let ttl = (u32::from(extended_rcode) << 24) | if dnssec_ok { EDNS_DO } else { 0 };
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn query(text: &str, record_type: u16) -> Query {
        Query::parse(&Query::new(7, name(text), record_type, true).encode(7)).unwrap()
    }

    #[test]
    fn every_kind_of_record_survives_the_wire() {
        let owner = name("web.default.svc.cluster.local");
        let query = query("web.default.svc.cluster.local", record_type::ANY);
        let data = [
            RecordData::A([10, 0, 0, 1].into()),
            RecordData::Aaaa("fd00::1".parse().unwrap()),
            RecordData::Cname(name("other.default.svc.cluster.local")),
            RecordData::Ptr(name("x.y")),
            RecordData::Ns(name("ns.dns.cluster.local")),
            RecordData::Mx { preference: 5, exchange: name("mx.local") },
            RecordData::Srv { priority: 0, weight: 100, port: 80, target: name("a.b") },
            RecordData::Txt(vec![b"1.1.0".to_vec(), vec![]]),
            RecordData::Soa {
                primary: name("ns.dns.cluster.local"),
                mailbox: name("hostmaster.cluster.local"),
                serial: 1,
                refresh: 2,
                retry: 3,
                expire: 4,
                minimum: 5,
            },
            RecordData::Other { record_type: 257, bytes: vec![0, 5, 1] },
        ];
        let answer = Answer {
            is_authoritative: true,
            answers: data.into_iter().map(|data| Record::new(owner.clone(), 30, data)).collect(),
            ..Answer::default()
        };
        let mut bytes = Vec::new();
        answer.encode(&query, 4096, 0, &mut bytes);
        assert_eq!(Answer::parse(&bytes, 7, &query), Some(answer));
    }

    #[test]
    fn names_are_compressed_and_questions_echoed_as_sent() {
        let mut raw = Query::new(7, name("web.default.svc"), record_type::A, true).encode(7);
        raw[13] = b'W';
        let query = Query::parse(&raw).unwrap();
        let record = Record::new(name("web.default.svc"), 5, RecordData::A([1, 2, 3, 4].into()));
        let mut bytes = Vec::new();
        Answer { answers: vec![record], ..Answer::default() }.encode(&query, 512, 0, &mut bytes);
        assert_eq!(bytes[13], b'W');
        let after = HEADER_BYTES + query.question.len();
        assert_eq!(bytes[after..after + 2], [0xc0, 12]);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let query = query("a.b", record_type::A);
        let record = |last: u8| Record::new(name("a.b"), 5, RecordData::A([1, 2, 3, last].into()));
        let answer = Answer { answers: (0..100).map(record).collect(), ..Answer::default() };
        let mut bytes = Vec::new();
        answer.encode(&query, 512, 0, &mut bytes);
        assert!(bytes.len() <= 512);
        let read = Answer::parse(&bytes, 7, &query).unwrap();
        assert!(read.is_truncated);
    }

    #[test]
    fn hostile_messages_are_refused_without_harm() {
        assert_eq!(Query::parse(&[0; 5]), Err(BadQuery::Drop));
        let good = Query::new(7, name("a.b"), 1, true).encode(7);
        for length in HEADER_BYTES..good.len() {
            assert!(Query::parse(&good[..length]).is_err(), "{length}");
        }
        // A pointer to itself.
        let mut looped = good.clone();
        looped[12..14].copy_from_slice(&[0xc0, 12]);
        assert_eq!(Query::parse(&looped), Err(BadQuery::Answer(7, Rcode::FORMAT_ERROR)));
        let mut notify = good.clone();
        notify[2] |= 4 << 3;
        assert_eq!(Query::parse(&notify), Err(BadQuery::Answer(7, Rcode::NOT_IMPLEMENTED)));
        let mut response = good;
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response), Err(BadQuery::Drop));
    }
}
