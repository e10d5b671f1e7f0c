//! Evaluation of writes against index and batch: pure, no clock, no I/O.
//!
//! A transaction is decided (all compares, nested ones too), then checked (whatever
//! can fail), then run; after the check nothing can fail, so it applies whole or not.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::gather::gather_over;
use crate::index::Index;
use crate::kv::KeyValue;
use crate::lessor::{LeaseId, Lessor};
use crate::limits::{LEASE_TTL_SECONDS_MAX, LEASE_TTL_SECONDS_MIN};
use crate::overlay::{LeaseEffect, Overlay};
use crate::range::{KeyRange, RangeEnd, RangeRequest, RawRange};
use crate::revision::Revision;
use crate::txn::{
    Compare, CompareResult, CompareTarget, DeleteRequest, DeleteResponse, Op, PutRequest, PutResponse, RawOp, RawTxn,
    Txn,
};

/// "Whatever is newest", above every revision.
const NEWEST: Revision = Revision(u64::MAX);

/// The state a batch is evaluated against.
pub(crate) struct Evaluator<'a> {
    pub(crate) index: &'a Index,
    pub(crate) lessor: &'a Lessor,
    pub(crate) overlay: &'a mut Overlay,
}

/// Which branch runs, and the same for the nested transactions in it, in order.
struct Decision {
    succeeded: bool,
    nested: Vec<Decision>,
}

impl Decision {
    fn branch<'t>(&self, txn: &'t Txn) -> &'t [Op] {
        if self.succeeded { &txn.success } else { &txn.failure }
    }
}

