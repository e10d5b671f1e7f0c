//! Between etcd's messages and the store's types.

use bytes::Bytes;
use tonic::{Code, Status};

use super::Face;
use super::pb::etcdserverpb as pb;
use super::pb::mvccpb;
use crate::error::Error;
use crate::kv::{Event, EventKind, KeyValue};
use crate::range::{KeyRange, RangeRequest, RangeResponse, SortOrder, SortTarget};
use crate::revision::Revision;
use crate::txn::{
    Compare, CompareResult, CompareTarget, DeleteRequest, DeleteResponse, Op, OpResponse, PutRequest, PutResponse, Txn,
    TxnResponse,
};

/// The gRPC status etcd answers in this case.
pub(crate) fn status(error: Error) -> Status {
    let code = match &error {
        Error::Compacted { .. } | Error::FutureRevision | Error::LeaseTtlTooLarge => Code::OutOfRange,
        Error::EmptyKey
        | Error::KeyNotFound
        | Error::ValueProvided
        | Error::LeaseProvided
        | Error::DuplicateKey
        | Error::TooManyOps
        | Error::RequestTooLarge => Code::InvalidArgument,
        Error::LeaseNotFound => Code::NotFound,
        Error::LeaseExists => Code::FailedPrecondition,
        Error::NoSpace => Code::ResourceExhausted,
        Error::Stopped | Error::Write(_) | Error::Read(_) | Error::Snapshot(_) => Code::Unavailable,
        Error::Open { .. } | Error::InUse { .. } | Error::Connect { .. } => Code::Unavailable,
        Error::Corrupt { .. } => Code::DataLoss,
    };
    Status::new(code, error.to_string())
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.as_i64(),
        mod_revision: kv.mod_revision.as_i64(),
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

pub(crate) fn event(event: &Event, prev_kv: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv.clone())),
        prev_kv: event.prev_kv.clone().filter(|_| prev_kv).map(key_value),
    }
}

pub(crate) fn range_request(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    use pb::range_request as sort;
    let invalid = |_| Status::invalid_argument("etcdserver: invalid sort option");
    let sort_order = match sort::SortOrder::try_from(request.sort_order).map_err(invalid)? {
        sort::SortOrder::None => SortOrder::None,
        sort::SortOrder::Ascend => SortOrder::Ascend,
        sort::SortOrder::Descend => SortOrder::Descend,
    };
    let sort_target = match sort::SortTarget::try_from(request.sort_target).map_err(invalid)? {
        sort::SortTarget::Key => SortTarget::Key,
        sort::SortTarget::Version => SortTarget::Version,
        sort::SortTarget::Create => SortTarget::Create,
        sort::SortTarget::Mod => SortTarget::Mod,
        sort::SortTarget::Value => SortTarget::Value,
    };
    Ok(RangeRequest {
        range: KeyRange::from_etcd(request.key, request.range_end),
        limit: usize::try_from(request.limit).unwrap_or(0),
        revision: Revision::from_i64(request.revision),
        sort_order,
        sort_target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: Revision::from_i64(request.min_mod_revision),
        max_mod_revision: Revision::from_i64(request.max_mod_revision),
        min_create_revision: Revision::from_i64(request.min_create_revision),
        max_create_revision: Revision::from_i64(request.max_create_revision),
    })
}

pub(crate) fn put_request(request: pb::PutRequest) -> PutRequest {
    PutRequest {
        // The store keeps a key of its own.
        key: request.key,
        // A request's bytes share one large buffer; what is kept must not keep that alive.
        value: Bytes::copy_from_slice(&request.value),
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(crate) fn delete_request(request: pb::DeleteRangeRequest) -> DeleteRequest {
    DeleteRequest { range: KeyRange::from_etcd(request.key, request.range_end), prev_kv: request.prev_kv }
}

pub(crate) fn txn_request(request: pb::TxnRequest) -> Result<Txn, Status> {
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: request.success.into_iter().filter_map(op).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().filter_map(op).collect::<Result<_, _>>()?,
    })
}

