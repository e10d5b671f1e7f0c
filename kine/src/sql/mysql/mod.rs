//! MySQL and MariaDB: their dialect and connections.
//!
//! Plain text statements in one packet are one round trip. Neither server can tell a client that
//! something was written, so other servers' writes are found by looking at one row, often.

mod auth;
mod wire;

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use self::wire::Connection;
use super::tls::TlsPlan;
use super::url::Target;
use super::{Dialect, Engine, Listener, Row, Session, SqlError, Wake};
use crate::limits::SQL_POLL_INTERVAL;

static DIALECT: Dialect = Dialect {
    no_database: "1049",
    no_table: "1146",
    bytes: ("x'", "'"),
    types: ("BIGINT", "MEDIUMBLOB", "MEDIUMBLOB"),
    table_options: " ENGINE=InnoDB",
    lock_schema: (&["DO GET_LOCK('skiff_schema', 30)"], &["DO RELEASE_LOCK('skiff_schema')"]),
    begin: &["SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION READ WRITE"],
    begin_snapshot: &["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT"],
    lazily: None,
    clock: "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    size: "SELECT CAST(data_length + index_length + data_free AS SIGNED), CAST(data_length + index_length AS SIGNED)
           FROM information_schema.tables WHERE table_schema = database() AND table_name = 'skiff_log'",
    vacuum: "OPTIMIZE TABLE skiff_log",
    announce: None,
};

/// What every connection is set to: no lock may hang for ever, and a zero stays a zero.
const SETTINGS: &[&str] =
    &["SET SESSION innodb_lock_wait_timeout = 10", "SET SESSION sql_mode = 'STRICT_ALL_TABLES'", "SET autocommit = 1"];

/// A MySQL or MariaDB server.
pub(crate) struct Mysql {
    target: Target,
    plan: TlsPlan,
}

impl Mysql {
    pub(crate) fn new(target: Target, plan: TlsPlan) -> Mysql {
        Mysql { target, plan }
    }

    fn open(&self, database: &str) -> Result<Connection, SqlError> {
        let address = self.target.addresses.first().ok_or_else(|| SqlError::lost("the endpoint names no host"))?;
        let mut connection = Connection::open(address, &self.plan, &self.target, database)?;
        connection.run(&SETTINGS.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())?;
        Ok(connection)
    }
}

impl Engine for Mysql {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn connect(&self) -> Result<Box<dyn Session>, SqlError> {
        Ok(Box::new(self.open(&self.target.database)?))
    }

    fn create_database(&self) -> Result<(), SqlError> {
        let create = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.target.database);
        self.open("")?.run(&[create]).map(drop)
    }

    fn listen(self: Arc<Self>, _me: i64, wake: Wake) -> Box<dyn Listener> {
        let stop = Arc::new(Stop::default());
        let thread = std::thread::Builder::new().name("kine-poll".into()).spawn({
            let stop = stop.clone();
            move || poll(&self, &stop, &wake)
        });
        let thread = thread.inspect_err(|error| tracing::error!(component = "kine", %error, "look for writes")).ok();
        Box::new(Polling { stop, thread })
    }
}

/// Ends the thread that looks, also while it waits.
#[derive(Default)]
struct Stop {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// True when it is over, at the latest after one interval.
    fn wait(&self) -> bool {
        let mut ended = self.ended.lock();
        if !*ended {
            self.changed.wait_for(&mut ended, SQL_POLL_INTERVAL);
        }
        *ended
    }
}

struct Polling {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Listener for Polling {}

impl Drop for Polling {
    fn drop(&mut self) {
        *self.stop.ended.lock() = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(engine: &Mysql, stop: &Stop, wake: &Wake) {
    let look = ["SELECT head, compacted, no_space, lease_seq FROM skiff_head".to_owned()];
    let mut connection: Option<Connection> = None;
    let mut seen: Vec<Vec<Row>> = Vec::new();
    let mut lost = false;
    while !stop.wait() {
        let result = match &mut connection {
            Some(connection) => connection.run(&look),
            None => engine.open(&engine.target.database).and_then(|opened| connection.insert(opened).run(&look)),
        };
        match result {
            Ok(found) if found == seen => {}
            Ok(found) => {
                seen = found;
                lost = false;
                wake();
            }
            Err(error) => {
                if !std::mem::replace(&mut lost, true) {
                    tracing::warn!(component = "kine", %error, "the connection that looks for other servers' writes is lost");
                }
                connection = None;
            }
        }
    }
}
