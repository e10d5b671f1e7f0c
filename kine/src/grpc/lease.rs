//! Service Lease.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Face;
use super::convert::status;
use super::pb::etcdserverpb as pb;
use crate::error::Error;

#[async_trait]
impl pb::lease_server::Lease for Face {
    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        let (id, ttl) = self.store.lease_grant(request.id, request.ttl).await.map_err(status)?;
        let header = self.header_now();
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let revision = self.store.lease_revoke(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let face = self.clone();
        let token = self.token.clone();
        let answers = request.into_inner().then(move |request| {
            let face = face.clone();
            async move {
                let id = request?.id;
                // A lease that is gone is answered with a TTL of 0, not with an error.
                let ttl = match face.store.lease_renew(id).await {
                    Ok(ttl) => ttl,
                    Err(Error::LeaseNotFound) => 0,
                    Err(error) => return Err(status(error)),
                };
                Ok(pb::LeaseKeepAliveResponse { header: face.header_now(), id, ttl })
            }
        });
        Ok(Response::new(answers.take_until(token.cancelled_owned()).boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let header = self.header_now();
        let response = match self.store.lease_time_to_live(request.id, request.keys) {
            Ok(lease) => pb::LeaseTimeToLiveResponse {
                header,
                id: lease.id,
                ttl: lease.ttl,
                granted_ttl: lease.granted_ttl,
                keys: lease.keys,
            },
            Err(Error::LeaseNotFound) => pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                ..pb::LeaseTimeToLiveResponse::default()
            },
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.store.leases().into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.header_now(), leases }))
    }
}
