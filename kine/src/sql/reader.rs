//! Reads the log of a shared database beside the writer.
//!
//! A page may miss what a compaction of another server has removed. So every page is read together
//! with the compact revision, and shown only when this store shows that compaction as well.

use std::collections::HashMap;
use std::sync::Arc;

use super::log::sizes;
use super::shown::Shown;
use super::statements;
use super::{Engine, Row, Session, SqlError};
use crate::limits::SQL_PATIENCE;
use crate::log::{LogError, LogReader, LogSize, Record};
use crate::revision::RecordId;

/// Above every id.
const LAST: RecordId = RecordId(i64::MAX as u64);

pub(super) struct SqlReader {
    engine: Arc<dyn Engine>,
    name: String,
    session: Option<Box<dyn Session>>,
    shown: Arc<Shown>,
}

impl SqlReader {
    pub(super) fn new(engine: Arc<dyn Engine>, name: String, shown: Arc<Shown>) -> SqlReader {
        SqlReader { engine, name, session: None, shown }
    }

    /// A connection may have ended while it was idle: then once more on a new one.
    fn run(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, LogError> {
        let fresh = self.session.is_none();
        let result = match self.once(statements) {
            Err(SqlError::Lost(_)) if !fresh => self.once(statements),
            result => result,
        };
        result.map_err(|error| LogError(format!("{}: {error}", self.name)))
    }

    fn once(&mut self, statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError> {
        let mut session = match self.session.take() {
            Some(session) => session,
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
        let failed = |error: SqlError| LogError(format!("{}: {error}", self.name));
        let records = answers[0].iter().map(statements::record).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let head = statements::head(&answers[1]).map_err(failed)?;
        let compacted = head.map(|head| head.compacted).unwrap_or_default();
        if !self.shown.wait(compacted, SQL_PATIENCE) {
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
        sizes(&answers[0]).map_err(|error| LogError(format!("{}: {error}", self.name)))
    }

    fn head(&mut self) -> Result<Option<RecordId>, LogError> {
        let answers = self.run(&[statements::read_head(false)])?;
        let head = statements::head(&answers[0]).map_err(|error| LogError(format!("{}: {error}", self.name)))?;
        Ok(head.map(|head| head.id))
    }
}
