//! The client/server protocol of MySQL and MariaDB: text statements, several in one packet.

use std::io::{BufReader, Read, Write};

use bytes::Bytes;

use super::auth::{Method, clear};
use crate::limits::{SQL_ANSWER_DEADLINE, SQL_MESSAGE_BYTES_MAX};
use crate::sql::tls::{TlsMode, TlsPlan};
use crate::sql::transport::{Address, Transport};
use crate::sql::url::Target;
use crate::sql::{Cell, Row, Session, SqlError};

const READ_BUFFER_BYTES: usize = 64 << 10;
const PACKET_BYTES_MAX: usize = 0xff_ffff;
/// Size of the largest statement any server takes, until it has told its own.
const STATEMENT_BYTES_MIN: usize = 1 << 20;
const UTF8MB4: u8 = 45;

mod capability {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const LONG_FLAG: u32 = 4;
    pub(super) const CONNECT_WITH_DB: u32 = 8;
    pub(super) const PROTOCOL_41: u32 = 0x200;
    pub(super) const SSL: u32 = 0x800;
    pub(super) const TRANSACTIONS: u32 = 0x2000;
    pub(super) const SECURE_CONNECTION: u32 = 0x8000;
    pub(super) const MULTI_STATEMENTS: u32 = 0x1_0000;
    pub(super) const MULTI_RESULTS: u32 = 0x2_0000;
    pub(super) const PLUGIN_AUTH: u32 = 0x8_0000;
}
const WANTED: u32 = capability::LONG_PASSWORD
    | capability::LONG_FLAG
    | capability::PROTOCOL_41
    | capability::TRANSACTIONS
    | capability::SECURE_CONNECTION
    | capability::MULTI_STATEMENTS
    | capability::MULTI_RESULTS
    | capability::PLUGIN_AUTH;
const MORE_RESULTS: u16 = 8;

/// First bytes of packets.
const OK: u8 = 0;
const MORE_DATA: u8 = 1;
const EOF: u8 = 0xfe;
const ERROR: u8 = 0xff;
const NULL: u8 = 0xfb;

/// An open connection.
pub(super) struct Connection {
    stream: Stream,
    statement_bytes_max: usize,
}

/// Packets over a transport.
struct Stream {
    inner: BufReader<Transport>,
    sequence: u8,
}

/// What the server says first.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    capabilities: u32,
    challenge: Vec<u8>,
    method: Vec<u8>,
}

impl Connection {
    pub(super) fn open(
        address: &Address,
        plan: &TlsPlan,
        target: &Target,
        database: &str,
    ) -> Result<Connection, SqlError> {
        let inner = BufReader::with_capacity(READ_BUFFER_BYTES, Transport::connect(address)?);
        let mut stream = Stream { inner, sequence: 0 };
        let first = stream.read()?;
        if first.first() == Some(&ERROR) {
            return Err(refusal(&first));
        }
        let greeting = greeting(&first).ok_or_else(|| SqlError::garbled("greeting; is this a MySQL server?"))?;
        let mut capabilities = WANTED | if database.is_empty() { 0 } else { capability::CONNECT_WITH_DB };
        if let Address::Tcp { host, .. } = address
            && plan.mode != TlsMode::Off
        {
            if greeting.capabilities & capability::SSL != 0 {
                capabilities |= capability::SSL;
                stream.write(&start(capabilities))?;
                let Stream { inner, sequence } = stream;
                let secure = inner.into_inner().secure(plan, host)?;
                stream = Stream { inner: BufReader::with_capacity(READ_BUFFER_BYTES, secure), sequence };
            } else if plan.mode != TlsMode::Prefer {
                return Err(refused("the server does not offer TLS, which the endpoint demands"));
            }
        }
        let method = Method::named(&greeting.method).unwrap_or(Method::Native);
        let protected = stream.inner.get_ref().is_protected();
        let answer = method.answer(&target.password, &greeting.challenge, protected).unwrap_or_default();
        let mut response = start(capabilities);
        text(&mut response, &target.user);
        response.push(u8::try_from(answer.len()).unwrap_or(0));
        response.extend(answer);
        if !database.is_empty() {
            text(&mut response, database);
        }
        text(&mut response, method.name());
        stream.write(&response)?;
        stream.authenticate(method, &target.password)?;
        let mut connection = Connection { stream, statement_bytes_max: STATEMENT_BYTES_MIN };
        let rows = connection.run(&["SELECT @@max_allowed_packet".to_owned()])?;
        if let Some(Cell::Int(bytes)) = rows.first().and_then(|rows| rows.first()?.first()) {
            // Some room for what stands around the statement.
            connection.statement_bytes_max = usize::try_from(*bytes).unwrap_or(STATEMENT_BYTES_MIN) / 8 * 7;
        }
        Ok(connection)
    }

