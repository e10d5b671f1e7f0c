//! Transactions: guarded lists of operations, and the checks that need no state.

use std::collections::HashSet;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::kv::KeyValue;
use crate::limits::{REQUEST_BYTES_MAX, TXN_DEPTH_MAX, TXN_OPS_MAX};
use crate::range::{KeyRange, RangeRequest, RangeResponse, RawRange};
use crate::revision::Revision;

/// How a compare relates the stored to the given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a compare looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    /// Never true for a key that does not exist.
    Value(Bytes),
    Lease(i64),
}

/// One guard; over a range it must hold for every key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

impl Compare {
    /// The key was last changed at `revision`; 0 means it does not exist.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Compare {
        Compare {
            range: KeyRange::key(key),
            result: CompareResult::Equal,
            target: CompareTarget::ModRevision(revision.as_i64()),
        }
    }
}

/// Writes one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: i64,
    pub prev_kv: bool,
    /// Keep the present value; the key must exist.
    pub ignore_value: bool,
    /// Keep the present lease; the key must exist.
    pub ignore_lease: bool,
}

impl PutRequest {
    /// A plain put.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
    }
}

/// Deletes a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRequest {
    pub range: KeyRange,
    pub prev_kv: bool,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRequest),
    Txn(Txn),
}

/// If all compares hold, `success`, else `failure`: applied whole, at one revision.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction without operations.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a guard.
    pub fn when(mut self, compare: Compare) -> Txn {
        self.compares.push(compare);
        self
    }

    /// Adds an operation for the case that all guards hold.
    pub fn then(mut self, op: Op) -> Txn {
        self.success.push(op);
        self
    }

    /// Adds an operation for the case that some guard does not hold.
    pub fn otherwise(mut self, op: Op) -> Txn {
        self.failure.push(op);
        self
    }

    /// True if neither branch can change anything.
    pub(crate) fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Txn(txn) => txn.is_read_only(),
            Op::Put(_) | Op::Delete(_) => false,
        })
    }

    /// Bytes of keys and values, for the bounds of queue and request.
    pub(crate) fn weight(&self) -> usize {
        let compares: usize = self
            .compares
            .iter()
            .map(|c| match &c.target {
                CompareTarget::Value(value) => value.len() + c.range.start.len(),
                _ => c.range.start.len(),
            })
            .sum();
        let ops: usize = self.success.iter().chain(&self.failure).map(Op::weight).sum();
        compares + ops
    }

    /// Refuses what no state could make valid.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_level(0)?;
        check_overlaps(&self.success)?;
        check_overlaps(&self.failure)?;
        if self.weight() > REQUEST_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        Ok(())
    }

    fn check_level(&self, depth: usize) -> Result<()> {
        let ops_max = self.compares.len().max(self.success.len()).max(self.failure.len());
        if ops_max > TXN_OPS_MAX || depth >= TXN_DEPTH_MAX {
            return Err(Error::TooManyOps);
        }
        if self.compares.iter().any(|compare| compare.range.start.is_empty()) {
            return Err(Error::EmptyKey);
        }
        self.success.iter().chain(&self.failure).try_for_each(|op| match op {
            Op::Range(range) => non_empty(&range.range.start),
            Op::Delete(delete) => non_empty(&delete.range.start),
            Op::Put(put) => put.check(),
            Op::Txn(txn) => txn.check_level(depth + 1),
        })
    }
}

impl Txn {
    /// True if either branch may add data.
    pub(crate) fn puts(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put(_) => true,
            Op::Txn(txn) => txn.puts(),
            Op::Range(_) | Op::Delete(_) => false,
        })
    }
}

impl PutRequest {
    pub(crate) fn check(&self) -> Result<()> {
        non_empty(&self.key)?;
        if self.ignore_value && !self.value.is_empty() {
            return Err(Error::ValueProvided);
        }
        if self.ignore_lease && self.lease != 0 {
            return Err(Error::LeaseProvided);
        }
        Ok(())
    }
}

impl Op {
    fn weight(&self) -> usize {
        match self {
            Op::Range(range) => range.range.start.len(),
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::Delete(delete) => delete.range.start.len(),
            Op::Txn(txn) => txn.weight(),
        }
    }
}

fn non_empty(key: &Bytes) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Keys a branch writes and ranges it deletes.
type Touched<'a> = (HashSet<&'a Bytes>, Vec<&'a KeyRange>);

