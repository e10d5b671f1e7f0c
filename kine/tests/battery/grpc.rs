//! Targets through gRPC: our own face over a unix socket, and a real etcd.

use std::time::Duration;

use async_trait::async_trait;
use skiff_kine::grpc::pb::etcdserverpb as pb;
use skiff_kine::grpc::pb::etcdserverpb::kv_client::KvClient;
use skiff_kine::grpc::pb::etcdserverpb::lease_client::LeaseClient;
use skiff_kine::grpc::pb::etcdserverpb::watch_client::WatchClient;
use skiff_kine::grpc::pb::mvccpb;
use skiff_kine::grpc::serve_unix;
use skiff_kine::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::Etcd;
use crate::target::{Ended, Result, Target, Watching};

pub struct Remote {
    pub channel: Channel,
    /// What etcdctl is given as endpoint.
    pub endpoint: String,
    server: Server,
}

enum Server {
    Ours { token: CancellationToken, _task: JoinHandle<()>, _folder: TempDir },
    Etcd(#[allow(dead_code)] Etcd),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Ours { token, .. } = self {
            token.cancel();
        }
    }
}

pub async fn memory() -> Remote {
    let folder = tempfile::tempdir().unwrap();
    serve(StoreOptions::memory(), folder).await
}

pub async fn sqlite() -> Remote {
    let folder = tempfile::tempdir().unwrap();
    serve(StoreOptions::sqlite(folder.path().join("state.db")), folder).await
}

/// Our own face over a store; `folder` holds the socket and lives as long.
pub async fn serve(options: StoreOptions, folder: TempDir) -> Remote {
    let store = Store::open(options).await.unwrap();
    let token = CancellationToken::new();
    let socket = folder.path().join("kine.sock");
    let task = tokio::spawn({
        let (socket, token) = (socket.clone(), token.clone());
        async move { serve_unix(store, &socket, token).await.unwrap() }
    });
    let endpoint = format!("unix://{}", socket.display());
    let channel = connect(&endpoint).await;
    Remote { channel, endpoint, server: Server::Ours { token, _task: task, _folder: folder } }
}

pub async fn real_etcd() -> Remote {
    etcd(crate::etcd::start().await).await
}