    fn send(&mut self, text: &str) -> Result<(), SqlError> {
        self.stream.sequence = 0;
        let mut packet = Vec::with_capacity(text.len() + 1);
        packet.push(3);
        packet.extend(text.as_bytes());
        self.stream.write(&packet)
    }

    /// All answers to one packet of statements.
    fn answers(&mut self, answers: &mut Vec<Vec<Row>>) -> Result<(), SqlError> {
        loop {
            let (rows, more) = self.answer()?;
            answers.push(rows);
            if !more {
                return Ok(());
            }
        }
    }

    fn answer(&mut self) -> Result<(Vec<Row>, bool), SqlError> {
        let first = self.stream.read()?;
        let mut at = 1;
        let columns = match first.first() {
            Some(&OK) => {
                let ended = number(&first, &mut at).and_then(|_| number(&first, &mut at));
                ended.ok_or_else(|| SqlError::garbled("end of a statement"))?;
                return Ok((Vec::new(), more_results(&first, at)));
            }
            Some(&ERROR) => return Err(refusal(&first)),
            Some(&NULL) | None => return Err(SqlError::garbled("a request for a file")),
            Some(_) => number(&first, &mut 0).ok_or_else(|| SqlError::garbled("columns"))?,
        };
        let mut numeric = Vec::new();
        for _ in 0..columns {
            let column = self.stream.read()?;
            numeric.push(is_numeric(&column).ok_or_else(|| SqlError::garbled("a column"))?);
        }
        self.stream.read()?;
        let mut rows = Vec::new();
        loop {
            let packet = self.stream.read()?;
            match packet.first() {
                Some(&EOF) if packet.len() < 9 => return Ok((rows, more_results(&packet, 3))),
                Some(&ERROR) => return Err(refusal(&packet)),
                _ => rows.push(row(&packet, &numeric).ok_or_else(|| SqlError::garbled("a row"))?),
            }
        }
    }
}

impl Session for Connection {
    fn run(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError> {
        let mut answers = Vec::with_capacity(statements.len());
        let mut packet = String::new();
        for statement in statements {
            if !packet.is_empty() && packet.len() + statement.len() >= self.statement_bytes_max {
                self.send(&std::mem::take(&mut packet))?;
                self.answers(&mut answers)?;
            }
            if !packet.is_empty() {
                packet.push(';');
            }
            packet.push_str(statement);
        }
        self.send(&packet)?;
        self.answers(&mut answers)?;
        match answers.len() == statements.len() {
            true => Ok(answers),
            false => Err(SqlError::garbled("another number of answers than statements")),
        }
    }

    fn statement_bytes_max(&self) -> usize {
        self.statement_bytes_max
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // So that the server does not count an aborted connection.
        self.stream.sequence = 0;
        let _ = self.stream.write(&[1]);
    }
}

impl Stream {
    /// One packet, put together if it is long.
    fn read(&mut self) -> Result<Bytes, SqlError> {
        let mut packet = Vec::new();
        loop {
            let mut head = [0; 4];
            self.inner.read_exact(&mut head).map_err(|error| closed(&error))?;
            let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
            self.sequence = head[3].wrapping_add(1);
            let start = packet.len();
            if start + length > SQL_MESSAGE_BYTES_MAX {
                return Err(SqlError::garbled("a packet of impossible length"));
            }
            packet.resize(start + length, 0);
            self.inner.read_exact(&mut packet[start..]).map_err(|error| closed(&error))?;
            if length < PACKET_BYTES_MAX {
                return Ok(Bytes::from(packet));
            }
        }
    }

    /// One packet, cut if it is long.
    fn write(&mut self, packet: &[u8]) -> Result<(), SqlError> {
        let mut out = Vec::with_capacity(packet.len() + 8);
        let mut rest = packet;
        loop {
            let (part, after) = rest.split_at(rest.len().min(PACKET_BYTES_MAX));
            out.extend(&u32::try_from(part.len()).unwrap_or(0).to_le_bytes()[..3]);
            out.push(self.sequence);
            out.extend(part);
            self.sequence = self.sequence.wrapping_add(1);
            if part.len() < PACKET_BYTES_MAX {
                break;
            }
            rest = after;
        }
        let stream = self.inner.get_mut();
        stream.write_all(&out).and_then(|()| stream.flush()).map_err(SqlError::lost)
    }