/// A key may be put once, and not put and deleted, in one execution of a transaction.
/// The two branches of a nested transaction exclude each other and may overlap.
fn check_overlaps(ops: &[Op]) -> Result<Touched<'_>> {
    let mut puts: HashSet<&Bytes> = HashSet::new();
    let mut deletes: Vec<&KeyRange> = Vec::new();
    for op in ops {
        if let Op::Delete(delete) = op {
            deletes.push(&delete.range);
        }
    }
    let deleted = |key: &Bytes, deletes: &[&KeyRange]| deletes.iter().any(|d| d.contains(key));
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then_puts, then_deletes) = check_overlaps(&txn.success)?;
        let (else_puts, else_deletes) = check_overlaps(&txn.failure)?;
        let union: HashSet<&Bytes> = then_puts.union(&else_puts).copied().collect();
        if union.iter().any(|key| puts.contains(*key) || deleted(key, &deletes)) {
            return Err(Error::DuplicateKey);
        }
        puts.extend(union);
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if deleted(&put.key, &deletes) || !puts.insert(&put.key) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// The answer to a put.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutResponse {
    pub revision: Revision,
    pub prev_kv: Option<KeyValue>,
}

/// The answer to a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteResponse {
    pub revision: Revision,
    pub deleted: usize,
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResponse {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteResponse),
    Txn(TxnResponse),
}

/// The answer to a transaction; `responses` are those of the branch that ran.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnResponse {
    /// The store's revision after the transaction.
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpResponse>,
}

/// An operation's answer before superseded values are read from the log.
#[derive(Debug, Clone)]
pub(crate) enum RawOp {
    Range(RawRange),
    Put(PutResponse),
    Delete(DeleteResponse),
    Txn(RawTxn),
}

/// A transaction's answer before superseded values are read from the log.
#[derive(Debug, Clone)]
pub(crate) struct RawTxn {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) responses: Vec<RawOp>,
}

impl RawTxn {
    /// Every range inside, to fill in what is missing.
    pub(crate) fn ranges_mut(&mut self) -> Vec<&mut RawRange> {
        let mut ranges = Vec::new();
        for response in &mut self.responses {
            match response {
                RawOp::Range(range) => ranges.push(range),
                RawOp::Txn(txn) => ranges.extend(txn.ranges_mut()),
                RawOp::Put(_) | RawOp::Delete(_) => {}
            }
        }
        ranges
    }

    pub(crate) fn finish(self) -> TxnResponse {
        let responses = self
            .responses
            .into_iter()
            .map(|response| match response {
                RawOp::Range(range) => OpResponse::Range(range.finish()),
                RawOp::Put(put) => OpResponse::Put(put),
                RawOp::Delete(delete) => OpResponse::Delete(delete),
                RawOp::Txn(txn) => OpResponse::Txn(txn.finish()),
            })
            .collect();
        TxnResponse { revision: self.revision, succeeded: self.succeeded, responses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Op {
        Op::Put(PutRequest::new(key, ""))
    }

    fn delete(range: KeyRange) -> Op {
        Op::Delete(DeleteRequest { range, prev_kv: false })
    }

    fn refused(txn: Txn) -> bool {
        matches!(txn.check(), Err(Error::DuplicateKey))
    }

    #[test]
    fn a_key_is_put_once_per_branch() {
        assert!(refused(Txn::new().then(put("a")).then(put("a"))));
        assert!(!refused(Txn::new().then(put("a")).otherwise(put("a"))));
    }

    #[test]
    fn a_put_does_not_overlap_a_deletion() {
        assert!(refused(Txn::new().then(put("ab")).then(delete(KeyRange::prefix("a")))));
        assert!(!refused(Txn::new().then(put("b")).then(delete(KeyRange::prefix("a")))));
        let nested = Txn::new().then(put("ab"));
        assert!(refused(Txn::new().then(Op::Txn(nested)).then(delete(KeyRange::prefix("a")))));
    }

    #[test]
    fn branches_of_a_nested_transaction_may_overlap() {
        let nested = Txn::new().then(put("a")).otherwise(put("a"));
        assert!(!refused(Txn::new().then(Op::Txn(nested.clone()))));
        assert!(refused(Txn::new().then(Op::Txn(nested)).then(put("a"))));
    }

    #[test]
    fn contradictory_puts_are_refused() {
        let with_value = PutRequest { ignore_value: true, ..PutRequest::new("a", "x") };
        assert!(matches!(with_value.check(), Err(Error::ValueProvided)));
        let with_lease = PutRequest { ignore_lease: true, lease: 1, ..PutRequest::new("a", "") };
        assert!(matches!(with_lease.check(), Err(Error::LeaseProvided)));
        assert!(matches!(PutRequest::new("", "x").check(), Err(Error::EmptyKey)));
    }
}
