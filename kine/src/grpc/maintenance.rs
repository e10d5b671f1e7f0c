//! Service Maintenance.

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use super::convert::status;
use super::pb::etcdserverpb as pb;
use super::{ETCD_VERSION, Face, RAFT_TERM};
use crate::revision::Revision;

#[async_trait]
impl pb::maintenance_server::Maintenance for Face {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    /// There is no quota yet, hence no alarm that could be raised.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        if request.get_ref().action() == pb::alarm_request::AlarmAction::Activate {
            return Err(Status::unimplemented("alarms cannot be activated on this datastore"));
        }
        Ok(Response::new(pb::AlarmResponse { header: self.header_now(), alarms: Vec::new() }))
    }

    async fn status(&self, _request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let now = self.store.status().await.map_err(status)?;
        let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: self.header(now.revision),
            version: ETCD_VERSION.into(),
            db_size: bytes(now.size),
            leader: now.member_id,
            raft_index: now.revision.0,
            raft_term: RAFT_TERM,
            raft_applied_index: now.revision.0,
            db_size_in_use: bytes(now.size_in_use),
            ..pb::StatusResponse::default()
        }))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(status)?;
        Ok(Response::new(pb::DefragmentResponse { header: self.header_now() }))
    }

    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let hash = self.store.hash(Revision(0)).await.map_err(status)?;
        Ok(Response::new(pb::HashResponse { header: self.header_now(), hash: hash.hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = Revision::from_i64(request.get_ref().revision);
        let hash = self.store.hash(revision).await.map_err(status)?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header_now(),
            hash: hash.hash,
            compact_revision: hash.compact_revision.as_i64(),
            hash_revision: hash.revision.as_i64(),
        }))
    }

    async fn snapshot(&self, _request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("snapshots in etcd's format are not supported by this datastore"))
    }

    async fn move_leader(
        &self,
        _request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(
        &self,
        _request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(Status::unimplemented("this datastore has no other version to go to"))
    }
}
