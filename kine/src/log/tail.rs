//! The last run of a log, as long as small commits may still go into its row.
//!
//! A row that grows within its page costs that page. A new row costs three more: the header of the file, the map
//! of its pages, and the node above. Pure; whoever writes says what became of it.

use super::Record;
use crate::limits::RUN_RECORDS;
use crate::revision::RecordId;

/// Records of a commit that is tried to go into the row of the one before.
const SMALL_COMMIT_RECORDS: usize = 4;
/// How many times better records pack behind others of their kind than those do.
const PACKS_BETTER: usize = 3;

/// The records of the last run; none if its row is not to be written again.
#[derive(Debug, Default)]
pub(super) struct Tail {
    records: Vec<Record>,
    /// Bytes of keys and values, and what they came to in the row.
    plain: usize,
    packed: usize,
}

impl Tail {
    pub(super) fn clear(&mut self) {
        *self = Tail::default();
    }

    /// The first id of the run.
    pub(super) fn first(&self) -> Option<RecordId> {
        self.records.first().map(|record| record.id)
    }

    /// A run was written into a row of its own, of `packed` bytes.
    pub(super) fn begin(&mut self, records: &[Record], packed: usize) {
        self.clear();
        self.grow(records, packed);
    }

    /// Records were written behind the others; the row has `packed` bytes now.
    pub(super) fn grow(&mut self, records: &[Record], packed: usize) {
        self.records.extend_from_slice(records);
        self.plain += plain(records);
        self.packed = packed;
    }

    /// The whole run with these records behind it, if it is likely to fit into `room` bytes.
    pub(super) fn with<'a>(
        &'a self,
        records: &'a [Record],
        room: usize,
    ) -> Option<(RecordId, impl Iterator<Item = &'a Record>)> {
        let (first, last) = (self.first()?, records.last()?);
        let is_small = records.len() <= SMALL_COMMIT_RECORDS && self.records.len() + records.len() <= RUN_RECORDS;
        let is_near = last.id.0 - first.0 <= u64::from(u32::MAX);
        let expected = self.packed + plain(records) * self.packed / self.plain.max(1) / PACKS_BETTER;
        (is_small && is_near && expected <= room).then(|| (first, self.records.iter().chain(records)))
    }
}

fn plain(records: &[Record]) -> usize {
    records.iter().map(Record::weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;

    fn records(revisions: std::ops::Range<u64>) -> Vec<Record> {
        let record = |revision| Record {
            id: RecordId::new(Revision(revision), 0),
            key: "k".into(),
            value: Some(vec![0; 99].into()),
            create_revision: Revision(revision),
            version: 1,
            lease: 0,
        };
        revisions.map(record).collect()
    }

    fn fits(tail: &Tail, records: &[Record], room: usize) -> Option<usize> {
        tail.with(records, room).map(|(_, all)| all.count())
    }

    #[test]
    fn only_what_is_small_and_likely_to_fit_is_tried() {
        let mut tail = Tail::default();
        assert_eq!(fits(&tail, &records(2..3), 1000), None, "nothing to go behind");
        tail.begin(&records(2..3), 80);
        assert_eq!(fits(&tail, &records(3..4), 106), Some(2), "a third of 80 more at least");
        assert_eq!(fits(&tail, &records(3..4), 105), None);
        assert_eq!(fits(&tail, &records(3..8), 1000), None, "a large commit");
        tail.grow(&records(3..4), 100);
        assert_eq!(fits(&tail, &records(4..5), 116), Some(3));
        assert_eq!(fits(&tail, &records(9000..9001), 1000), None, "too far for the distances of a run");
        tail.begin(&records(2..64), 100);
        assert_eq!((fits(&tail, &records(64..66), 1000), fits(&tail, &records(64..67), 1000)), (Some(64), None));
        tail.clear();
        assert_eq!(tail.first(), None);
    }
}
