//! Where etcd keeps what inside a snapshot.

use bytes::Bytes;
use prost::Message;

use crate::grpc::pb::mvccpb;
use crate::log::{LeaseRow, Record};
use crate::revision::{REVISION_MAX, RecordId, Revision, SUBS_PER_REVISION};

pub(super) const KEY: &str = "key";
pub(super) const META: &str = "meta";
pub(super) const LEASE: &str = "lease";
/// Buckets that etcd expects to find, and that hold nothing of ours.
pub(super) const EMPTY: [&str; 7] =
    ["alarm", "auth", "authRoles", "authUsers", "cluster", "members", "members_removed"];
pub(super) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub(super) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";

/// Bytes of a revision; a tombstone has one more.
const REVISION_BYTES: usize = 17;

/// A lease as etcd stores it.
#[derive(Clone, PartialEq, Message)]
struct StoredLease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

pub(super) fn revision_key(revision: Revision, sub: u64) -> [u8; REVISION_BYTES] {
    let mut key = [b'_'; REVISION_BYTES];
    key[..8].copy_from_slice(&revision.0.to_be_bytes());
    key[9..].copy_from_slice(&sub.to_be_bytes());
    key
}

pub(super) fn record_key(record: &Record) -> Vec<u8> {
    let sub = record.id.0 - RecordId::first_of(record.id.revision()).0;
    let mut key = revision_key(record.id.revision(), sub).to_vec();
    if record.value.is_none() {
        key.push(b't');
    }
    key
}

pub(super) fn record_value(record: &Record) -> Vec<u8> {
    let Some(value) = &record.value else {
        return mvccpb::KeyValue { key: record.key.clone(), ..Default::default() }.encode_to_vec();
    };
    mvccpb::KeyValue {
        key: record.key.clone(),
        create_revision: record.create_revision.as_i64(),
        mod_revision: record.id.revision().as_i64(),
        version: record.version,
        value: value.clone(),
        lease: record.lease,
    }
    .encode_to_vec()
}

/// Revision and sub number of a key, and whether it is a tombstone.
pub(super) fn parse_revision(key: &[u8]) -> Option<(Revision, u64, bool)> {
    let tombstone = match key.get(REVISION_BYTES..)? {
        b"" => false,
        b"t" => true,
        _ => return None,
    };
    let number = |at: usize| Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?));
    let (revision, sub) = (number(0)?, number(9)?);
    let fits = key[8] == b'_' && (1..REVISION_MAX).contains(&revision) && sub < SUBS_PER_REVISION;
    fits.then_some((Revision(revision), sub, tombstone))
}

/// A record from its key and value; `None` if they are not what etcd writes.
pub(super) fn parse_record(key: &[u8], value: &[u8]) -> Option<Record> {
    let (revision, sub, tombstone) = parse_revision(key)?;
    let kv = mvccpb::KeyValue::decode(value).ok().filter(|kv| !kv.key.is_empty())?;
    let id = RecordId::new(revision, sub);
    if tombstone {
        let create_revision = Revision(0);
        return Some(Record { id, key: kv.key, value: None, create_revision, version: 0, lease: 0 });
    }
    let plausible = kv.mod_revision == revision.as_i64() && kv.version > 0 && kv.create_revision > 0;
    plausible.then(|| Record {
        id,
        // The decoder's buffer holds both; neither should keep the other alive.
        key: Bytes::copy_from_slice(&kv.key),
        value: Some(Bytes::copy_from_slice(&kv.value)),
        create_revision: Revision::from_i64(kv.create_revision),
        version: kv.version,
        lease: kv.lease,
    })
}

pub(super) fn lease_key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

pub(super) fn lease_value(row: &LeaseRow, now_unix_ms: i64) -> Vec<u8> {
    let left = row.deadline_unix_ms.saturating_sub(now_unix_ms).max(0);
    // Zero would mean "not known": the whole TTL.
    let remaining_ttl = (left / 1000).max(1);
    StoredLease { id: row.id, ttl: row.ttl, remaining_ttl }.encode_to_vec()
}

pub(super) fn parse_lease(value: &[u8], now_unix_ms: i64) -> Option<LeaseRow> {
    let lease = StoredLease::decode(value).ok().filter(|lease| lease.id != 0 && lease.ttl > 0)?;
    let left = if lease.remaining_ttl > 0 { lease.remaining_ttl } else { lease.ttl };
    let deadline_unix_ms = now_unix_ms.saturating_add(left.saturating_mul(1000));
    Some(LeaseRow { id: lease.id, ttl: lease.ttl, deadline_unix_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Record {
        Record {
            id: RecordId::new(Revision(77), 5),
            key: "k".into(),
            value: Some("v".into()),
            create_revision: Revision(70),
            version: 3,
            lease: -9,
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let put = put();
        assert_eq!(parse_record(&record_key(&put), &record_value(&put)), Some(put.clone()));
        let deletion = Record { value: None, create_revision: Revision(0), version: 0, lease: 0, ..put };
        assert_eq!(record_key(&deletion).last(), Some(&b't'));
        assert_eq!(parse_record(&record_key(&deletion), &record_value(&deletion)), Some(deletion));
    }

    #[test]
    fn records_that_contradict_themselves_are_refused() {
        let value = record_value(&put());
        assert!(parse_record(&revision_key(Revision(78), 5), &value).is_none(), "another revision");
        assert!(parse_record(&revision_key(Revision(77), SUBS_PER_REVISION), &value).is_none(), "sub out of range");
        assert!(parse_record(b"77", &value).is_none());
        assert!(parse_record(&record_key(&put()), b"\xff\xff").is_none());
    }

    #[test]
    fn a_lease_keeps_what_is_left_of_it() {
        let row = LeaseRow { id: 4, ttl: 60, deadline_unix_ms: 31_000 };
        let restored = parse_lease(&lease_value(&row, 1_000), 500_000).unwrap();
        assert_eq!(restored, LeaseRow { deadline_unix_ms: 530_000, ..row });
    }
}