/// `None` for an operation without content, which etcd skips too.
fn op(op: pb::RequestOp) -> Option<Result<Op, Status>> {
    use pb::request_op::Request;
    Some(match op.request? {
        Request::RequestRange(range) => range_request(range).map(Op::Range),
        Request::RequestPut(put) => Ok(Op::Put(put_request(put))),
        Request::RequestDeleteRange(delete) => Ok(Op::Delete(delete_request(delete))),
        Request::RequestTxn(txn) => txn_request(txn).map(Op::Txn),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as R, CompareTarget as T, TargetUnion as U};
    let result = match R::try_from(compare.result) {
        Ok(R::Equal) => CompareResult::Equal,
        Ok(R::Greater) => CompareResult::Greater,
        Ok(R::Less) => CompareResult::Less,
        Ok(R::NotEqual) => CompareResult::NotEqual,
        Err(_) => return Err(Status::invalid_argument("etcdserver: unknown compare result")),
    };
    let target = match T::try_from(compare.target) {
        Ok(target) => target,
        Err(_) => return Err(Status::invalid_argument("etcdserver: unknown compare target")),
    };
    // A target without its operand compares with zero, as etcd does.
    let target = match (target, compare.target_union) {
        (T::Version, Some(U::Version(version))) => CompareTarget::Version(version),
        (T::Version, _) => CompareTarget::Version(0),
        (T::Create, Some(U::CreateRevision(revision))) => CompareTarget::CreateRevision(revision),
        (T::Create, _) => CompareTarget::CreateRevision(0),
        (T::Mod, Some(U::ModRevision(revision))) => CompareTarget::ModRevision(revision),
        (T::Mod, _) => CompareTarget::ModRevision(0),
        (T::Value, Some(U::Value(value))) => CompareTarget::Value(value),
        (T::Value, _) => CompareTarget::Value(Bytes::new()),
        (T::Lease, Some(U::Lease(lease))) => CompareTarget::Lease(lease),
        (T::Lease, _) => CompareTarget::Lease(0),
    };
    Ok(Compare { range: KeyRange::from_etcd(compare.key, compare.range_end), result, target })
}

impl Face {
    pub(crate) fn range_response(&self, response: RangeResponse) -> pb::RangeResponse {
        pb::RangeResponse {
            header: self.header(response.revision),
            kvs: response.kvs.into_iter().map(key_value).collect(),
            more: response.more,
            count: i64::try_from(response.count).unwrap_or(i64::MAX),
        }
    }

    pub(crate) fn put_response(&self, response: PutResponse) -> pb::PutResponse {
        pb::PutResponse { header: self.header(response.revision), prev_kv: response.prev_kv.map(key_value) }
    }

    pub(crate) fn delete_response(&self, response: DeleteResponse) -> pb::DeleteRangeResponse {
        pb::DeleteRangeResponse {
            header: self.header(response.revision),
            deleted: i64::try_from(response.deleted).unwrap_or(i64::MAX),
            prev_kvs: response.prev_kvs.into_iter().map(key_value).collect(),
        }
    }

    pub(crate) fn txn_response(&self, response: TxnResponse) -> pb::TxnResponse {
        use pb::response_op::Response;
        let responses = response.responses.into_iter().map(|response| {
            let response = match response {
                OpResponse::Range(range) => Response::ResponseRange(self.range_response(range)),
                OpResponse::Put(put) => Response::ResponsePut(self.put_response(put)),
                OpResponse::Delete(delete) => Response::ResponseDeleteRange(self.delete_response(delete)),
                OpResponse::Txn(txn) => Response::ResponseTxn(self.txn_response(txn)),
            };
            pb::ResponseOp { response: Some(response) }
        });
        pb::TxnResponse {
            header: self.header(response.revision),
            succeeded: response.succeeded,
            responses: responses.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::store::{Store, StoreOptions};

    /// A transaction with a bit of everything, as the seed of what is sent.
    fn seed() -> pb::TxnRequest {
        use pb::request_op::Request;
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), lease: 7, prev_kv: true, ..Default::default() };
        let range = pb::RangeRequest { key: "a".into(), range_end: "z".into(), limit: 3, ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: "d".into(), range_end: "\0".into(), prev_kv: true };
        let union = pb::compare::TargetUnion::ModRevision(5);
        let compare = pb::Compare { key: "c".into(), target: 2, target_union: Some(union), ..Default::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let nested = pb::TxnRequest {
            compare: vec![compare.clone()],
            success: vec![op(Request::RequestRange(range))],
            failure: Vec::new(),
        };
        pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::RequestPut(put)), op(Request::RequestTxn(nested))],
            failure: vec![op(Request::RequestDeleteRange(delete))],
        }
    }

    #[tokio::test]
    async fn whatever_a_client_sends_is_answered_or_refused() {
        let store = Store::open(StoreOptions::memory()).await.unwrap();
        let seed = seed().encode_to_vec();
        let mut next = crate::test_random::numbers();
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut bytes = seed.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = next(256) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, next(256) as u8),
                }
            }
            let Ok(message) = pb::TxnRequest::decode(bytes.as_slice()) else { continue };
            if let Ok(txn) = txn_request(message)
                && store.txn(txn).await.is_ok()
            {
                accepted += 1;
            }
        }
        assert!(accepted > 100, "only {accepted} of the mutants ran: the seed is refused too early");
        store.close().await.unwrap();
    }
}
