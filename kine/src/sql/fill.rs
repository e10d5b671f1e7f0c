//! Fills a database with the history of another datastore, in one transaction.

use std::time::Duration;

use super::log::SqlLog;
use super::{Database, Session, SqlError, statements};
use crate::log::{LeaseChange, LeaseRow, LogError, Record};
use crate::revision::{RecordId, Revision};
use crate::snapshot::ArchiveError;
use crate::writer::unix_now_ms;

/// A server that wrote this lately is taken to be running.
const WRITER_ALIVE: Duration = Duration::from_secs(60);
const TABLES: [&str; 4] = ["skiff_log", "skiff_lease", "skiff_writer", "skiff_head"];

/// A transaction under way; dropping it leaves the database as it was.
pub(crate) struct Fill {
    log: SqlLog,
    name: String,
    ids: (u64, u64),
    aside: Option<String>,
}

impl Fill {
    /// Begins, unless the database holds something and `replace` does not allow to move that aside.
    pub(crate) fn begin(database: &Database, replace: bool, ids: (u64, u64)) -> Result<Fill, ArchiveError> {
        let name = database.to_string();
        let open = || SqlLog::open(database.engine(), &name, || ids);
        let mut log = open()?;
        let failed = |error: SqlError| ArchiveError::Transfer { endpoint: name.clone(), detail: error.to_string() };
        let (records, writer) = log.inspect().map_err(failed)?;
        if records > 0 && !replace {
            return Err(ArchiveError::NotEmpty { endpoint: name });
        }
        if let Some(age) = writer.filter(|age| *age < WRITER_ALIVE) {
            let detail = format!("a server wrote to it {} s ago; stop all servers that use it", age.as_secs());
            return Err(ArchiveError::Transfer { endpoint: name, detail });
        }
        let mut aside = None;
        if records > 0 {
            let suffix = format!("_replaced_{}", unix_now_ms() / 1000);
            let rename = |table: &str| format!("ALTER TABLE {table} RENAME TO {table}{suffix}");
            let renames: Vec<String> = TABLES.iter().map(|table| rename(table)).collect();
            log.direct(|session| session.run(&renames)).map_err(failed)?;
            log = open()?;
            aside = Some(suffix);
        }
        let empty = ["skiff_log", "skiff_lease"].map(|table| format!("DELETE FROM {table}"));
        log.hold().and_then(|()| log.direct(|session| session.run(&empty))).map_err(failed)?;
        Ok(Fill { log, name, ids, aside })
    }

    pub(crate) fn records(&mut self, records: &[Record]) -> Result<(), LogError> {
        let dialect = self.log.dialect();
        let run = |session: &mut dyn Session| {
            for insert in statements::insert(dialect, records, session.statement_bytes_max()) {
                session.run(&[insert])?;
            }
            Ok(())
        };
        self.log.direct(run).map_err(|error| self.failed(&error))
    }

    /// Commits; answers the end of the names that replaced tables have now.
    pub(crate) fn finish(
        mut self,
        revision: Revision,
        compacted: Revision,
        leases: &[LeaseChange],
    ) -> Result<Option<String>, LogError> {
        let rows: Vec<(i64, Option<LeaseRow>)> = leases.iter().map(|change| self.log.on_their_clock(change)).collect();
        let mut texts = statements::write_leases(&rows, 1, 0);
        let seq = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let (cluster_id, member_id) = (self.ids.0.cast_signed(), self.ids.1.cast_signed());
        // Above every record of the revision, whatever number of changes it had.
        let head = RecordId(RecordId::first_of(revision.next()).0 - 1);
        texts.push(format!(
            "UPDATE skiff_head SET head = {}, compacted = {compacted}, no_space = 0, lease_seq = {seq},
             lease_purged = 0, cluster_id = {cluster_id}, member_id = {member_id} WHERE one = 1",
            head.0
        ));
        texts.push(self.log.delist());
        texts.push("COMMIT".to_owned());
        self.log.direct(|session| session.run(&texts)).map_err(|error| self.failed(&error))?;
        Ok(self.aside)
    }

    fn failed(&self, error: &SqlError) -> LogError {
        LogError(format!("{}: {error}", self.name))
    }
}
