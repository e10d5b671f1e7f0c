//! What the battery asks of an implementation.

use async_trait::async_trait;
use bytes::Bytes;
use skiff_kine::{
    DeleteRequest, DeleteResponse, Event, KeyRange, KeyValue, LeaseId, LeaseTtl, Op, OpResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, Revision, Txn, TxnResponse, WatchRequest,
};

/// Errors are compared by message, as clients do.
pub type Result<T> = std::result::Result<T, String>;

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub compact_revision: Revision,
}

/// A running watch.
#[async_trait]
pub trait Watching: Send {
    /// The next delivery.
    async fn next(&mut self) -> std::result::Result<Vec<Event>, Ended>;
}

/// A store under test.
#[async_trait]
pub trait Target: Send + Sync {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse>;
    async fn txn(&self, txn: Txn) -> Result<TxnResponse>;
    async fn compact(&self, revision: Revision) -> Result<()>;
    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)>;
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64>;
    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseTtl>;
    async fn leases(&self) -> Result<Vec<LeaseId>>;
    async fn watch(&self, request: WatchRequest) -> Result<Box<dyn Watching>>;

    /// False for an etcd that drops a tombstone at the compact revision.
    fn keeps_tombstones(&self) -> bool {
        true
    }

    async fn put_request(&self, put: PutRequest) -> Result<PutResponse> {
        match self.txn(Txn::new().then(Op::Put(put))).await?.responses.remove(0) {
            OpResponse::Put(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    async fn delete_request(&self, delete: DeleteRequest) -> Result<DeleteResponse> {
        match self.txn(Txn::new().then(Op::Delete(delete))).await?.responses.remove(0) {
            OpResponse::Delete(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        let put = PutRequest::new(bytes(key), bytes(value));
        self.txn(Txn::new().then(Op::Put(put))).await.unwrap().revision
    }

    async fn delete(&self, key: &str) -> Revision {
        let delete = DeleteRequest { range: KeyRange::key(bytes(key)), prev_kv: false };
        self.txn(Txn::new().then(Op::Delete(delete))).await.unwrap().revision
    }

    async fn get(&self, key: &str) -> Option<KeyValue> {
        let request = RangeRequest::new(KeyRange::key(bytes(key)));
        self.range(request).await.unwrap().kvs.pop()
    }

    async fn revision(&self) -> Revision {
        let request = RangeRequest::new(KeyRange::key("none")).count_only();
        self.range(request).await.unwrap().revision
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
