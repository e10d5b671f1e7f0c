//! Learns what other processes have written, up to a head, in whole revisions.

use super::statements::{self, Head};
use super::{Session, SqlError};
use crate::limits::{SQL_CATCH_UP_BYTES, SQL_CATCH_UP_RECORDS};
use crate::log::{LeaseRow, News, Record, Turn};

/// A stored deadline by the clock of this host.
pub(super) fn on_our_clock(row: LeaseRow, ahead_ms: i64) -> LeaseRow {
    LeaseRow { deadline_unix_ms: row.deadline_unix_ms.saturating_sub(ahead_ms), ..row }
}

/// True if compaction may already have removed records the store has not seen yet.
fn has_lost(known: &Head, head: &Head) -> bool {
    head.compacted > known.id.revision().next() || head.lease_purged > known.lease_seq
}

/// Hands out what is new between `known` and `head`, and moves `known` along.
pub(super) fn catch_up(
    session: &mut dyn Session,
    known: &mut Head,
    head: Head,
    ahead_ms: i64,
    learn: &mut dyn FnMut(News),
) -> Result<Turn, SqlError> {
    if head.id < known.id || head.cluster_id != known.cluster_id {
        let code = "client".to_owned();
        let message = format!(
            "the datastore is at revision {} but was at {} before: it was restored or replaced; restart this server",
            head.id.revision(),
            known.id.revision()
        );
        return Err(SqlError::Refused { code, message, transient: false });
    }
    if head == *known {
        return Ok(Turn::Known);
    }
    if has_lost(known, &head) {
        return Ok(Turn::Lost);
    }
    let mut lease_seq = known.lease_seq;
    let mut ended = Vec::new();
    if head.lease_seq > known.lease_seq {
        let answers = session.run(&[statements::lease_changes(known.lease_seq)])?;
        let mut rows = Vec::new();
        for row in &answers[0] {
            lease_seq = lease_seq.max(statements::int(row, 3)?);
            match statements::lease(row)? {
                (_, Some(row)) => rows.push(on_our_clock(row, ahead_ms)),
                (id, None) => ended.push(id),
            }
        }
        learn(News::Leases(rows));
    }
    if let Turn::Lost = records(session, known, &head, learn)? {
        return Ok(Turn::Lost);
    }
    learn(News::Rest { ended, compacted: head.compacted, no_space: head.no_space });
    *known = Head { lease_seq, ..head };
    Ok(Turn::Known)
}

/// Records behind `known` up to `head`, in whole revisions.
fn records(
    session: &mut dyn Session,
    known: &mut Head,
    head: &Head,
    learn: &mut dyn FnMut(News),
) -> Result<Turn, SqlError> {
    let mut pending: Vec<Record> = Vec::new();
    let mut from = known.id.next();
    while from <= head.id {
        let page = statements::page(from, head.id, SQL_CATCH_UP_RECORDS, SQL_CATCH_UP_BYTES);
        // The compact revision is read after the page: what is missing in it shows there.
        let answers = session.run(&[page, statements::read_head(false)])?;
        let now = statements::head(&answers[1])?.ok_or_else(|| SqlError::lost("the head of the datastore is gone"))?;
        if has_lost(known, &now) {
            return Ok(Turn::Lost);
        }
        for row in &answers[0] {
            pending.push(statements::record(row)?);
        }
        let Some(last) = pending.last().map(|record| record.id) else { break };
        let done = answers[0].is_empty() || last >= head.id;
        let whole = match done {
            true => pending.len(),
            false => pending.partition_point(|record| record.id.revision() < last.revision()),
        };
        from = last.next();
        let records: Vec<Record> = pending.drain(..whole).collect();
        if let Some(last) = records.last() {
            let id = last.id;
            learn(News::Records(records));
            known.id = id;
        }
        if done {
            break;
        }
    }
    Ok(Turn::Known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::{RecordId, Revision};
    use crate::sql::{Cell, Row};

    fn head(revision: u64, compacted: u64) -> Head {
        Head {
            id: RecordId::new(Revision(revision), 0),
            compacted: Revision(compacted),
            no_space: false,
            lease_seq: 0,
            lease_purged: 0,
            cluster_id: 1,
            member_id: 1,
            version: 1,
        }
    }

    /// Answers prepared pages.
    struct Script(Vec<Vec<Vec<Row>>>);

    impl Session for Script {
        fn run(&mut self, _statements: &[String]) -> Result<Vec<Vec<Row>>, SqlError> {
            Ok(self.0.remove(0))
        }

        fn statement_bytes_max(&self) -> usize {
            1 << 20
        }
    }

    fn row(revision: u64, sub: u64) -> Row {
        let id = RecordId::new(Revision(revision), sub).0.cast_signed();
        vec![Cell::Int(id), Cell::Bytes("k".into()), Cell::Null, Cell::Int(0), Cell::Int(0), Cell::Int(0)]
    }

    fn head_row(head: &Head) -> Row {
        let numbers = [head.id.0.cast_signed(), head.compacted.as_i64(), 0, 0, 0, 1, 1, 1];
        numbers.into_iter().map(Cell::Int).collect()
    }

    #[test]
    fn a_revision_is_learned_whole_although_a_page_ends_in_it() {
        let present = head(4, 0);
        let pages = [vec![row(2, 0), row(3, 0)], vec![row(3, 1), row(4, 0)]];
        let mut script = Script(pages.into_iter().map(|page| vec![page, vec![head_row(&present)]]).collect());
        let mut learned = Vec::new();
        let mut known = head(1, 0);
        let turn = catch_up(&mut script, &mut known, present, 0, &mut |news| {
            if let News::Records(records) = news {
                learned.push(records.iter().map(|record| record.id.revision().0).collect::<Vec<_>>());
            }
        });
        assert!(matches!(turn, Ok(Turn::Known)));
        assert_eq!(learned, [vec![2], vec![3, 3, 4]]);
        assert_eq!(known, present);
    }

    #[test]
    fn a_compaction_that_overtakes_the_reader_is_noticed() {
        let mut script = Script(vec![vec![vec![row(9, 0)], vec![head_row(&head(9, 8))]]]);
        let mut known = head(2, 0);
        let turn = catch_up(&mut script, &mut known, head(9, 0), 0, &mut |_| panic!("nothing may be learned"));
        assert!(matches!(turn, Ok(Turn::Lost)));
        let mut script = Script(Vec::new());
        assert!(matches!(catch_up(&mut script, &mut head(5, 0), head(9, 7), 0, &mut |_| {}), Ok(Turn::Lost)));
        assert!(!has_lost(&head(5, 0), &head(9, 6)), "records from 6 on are all there");
    }

    #[test]
    fn a_datastore_that_went_back_in_time_is_refused() {
        let error = catch_up(&mut Script(Vec::new()), &mut head(9, 0), head(5, 0), 0, &mut |_| {}).err().unwrap();
        assert!(error.to_string().contains("restart"), "{error}");
    }
}
