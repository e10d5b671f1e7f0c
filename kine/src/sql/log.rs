//! The log in a database that several processes write.
//!
//! A turn is one transaction: it locks the head, learns what others wrote, and ends with the commit
//! of a batch or without one. Whoever holds the turn is alone, so what was evaluated in it is right.
//! A connection that breaks during the commit leaves a doubt; it is resolved behind the same lock,
//! which the broken transaction held too, so the answer cannot change any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catch_up::{catch_up, on_our_clock};
use super::reader::SqlReader;
use super::shown::Shown;
use super::statements::{self, Head};
use super::{Dialect, Engine, Listener, Row, Session, SqlError, Wake};
use crate::error::{Error, Result};
use crate::limits::{
    SQL_CATCH_UP_BYTES, SQL_CATCH_UP_RECORDS, SQL_ENDED_LEASES_KEPT, SQL_PATIENCE, SQL_RETRY_PAUSE_MAX,
    SQL_WRITERS_KEPT,
};
use crate::log::{
    Batch, LeaseChange, LeaseRow, Loaded, Log, LogError, LogReader, LogSize, News, Reclaim, Record, Turn,
};
use crate::revision::{RecordId, Revision};
use crate::writer::unix_now_ms;

/// A batch sent whose fate is unknown.
struct Doubt {
    number: i64,
    after: Head,
}

/// The writer's side of a shared database.
pub(crate) struct SqlLog {
    engine: Arc<dyn Engine>,
    name: String,
    session: Option<Box<dyn Session>>,
    /// This opening of the store, among the writers.
    me: i64,
    /// Batches sent so far.
    number: i64,
    /// What the store knows of.
    known: Head,
    in_turn: bool,
    doubt: Option<Doubt>,
    /// What the server's clock is ahead of ours.
    clock_ahead_ms: i64,
    shown: Arc<Shown>,
    listener: Option<Box<dyn Listener>>,
}

