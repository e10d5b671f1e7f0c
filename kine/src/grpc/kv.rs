//! Service KV.

use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::Face;
use super::convert::{delete_request, put_request, range_request, status, txn_request};
use super::pb::etcdserverpb as pb;
use crate::error::Error;
use crate::limits::GRPC_REQUEST_BYTES_MAX;
use crate::revision::Revision;

fn fits(message: &impl Message) -> Result<(), Status> {
    match message.encoded_len() > GRPC_REQUEST_BYTES_MAX {
        true => Err(status(Error::RequestTooLarge)),
        false => Ok(()),
    }
}

#[async_trait]
impl pb::kv_server::Kv for Face {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let range = range_request(request.into_inner())?;
        let response = self.store.range(range).await.map_err(status)?;
        Ok(Response::new(self.range_response(response)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let request = request.into_inner();
        fits(&request)?;
        let response = self.store.put(put_request(&request)).await.map_err(status)?;
        Ok(Response::new(self.put_response(response)))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let delete = delete_request(request.into_inner());
        let response = self.store.delete_range(delete).await.map_err(status)?;
        Ok(Response::new(self.delete_response(response)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let request = request.into_inner();
        fits(&request)?;
        let response = self.store.txn(txn_request(request)?).await.map_err(status)?;
        Ok(Response::new(self.txn_response(response)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let request = request.into_inner();
        let revision = Revision::from_i64(request.revision);
        self.store.compact(revision, request.physical).await.map_err(status)?;
        Ok(Response::new(pb::CompactionResponse { header: self.header_now() }))
    }
}
