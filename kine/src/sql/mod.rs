//! SQL servers under the store: what PostgreSQL and MySQL have in common.
//!
//! What: [`SqlLog`] is a [`crate::log::Log`] that several processes write together. Why one for
//! all engines: turn-taking, catching up and commits in doubt are the hard part, and the same
//! everywhere. An engine brings a [`Session`] (its wire protocol) and a [`Dialect`] (its words).
//!
//! Invariants:
//! * whoever writes holds the lock of the one row of `skiff_head` from before it evaluates until
//!   its commit, so revisions are dense and commits become visible in their order: there is no gap
//!   to wait for, and a reader that sees a record has seen all before it;
//! * statements hold numbers and hexadecimal literals only: nothing a client sends is SQL.

mod catch_up;
mod database;
mod digest;
mod fill;
mod log;
pub(crate) mod mysql;
pub(crate) mod postgres;
mod reader;
mod shown;
mod statements;
mod tls;
mod transport;
mod url;

use std::sync::Arc;

use bytes::Bytes;

pub use self::database::{Database, DatabaseError, TlsFiles};
pub(crate) use self::fill::Fill;
pub(crate) use self::log::SqlLog;
pub(crate) use self::tls::system_authorities;

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Bytes(Bytes),
}

/// One row of an answer.
pub(crate) type Row = Vec<Cell>;

/// Why a statement did not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SqlError {
    /// The connection is gone; whether a commit under way took place is unknown.
    #[error("{0}")]
    Lost(String),
    /// The server refused; its transaction is over.
    #[error("{message} ({code})")]
    Refused {
        code: String,
        message: String,
        /// Trying again can help: a deadlock, a lock held too long.
        transient: bool,
    },
}

impl SqlError {
    pub(crate) fn lost(what: impl std::fmt::Display) -> SqlError {
        SqlError::Lost(what.to_string())
    }

    /// The server spoke in a way this client does not understand.
    pub(crate) fn garbled(what: &str) -> SqlError {
        SqlError::Lost(format!("the database server sent an unexpected answer: {what}"))
    }

    fn code(&self) -> &str {
        match self {
            SqlError::Refused { code, .. } => code,
            SqlError::Lost(_) => "",
        }
    }

    /// A new connection, or the same statement a moment later, may succeed.
    fn is_passing(&self) -> bool {
        matches!(self, SqlError::Lost(_) | SqlError::Refused { transient: true, .. })
    }
}

/// A connection to a server.
pub(crate) trait Session: Send {
    /// Runs statements in order, in as few round trips as the engine knows. The first that
    /// fails ends it; a transaction it was in has to be rolled back.
    fn run(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError>;

    /// Bytes one statement may have.
    fn statement_bytes_max(&self) -> usize;
}

/// Tells the writer that there may be news.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Waits for writes of other processes until it is dropped.
pub(crate) trait Listener: Send {}

/// A kind of server, and where one is.
pub(crate) trait Engine: Send + Sync {
    fn dialect(&self) -> &'static Dialect;

    /// Connects to the database, which must exist.
    fn connect(&self) -> Result<Box<dyn Session>, SqlError>;

    /// Makes the database if it does not exist.
    fn create_database(&self) -> Result<(), SqlError>;

    /// Calls `wake` soon after another process has written; `me` marks its own writes.
    fn listen(self: Arc<Self>, me: i64, wake: Wake) -> Box<dyn Listener>;
}

/// The words in which engines differ.
pub(crate) struct Dialect {
    /// The code of the error "there is no such database".
    pub(crate) no_database: &'static str,
    /// The code of the error "there is no such table".
    pub(crate) no_table: &'static str,
    /// Around a hexadecimal literal.
    pub(crate) bytes: (&'static str, &'static str),
    /// Types of a 64-bit number, of a key and of a value.
    pub(crate) types: (&'static str, &'static str, &'static str),
    /// Behind `CREATE TABLE (…)`.
    pub(crate) table_options: &'static str,
    /// Before and after the tables are made, so that only one process does.
    pub(crate) lock_schema: (&'static [&'static str], &'static [&'static str]),
    /// Begins a transaction in which every statement sees what is committed.
    pub(crate) begin: &'static [&'static str],
    /// Begins a transaction that sees one state throughout.
    pub(crate) begin_snapshot: &'static [&'static str],
    /// Makes a transaction of unimportant work commit without waiting for the disk.
    pub(crate) lazily: Option<&'static str>,
    /// Milliseconds since 1970 on the server's clock.
    pub(crate) clock: &'static str,
    /// Bytes of the log table, indexes included: allocated, and holding data.
    pub(crate) size: &'static str,
    /// Gives space of deleted rows back.
    pub(crate) vacuum: &'static str,
    /// Tells listeners that `{me}` has written.
    pub(crate) announce: Option<&'static str>,
}
