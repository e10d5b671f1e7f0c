//! PostgreSQL's protocol, version 3: as much as the log needs.

use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use super::scram::Scram;
use crate::limits::{SQL_ANSWER_DEADLINE, SQL_MESSAGE_BYTES_MAX};
use crate::sql::digest::md5_hex;
use crate::sql::tls::{TlsMode, TlsPlan};
use crate::sql::transport::{Address, Breaker, Transport};
use crate::sql::url::Target;
use crate::sql::{Cell, Row, Session, SqlError};

const PROTOCOL: i32 = 196_608;
const SSL_REQUEST: i32 = 80_877_103;
const READ_BUFFER_BYTES: usize = 64 << 10;
const PIPELINE_BYTES_MAX: usize = 64 << 20;

/// Type numbers of columns.
const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;

/// An open connection.
pub(super) struct Connection {
    stream: BufReader<Transport>,
    out: Vec<u8>,
    /// Announcements that came between answers.
    notifications: VecDeque<String>,
}

/// One message of the server.
struct Message {
    kind: u8,
    body: Bytes,
}

impl Connection {
    pub(super) fn open(
        address: &Address,
        plan: &TlsPlan,
        target: &Target,
        database: &str,
    ) -> Result<Connection, SqlError> {
        let transport = secured(Transport::connect(address)?, address, plan)?;
        let stream = BufReader::with_capacity(READ_BUFFER_BYTES, transport);
        let mut connection = Connection { stream, out: Vec::new(), notifications: VecDeque::new() };
        connection.start(&target.user, database)?;
        connection.authenticate(&target.user, &target.password)?;
        loop {
            let message = connection.read()?;
            match message.kind {
                b'Z' => return Ok(connection),
                b'E' => return Err(refusal(&message.body)),
                _ => {}
            }
        }
    }

    fn start(&mut self, user: &str, database: &str) -> Result<(), SqlError> {
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        let parameters =
            [("user", user), ("database", database), ("application_name", "skiff"), ("client_encoding", "UTF8")];
        for (name, value) in parameters {
            text(&mut body, name);
            text(&mut body, value);
        }
        body.push(0);
        let length = body.len() + 4;
        self.out.extend(i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
        self.out.extend(body);
        self.flush()
    }

    fn authenticate(&mut self, user: &str, password: &str) -> Result<(), SqlError> {
        let mut scram: Option<Scram> = None;
        let mut expected = None;
        loop {
            let Message { kind, body } = self.read()?;
            match kind {
                b'R' => {}
                b'E' => return Err(refusal(&body)),
                _ => continue,
            }
            let (method, rest) = body.split_at_checked(4).ok_or_else(|| SqlError::garbled("authentication"))?;
            match i32::from_be_bytes([method[0], method[1], method[2], method[3]]) {
                0 if scram.is_some() && expected.is_some() => return Err(SqlError::garbled("no proof of the server")),
                0 => return Ok(()),
                3 => self.password(password)?,
                5 => {
                    let inner = md5_hex(format!("{password}{user}").as_bytes());
                    let outer = md5_hex(&[inner.as_bytes(), rest].concat());
                    self.password(&format!("md5{outer}"))?;
                }
                10 => scram = Some(self.begin_scram(rest, password)?),
                11 => {
                    let challenge = std::str::from_utf8(rest).unwrap_or_default();
                    let proof = scram.as_ref().and_then(|scram| scram.prove(challenge));
                    let proof = proof.ok_or_else(|| SqlError::garbled("SCRAM challenge"))?;
                    self.message(b'p', |body| body.extend(proof.message.as_bytes()));
                    self.flush()?;
                    expected = Some(proof.expected);
                }
                12 => {
                    // Who knows the password proves it; an impostor cannot.
                    if expected.take().as_deref().map(str::as_bytes) != Some(rest) {
                        return Err(refused("the server could not prove that it knows the password"));
                    }
                }
                other => {
                    return Err(refused(&format!(
                        "the server asks for authentication method {other}; trust, password, md5, scram-sha-256 and cert are known"
                    )));
                }
            }
        }
    }

    fn begin_scram(&mut self, mechanisms: &[u8], password: &str) -> Result<Scram, SqlError> {
        if !mechanisms.split(|byte| *byte == 0).any(|name| name == b"SCRAM-SHA-256") {
            return Err(refused("the server offers no SASL mechanism that is known here (SCRAM-SHA-256)"));
        }
        let mut nonce = [0; 18];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SqlError::lost("no random numbers"))?;
        let scram = Scram::new(password, &nonce);
        let first = scram.first();
        self.message(b'p', |body| {
            text(body, "SCRAM-SHA-256");
            body.extend(i32::try_from(first.len()).unwrap_or(i32::MAX).to_be_bytes());
            body.extend(first.as_bytes());
        });
        self.flush()?;
        Ok(scram)
    }

    fn password(&mut self, password: &str) -> Result<(), SqlError> {
        self.message(b'p', |body| text(body, password));
        self.flush()
    }

