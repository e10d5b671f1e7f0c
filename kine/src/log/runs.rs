//! Which runs there are, and which of their records compaction has given up.
//!
//! A record that compaction gives up is only marked, in memory; its run is written anew when half of it
//! is given up, and deleted when all of it is. So deleting costs at most as much again as
//! writing did. The marks need not be stored: at the next start the same records are found to be garbage.
//!
//! That is so only as long as a deletion outlives what it deleted: a tombstone leaves the
//! disk after every earlier version of its key. Keys are known here by a hash; two keys with the same one
//! only make a tombstone stay longer.
//!
//! Pure: [`Runs::plan`] says what to write, [`Runs::done`] takes note that it was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::Record;
use crate::revision::RecordId;

/// One record of a run: its distance from the run's first id, and the hash of its key.
type Place = (u32, u32);

#[derive(Debug)]
struct Run {
    places: Box<[Place]>,
    /// A bit for each place.
    tombstones: u64,
    given_up: u64,
}

/// What is to become of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) first: RecordId,
    /// Places that go; all of them if the run goes whole.
    drop: u64,
    pub(crate) whole: bool,
    /// It saves more than it costs.
    pays: bool,
}

impl Change {
    /// True if the record at this place stays.
    pub(crate) fn keeps(&self, place: usize) -> bool {
        self.drop & 1 << place == 0
    }
}

/// What a set of records given up amounts to.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    marks: BTreeMap<RecordId, u64>,
    pub(crate) changes: Vec<Change>,
}

/// All runs of a log.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: BTreeMap<RecordId, Run>,
    /// Runs with records that are given up.
    partly: BTreeSet<RecordId>,
    /// How many records are given up and still stored, tombstones left out, by key.
    stored: HashMap<u32, u32>,
    /// Runs with tombstones that wait for those.
    waiting: HashMap<u32, BTreeSet<RecordId>>,
    /// Runs to look at again.
    again: BTreeSet<RecordId>,
    hasher: RandomState,
}

impl Runs {
    /// Takes in a run that is stored.
    pub(crate) fn add(&mut self, first: RecordId, records: &[Record]) {
        let tombstones = bits(records.iter().map(|record| record.value.is_none()));
        let run =
            Run { places: records.iter().map(|record| self.place(first, record)).collect(), tombstones, given_up: 0 };
        self.runs.insert(first, run);
    }

    /// Takes in records that were written behind those of the last run, into the same row.
    pub(crate) fn extend_last(&mut self, records: &[Record]) {
        let Some((first, mut run)) = self.runs.pop_last() else { return };
        let mut places = std::mem::take(&mut run.places).into_vec();
        for record in records {
            run.tombstones |= u64::from(record.value.is_none()) << places.len();
            places.push(self.place(first, record));
        }
        run.places = places.into_boxed_slice();
        self.runs.insert(first, run);
    }

    fn place(&self, first: RecordId, record: &Record) -> Place {
        ((record.id.0 - first.0) as u32, self.hasher.hash_one(&record.key[..]) as u32)
    }

    /// What has to be written when these records are given up; those that are not stored do not matter.
    pub(crate) fn plan(&self, ids: &[RecordId]) -> Plan {
        let mut marks: BTreeMap<RecordId, u64> = BTreeMap::new();
        for id in ids {
            if let Some((first, place)) = self.find(*id) {
                *marks.entry(first).or_default() |= 1 << place;
            }
        }
        let mut pending: HashMap<u32, u32> = HashMap::new();
        for (first, mark) in &marks {
            let run = &self.runs[first];
            for (_, hash) in run.chosen(mark & !run.given_up & !run.tombstones) {
                *pending.entry(hash).or_default() += 1;
            }
        }
        let looked_at: BTreeSet<RecordId> = marks.keys().chain(&self.again).copied().collect();
        let change = |first: &RecordId| {
            let mark = marks.get(first).copied().unwrap_or(0);
            self.change(*first, mark, &pending).filter(|change| change.pays)
        };
        let changes = looked_at.iter().filter_map(change).collect();
        Plan { marks, changes }
    }

