//! Service Cluster: one member, for ever.

use tonic::{Request, Response, Status, async_trait};

use super::Face;
use super::pb::etcdserverpb as pb;

/// Membership belongs to raft, which this store has not.
fn fixed<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("membership of this datastore cannot be changed"))
}

#[async_trait]
impl pb::cluster_server::Cluster for Face {
    async fn member_list(
        &self,
        _request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let (_, id) = self.store.ids();
        let member = pb::Member {
            id,
            name: "skiff".into(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: vec![self.client_url.clone()],
            is_learner: false,
        };
        let header = self.header_now();
        Ok(Response::new(pb::MemberListResponse { header, members: vec![member] }))
    }

    async fn member_add(
        &self,
        _request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        fixed()
    }

    async fn member_remove(
        &self,
        _request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        fixed()
    }

    async fn member_update(
        &self,
        _request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        fixed()
    }

    async fn member_promote(
        &self,
        _request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        fixed()
    }
}