/// An etcd that is starting, once it serves.
pub async fn etcd(etcd: Etcd) -> Remote {
    let remote = Remote { channel: connect(&etcd.url).await, endpoint: etcd.url.clone(), server: Server::Etcd(etcd) };
    // Until a leader is elected requests fail; only then is it at revision 1 for good.
    for _ in 0..600 {
        if remote.range(RangeRequest::new(KeyRange::key("none"))).await.is_ok() {
            return remote;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("etcd elected no leader");
}

async fn connect(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap();
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no connection to {endpoint:?}");
}

fn text<T>(result: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    result.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

fn revision(header: Option<pb::ResponseHeader>) -> Revision {
    Revision::from_i64(header.expect("a header").revision)
}

fn ends(range: KeyRange) -> (bytes::Bytes, bytes::Bytes) {
    match range.end {
        RangeEnd::Single => (range.start, bytes::Bytes::new()),
        RangeEnd::Before(end) => (range.start, end),
        RangeEnd::Unbounded => (range.start, bytes::Bytes::from_static(b"\0")),
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

fn from_event(event: mvccpb::Event) -> Event {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Event { kind, kv: from_kv(event.kv.unwrap()), prev_kv: event.prev_kv.map(from_kv) }
}

fn to_range(request: RangeRequest) -> pb::RangeRequest {
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
        limit: request.limit as i64,
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

fn from_range(response: pb::RangeResponse) -> RangeResponse {
    RangeResponse {
        revision: response.header.map_or(Revision(0), |header| Revision::from_i64(header.revision)),
        kvs: response.kvs.into_iter().map(from_kv).collect(),
        more: response.more,
        count: response.count as usize,
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

fn to_txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.into_iter().map(to_compare).collect(),
        success: txn.success.into_iter().map(to_op).collect(),
        failure: txn.failure.into_iter().map(to_op).collect(),
    }
}

fn from_op(response: pb::ResponseOp) -> OpResponse {
    use pb::response_op::Response;
    match response.response.unwrap() {
        Response::ResponseRange(range) => OpResponse::Range(from_range(range)),
        Response::ResponsePut(put) => OpResponse::Put(PutResponse {
            revision: put.header.map_or(Revision(0), |h| Revision::from_i64(h.revision)),
            prev_kv: put.prev_kv.map(from_kv),
        }),
        Response::ResponseDeleteRange(delete) => OpResponse::Delete(DeleteResponse {
            revision: delete.header.map_or(Revision(0), |h| Revision::from_i64(h.revision)),
            deleted: delete.deleted as usize,
            prev_kvs: delete.prev_kvs.into_iter().map(from_kv).collect(),
        }),
        Response::ResponseTxn(txn) => OpResponse::Txn(from_txn(txn)),
    }
}

fn from_txn(response: pb::TxnResponse) -> TxnResponse {
    TxnResponse {
        revision: response.header.map_or(Revision(0), |h| Revision::from_i64(h.revision)),
        succeeded: response.succeeded,
        responses: response.responses.into_iter().map(from_op).collect(),
    }
}

struct RemoteWatch {
    responses: tonic::Streaming<pb::WatchResponse>,
    _requests: tokio::sync::mpsc::Sender<pb::WatchRequest>,
}

#[async_trait]
impl Watching for RemoteWatch {
    async fn next(&mut self) -> std::result::Result<Vec<Event>, Ended> {
        loop {
            let response = self.responses.message().await.unwrap().expect("the watch stream goes on");
            if response.canceled {
                return Err(Ended { compact_revision: Revision::from_i64(response.compact_revision) });
            }
            if !response.events.is_empty() {
                return Ok(response.events.into_iter().map(from_event).collect());
            }
        }
    }
}

#[async_trait]
impl Target for Remote {
    fn keeps_tombstones(&self) -> bool {
        matches!(self.server, Server::Ours { .. })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let response = text(KvClient::new(self.channel.clone()).range(to_range(request)).await)?;
        revision(response.header);
        Ok(from_range(response))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let response = text(client.txn(to_txn(txn)).await)?;
        revision(response.header);
        Ok(from_txn(response))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let request = pb::CompactionRequest { revision: revision.as_i64(), physical: true };
        text(KvClient::new(self.channel.clone()).compact(request).await).map(|_| ())
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        let request = pb::LeaseGrantRequest { id, ttl };
        let response = text(LeaseClient::new(self.channel.clone()).lease_grant(request).await)?;
        Ok((response.id, response.ttl))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        let request = pb::LeaseRevokeRequest { id };
        text(LeaseClient::new(self.channel.clone()).lease_revoke(request).await).map(|_| ())
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut responses = text(LeaseClient::new(self.channel.clone()).lease_keep_alive(requests).await)?;
        let response = responses.message().await.map_err(|status| status.message().to_owned())?;
        match response.expect("an answer").ttl {
            0 => Err("etcdserver: requested lease not found".into()),
            ttl => Ok(ttl),
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseTtl> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let response = text(LeaseClient::new(self.channel.clone()).lease_time_to_live(request).await)?;
        if response.ttl < 0 {
            return Err("etcdserver: requested lease not found".into());
        }
        Ok(LeaseTtl { id, granted_ttl: response.granted_ttl, ttl: response.ttl, keys: response.keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        let request = pb::LeaseLeasesRequest {};
        let response = text(LeaseClient::new(self.channel.clone()).lease_leases(request).await)?;
        Ok(response.leases.into_iter().map(|lease| lease.id).collect())
    }

    async fn watch(&self, request: WatchRequest) -> Result<Box<dyn Watching>> {
        use pb::watch_create_request::FilterType;
        let (requests, stream) = tokio::sync::mpsc::channel(4);
        let (key, range_end) = ends(request.range);
        let mut filters = Vec::new();
        filters.extend(request.no_put.then_some(i32::from(FilterType::Noput)));
        filters.extend(request.no_delete.then_some(i32::from(FilterType::Nodelete)));
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: request.start_revision.as_i64(),
            prev_kv: request.prev_kv,
            filters,
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        requests.send(pb::WatchRequest { request_union: Some(union) }).await.unwrap();
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let mut responses = text(client.watch(ReceiverStream::new(stream)).await)?;
        let created = responses.message().await.unwrap().unwrap();
        assert!(created.created, "{created:?}");
        Ok(Box::new(RemoteWatch { responses, _requests: requests }))
    }
}