    pub(super) fn breaker(&self) -> Result<Breaker, SqlError> {
        self.stream.get_ref().breaker().map_err(SqlError::lost)
    }

    /// The next announcement; `None` after `patience` without one.
    pub(super) fn notification(&mut self, patience: Duration) -> Result<Option<String>, SqlError> {
        if let Some(payload) = self.notifications.pop_front() {
            return Ok(Some(payload));
        }
        if self.stream.buffer().is_empty() {
            self.stream.get_ref().patience(Some(patience)).map_err(SqlError::lost)?;
            let waited = std::io::BufRead::fill_buf(&mut self.stream).map(<[u8]>::len);
            self.stream.get_ref().patience(Some(SQL_ANSWER_DEADLINE)).map_err(SqlError::lost)?;
            match waited {
                Ok(0) => return Err(SqlError::lost("the server closed the connection")),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    // Silence may also be a connection that no longer exists.
                    self.run(&["SELECT 1".to_owned()])?;
                    return Ok(self.notifications.pop_front());
                }
                Err(error) => return Err(SqlError::lost(error)),
            }
        }
        let message = self.read()?;
        match message.kind {
            b'A' => Ok(Some(payload(&message.body))),
            b'E' => Err(refusal(&message.body)),
            _ => Ok(None),
        }
    }

    fn message(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend([0; 4]);
        fill(&mut self.out);
        let length = i32::try_from(self.out.len() - start).unwrap_or(i32::MAX);
        self.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn flush(&mut self) -> Result<(), SqlError> {
        let out = std::mem::take(&mut self.out);
        let stream = self.stream.get_mut();
        stream.write_all(&out).and_then(|()| stream.flush()).map_err(|error| self.lost(&error))
    }

    /// A server that goes away often says why first.
    fn lost(&mut self, error: &std::io::Error) -> SqlError {
        let said = match self.stream.buffer() {
            [b'E', rest @ ..] if rest.len() > 4 => Some(refusal(&Bytes::copy_from_slice(&rest[4..])).to_string()),
            _ => None,
        };
        SqlError::Lost(said.unwrap_or_else(|| error.to_string()))
    }

    fn read(&mut self) -> Result<Message, SqlError> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).map_err(|error| closed(&error))?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=SQL_MESSAGE_BYTES_MAX).contains(&length) {
            return Err(SqlError::garbled("a message of impossible length"));
        }
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).map_err(|error| closed(&error))?;
        Ok(Message { kind: head[0], body: Bytes::from(body) })
    }

    /// One unnamed statement; all columns of its answer in binary.
    fn queue(&mut self, statement: &str) {
        self.message(b'P', |body| {
            text(body, "");
            text(body, statement);
            body.extend(0_i16.to_be_bytes());
        });
        self.message(b'B', |body| {
            body.extend([0, 0]);
            body.extend(0_i16.to_be_bytes());
            body.extend(0_i16.to_be_bytes());
            body.extend(1_i16.to_be_bytes());
            body.extend(1_i16.to_be_bytes());
        });
        self.message(b'D', |body| body.extend(b"P\0"));
        self.message(b'E', |body| {
            body.push(0);
            body.extend(0_i32.to_be_bytes());
        });
    }

    fn answers(&mut self, count: usize) -> Result<Vec<Vec<Row>>, SqlError> {
        let mut answers = Vec::with_capacity(count);
        let (mut types, mut rows) = (Vec::new(), Vec::new());
        let mut failed = None;
        loop {
            let Message { kind, body } = self.read()?;
            match kind {
                b'T' => types = column_types(&body).ok_or_else(|| SqlError::garbled("columns"))?,
                b'D' => rows.push(row(&body, &types).ok_or_else(|| SqlError::garbled("a row"))?),
                b'C' | b'I' => answers.push(std::mem::take(&mut rows)),
                b'E' => {
                    let error = refusal(&body);
                    if matches!(error, SqlError::Lost(_)) {
                        return Err(error);
                    }
                    failed.get_or_insert(error);
                }
                b'A' => self.notifications.push_back(payload(&body)),
                b'Z' => break,
                _ => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None if answers.len() == count => Ok(answers),
            None => Err(SqlError::garbled("fewer answers than statements")),
        }
    }
}