impl SqlLog {
    /// Connects, and makes database and tables if they are not there.
    pub(crate) fn open(engine: Arc<dyn Engine>, name: &str, ids: impl Fn() -> (u64, u64) + Copy) -> Result<SqlLog> {
        let failed = |error: SqlError| Error::Connect { endpoint: name.to_owned(), reason: error.to_string() };
        let mut log = SqlLog {
            engine,
            name: name.to_owned(),
            session: None,
            me: ids().0.cast_signed() >> 1,
            number: 0,
            known: Head {
                id: RecordId::default(),
                compacted: Revision(0),
                no_space: false,
                lease_seq: 0,
                lease_purged: 0,
                cluster_id: 0,
                member_id: 0,
                version: 0,
            },
            in_turn: false,
            doubt: None,
            clock_ahead_ms: 0,
            shown: Arc::default(),
            listener: None,
        };
        let engine = log.engine.clone();
        let read = vec![statements::read_head(false), engine.dialect().clock.to_owned()];
        let head = log.retrying(&mut |session| session.run(&read).and_then(|answers| looked(&answers)));
        let (head, now_ms) = match head {
            Ok((Some(head), now_ms)) => (head, now_ms),
            Err(error) if error.code() == engine.dialect().no_database => {
                engine.create_database().map_err(failed)?;
                log.make_tables(ids()).map_err(failed)?
            }
            Ok((None, _)) => log.make_tables(ids()).map_err(failed)?,
            Err(error) if error.code() == engine.dialect().no_table => log.make_tables(ids()).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        if head.version != statements::SCHEMA_VERSION {
            let reason = format!("tables of version {} were made by another version", head.version);
            return Err(Error::Connect { endpoint: name.to_owned(), reason });
        }
        log.clock_ahead_ms = now_ms - unix_now_ms();
        let old = now_ms - i64::try_from(SQL_WRITERS_KEPT.as_millis()).unwrap_or(i64::MAX);
        let me = log.me;
        let enlist = vec![
            format!("DELETE FROM skiff_writer WHERE seen < {old} OR id = {me}"),
            format!("INSERT INTO skiff_writer (id, batch, seen) VALUES ({me}, 0, {now_ms})"),
        ];
        log.retrying(&mut |session| session.run(&enlist)).map_err(failed)?;
        Ok(log)
    }

    fn make_tables(&mut self, (cluster_id, member_id): (u64, u64)) -> Result<(Head, i64), SqlError> {
        let dialect = self.engine.dialect();
        self.retrying(&mut |session| {
            let (lock, unlock) = dialect.lock_schema;
            session.run(&owned(lock))?;
            session.run(&statements::tables(dialect))?;
            let look = vec![statements::read_head(false), dialect.clock.to_owned()];
            if let (None, _) = looked(&session.run(&look)?)? {
                session.run(&[statements::first_head(cluster_id, member_id)])?;
            }
            let (head, now_ms) = looked(&session.run(&look)?)?;
            session.run(&owned(unlock))?;
            Ok((head.ok_or_else(|| SqlError::garbled("no head"))?, now_ms))
        })
    }

    /// Records there are, and how long ago another opening wrote, if any did.
    pub(super) fn inspect(&mut self) -> Result<(i64, Option<Duration>), SqlError> {
        let me = self.me;
        let looks = [
            "SELECT count(*) FROM skiff_log".to_owned(),
            format!("SELECT coalesce(max(seen), 0) FROM skiff_writer WHERE id <> {me} AND batch > 0"),
            self.engine.dialect().clock.to_owned(),
        ];
        let answers = self.retrying(&mut |session| session.run(&looks))?;
        let (seen, now_ms) = (statements::single(&answers[1])?, statements::single(&answers[2])?);
        let age = u64::try_from(now_ms - seen).unwrap_or(0);
        Ok((statements::single(&answers[0])?, (seen > 0).then(|| Duration::from_millis(age))))
    }

    /// Takes the turn, to write directly.
    pub(super) fn hold(&mut self) -> Result<(), SqlError> {
        self.lock().map(drop)
    }

    /// Runs statements of another kind on the connection as it is.
    pub(super) fn direct<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Session) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        self.session().and_then(work)
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        self.engine.dialect()
    }

    /// Forgets this opening among the writers.
    pub(super) fn delist(&self) -> String {
        format!("DELETE FROM skiff_writer WHERE id = {}", self.me)
    }

    fn session(&mut self) -> Result<&mut dyn Session, SqlError> {
        if self.session.is_none() {
            self.session = Some(self.engine.connect()?);
        }
        match &mut self.session {
            Some(session) => Ok(session.as_mut()),
            None => Err(SqlError::lost("no connection")),
        }
    }

    /// Does what may be done twice, again and again while trying can help.
    fn retrying<T>(&mut self, work: &mut dyn FnMut(&mut dyn Session) -> Result<T, SqlError>) -> Result<T, SqlError> {
        let until = Instant::now() + SQL_PATIENCE;
        // The first failure may only mean that an idle connection has ended.
        let mut pause = Duration::ZERO;
        loop {
            let error = match self.session().and_then(&mut *work) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.leave(&error);
            if !error.is_passing() || Instant::now() + pause > until {
                return Err(error);
            }
            tracing::debug!(component = "kine", %error, "try the database again");
            std::thread::sleep(pause);
            pause = (pause * 2).clamp(Duration::from_millis(20), SQL_RETRY_PAUSE_MAX);
        }
    }

    /// Leaves no transaction open after an error.
    fn leave(&mut self, error: &SqlError) {
        self.in_turn = false;
        let usable = match (error, &mut self.session) {
            (SqlError::Refused { .. }, Some(session)) => session.run(&["ROLLBACK".to_owned()]).is_ok(),
            _ => false,
        };
        if !usable {
            self.session = None;
        }
    }

    /// Locks the head: from here to the end of the transaction nobody else writes.
    fn lock(&mut self) -> Result<(Head, Option<i64>), SqlError> {
        let dialect = self.engine.dialect();
        let me = self.me;
        let mut texts = owned(dialect.begin);
        let at = texts.len();
        texts.push(statements::read_head(true));
        texts.push(dialect.clock.to_owned());
        texts.push(format!("SELECT batch FROM skiff_writer WHERE id = {me}"));
        let (head, now_ms, batch) = self.retrying(&mut |session| {
            let answers = session.run(&texts)?;
            let (head, now_ms) = looked(&answers[at..])?;
            let batch = answers[at + 2].first().map(|row| statements::int(row, 0)).transpose()?;
            Ok((head.ok_or_else(|| SqlError::lost("the head of the datastore is gone"))?, now_ms, batch))
        })?;
        self.clock_ahead_ms = now_ms - unix_now_ms();
        self.in_turn = true;
        Ok((head, batch))
    }

    /// Learns what is new up to `head`.
    fn catch_up(&mut self, head: Head, learn: &mut dyn FnMut(News)) -> Result<Turn, SqlError> {
        let ahead = self.clock_ahead_ms;
        let mut known = self.known;
        let session = self.session()?;
        let result = catch_up(session, &mut known, head, ahead, learn);
        self.known = known;
        if matches!(result, Ok(Turn::Known)) {
            self.shown.set(self.known.compacted);
        }
        result
    }

    /// The whole transaction that makes a batch durable, and the head it leaves.
    fn commit_statements(&mut self, batch: &Batch) -> Result<(Vec<String>, Head), SqlError> {
        let dialect = self.engine.dialect();
        let now_ms = unix_now_ms() + self.clock_ahead_ms;
        let mut after = self.known;
        after.id = batch.records.last().map_or(after.id, |record| record.id);
        after.compacted = batch.compacted.map_or(after.compacted, |compacted| compacted.max(after.compacted));
        after.no_space = batch.no_space.unwrap_or(after.no_space);
        let bytes_max = self.session()?.statement_bytes_max();
        let mut texts = statements::insert(dialect, &batch.records, bytes_max);
        let changes: Vec<_> = batch.leases.iter().map(|change| self.on_their_clock(change)).collect();
        texts.extend(statements::write_leases(&changes, after.lease_seq + 1, now_ms));
        after.lease_seq += i64::try_from(changes.len()).unwrap_or(i64::MAX);
        if batch.compacted.is_some() {
            let before_ms = now_ms - i64::try_from(SQL_ENDED_LEASES_KEPT.as_millis()).unwrap_or(0);
            let answers = self.session()?.run(&[statements::ended_leases(before_ms)])?;
            after.lease_purged = statements::single(&answers[0])?.max(after.lease_purged);
            texts.push(statements::forget_leases(after.lease_purged));
        }
        texts.push(statements::write_head(&after));
        let (me, number) = (self.me, self.number);
        texts.push(format!("UPDATE skiff_writer SET batch = {number}, seen = {now_ms} WHERE id = {me}"));
        texts.extend(dialect.announce.map(|text| text.replace("{me}", &me.to_string())));
        texts.push("COMMIT".to_owned());
        Ok((texts, after))
    }

    pub(super) fn on_their_clock(&self, change: &LeaseChange) -> (i64, Option<LeaseRow>) {
        match change {
            LeaseChange::Put(row) => {
                let deadline_unix_ms = row.deadline_unix_ms.saturating_add(self.clock_ahead_ms);
                (row.id, Some(LeaseRow { deadline_unix_ms, ..*row }))
            }
            LeaseChange::Delete(id) => (*id, None),
        }
    }

    /// Sends a batch until its fate is known or patience ends.
    fn send(&mut self, batch: &Batch) -> Result<(), SqlError> {
        let until = Instant::now() + SQL_PATIENCE;
        self.number += 1;
        let before = self.known;
        let (texts, after) = self.commit_statements(batch)?;
        loop {
            let error = match self.session().and_then(|session| session.run(&texts)) {
                Ok(_) => {
                    self.in_turn = false;
                    self.known = after;
                    return Ok(());
                }
                Err(error) => error,
            };
            self.leave(&error);
            if !error.is_passing() {
                return Err(error);
            }
            self.doubt = Some(Doubt { number: self.number, after });
            let Ok((head, number)) = self.lock() else { return Err(error) };
            self.doubt = None;
            if number == Some(self.number) {
                self.give_back();
                self.known = after;
                return Ok(());
            }
            // Evaluated against a state that is still the present one, it can be sent once more.
            if head != before || number.is_none() || Instant::now() > until {
                self.give_back();
                return Err(error);
            }
        }
    }

    fn give_back(&mut self) {
        if std::mem::take(&mut self.in_turn)
            && let Some(session) = &mut self.session
            && session.run(&["ROLLBACK".to_owned()]).is_err()
        {
            self.session = None;
        }
    }

    fn failed(&self, error: &SqlError) -> LogError {
        LogError(format!("{}: {error}", self.name))
    }

    /// Reads everything at one moment.
    fn read_all(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded, SqlError> {
        let dialect = self.engine.dialect();
        let in_turn = self.in_turn;
        let session = self.session()?;
        if !in_turn {
            session.run(&owned(dialect.begin_snapshot))?;
        }
        let answers = session.run(&[statements::read_head(false), dialect.clock.to_owned(), statements::leases()])?;
        let (head, now_ms) = looked(&answers)?;
        let head = head.ok_or_else(|| SqlError::lost("the head of the datastore is gone"))?;
        let ahead = now_ms - unix_now_ms();
        let rows = answers[2].iter().map(statements::lease).collect::<Result<Vec<_>, _>>()?;
        let mut from = RecordId::default();
        while from <= head.id {
            let page = statements::page(from, head.id, SQL_CATCH_UP_RECORDS, SQL_CATCH_UP_BYTES);
            let answers = session.run(&[page])?;
            let Some(last) = answers[0].last() else { break };
            from = statements::record(last)?.id.next();
            for row in &answers[0] {
                visit(statements::record(row)?);
            }
        }
        if !in_turn {
            session.run(&["COMMIT".to_owned()])?;
        }
        self.clock_ahead_ms = ahead;
        self.known = head;
        Ok(Loaded {
            cluster_id: head.cluster_id,
            member_id: head.member_id,
            compacted: head.compacted,
            leases: rows.into_iter().filter_map(|(_, row)| row).map(|row| on_our_clock(row, ahead)).collect(),
            // Every renewal is stored before it is answered.
            clean: true,
            no_space: head.no_space,
        })
    }
}