    fn authenticate(&mut self, mut method: Method, password: &str) -> Result<(), SqlError> {
        let protected = self.inner.get_ref().is_protected();
        loop {
            let packet = self.read()?;
            match packet.first() {
                Some(&OK) => return Ok(()),
                Some(&ERROR) => return Err(refusal(&packet)),
                Some(&EOF) => {
                    let (name, rest) = cut(&packet[1..]);
                    let shown = String::from_utf8_lossy(name).into_owned();
                    method = Method::named(name).ok_or_else(|| {
                        refused(&format!(
                            "the server asks for authentication method {shown}; mysql_native_password and caching_sha2_password are known"
                        ))
                    })?;
                    let challenge = rest.strip_suffix(b"\0").unwrap_or(rest);
                    let answer = method.answer(password, challenge, protected);
                    self.write(&answer.ok_or_else(|| unprotected(&shown))?)?;
                }
                Some(&MORE_DATA) if method == Method::CachingSha2 => match packet.get(1) {
                    // The server remembered the password.
                    Some(3) => {}
                    Some(4) if protected => self.write(&clear(password))?,
                    Some(4) => return Err(unprotected(method.name())),
                    _ => return Err(SqlError::garbled("authentication")),
                },
                _ => return Err(SqlError::garbled("authentication")),
            }
        }
    }
}

fn start(capabilities: u32) -> Vec<u8> {
    let mut packet = capabilities.to_le_bytes().to_vec();
    packet.extend(u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX).to_le_bytes());
    packet.push(UTF8MB4);
    packet.extend([0; 23]);
    packet
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

/// Up to a zero, and what follows it.
fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

fn greeting(packet: &[u8]) -> Option<Greeting> {
    let (10, rest) = packet.split_first().map(|(first, rest)| (*first, rest))? else { return None };
    let (_version, rest) = cut(rest);
    let u16_at = |at: usize| Some(u32::from(u16::from_le_bytes(rest.get(at..at + 2)?.try_into().ok()?)));
    let mut challenge = rest.get(4..12)?.to_vec();
    let capabilities = u16_at(13)? | u16_at(18)? << 16;
    let length = usize::from(*rest.get(20)?);
    let second = rest.get(31..)?;
    let (second, method) = second.split_at_checked(length.saturating_sub(8).max(13))?;
    challenge.extend(second.strip_suffix(b"\0").unwrap_or(second));
    Some(Greeting { capabilities, challenge, method: cut(method).0.to_vec() })
}

/// A length-encoded number.
fn number(packet: &[u8], at: &mut usize) -> Option<u64> {
    let first = *packet.get(*at)?;
    *at += 1;
    let width = match first {
        0..=0xfa => return Some(u64::from(first)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let raw = packet.get(*at..*at + width)?;
    *at += width;
    Some(raw.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn span(packet: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    let length = usize::try_from(number(packet, at)?).ok()?;
    let start = *at;
    *at = start.checked_add(length).filter(|end| *end <= packet.len())?;
    Some((start, *at))
}

/// Whether a column's text is a number.
fn is_numeric(column: &[u8]) -> Option<bool> {
    let mut at = 0;
    for _ in 0..6 {
        span(column, &mut at)?;
    }
    // Length of what follows, character set, width.
    let kind = *column.get(at + 1 + 2 + 4)?;
    Some(matches!(kind, 0..=3 | 8 | 9 | 246))
}

fn row(packet: &Bytes, numeric: &[bool]) -> Option<Row> {
    let mut at = 0;
    let mut row = Vec::with_capacity(numeric.len());
    for numeric in numeric {
        if packet.get(at) == Some(&NULL) {
            at += 1;
            row.push(Cell::Null);
            continue;
        }
        let (start, end) = span(packet, &mut at)?;
        row.push(match numeric {
            true => Cell::Int(std::str::from_utf8(&packet[start..end]).ok()?.parse().ok()?),
            false => Cell::Bytes(packet.slice(start..end)),
        });
    }
    Some(row)
}

fn more_results(packet: &[u8], status_at: usize) -> bool {
    let status = packet.get(status_at..status_at + 2).map_or(0, |raw| u16::from_le_bytes([raw[0], raw[1]]));
    status & MORE_RESULTS != 0
}

fn closed(error: &std::io::Error) -> SqlError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::UnexpectedEof => SqlError::lost("the server closed the connection"),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            SqlError::Lost(format!("the server did not answer within {} s", SQL_ANSWER_DEADLINE.as_secs()))
        }
        _ => SqlError::lost(error),
    }
}

fn refused(message: &str) -> SqlError {
    SqlError::Refused { code: "client".into(), message: message.into(), transient: false }
}

fn unprotected(method: &str) -> SqlError {
    refused(&format!("{method} would show the password: use TLS (tls=true, or --datastore-cafile) or a unix socket"))
}

fn refusal(packet: &[u8]) -> SqlError {
    let code = packet.get(1..3).map_or(0, |raw| u16::from_le_bytes([raw[0], raw[1]]));
    let rest = packet.get(3..).unwrap_or_default();
    // SQLSTATE stands in front since protocol 4.1.
    let message = if rest.first() == Some(&b'#') { rest.get(6..).unwrap_or_default() } else { rest };
    let message = String::from_utf8_lossy(message).into_owned();
    match code {
        // Too many connections, shutting down, killed, gone away, read-only after a failover.
        1040 | 1053 | 1077 | 1079 | 1290 | 1792 | 1836 | 1927 | 2006 | 2013 => SqlError::Lost(message),
        // Lock wait, deadlock, interrupted, record changed under a snapshot.
        1205 | 1213 | 1317 | 1020 => SqlError::Refused { code: code.to_string(), message, transient: true },
        _ => SqlError::Refused { code: code.to_string(), message, transient: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting_of_mariadb() -> Vec<u8> {
        let mut packet = vec![10];
        packet.extend(b"5.5.5-10.11.19-MariaDB\0");
        packet.extend([1, 0, 0, 0]);
        packet.extend(b"abcdefgh\0");
        packet.extend(0xf7fe_u16.to_le_bytes());
        packet.push(45);
        packet.extend(2_u16.to_le_bytes());
        packet.extend(0x81ff_u16.to_le_bytes());
        packet.push(21);
        packet.extend([0; 10]);
        packet.extend(b"ijklmnopqrst\0");
        packet.extend(b"mysql_native_password\0");
        packet
    }

    #[test]
    fn the_greeting_gives_challenge_and_method() {
        let packet = greeting_of_mariadb();
        let found = greeting(&packet).unwrap();
        assert_eq!(found.challenge, b"abcdefghijklmnopqrst");
        assert_eq!(found.method, b"mysql_native_password");
        assert_eq!(found.capabilities, 0x81ff_f7fe);
        for cut in 0..60 {
            assert!(greeting(&packet[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn numbers_have_four_widths() {
        let read = |raw: &[u8]| number(raw, &mut 0);
        assert_eq!(read(&[250]), Some(250));
        assert_eq!(read(&[0xfc, 1, 2]), Some(0x201));
        assert_eq!(read(&[0xfd, 1, 2, 3]), Some(0x3_0201));
        assert_eq!(read(&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1]), Some(0x100_0000_0000_0001));
        assert_eq!(read(&[0xfc, 1]), None);
        assert_eq!(read(&[0xfb]), None);
    }

    #[test]
    fn rows_are_cut_by_their_lengths_and_nothing_is_read_beyond() {
        let packet = Bytes::from_static(b"\x03-42\xfb\x02a\0");
        let cells = row(&packet, &[true, true, false]).unwrap();
        assert_eq!(cells, [Cell::Int(-42), Cell::Null, Cell::Bytes(Bytes::from_static(b"a\0"))]);
        for cut in 0..packet.len() {
            assert!(row(&packet.slice(..cut), &[true, true, false]).is_none(), "{cut}");
        }
    }

    #[test]
    fn an_error_says_whether_trying_again_can_help() {
        let error = |code: u16| refusal(&[&[ERROR][..], &code.to_le_bytes(), b"#40001text"].concat());
        assert!(matches!(error(1213), SqlError::Refused { transient: true, message, .. } if message == "text"));
        assert!(matches!(error(1053), SqlError::Lost(_)));
        assert!(matches!(error(1045), SqlError::Refused { transient: false, .. }));
    }
}
