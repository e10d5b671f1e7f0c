//! PostgreSQL: its dialect, connections, and LISTEN.
//!
//! A pipeline of unnamed statements is one round trip; they survive poolers that share
//! connections. Writes of others are announced with NOTIFY inside the commit that makes them
//! visible, so that a listener that is told can already read them.

mod scram;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use self::wire::Connection;
use super::tls::TlsPlan;
use super::transport::Breaker;
use super::url::Target;
use super::{Dialect, Engine, Listener, Session, SqlError, Wake};
use crate::limits::{SQL_LISTEN_INTERVAL, SQL_RETRY_PAUSE_MAX};

static DIALECT: Dialect = Dialect {
    no_database: "3D000",
    no_table: "42P01",
    bytes: ("'\\x", "'::bytea"),
    types: ("bigint", "bytea", "bytea"),
    table_options: "",
    lock_schema: (&["BEGIN", "SELECT pg_advisory_xact_lock(7308324466019)"], &["COMMIT"]),
    begin: &["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"],
    // It locks nothing; whoever reads it may write elsewhere in between.
    begin_snapshot: &[
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "SET LOCAL idle_in_transaction_session_timeout = '10min'",
    ],
    lazily: Some("SET LOCAL synchronous_commit = off"),
    clock: "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    size: "SELECT pg_total_relation_size('skiff_log'), pg_total_relation_size('skiff_log')",
    vacuum: "VACUUM skiff_log",
    announce: Some("SELECT pg_notify('skiff_log', '{me}')"),
};

/// What every connection is set to: no lock, transaction or statement may hang for ever.
const SETTINGS: &[&str] = &[
    "SET lock_timeout = '10s'",
    "SET idle_in_transaction_session_timeout = '15s'",
    "SET statement_timeout = 0",
    "SET client_min_messages = 'warning'",
];

/// A PostgreSQL server.
pub(crate) struct Postgres {
    target: Target,
    plan: TlsPlan,
}

impl Postgres {
    pub(crate) fn new(target: Target, plan: TlsPlan) -> Postgres {
        Postgres { target, plan }
    }

    /// The first address that takes us.
    fn open(&self, database: &str) -> Result<Connection, SqlError> {
        let mut last = SqlError::Lost("the endpoint names no host".into());
        for address in &self.target.addresses {
            match Connection::open(address, &self.plan, &self.target, database) {
                Ok(mut connection) => {
                    connection.run(&SETTINGS.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())?;
                    return Ok(connection);
                }
                // Another host would say the same.
                Err(error @ SqlError::Refused { transient: false, .. }) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Engine for Postgres {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn connect(&self) -> Result<Box<dyn Session>, SqlError> {
        Ok(Box::new(self.open(&self.target.database)?))
    }

    fn create_database(&self) -> Result<(), SqlError> {
        let mut connection = self.open("postgres")?;
        match connection.run(&[format!("CREATE DATABASE \"{}\"", self.target.database)]) {
            // Another server was faster; it shows either way.
            Err(error) if matches!(error.code(), "42P04" | "23505") => Ok(()),
            result => result.map(drop),
        }
    }

    fn listen(self: Arc<Self>, me: i64, wake: Wake) -> Box<dyn Listener> {
        let line = Arc::new(Line::default());
        let thread = std::thread::Builder::new().name("kine-listen".into()).spawn({
            let line = line.clone();
            move || listen(&self, &line, me, &wake)
        });
        let thread = thread.inspect_err(|error| tracing::error!(component = "kine", %error, "listen for writes")).ok();
        Box::new(Listening { line, thread })
    }
}

/// The connection that listens, to be broken from outside.
#[derive(Default)]
struct Line {
    ended: AtomicBool,
    breaker: Mutex<Option<Breaker>>,
}

struct Listening {
    line: Arc<Line>,
    thread: Option<JoinHandle<()>>,
}

impl Listener for Listening {}

impl Drop for Listening {
    fn drop(&mut self) {
        self.line.ended.store(true, Ordering::Release);
        if let Some(breaker) = self.line.breaker.lock().take() {
            breaker.end();
        }
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Until the line is ended; connects again when the connection is lost.
fn listen(engine: &Postgres, line: &Line, me: i64, wake: &Wake) {
    let mut pause = Duration::from_millis(50);
    while !line.ended.load(Ordering::Acquire) {
        let result = engine.open(&engine.target.database).and_then(|connection| {
            pause = Duration::from_millis(50);
            attend(connection, line, me, wake)
        });
        if line.ended.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = result {
            tracing::warn!(component = "kine", %error, "the connection that listens for other servers' writes is lost");
        }
        // What was announced meanwhile is found by looking.
        wake();
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(SQL_RETRY_PAUSE_MAX);
    }
}

fn attend(mut connection: Connection, line: &Line, me: i64, wake: &Wake) -> Result<(), SqlError> {
    connection.run(&["LISTEN skiff_log".to_owned()])?;
    *line.breaker.lock() = Some(connection.breaker()?);
    // Whatever was written before LISTEN took hold.
    wake();
    let own = me.to_string();
    while !line.ended.load(Ordering::Acquire) {
        match connection.notification(SQL_LISTEN_INTERVAL)? {
            Some(payload) if payload == own => {}
            // A pooler between may swallow announcements: silence is looked at, too.
            Some(_) | None => wake(),
        }
    }
    Ok(())
}
