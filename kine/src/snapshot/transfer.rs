//! From a snapshot into a datastore that is no file: a database, or an etcd.
//!
//! A database takes history as it is, in one transaction. An etcd numbers revisions itself, so it gets the
//! present keys only, in the order of their last change. Both are compared with the snapshot afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::archive::{Archive, ArchiveError};
use super::{SnapshotSummary, archive::damage};
use crate::bolt::BoltError;
use crate::etcd::Etcd;
use crate::hash::{Crc32c, HistoryHash};
use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX, TXN_OPS_MAX};
use crate::log::{LeaseChange, LeaseRow, LogError, Record};
use crate::range::{KeyRange, RangeRequest};
use crate::revision::Revision;
use crate::sql::{Database, Fill};
use crate::store::{Store, StoreOptions, random_id};
use crate::txn::{DeleteRequest, Op, PutRequest, Txn};
use crate::writer::unix_now_ms;

/// Bytes of one transaction to an etcd, below what it takes.
const ETCD_TXN_BYTES: usize = 512 << 10;
/// Keys of one page when an etcd is read back.
const ETCD_PAGE_KEYS: usize = 1000;

/// Told how many records or keys are done.
pub type OnProgress<'a> = &'a mut (dyn FnMut(u64) + Send);

/// The present keys of a snapshot.
struct Present {
    /// In the order of their last change.
    keys: Vec<PutRequest>,
    leases: Vec<LeaseRow>,
}

impl Archive {
    /// The hash of its history, which [`Store::hash`] of a store restored from it must be.
    pub fn hash(&self) -> Result<HistoryHash, ArchiveError> {
        let mut crc = Crc32c::new();
        let summary = self.visit(
            &mut |record| {
                crc.record(&record);
                Ok(())
            },
            &mut |_| Ok(()),
        )?;
        Ok(HistoryHash { hash: crc.finish(), revision: summary.revision, compact_revision: summary.compact_revision })
    }

