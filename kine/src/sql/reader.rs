//! Reads the log of a shared database beside the writer.
//!
//! A page may miss what a compaction of another server has removed. So every page is read together
//! with the compact revision, and shown only when this store shows that compaction as well. Whoever reads
//! all history holds it in one transaction that sees one state.

use std::collections::HashMap;
use std::sync::Arc;

use super::catch_up::on_our_clock;
use super::log::{looked, owned, sizes};
use super::shown::Shown;
use super::statements;
use super::{Engine, Row, Session, SqlError};
use crate::limits::SQL_PATIENCE;
use crate::log::{Held, LogError, LogReader, LogSize, Record};
use crate::revision::RecordId;
use crate::writer::unix_now_ms;

/// Above every id.
const LAST: RecordId = RecordId(i64::MAX as u64);

pub(super) struct SqlReader {
    engine: Arc<dyn Engine>,
    name: String,
    session: Option<Box<dyn Session>>,
    shown: Arc<Shown>,
    /// A transaction is open, which ends with its connection.
    held: bool,
}

impl SqlReader {
    pub(super) fn new(engine: Arc<dyn Engine>, name: String, shown: Arc<Shown>) -> SqlReader {
        SqlReader { engine, name, session: None, shown, held: false }
    }

    /// A connection may have ended while it was idle: then once more on a new one.
    fn run(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, LogError> {
        let may_repeat = self.session.is_some() && !self.held;
        let result = match self.once(statements) {
            Err(SqlError::Lost(_)) if may_repeat => self.once(statements),
            result => result,
        };
        result.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &SqlError) -> LogError {
        LogError(format!("{}: {error}", self.name))
    }

    fn once(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None if self.held => return Err(SqlError::lost("the connection that held history is gone")),
            None => self.engine.connect()?,
        };
        let result = session.run(statements);
        if !matches!(result, Err(SqlError::Lost(_))) {
            self.session = Some(session);
        }
        result
    }

    /// Records of one statement, once the store shows the compaction they may have gone through.
    fn read(&mut self, statement: String) -> Result<Vec<Record>, LogError> {
        let answers = self.run(&[statement, statements::read_head(false)])?;
        let records = answers[0].iter().map(statements::record).collect::<Result<Vec<_>, _>>();
        let records = records.map_err(|error| self.failed(&error))?;
        let head = statements::head(&answers[1]).map_err(|error| self.failed(&error))?;
        let compacted = head.map(|head| head.compacted).unwrap_or_default();
        // A state that is held stands for itself.
        if !self.held && !self.shown.wait(compacted, SQL_PATIENCE) {
            return Err(LogError(format!("{}: this server has yet to learn of a compaction", self.name)));
        }
        Ok(records)
    }
}

impl LogReader for SqlReader {
    fn records(&mut self, from: RecordId, count: usize, bytes: usize) -> Result<Vec<Record>, LogError> {
        self.read(statements::page(from, LAST, count, bytes))
    }

    fn get(&mut self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, LogError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.read(statements::get(ids))?;
        let found: HashMap<RecordId, Record> = found.into_iter().map(|record| (record.id, record)).collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn size(&mut self) -> Result<LogSize, LogError> {
        let size = self.engine.dialect().size.to_owned();
        let answers = self.run(&[size])?;
        sizes(&answers[0]).map_err(|error| self.failed(&error))
    }

    fn hold(&mut self) -> Result<Option<Held>, LogError> {
        let dialect = self.engine.dialect();
        let mut texts = owned(dialect.begin_snapshot);
        let at = texts.len();
        texts.extend([statements::read_head(false), dialect.clock.to_owned(), statements::leases()]);
        let answers = self.run(&texts);
        self.held = answers.is_ok();
        if !self.held {
            // It may have a transaction open.
            self.session = None;
        }
        let read = |answers: &[Vec<Row>]| {
            let (head, now_ms) = looked(answers)?;
            let head = head.ok_or_else(|| SqlError::lost("the head of the datastore is gone"))?;
            let ahead = now_ms - unix_now_ms();
            let rows = answers[2].iter().map(statements::lease).collect::<Result<Vec<_>, _>>()?;
            let leases = rows.into_iter().filter_map(|(_, row)| row).map(|row| on_our_clock(row, ahead)).collect();
            Ok(Some(Held { head: head.id, compacted: head.compacted, leases }))
        };
        read(&answers?[at..]).map_err(|error| self.failed(&error))
    }

    fn let_go(&mut self) {
        if std::mem::take(&mut self.held)
            && let Some(session) = &mut self.session
            && session.run(&["ROLLBACK".to_owned()]).is_err()
        {
            self.session = None;
        }
    }

    fn head(&mut self) -> Result<Option<RecordId>, LogError> {
        let answers = self.run(&[statements::read_head(false)])?;
        let head = statements::head(&answers[0]).map_err(|error| self.failed(&error))?;
        Ok(head.map(|head| head.id))
    }
}