impl Log for SqlLog {
    fn load(&mut self, visit: &mut dyn FnMut(Record)) -> Result<Loaded> {
        let loaded = self.read_all(visit);
        loaded.map_err(|error| {
            self.leave(&error);
            Error::Connect { endpoint: self.name.clone(), reason: error.to_string() }
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&mut self, wake: Wake) {
        self.listener = Some(self.engine.clone().listen(self.me, wake));
    }

    fn begin(&mut self, learn: &mut dyn FnMut(News)) -> Result<Turn, LogError> {
        self.doubt = None;
        let until = Instant::now() + SQL_PATIENCE;
        loop {
            let result = self.lock().and_then(|(head, _)| self.catch_up(head, learn));
            match result {
                Ok(turn) => return Ok(turn),
                Err(error) => {
                    self.leave(&error);
                    if !error.is_passing() || Instant::now() > until {
                        return Err(self.failed(&error));
                    }
                }
            }
        }
    }

    fn release(&mut self) {
        self.give_back();
    }

    fn follow(&mut self, learn: &mut dyn FnMut(News)) -> Result<Turn, LogError> {
        let look = vec![statements::read_head(false), self.engine.dialect().clock.to_owned()];
        let result = self
            .retrying(&mut |session| {
                let (head, now_ms) = looked(&session.run(&look)?)?;
                Ok((head.ok_or_else(|| SqlError::lost("the head of the datastore is gone"))?, now_ms))
            })
            .and_then(|(head, now_ms)| {
                self.clock_ahead_ms = now_ms - unix_now_ms();
                self.catch_up(head, learn)
            });
        result.map_err(|error| {
            self.leave(&error);
            self.failed(&error)
        })
    }

    fn shown(&mut self, compacted: Revision) {
        self.shown.set(compacted);
    }

    fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        if !self.in_turn {
            return Err(LogError(format!("{}: the turn to write was lost", self.name)));
        }
        self.send(batch).map_err(|error| {
            if self.in_turn {
                self.leave(&error);
            }
            self.failed(&error)
        })
    }

    fn last_id(&mut self) -> Result<Option<RecordId>, LogError> {
        let read = [statements::read_head(false)];
        let head = self.retrying(&mut |session| session.run(&read).and_then(|answers| statements::head(&answers[0])));
        head.map(|head| head.map(|head| head.id)).map_err(|error| self.failed(&error))
    }

    fn took_place(&mut self, _last: RecordId) -> Result<bool, LogError> {
        let Some(Doubt { number, after }) = self.doubt.take() else { return Ok(false) };
        match self.lock() {
            Ok((_, found)) => {
                self.give_back();
                if found == Some(number) {
                    self.known = after;
                }
                Ok(found == Some(number))
            }
            Err(error) => {
                self.doubt = Some(Doubt { number, after });
                Err(self.failed(&error))
            }
        }
    }

    fn delete(&mut self, ids: &[RecordId], _budget: Duration) -> Result<usize, LogError> {
        let dialect = self.engine.dialect();
        let mut texts = owned(dialect.begin);
        texts.extend(dialect.lazily.map(str::to_owned));
        texts.push(statements::delete(ids));
        texts.push("COMMIT".to_owned());
        let result = self.retrying(&mut |session| session.run(&texts));
        result.map(|_| ids.len()).map_err(|error| self.failed(&error))
    }

    fn reclaim(&mut self, how: Reclaim) -> Result<bool, LogError> {
        if how == Reclaim::Full {
            let vacuum = vec![self.engine.dialect().vacuum.to_owned()];
            self.retrying(&mut |session| session.run(&vacuum)).map_err(|error| self.failed(&error))?;
        }
        // Otherwise the server looks after its own space.
        Ok(false)
    }

    fn in_use(&mut self) -> Result<u64, LogError> {
        let size = [self.engine.dialect().size.to_owned()];
        // Within a turn a broken connection must not be replaced unnoticed.
        let result = self.session().and_then(|session| session.run(&size)).and_then(|answers| sizes(&answers[0]));
        result.map(|size| size.in_use).map_err(|error| self.failed(&error))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(SqlReader::new(self.engine.clone(), self.name.clone(), self.shown.clone())))
    }

    fn close(mut self: Box<Self>) -> Result<(), LogError> {
        self.listener = None;
        self.give_back();
        let leave = [self.delist()];
        if let Some(session) = &mut self.session
            && let Err(error) = session.run(&leave)
        {
            tracing::debug!(component = "kine", %error, "leave the datastore");
        }
        Ok(())
    }
}

/// Head, and the server's time, from the first two answers.
pub(super) fn looked(answers: &[Vec<Row>]) -> Result<(Option<Head>, i64), SqlError> {
    let [head, clock, ..] = answers else { return Err(SqlError::garbled("no head")) };
    Ok((statements::head(head)?, statements::single(clock)?))
}

pub(super) fn sizes(rows: &[Row]) -> Result<LogSize, SqlError> {
    let row = rows.first().ok_or_else(|| SqlError::garbled("no size"))?;
    let bytes = |column| statements::int(row, column).map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(LogSize { allocated: bytes(0)?, in_use: bytes(1)? })
}

pub(super) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
