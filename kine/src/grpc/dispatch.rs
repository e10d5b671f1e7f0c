//! From a request's path to who answers it.
//!
//! Reads and writes of keys go straight to the store; all other services take the library's way.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tonic::Status;
use tonic::service::Routes;
use tower::Service;

use super::Face;
use super::pb::DESCRIPTORS;
use super::pb::etcdserverpb::RangeRequest;
use super::pb::etcdserverpb::auth_server::AuthServer;
use super::pb::etcdserverpb::cluster_server::ClusterServer;
use super::pb::etcdserverpb::kv_server::KvServer;
use super::pb::etcdserverpb::lease_server::LeaseServer;
use super::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use super::pb::etcdserverpb::watch_server::WatchServer;
use super::pb::health::health_server::HealthServer;
use super::unary::{Answer, receive, refuse, respond};
use crate::limits::GRPC_DECODE_BYTES_MAX;

/// Answers requests. Cloned for each, so that must cost next to nothing.
#[derive(Clone)]
pub(crate) struct Dispatch(Arc<Services>);

struct Services {
    face: Face,
    routes: Routes,
}

impl Dispatch {
    pub(crate) fn new(face: Face) -> Result<Dispatch, tonic_reflection::server::Error> {
        let described =
            || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
        let (reflection, reflection_alpha) = (described().build_v1()?, described().build_v1alpha()?);
        let kv = KvServer::new(face.clone()).max_decoding_message_size(GRPC_DECODE_BYTES_MAX);
        let routes = Routes::new(kv.max_encoding_message_size(usize::MAX))
            .add_service(WatchServer::new(face.clone()))
            .add_service(LeaseServer::new(face.clone()))
            .add_service(ClusterServer::new(face.clone()))
            .add_service(MaintenanceServer::new(face.clone()))
            .add_service(AuthServer::new(face.clone()))
            .add_service(HealthServer::new(face.clone()))
            .add_service(reflection)
            .add_service(reflection_alpha)
            .prepare();
        Ok(Dispatch(Arc::new(Services { face, routes })))
    }

    /// Everything a client asks for often.
    async fn key_value(self, call: Call, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let (face, body) = (&self.0.face, request.into_body());
        match call {
            Call::Range => match receive::<RangeRequest, _>(body).await {
                Ok(message) if message.range_end.is_empty() => respond(face.answer_range(message).await),
                // It may be long: in a task of its own it does not hold up the other calls of the connection.
                Ok(message) => {
                    let face = face.clone();
                    let answered = tokio::spawn(async move { respond(face.answer_range(message).await) });
                    answered.await.unwrap_or_else(|error| refuse(Status::internal(error.to_string())))
                }
                Err(status) => refuse(status),
            },
            Call::Put => unary(body, |message| face.answer_put(message)).await,
            Call::DeleteRange => unary(body, |message| face.answer_delete_range(message)).await,
            Call::Txn => unary(body, |message| face.answer_txn(message)).await,
        }
    }
}

async fn unary<Asked, Answered, Work>(
    body: Incoming,
    work: impl FnOnce(Asked) -> Work,
) -> Result<Response<Answer>, Infallible>
where
    Asked: Message + Default,
    Answered: Message,
    Work: Future<Output = Result<Answered, Status>>,
{
    match receive(body).await {
        Ok(message) => respond(work(message).await),
        Err(status) => refuse(status),
    }
}

/// The calls that are answered without the library.
#[derive(Clone, Copy)]
enum Call {
    Range,
    Put,
    DeleteRange,
    Txn,
}

fn call(path: &str) -> Option<Call> {
    match path.strip_prefix("/etcdserverpb.KV/")? {
        "Range" => Some(Call::Range),
        "Put" => Some(Call::Put),
        "DeleteRange" => Some(Call::DeleteRange),
        "Txn" => Some(Call::Txn),
        _ => None,
    }
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match call(request.uri().path()) {
            Some(call) => Box::pin(self.clone().key_value(call, request)),
            None => {
                let answered = self.0.routes.clone().call(request);
                Box::pin(async move { Ok(answered.await?.map(Answer::Library)) })
            }
        }
    }
}
