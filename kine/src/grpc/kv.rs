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

impl Face {
    pub(crate) async fn answer_range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let response = self.store.range(range_request(request)?).await.map_err(status)?;
        Ok(self.range_response(response))
    }

    pub(crate) async fn answer_put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        fits(&request)?;
        let response = self.store.put(put_request(request)).await.map_err(status)?;
        Ok(self.put_response(response))
    }

    pub(crate) async fn answer_delete_range(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let response = self.store.delete_range(delete_request(request)).await.map_err(status)?;
        Ok(self.delete_response(response))
    }

    pub(crate) async fn answer_txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        fits(&request)?;
        let response = self.store.txn(txn_request(request)?).await.map_err(status)?;
        Ok(self.txn_response(response))
    }
}

#[async_trait]
impl pb::kv_server::Kv for Face {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.answer_range(request.into_inner()).await.map(Response::new)
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.answer_put(request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.answer_delete_range(request.into_inner()).await.map(Response::new)
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.answer_txn(request.into_inner()).await.map(Response::new)
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