    /// Restores into a database, and compares. `replace` moves the tables of an existing datastore
    /// aside and answers the end of their new names. Servers that use it must be stopped.
    pub async fn restore_database(
        self: Arc<Self>,
        database: &Database,
        replace: bool,
        mut progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<(SnapshotSummary, Option<String>), ArchiveError> {
        let (archive, target) = (self.clone(), database.clone());
        let filled = tokio::task::spawn_blocking(move || archive.fill_database(&target, replace, &mut progress));
        let filled = filled.await.map_err(|error| transfer(database, error))??;
        let expected = self.hash()?;
        let store = Store::open(StoreOptions::database(database.clone())).await?;
        let found = store.hash(Revision(0)).await;
        store.close().await?;
        let found = found?;
        if found != expected {
            let detail = format!("it holds {found:?} and not {expected:?}");
            return Err(transfer(database, detail));
        }
        Ok(filled)
    }

    fn fill_database(
        &self,
        database: &Database,
        replace: bool,
        progress: OnProgress<'_>,
    ) -> Result<(SnapshotSummary, Option<String>), ArchiveError> {
        let failed = |error: LogError| transfer(database, error);
        let mut fill = Fill::begin(database, replace, (random_id(), random_id()))?;
        let mut page: Vec<Record> = Vec::new();
        let (mut weight, mut done) = (0, 0);
        let mut leases = Vec::new();
        let mut trouble = None;
        let visited = self.visit(
            &mut |record| {
                weight += record.weight();
                page.push(record);
                if page.len() >= BATCH_REQUESTS_MAX || weight >= BATCH_BYTES_MAX {
                    weight = 0;
                    done += page.len() as u64;
                    if let Err(error) = fill.records(&std::mem::take(&mut page)) {
                        trouble = Some(error);
                        return Err(BoltError::Damaged("writing stopped".into()));
                    }
                    progress(done);
                }
                Ok(())
            },
            &mut |lease| {
                leases.push(lease);
                Ok(())
            },
        );
        if let Some(error) = trouble {
            return Err(failed(error));
        }
        let summary = visited?;
        fill.records(&page).map_err(failed)?;
        progress(summary.records);
        let aside = fill.finish(summary.revision, summary.compact_revision, &leases).map_err(failed)?;
        Ok((summary, aside))
    }

    /// Puts the present keys into an etcd, and compares. `replace` deletes what is there first.
    pub async fn restore_etcd(
        &self,
        etcd: &Etcd,
        replace: bool,
        progress: OnProgress<'_>,
    ) -> Result<SnapshotSummary, ArchiveError> {
        let all = || RangeRequest::new(KeyRange::all());
        if etcd.range(all().count_only()).await?.count > 0 {
            if !replace {
                return Err(ArchiveError::NotEmpty { endpoint: etcd.to_string() });
            }
            let delete = DeleteRequest { range: KeyRange::all(), prev_kv: false };
            etcd.txn(Txn::new().then(Op::Delete(delete))).await?;
        }
        let (summary, present) = self.present()?;
        let now_ms = unix_now_ms();
        for lease in &present.leases {
            let left = (lease.deadline_unix_ms - now_ms).div_euclid(1000).max(1);
            match etcd.lease_grant(lease.id, left).await {
                // Left over from an earlier attempt.
                Ok(_) | Err(crate::Error::LeaseExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let expected = present.checksum();
        let mut done = 0;
        let mut txn = (Txn::new(), 0);
        for put in present.keys {
            let weight = put.key.len() + put.value.len();
            if txn.0.success.len() >= TXN_OPS_MAX || (txn.1 > 0 && txn.1 + weight > ETCD_TXN_BYTES) {
                done += txn.0.success.len() as u64;
                etcd.txn(std::mem::take(&mut txn).0).await?;
                progress(done);
            }
            txn = (txn.0.then(Op::Put(put)), txn.1 + weight);
        }
        if !txn.0.success.is_empty() {
            etcd.txn(txn.0).await?;
        }
        progress(summary.keys);
        let found = read_back(etcd).await?;
        if found != expected {
            return Err(transfer(etcd, format!("it holds {found:?} (keys, hash) and not {expected:?}")));
        }
        Ok(summary)
    }

    fn present(&self) -> Result<(SnapshotSummary, Present), ArchiveError> {
        let mut keys: BTreeMap<Bytes, Record> = BTreeMap::new();
        let mut leases = Vec::new();
        let summary = self.visit(
            &mut |record| {
                match record.value {
                    Some(_) => keys.insert(record.key.clone(), record),
                    None => keys.remove(&record.key),
                };
                Ok(())
            },
            &mut |lease| {
                if let LeaseChange::Put(row) = lease {
                    leases.push(row);
                }
                Ok(())
            },
        )?;
        let mut records: Vec<Record> = keys.into_values().collect();
        records.sort_by_key(|record| record.id);
        let known = |id: i64| leases.iter().any(|row: &LeaseRow| row.id == id);
        if let Some(stray) = records.iter().find(|record| record.lease != 0 && !known(record.lease)) {
            let detail = format!("lease {} of key {:?} is missing", stray.lease, stray.key);
            return Err(damage(self.path(), BoltError::Damaged(detail)));
        }
        let put = |record: Record| PutRequest {
            lease: record.lease,
            ..PutRequest::new(record.key, record.value.unwrap_or_default())
        };
        Ok((summary, Present { keys: records.into_iter().map(put).collect(), leases }))
    }
}

impl Present {
    /// Number of keys, and a hash over keys and values in the order of keys.
    fn checksum(&self) -> (u64, u32) {
        let mut sorted: Vec<&PutRequest> = self.keys.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut crc = Crc32c::new();
        sorted.iter().for_each(|put| crc.pair(&put.key, &put.value));
        (sorted.len() as u64, crc.finish())
    }
}

/// As [`Present::checksum`], of an etcd at one revision.
async fn read_back(etcd: &Etcd) -> Result<(u64, u32), ArchiveError> {
    let mut crc = Crc32c::new();
    let (mut count, mut at, mut from) = (0, Revision(0), Bytes::from_static(b"\0"));
    loop {
        let request = RangeRequest::new(KeyRange::from(from)).limit(ETCD_PAGE_KEYS).at(at);
        let page = etcd.range(request).await?;
        if at.0 == 0 {
            at = page.revision;
        }
        count += page.kvs.len() as u64;
        page.kvs.iter().for_each(|kv| crc.pair(&kv.key, &kv.value));
        match page.kvs.last() {
            Some(last) if page.more => from = Bytes::from([&last.key[..], b"\0"].concat()),
            _ => return Ok((count, crc.finish())),
        }
    }
}

fn transfer(target: &impl std::fmt::Display, detail: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Transfer { endpoint: target.to_string(), detail: detail.to_string() }
}