    /// What has to be written so that up to `count` runs hold nothing that was given up.
    pub(crate) fn plan_clean(&self, count: usize) -> Plan {
        let none = HashMap::new();
        let changes = self.partly.iter().filter_map(|first| self.change(*first, 0, &none)).take(count).collect();
        Plan { marks: BTreeMap::new(), changes }
    }

    /// The first id of the last run.
    pub(crate) fn last_first(&self) -> Option<RecordId> {
        self.runs.last_key_value().map(|(first, _)| *first)
    }

    /// The last record.
    pub(crate) fn last_id(&self) -> Option<RecordId> {
        let (first, run) = self.runs.last_key_value()?;
        run.places.last().map(|(distance, _)| RecordId(first.0 + u64::from(*distance)))
    }

    /// True if runs wait to be looked at again.
    pub(crate) fn has_work(&self) -> bool {
        !self.again.is_empty()
    }

    /// Takes note that a plan was carried out, whole.
    pub(crate) fn done(&mut self, plan: &Plan) {
        self.again.clear();
        for (first, mark) in &plan.marks {
            let Some(run) = self.runs.get_mut(first) else { continue };
            let news = mark & !run.given_up;
            run.given_up |= news;
            for (_, hash) in run.chosen(news & !run.tombstones) {
                *self.stored.entry(hash).or_default() += 1;
            }
            for (_, hash) in run.chosen(news & run.tombstones) {
                self.waiting.entry(hash).or_default().insert(*first);
            }
            self.partly.insert(*first);
        }
        for change in &plan.changes {
            self.take_out(change);
        }
    }

    fn take_out(&mut self, change: &Change) {
        let Some(mut run) = self.runs.remove(&change.first) else { return };
        for (_, hash) in run.chosen(change.drop & run.tombstones) {
            if let Some(firsts) = self.waiting.get_mut(&hash) {
                firsts.remove(&change.first);
                if firsts.is_empty() {
                    self.waiting.remove(&hash);
                }
            }
        }
        for (_, hash) in run.chosen(change.drop & !run.tombstones) {
            if let Some(count) = self.stored.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    self.stored.remove(&hash);
                    self.again.extend(self.waiting.get(&hash).into_iter().flatten());
                }
            }
        }
        self.partly.remove(&change.first);
        if change.whole {
            self.again.remove(&change.first);
            return;
        }
        let kept = |flags: u64| bits((0..run.places.len()).filter(|p| change.keeps(*p)).map(|p| flags & 1 << p != 0));
        (run.tombstones, run.given_up) = (kept(run.tombstones), kept(run.given_up));
        run.places =
            (0..run.places.len()).filter(|place| change.keeps(*place)).map(|place| run.places[place]).collect();
        if run.given_up != 0 {
            self.partly.insert(change.first);
        }
        self.runs.insert(change.first, run);
    }

    fn find(&self, id: RecordId) -> Option<(RecordId, usize)> {
        let (first, run) = self.runs.range(..=id).next_back()?;
        let distance = u32::try_from(id.0 - first.0).ok()?;
        let place = run.places.binary_search_by_key(&distance, |place| place.0).ok()?;
        Some((*first, place))
    }

    /// What can go from one run, if anything, once it has these marks too. `pending` counts, by key,
    /// the versions that are given up with them, here and elsewhere.
    fn change(&self, first: RecordId, marks: u64, pending: &HashMap<u32, u32>) -> Option<Change> {
        let run = self.runs.get(&first)?;
        let given_up = run.given_up | marks;
        let puts = given_up & !run.tombstones;
        let mut drop = puts;
        for place in (0..run.places.len()).filter(|place| given_up & run.tombstones & 1 << place != 0) {
            let hash = run.places[place].1;
            let count = |counts: &HashMap<u32, u32>| counts.get(&hash).map_or(0, |count| *count as usize);
            // What goes together with this tombstone does not hold it.
            let here = run.chosen(puts).filter(|(_, other)| *other == hash).count();
            if count(&self.stored) + count(pending) == here {
                drop |= 1 << place;
            }
        }
        let count = |flags: u64| flags.count_ones() as usize;
        let places = run.places.len();
        // A run with nothing but what is given up must not keep others waiting.
        let pays = count(drop) * 2 >= places || count(given_up) == places;
        (drop != 0).then_some(Change { first, drop, whole: count(drop) == places, pays })
    }
}

