//! A byte stream to a database server, plain or TLS, with deadlines.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use super::SqlError;
use super::tls::TlsPlan;
use crate::limits::{SQL_ANSWER_DEADLINE, SQL_CONNECT_DEADLINE};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A connected stream.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Ends the stream from another thread.
pub(crate) enum Breaker {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Breaker {
    pub(crate) fn end(&self) {
        // An error means that it has ended already.
        let _ = match self {
            Breaker::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Breaker::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Transport {
    pub(crate) fn connect(address: &Address) -> Result<Transport, SqlError> {
        let stream = match address {
            Address::Tcp { host, port } => tcp(host, *port).map(Transport::Tcp),
            Address::Unix(path) => unix(path).map(Transport::Unix),
        };
        let stream = stream.map_err(|error| SqlError::Lost(format!("connect to {address}: {error}")))?;
        stream.patience(Some(SQL_ANSWER_DEADLINE)).map_err(SqlError::lost)?;
        Ok(stream)
    }

    /// How long one read or write may take.
    pub(crate) fn patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => both(stream, patience),
            Transport::Tls(stream) => both(&stream.sock, patience),
            Transport::Unix(stream) => {
                stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience))
            }
        }
    }

    /// Only TCP streams can be encrypted; a unix socket is its own protection.
    pub(crate) fn secure(self, plan: &TlsPlan, host: &str) -> Result<Transport, SqlError> {
        let Transport::Tcp(mut stream) = self else { return Ok(self) };
        let mut connection = plan.connection(host).map_err(SqlError::lost)?;
        // Finished here, so that a refused certificate is reported as such.
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).map_err(|error| SqlError::Lost(format!("TLS with {host}: {error}")))?;
        }
        Ok(Transport::Tls(Box::new(StreamOwned::new(connection, stream))))
    }

    pub(crate) fn is_protected(&self) -> bool {
        !matches!(self, Transport::Tcp(_))
    }

    pub(crate) fn breaker(&self) -> io::Result<Breaker> {
        match self {
            Transport::Tcp(stream) => stream.try_clone().map(Breaker::Tcp),
            Transport::Tls(stream) => stream.sock.try_clone().map(Breaker::Tcp),
            Transport::Unix(stream) => stream.try_clone().map(Breaker::Unix),
        }
    }
}

fn both(stream: &TcpStream, patience: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)
}

fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let until = Instant::now() + SQL_CONNECT_DEADLINE;
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Unix(stream) => stream.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(stream) => stream.write(buffer),
            Transport::Unix(stream) => stream.write(buffer),
            Transport::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.flush(),
            Transport::Unix(stream) => stream.flush(),
            Transport::Tls(stream) => stream.flush(),
        }
    }
}
