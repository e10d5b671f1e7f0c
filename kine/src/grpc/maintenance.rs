//! Service Maintenance.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, async_trait};

use super::convert::status;
use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::alarm_request::AlarmAction;
use super::{ETCD_VERSION, Face, RAFT_TERM};
use crate::revision::Revision;

/// Length of a SHA-256.
const CHECKSUM_BYTES: u64 = 32;

/// Reads the next piece where blocking is allowed; after an error there is no next one.
async fn next_chunk<I>(chunks: Option<I>) -> Option<(Result<Vec<u8>, Status>, Option<I>)>
where
    I: Iterator<Item = io::Result<Vec<u8>>> + Send + 'static,
{
    let mut chunks = chunks?;
    let read = tokio::task::spawn_blocking(move || {
        let chunk = chunks.next();
        (chunk, chunks)
    });
    let failed = |error: &dyn std::fmt::Display| Status::unavailable(format!("read the snapshot: {error}"));
    match read.await {
        Ok((chunk, chunks)) => match chunk? {
            Ok(chunk) => Some((Ok(chunk), Some(chunks))),
            Err(error) => Some((Err(failed(&error)), None)),
        },
        Err(error) => Some((Err(failed(&error)), None)),
    }
}

impl Face {
    fn no_space_alarm(&self) -> pb::AlarmMember {
        pb::AlarmMember { member_id: self.store.ids().1, alarm: pb::AlarmType::Nospace.into() }
    }
}

#[async_trait]
impl pb::maintenance_server::Maintenance for Face {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    /// There is one member, and one alarm it can have: NOSPACE.
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        let concerned = request.member_id == 0 || request.member_id == self.store.ids().1;
        let no_space = matches!(request.alarm(), pb::AlarmType::Nospace | pb::AlarmType::None);
        let raised = self.store.no_space() && concerned && no_space;
        let shown = match request.action() {
            AlarmAction::Get => raised,
            AlarmAction::Activate if !concerned || request.alarm() != pb::AlarmType::Nospace => {
                return Err(Status::unimplemented("this datastore has no alarm but NOSPACE, and one member"));
            }
            AlarmAction::Activate => {
                self.store.set_no_space(true).await.map_err(status)?;
                true
            }
            AlarmAction::Deactivate => {
                if raised {
                    self.store.set_no_space(false).await.map_err(status)?;
                }
                raised
            }
        };
        let alarms = if shown { vec![self.no_space_alarm()] } else { Vec::new() };
        Ok(Response::new(pb::AlarmResponse { header: self.header_now(), alarms }))
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
            errors: match now.no_space {
                true => vec![format!("memberID:{} alarm:NOSPACE ", now.member_id)],
                false => Vec::new(),
            },
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
        let snapshot = self.store.snapshot().await.map_err(status)?;
        let header = self.header(snapshot.summary().revision);
        // As etcd counts: the checksum behind the file is not announced.
        let mut remaining = snapshot.summary().bytes.saturating_sub(CHECKSUM_BYTES);
        let chunks = stream::unfold(Some(snapshot.into_chunks()), next_chunk);
        let messages = chunks.map(move |chunk| {
            let blob = Bytes::from(chunk?);
            remaining = remaining.saturating_sub(blob.len() as u64);
            Ok(pb::SnapshotResponse { header, remaining_bytes: remaining, blob, version: ETCD_VERSION.into() })
        });
        Ok(Response::new(messages.take_until(self.token.clone().cancelled_owned()).boxed()))
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