impl Run {
    fn chosen(&self, chosen: u64) -> impl Iterator<Item = Place> {
        self.places.iter().enumerate().filter(move |(place, _)| chosen & 1 << place != 0).map(|(_, place)| *place)
    }
}

fn bits(flags: impl Iterator<Item = bool>) -> u64 {
    flags.enumerate().fold(0, |bits, (place, flag)| bits | u64::from(flag) << place)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::revision::Revision;

    fn id(revision: u64) -> RecordId {
        RecordId::new(Revision(revision), 0)
    }

    /// A put, or a deletion if the key begins with a minus.
    fn record(revision: u64, key: &'static str) -> Record {
        let (key, value) = match key.strip_prefix('-') {
            Some(key) => (key, None),
            None => (key, Some(Bytes::new())),
        };
        let (create_revision, version) = (Revision(revision), 1);
        Record { id: id(revision), key: Bytes::from_static(key.as_bytes()), value, create_revision, version, lease: 0 }
    }

    /// Runs of these keys, revision after revision from 2 on.
    fn runs(keys: &[&[&'static str]]) -> Runs {
        let mut runs = Runs::default();
        let mut revision = 2;
        for run in keys {
            let first = id(revision);
            let records: Vec<_> = run.iter().zip(revision..).map(|(key, revision)| record(revision, key)).collect();
            revision += run.len() as u64;
            runs.add(first, &records);
        }
        runs
    }

    /// Gives up these revisions; answers which runs are written (with what stays) or deleted (with nothing).
    fn give_up(runs: &mut Runs, revisions: &[u64]) -> Vec<(u64, Vec<usize>)> {
        let ids: Vec<_> = revisions.iter().map(|revision| id(*revision)).collect();
        let plan = runs.plan(&ids);
        let written = plan.changes.iter().map(|change| {
            let places = runs.runs[&change.first].places.len();
            (change.first.revision().0, (0..places).filter(|place| change.keeps(*place)).collect())
        });
        let written = written.collect();
        runs.done(&plan);
        written
    }

    #[test]
    fn a_run_is_written_anew_when_half_of_it_is_given_up() {
        let mut runs = runs(&[&["a", "b", "c", "d"], &["e"]]);
        assert_eq!(give_up(&mut runs, &[2]), []);
        assert_eq!(give_up(&mut runs, &[4]), [(2, vec![1, 3])]);
        assert_eq!(give_up(&mut runs, &[5]), [(2, vec![0])]);
        assert_eq!(give_up(&mut runs, &[3, 6]), [(2, vec![]), (6, vec![])]);
        assert!(runs.runs.is_empty() && runs.partly.is_empty() && runs.stored.is_empty());
    }

    #[test]
    fn what_is_given_up_stays_so_when_the_last_run_grows() {
        let mut runs = runs(&[&["a", "b"]]);
        runs.extend_last(&[record(4, "c"), record(5, "-b"), record(6, "d"), record(7, "e")]);
        assert_eq!(runs.last_id(), Some(id(7)));
        assert_eq!(give_up(&mut runs, &[2]), []);
        runs.extend_last(&[record(8, "f")]);
        assert_eq!(give_up(&mut runs, &[3, 5, 6]), [(2, vec![2, 5, 6])]);
    }

    #[test]
    fn a_tombstone_waits_until_what_it_deleted_has_left_the_disk() {
        let mut runs = runs(&[&["a", "b", "c"], &["-a"]]);
        assert_eq!(give_up(&mut runs, &[2]), []);
        assert_eq!(give_up(&mut runs, &[5]), [], "a is still stored");
        assert_eq!(give_up(&mut runs, &[3]), [(2, vec![2])]);
        assert!(runs.has_work());
        assert_eq!(give_up(&mut runs, &[]), [(5, vec![])]);
        assert!(!runs.has_work() && runs.waiting.is_empty() && runs.stored.is_empty() && runs.partly.is_empty());
    }

    #[test]
    fn given_up_together_the_versions_go_first() {
        let mut runs = runs(&[&["a"], &["-a"], &["x", "y", "z"]]);
        assert_eq!(give_up(&mut runs, &[2, 3]), [(2, vec![])]);
        assert_eq!(give_up(&mut runs, &[]), [(3, vec![])]);
        let mut together = self::runs(&[&["a", "-a"]]);
        assert_eq!(give_up(&mut together, &[2, 3]), [(2, vec![])]);
    }

    #[test]
    fn a_clean_up_leaves_nothing_that_was_given_up() {
        let mut runs = runs(&[&["a", "b", "c", "d"], &["-a", "e", "f"]]);
        assert_eq!(give_up(&mut runs, &[2, 6]), []);
        for expected in [vec![id(2)], vec![id(6)], vec![]] {
            let plan = runs.plan_clean(1);
            assert_eq!(plan.changes.iter().map(|change| change.first).collect::<Vec<_>>(), expected);
            runs.done(&plan);
        }
        assert!(runs.partly.is_empty());
    }

    #[test]
    fn in_any_order_no_key_comes_back() {
        // Keys that are put and deleted again and again, in runs of all sizes; whatever is on the disk, a key
        // whose last tombstone has gone has no version left.
        let mut next = crate::test_random::numbers();
        const KEYS: [(&str, &str); 4] = [("a", "-a"), ("b", "-b"), ("c", "-c"), ("d", "-d")];
        for _ in 0..200 {
            let mut runs = Runs::default();
            let mut stored: BTreeMap<RecordId, (usize, bool)> = BTreeMap::new();
            let mut revision = 2;
            for _ in 0..30 {
                let first = id(revision);
                let mut run = Vec::new();
                for _ in 0..=next(6) {
                    let (key, dead) = (next(4), next(3) == 0);
                    run.push(record(revision, if dead { KEYS[key].1 } else { KEYS[key].0 }));
                    stored.insert(id(revision), (key, dead));
                    revision += 1;
                }
                runs.add(first, &run);
            }
            // Every key ends deleted, so that everything may go, in an order like compaction's.
            let last: Vec<_> = KEYS.iter().zip(revision..).map(|(key, revision)| record(revision, key.1)).collect();
            stored.extend(last.iter().enumerate().map(|(key, record)| (record.id, (key, true))));
            runs.add(last[0].id, &last);
            let mut left: Vec<RecordId> = stored.keys().copied().collect();
            while !left.is_empty() || runs.has_work() {
                let count = (1 + next(9)).min(left.len());
                let ids: Vec<RecordId> = left.drain(..count).collect();
                let plan = runs.plan(&ids);
                for change in &plan.changes {
                    let run = &runs.runs[&change.first];
                    for (place, (distance, _)) in run.places.iter().enumerate() {
                        if !change.keeps(place) {
                            stored.remove(&RecordId(change.first.0 + u64::from(*distance)));
                        }
                    }
                }
                runs.done(&plan);
                for key in 0..KEYS.len() {
                    let newest = stored.iter().rev().find(|(_, (other, _))| *other == key);
                    let given_up = |id: &RecordId| !left.contains(id);
                    // What is found first at a restart decides: it must not be a version given up by a deletion.
                    if let Some((id, (_, dead))) = newest {
                        assert!(*dead || !given_up(id), "{id:?} came back");
                    }
                }
            }
            assert!(stored.is_empty() && runs.runs.is_empty() && runs.stored.is_empty() && runs.waiting.is_empty());
        }
    }
}