impl Evaluator<'_> {
    /// Evaluates a transaction that passed `Txn::check`.
    pub(crate) fn txn(&mut self, txn: &Txn) -> Result<RawTxn> {
        let decision = self.decide(txn);
        let changes = self.check(txn, &decision)?;
        self.overlay.room_for(changes)?;
        let mut raw = self.run(txn, &decision);
        self.overlay.end();
        raw.revision = self.overlay.revision();
        Ok(raw)
    }

    /// Grants a lease; the caller has chosen the id.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<i64> {
        if ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.lease_exists(id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(LEASE_TTL_SECONDS_MIN);
        self.overlay.leases.insert(id, LeaseEffect::Granted { ttl });
        Ok(ttl)
    }

    /// Starts a lease's time anew.
    pub(crate) fn renew(&mut self, id: LeaseId) -> Result<i64> {
        let ttl = match self.overlay.leases.get(&id) {
            Some(LeaseEffect::Granted { ttl } | LeaseEffect::Renewed { ttl }) => return Ok(*ttl),
            Some(LeaseEffect::Revoked) => None,
            None => self.lessor.ttl(id),
        };
        let ttl = ttl.ok_or(Error::LeaseNotFound)?;
        self.overlay.leases.insert(id, LeaseEffect::Renewed { ttl });
        Ok(ttl)
    }

    /// Ends leases and deletes their keys, all in one revision.
    pub(crate) fn revoke(&mut self, ids: &[LeaseId]) -> Result<()> {
        if !ids.iter().all(|id| self.lease_exists(*id)) {
            return Err(Error::LeaseNotFound);
        }
        for id in ids {
            let mut keys = self.lessor.keys(*id);
            keys.extend(self.overlay.keys().keys().cloned());
            keys.sort();
            keys.dedup();
            let attached: Vec<KeyValue> = keys
                .iter()
                .filter_map(|key| self.overlay.latest(self.index, key))
                .filter(|kv| kv.lease == *id)
                .collect();
            self.overlay.room_for(attached.len())?;
            attached.into_iter().for_each(|kv| self.overlay.delete(kv));
            self.overlay.leases.insert(*id, LeaseEffect::Revoked);
        }
        self.overlay.end();
        Ok(())
    }

    /// Moves the compact revision.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision > self.overlay.revision() {
            return Err(Error::FutureRevision);
        }
        if revision <= self.compacted() {
            return Err(Error::Compacted { compact_revision: self.compacted() });
        }
        self.overlay.compacted = Some(revision);
        Ok(())
    }

    fn lease_exists(&self, id: LeaseId) -> bool {
        match self.overlay.leases.get(&id) {
            Some(LeaseEffect::Granted { .. } | LeaseEffect::Renewed { .. }) => true,
            Some(LeaseEffect::Revoked) => false,
            None => self.lessor.exists(id),
        }
    }

    fn decide(&self, txn: &Txn) -> Decision {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let nested = branch
            .iter()
            .filter_map(|op| match op {
                Op::Txn(txn) => Some(self.decide(txn)),
                _ => None,
            })
            .collect();
        Decision { succeeded, nested }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range.end == RangeEnd::Single {
            return match (self.overlay.latest(self.index, &compare.range.start), &compare.target) {
                (None, CompareTarget::Value(_)) => false,
                (None, _) => compare_holds(compare, &KeyValue::default()),
                (Some(kv), _) => compare_holds(compare, &kv),
            };
        }
        let kvs = self.newest(&compare.range);
        match (kvs.is_empty(), &compare.target) {
            (true, CompareTarget::Value(_)) => false,
            (true, _) => compare_holds(compare, &KeyValue::default()),
            (false, _) => kvs.iter().all(|kv| compare_holds(compare, kv)),
        }
    }

    /// The keys that exist in `range` now, with values.
    fn newest(&self, range: &KeyRange) -> Vec<KeyValue> {
        match range.end {
            RangeEnd::Single => self.overlay.latest(self.index, &range.start).into_iter().collect(),
            _ => {
                let request = RangeRequest::new(range.clone());
                gather_over(self.index, self.overlay, request, NEWEST).kvs
            }
        }
    }

    /// Refuses what the present state does not allow; answers how many keys may change at most.
    fn check(&self, txn: &Txn, decision: &Decision) -> Result<usize> {
        let mut nested = decision.nested.iter();
        let mut changes = 0;
        for op in decision.branch(txn) {
            changes += match op {
                Op::Range(range) => self.check_revision(range.revision).map(|()| 0)?,
                Op::Put(put) => self.check_put(put).map(|()| 1)?,
                Op::Delete(delete) => self.count(&delete.range),
                Op::Txn(txn) => match nested.next() {
                    Some(decision) => self.check(txn, decision)?,
                    None => 0,
                },
            };
        }
        Ok(changes)
    }

    fn count(&self, range: &KeyRange) -> usize {
        if range.end == RangeEnd::Single {
            return 1;
        }
        let request = RangeRequest::new(range.clone()).count_only();
        gather_over(self.index, self.overlay, request, NEWEST).count
    }

    fn check_put(&self, put: &PutRequest) -> Result<()> {
        if put.lease != 0 && !self.lease_exists(put.lease) {
            return Err(Error::LeaseNotFound);
        }
        let needs_key = put.ignore_value || put.ignore_lease;
        if needs_key && self.overlay.latest(self.index, &put.key).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn check_revision(&self, revision: Revision) -> Result<()> {
        check_revision(revision, self.overlay.revision(), self.compacted())
    }

    fn compacted(&self) -> Revision {
        self.overlay.compacted.unwrap_or(self.index.compacted())
    }

    fn run(&mut self, txn: &Txn, decision: &Decision) -> RawTxn {
        let mut nested = decision.nested.iter();
        let mut responses = Vec::new();
        for op in decision.branch(txn) {
            let response = match op {
                Op::Range(range) => RawOp::Range(self.range(range)),
                Op::Put(put) => RawOp::Put(self.put(put)),
                Op::Delete(delete) => RawOp::Delete(self.delete(delete)),
                Op::Txn(txn) => match nested.next() {
                    Some(decision) => RawOp::Txn(self.run(txn, decision)),
                    None => continue,
                },
            };
            responses.push(response);
        }
        let revision = self.overlay.revision_so_far();
        RawTxn { revision, succeeded: decision.succeeded, responses }
    }

    fn range(&self, request: &RangeRequest) -> RawRange {
        let at = if request.revision.0 == 0 { NEWEST } else { request.revision };
        gather_over(self.index, self.overlay, request.clone(), at)
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let prev = self.overlay.latest(self.index, &put.key);
        let (value, lease) = match &prev {
            Some(kv) => (
                if put.ignore_value { kv.value.clone() } else { put.value.clone() },
                if put.ignore_lease { kv.lease } else { put.lease },
            ),
            None => (put.value.clone(), put.lease),
        };
        let prev_kv = if put.prev_kv { prev.clone() } else { None };
        // The key that is already there, or one that keeps no larger buffer alive.
        let key = prev.as_ref().map_or_else(|| Bytes::copy_from_slice(&put.key), |kv| kv.key.clone());
        self.overlay.put(key, value, lease, prev);
        PutResponse { revision: self.overlay.revision_so_far(), prev_kv }
    }

    fn delete(&mut self, delete: &DeleteRequest) -> DeleteResponse {
        let kvs = self.newest(&delete.range);
        let deleted = kvs.len();
        let prev_kvs = if delete.prev_kv { kvs.clone() } else { Vec::new() };
        kvs.into_iter().for_each(|kv| self.overlay.delete(kv));
        DeleteResponse { revision: self.overlay.revision_so_far(), deleted, prev_kvs }
    }
}

/// Refuses revisions that are not there yet or no longer; 0 means the current one.
pub(crate) fn check_revision(revision: Revision, current: Revision, compacted: Revision) -> Result<()> {
    if revision.0 == 0 {
        Ok(())
    } else if revision > current {
        Err(Error::FutureRevision)
    } else if revision < compacted {
        Err(Error::Compacted { compact_revision: compacted })
    } else {
        Ok(())
    }
}

fn compare_holds(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::CreateRevision(revision) => kv.create_revision.as_i64().cmp(revision),
        CompareTarget::ModRevision(revision) => kv.mod_revision.as_i64().cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
        CompareResult::NotEqual => ordering != Ordering::Equal,
    }
}