impl Session for Connection {
    fn run(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError> {
        statements.iter().for_each(|statement| self.queue(statement));
        self.message(b'S', |_| {});
        self.flush()?;
        self.answers(statements.len())
    }

    fn statement_bytes_max(&self) -> usize {
        PIPELINE_BYTES_MAX
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // So that the server does not report a client that vanished.
        self.out.clear();
        self.message(b'X', |_| {});
        let _ = self.flush();
    }
}

fn secured(mut transport: Transport, address: &Address, plan: &TlsPlan) -> Result<Transport, SqlError> {
    let Address::Tcp { host, .. } = address else { return Ok(transport) };
    if plan.mode == TlsMode::Off {
        return Ok(transport);
    }
    let request = [8_i32.to_be_bytes(), SSL_REQUEST.to_be_bytes()].concat();
    transport.write_all(&request).and_then(|()| transport.flush()).map_err(SqlError::lost)?;
    let mut answer = [0];
    transport.read_exact(&mut answer).map_err(|error| closed(&error))?;
    match answer {
        [b'S'] => transport.secure(plan, host),
        [b'N'] if plan.mode == TlsMode::Prefer => Ok(transport),
        [b'N'] => Err(refused("the server does not offer TLS, which the endpoint demands")),
        _ => Err(SqlError::garbled("to the request for TLS; is this a PostgreSQL server?")),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A zero would end the text early.
    out.extend(text.bytes().filter(|byte| *byte != 0));
    out.push(0);
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn closed(error: &std::io::Error) -> SqlError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => SqlError::lost("the server closed the connection"),
        _ if is_timeout(error) => {
            SqlError::Lost(format!("the server did not answer within {} s", SQL_ANSWER_DEADLINE.as_secs()))
        }
        _ => SqlError::lost(error),
    }
}

fn refused(message: &str) -> SqlError {
    SqlError::Refused { code: "client".into(), message: message.into(), transient: false }
}

/// The server's own error.
fn refusal(body: &[u8]) -> SqlError {
    let field = |kind: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    let (code, message) = (field(b'C'), field(b'M'));
    match code.as_str() {
        // Shutting down, crashed, starting up, too many connections, connection trouble.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "25P03" => SqlError::Lost(message),
        code if code.starts_with("08") => SqlError::Lost(message),
        "40001" | "40P01" | "55P03" | "57014" => SqlError::Refused { code, message, transient: true },
        // A standby that a failover has not reached yet.
        "25006" => SqlError::Lost(message),
        _ => SqlError::Refused { code, message, transient: false },
    }
}

/// Text of an announcement, behind the sender's number and the channel.
fn payload(body: &[u8]) -> String {
    let parts = body.get(4..).unwrap_or_default().split(|byte| *byte == 0);
    parts.skip(1).map(|part| String::from_utf8_lossy(part).into_owned()).next().unwrap_or_default()
}

fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?))
}

fn column_types(body: &[u8]) -> Option<Vec<u32>> {
    let mut at = 2;
    let mut types = Vec::new();
    for _ in 0..u16_at(body, 0)? {
        at += body.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        types.push(u32_at(body, at + 6)?);
        at += 18;
    }
    Some(types)
}

fn row(body: &Bytes, types: &[u32]) -> Option<Row> {
    let mut at = 2;
    let mut row = Vec::with_capacity(types.len());
    for kind in types.iter().take(usize::from(u16_at(body, 0)?)) {
        let length = u32_at(body, at)?;
        at += 4;
        if length == u32::MAX {
            row.push(Cell::Null);
            continue;
        }
        let end = at.checked_add(length as usize).filter(|end| *end <= body.len())?;
        row.push(cell(*kind, body, at, end)?);
        at = end;
    }
    Some(row)
}

fn cell(kind: u32, body: &Bytes, at: usize, end: usize) -> Option<Cell> {
    let raw = &body[at..end];
    Some(match kind {
        BYTEA => Cell::Bytes(body.slice(at..end)),
        INT8 => Cell::Int(i64::from_be_bytes(raw.try_into().ok()?)),
        INT4 => Cell::Int(i64::from(i32::from_be_bytes(raw.try_into().ok()?))),
        INT2 => Cell::Int(i64::from(i16::from_be_bytes(raw.try_into().ok()?))),
        BOOL => Cell::Int(i64::from(*raw.first()?)),
        _ => Cell::Bytes(body.slice(at..end)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_trying_again_can_help() {
        let error = |code: &str| refusal(format!("SERROR\0C{code}\0Mtext\0\0").as_bytes());
        assert!(matches!(error("57P03"), SqlError::Lost(text) if text == "text"));
        assert!(matches!(error("40P01"), SqlError::Refused { transient: true, .. }));
        assert!(matches!(error("28P01"), SqlError::Refused { transient: false, .. }));
    }

    #[test]
    fn rows_are_cut_by_their_lengths_and_nothing_is_read_beyond() {
        let mut body = 3_u16.to_be_bytes().to_vec();
        body.extend(8_u32.to_be_bytes());
        body.extend(7_i64.to_be_bytes());
        body.extend(u32::MAX.to_be_bytes());
        body.extend(2_u32.to_be_bytes());
        body.extend(b"ab");
        let whole = Bytes::from(body);
        let types = [INT8, BYTEA, BYTEA];
        let cells = row(&whole, &types).unwrap();
        assert_eq!(cells, [Cell::Int(7), Cell::Null, Cell::Bytes(Bytes::from_static(b"ab"))]);
        for cut in 0..whole.len() {
            assert!(row(&whole.slice(..cut), &types).is_none(), "{cut}");
        }
    }

    #[test]
    fn the_payload_stands_behind_process_and_channel() {
        assert_eq!(payload(b"\0\0\0\x01skiff_log\0-42\0"), "-42");
        assert_eq!(payload(b""), "");
    }
}
