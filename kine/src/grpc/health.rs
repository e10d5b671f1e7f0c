//! gRPC health: serving as long as the process serves.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, async_trait};

use super::Face;
use super::pb::health as pb;
use pb::health_check_response::ServingStatus;

fn answer(status: ServingStatus) -> pb::HealthCheckResponse {
    pb::HealthCheckResponse { status: status.into() }
}

/// The names that can be asked for; the empty one is the server as a whole.
fn is_known(service: &str) -> bool {
    matches!(
        service,
        "" | "etcdserverpb.KV"
            | "etcdserverpb.Watch"
            | "etcdserverpb.Lease"
            | "etcdserverpb.Cluster"
            | "etcdserverpb.Maintenance"
            | "etcdserverpb.Auth"
    )
}

#[async_trait]
impl pb::health_server::Health for Face {
    type WatchStream = BoxStream<'static, Result<pb::HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        match is_known(&request.get_ref().service) {
            true => Ok(Response::new(answer(ServingStatus::Serving))),
            false => Err(Status::not_found("unknown service")),
        }
    }

    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = match is_known(&request.get_ref().service) {
            true => ServingStatus::Serving,
            false => ServingStatus::ServiceUnknown,
        };
        let token = self.token.clone();
        let stopping = stream::once(async move {
            token.cancelled().await;
            Ok(answer(ServingStatus::NotServing))
        });
        let changes = stream::once(async move { Ok(answer(first)) }).chain(stopping);
        Ok(Response::new(changes.boxed()))
    }
}
