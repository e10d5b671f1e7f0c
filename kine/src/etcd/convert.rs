//! Between the store's types and etcd's messages, from the client's side.

use bytes::Bytes;
use tonic::Status;

use crate::error::Error;
use crate::grpc::pb::etcdserverpb as pb;
use crate::grpc::pb::mvccpb;
use crate::kv::{Event, EventKind, KeyValue};
use crate::range::{KeyRange, RangeEnd, RangeRequest, RangeResponse, SortOrder, SortTarget};
use crate::revision::Revision;
use crate::txn::{
    Compare, CompareResult, CompareTarget, DeleteResponse, Op, OpResponse, PutResponse, Txn, TxnResponse,
};

/// What etcd's refusal means; `unknown` wraps what is none of etcd's own.
pub(super) fn error(status: &Status, unknown: fn(String) -> Error) -> Error {
    let known = [
        Error::Compacted { compact_revision: Revision(0) },
        Error::FutureRevision,
        Error::EmptyKey,
        Error::KeyNotFound,
        Error::ValueProvided,
        Error::LeaseProvided,
        Error::DuplicateKey,
        Error::TooManyOps,
        Error::RequestTooLarge,
        Error::LeaseNotFound,
        Error::LeaseExists,
        Error::LeaseTtlTooLarge,
        Error::NoSpace,
    ];
    let message = status.message();
    let found = known.into_iter().find(|error| error.to_string() == message);
    found.unwrap_or_else(|| match message {
        "" => unknown(format!("etcd: {}", status.code().description())),
        message => unknown(format!("etcd: {message}")),
    })
}

pub(super) fn revision(header: Option<pb::ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| Revision::from_i64(header.revision))
}

fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// A range as etcd's pair of key and end.
pub(super) fn ends(range: KeyRange) -> (Bytes, Bytes) {
    match range.end {
        RangeEnd::Single => (range.start, Bytes::new()),
        RangeEnd::Before(end) => (range.start, end),
        RangeEnd::Unbounded => (range.start, Bytes::from_static(b"\0")),
    }
}

fn from_kv(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: Revision::from_i64(kv.create_revision),
        mod_revision: Revision::from_i64(kv.mod_revision),
        version: kv.version,
        lease: kv.lease,
    }
}

/// `None` for an event without a key, which etcd never sends.
pub(super) fn from_event(event: mvccpb::Event) -> Option<Event> {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Some(Event { kind, kv: from_kv(event.kv?), prev_kv: event.prev_kv.map(from_kv) })
}

pub(super) fn to_range(request: RangeRequest) -> pb::RangeRequest {
    use pb::range_request::{SortOrder as O, SortTarget as T};
    let (key, range_end) = ends(request.range);
    let sort_order = match request.sort_order {
        SortOrder::None => O::None,
        SortOrder::Ascend => O::Ascend,
        SortOrder::Descend => O::Descend,
    };
    let sort_target = match request.sort_target {
        SortTarget::Key => T::Key,
        SortTarget::Version => T::Version,
        SortTarget::Create => T::Create,
        SortTarget::Mod => T::Mod,
        SortTarget::Value => T::Value,
    };
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
        revision: request.revision.as_i64(),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable: false,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision.as_i64(),
        max_mod_revision: request.max_mod_revision.as_i64(),
        min_create_revision: request.min_create_revision.as_i64(),
        max_create_revision: request.max_create_revision.as_i64(),
    }
}

pub(super) fn from_range(response: pb::RangeResponse) -> RangeResponse {
    RangeResponse {
        revision: revision(response.header),
        kvs: response.kvs.into_iter().map(from_kv).collect(),
        more: response.more,
        count: count(response.count),
    }
}

fn to_op(op: Op) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        Op::Range(range) => Request::RequestRange(to_range(range)),
        Op::Put(put) => Request::RequestPut(pb::PutRequest {
            key: put.key,
            value: put.value,
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Op::Delete(delete) => {
            let (key, range_end) = ends(delete.range);
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv })
        }
        Op::Txn(txn) => Request::RequestTxn(to_txn(txn)),
    };
    pb::RequestOp { request: Some(request) }
}

fn to_compare(compare: Compare) -> pb::Compare {
    use pb::compare::{CompareResult as R, CompareTarget as T, TargetUnion as U};
    let (key, range_end) = ends(compare.range);
    let result = match compare.result {
        CompareResult::Equal => R::Equal,
        CompareResult::Greater => R::Greater,
        CompareResult::Less => R::Less,
        CompareResult::NotEqual => R::NotEqual,
    };
    let (target, union) = match compare.target {
        CompareTarget::Version(version) => (T::Version, U::Version(version)),
        CompareTarget::CreateRevision(revision) => (T::Create, U::CreateRevision(revision)),
        CompareTarget::ModRevision(revision) => (T::Mod, U::ModRevision(revision)),
        CompareTarget::Value(value) => (T::Value, U::Value(value)),
        CompareTarget::Lease(lease) => (T::Lease, U::Lease(lease)),
    };
    pb::Compare { result: result.into(), target: target.into(), key, range_end, target_union: Some(union) }
}

pub(super) fn to_txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.into_iter().map(to_compare).collect(),
        success: txn.success.into_iter().map(to_op).collect(),
        failure: txn.failure.into_iter().map(to_op).collect(),
    }
}

fn from_op(response: pb::ResponseOp) -> Option<OpResponse> {
    use pb::response_op::Response;
    Some(match response.response? {
        Response::ResponseRange(range) => OpResponse::Range(from_range(range)),
        Response::ResponsePut(put) => {
            OpResponse::Put(PutResponse { revision: revision(put.header), prev_kv: put.prev_kv.map(from_kv) })
        }
        Response::ResponseDeleteRange(delete) => OpResponse::Delete(DeleteResponse {
            revision: revision(delete.header),
            deleted: count(delete.deleted),
            prev_kvs: delete.prev_kvs.into_iter().map(from_kv).collect(),
        }),
        Response::ResponseTxn(txn) => OpResponse::Txn(from_txn(txn)),
    })
}

pub(super) fn from_txn(response: pb::TxnResponse) -> TxnResponse {
    TxnResponse {
        revision: revision(response.header),
        succeeded: response.succeeded,
        responses: response.responses.into_iter().filter_map(from_op).collect(),
    }
}
