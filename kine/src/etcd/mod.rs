//! An etcd that others run, in place of a store of our own.
//!
//! What: [`Etcd`] has the calls of [`crate::Store`] and sends them on; [`EtcdWatcher`] is its watch, which
//! resumes where it was when a connection or a member is lost. Several endpoints are used in turn.
//!
//! Reads are tried again while a member may come back. Writes are not: a write that was lost on
//! the way may have taken place, and only the caller can look.

mod convert;
mod watcher;

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response, Status};

use self::convert::{error, from_range, from_txn, revision, to_range, to_txn};
pub use self::watcher::EtcdWatcher;
use crate::error::{Error, Result};
use crate::grpc::pb::etcdserverpb as pb;
use crate::grpc::pb::etcdserverpb::kv_client::KvClient;
use crate::grpc::pb::etcdserverpb::lease_client::LeaseClient;
use crate::grpc::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::grpc::{ClientTls, FetchError, fetch_snapshot};
use crate::kv::KeyValue;
use crate::lessor::{LeaseId, LeaseTtl};
use crate::limits::{
    ETCD_ANSWER_BYTES_MAX, ETCD_ANSWER_DEADLINE, ETCD_KEEP_ALIVE, ETCD_PATIENCE, SQL_CONNECT_DEADLINE, TTL_LEASE_REUSE,
};
use crate::range::{KeyRange, RangeRequest, RangeResponse};
use crate::revision::Revision;
use crate::sql::{DatabaseError, TlsFiles, system_authorities};
use crate::ttl::TtlLeases;
use crate::txn::{Op, PutRequest, PutResponse, Txn, TxnResponse};
use crate::watcher::WatchRequest;

/// A client of an etcd. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    channel: Channel,
    shown: Arc<str>,
    ttl_leases: Arc<Mutex<TtlLeases>>,
    /// Whether an answer about progress never comes before the events it speaks of.
    progress_is_right: bool,
}

/// Where an etcd is, and how to reach it.
#[derive(Clone)]
pub struct EtcdEndpoints {
    urls: Vec<String>,
    tls: ClientTls,
}

impl EtcdEndpoints {
    /// From a list of URLs as K3s takes it; `None` if it is for another kind of engine. Reads the files.
    pub fn parse(endpoint: &str, files: &TlsFiles) -> Result<Option<EtcdEndpoints>, DatabaseError> {
        let urls: Vec<String> = endpoint.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if !urls.iter().any(is_url) {
            return Ok(None);
        }
        if let Some(other) = urls.iter().find(|url| !is_url(url)) {
            return Err(DatabaseError(format!("etcd: {other:?} does not begin with http:// or https://")));
        }
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|error| DatabaseError(format!("etcd: read {}: {error}", path.display())))
        };
        let secure = urls.iter().any(|url| url.starts_with("https://"));
        let ca = match &files.ca {
            Some(path) => Some(read(path)?),
            None if secure => {
                Some(read(&system_authorities().map_err(|text| DatabaseError(format!("etcd: {text}")))?)?)
            }
            None => None,
        };
        let identity = match (&files.certificate, &files.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => return Err(DatabaseError("etcd: a certificate and its key belong together".to_owned())),
        };
        Ok(Some(EtcdEndpoints { urls, tls: ClientTls { ca: ca.filter(|_| secure), identity } }))
    }

    /// Fetches a snapshot from the first member that gives one.
    pub async fn snapshot(&self, path: &std::path::Path) -> Result<(), FetchError> {
        let mut last = None;
        for url in &self.urls {
            match fetch_snapshot(url, self.tls.clone(), path).await {
                Ok(()) => return Ok(()),
                Err(error @ FetchError::Write { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| FetchError::Refused {
            endpoint: String::new(),
            message: "no endpoint is given".to_owned(),
        }))
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(SQL_CONNECT_DEADLINE)
            .http2_keep_alive_interval(ETCD_KEEP_ALIVE)
            .keep_alive_timeout(ETCD_KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let Some(ca) = &self.tls.ca else { return Ok(endpoint) };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        if let Some((certificate, key)) = &self.tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        endpoint.tls_config(config)
    }
}

impl std::fmt::Display for EtcdEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.urls.join(","))
    }
}

impl std::fmt::Debug for EtcdEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "etcd {}", self.shown)
    }
}

impl Etcd {
    /// Connects, and waits for a first answer.
    pub async fn open(endpoints: &EtcdEndpoints) -> Result<Etcd> {
        let failed = |reason: String| Error::Connect { endpoint: endpoints.to_string(), reason };
        let list = endpoints.urls.iter().map(|url| endpoints.endpoint(url)).collect::<Result<Vec<_>, _>>();
        let mut list = list.map_err(|error| failed(causes(&error)))?;
        let channel = match (list.pop(), list.is_empty()) {
            // A channel to one endpoint says why it does not connect.
            (Some(only), true) => only.connect().await.map_err(|error| failed(causes(&error)))?,
            (Some(last), false) => Channel::balance_list(list.into_iter().chain([last])),
            (None, _) => return Err(failed("no endpoint is given".to_owned())),
        };
        let mut etcd = Etcd::over(channel, endpoints.to_string());
        let (version, _) = etcd.status().await.map_err(|error| failed(error.to_string()))?;
        etcd.progress_is_right = progress_is_right(&version);
        etcd.current_revision().await.map_err(|error| failed(error.to_string()))?;
        Ok(etcd)
    }

    /// Over a channel that is there already.
    pub fn over(channel: Channel, shown: String) -> Etcd {
        Etcd { channel, shown: shown.into(), ttl_leases: Arc::default(), progress_is_right: false }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ETCD_ANSWER_BYTES_MAX)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// The newest revision of the whole etcd.
    pub async fn current_revision(&self) -> Result<Revision> {
        let request = RangeRequest::new(KeyRange::key("\0")).count_only();
        Ok(self.range(request).await?.revision)
    }

    /// One key as it is now.
    pub async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let request = RangeRequest::new(KeyRange::key(key.to_vec()));
        Ok(self.range(request).await?.kvs.pop())
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let message = to_range(request);
        let response = self.reading(|| {
            let (mut kv, message) = (self.kv(), message.clone());
            async move { kv.range(message).await }
        });
        Ok(from_range(response.await?))
    }

    /// See [`crate::Store::txn`]. After [`Error::Write`] it may have taken place.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let (message, read_only) = (to_txn(txn.clone()), txn.is_read_only());
        let send = || {
            let (mut kv, message) = (self.kv(), message.clone());
            async move { kv.txn(message).await }
        };
        let response = if read_only { self.reading(send).await? } else { self.writing(send()).await? };
        Ok(from_txn(response))
    }

    pub async fn put(&self, put: PutRequest) -> Result<PutResponse> {
        let response = self.txn(Txn::new().then(Op::Put(put))).await?;
        match response.responses.into_iter().next() {
            Some(crate::txn::OpResponse::Put(put)) => Ok(put),
            _ => Err(Error::Write("etcd gave no answer to a put".to_owned())),
        }
    }

    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<()> {
        let message = pb::CompactionRequest { revision: revision.as_i64(), physical };
        let mut kv = self.kv();
        self.writing(async move { kv.compact(message).await }).await.map(drop)
    }

    /// See [`crate::Store::lease_grant`].
    pub async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        let mut lease = self.lease();
        let granted = self.writing(async move { lease.lease_grant(pb::LeaseGrantRequest { id, ttl }).await }).await?;
        Ok((granted.id, granted.ttl))
    }

    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        let mut lease = self.lease();
        let revoked = self.writing(async move { lease.lease_revoke(pb::LeaseRevokeRequest { id }).await }).await?;
        Ok(revision(revoked.header))
    }

    /// Starts a lease's time anew; answers its TTL.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<i64> {
        let renewed = self.reading(|| {
            let mut lease = self.lease();
            async move {
                let requests = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id }]);
                let mut answers = lease.lease_keep_alive(requests).await?.into_inner();
                let answer = answers.message().await?.ok_or_else(|| Status::unavailable("no answer to a renewal"))?;
                Ok(Response::new(answer))
            }
        });
        match renewed.await?.ttl {
            // How etcd says that it does not know the lease.
            0 => Err(Error::LeaseNotFound),
            ttl => Ok(ttl),
        }
    }

    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseTtl> {
        let found = self.reading(|| {
            let mut lease = self.lease();
            async move { lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys }).await }
        });
        let found = found.await?;
        if found.ttl < 0 {
            return Err(Error::LeaseNotFound);
        }
        Ok(LeaseTtl { id, granted_ttl: found.granted_ttl, ttl: found.ttl, keys: found.keys })
    }

    pub async fn leases(&self) -> Result<Vec<LeaseId>> {
        let found = self.reading(|| {
            let mut lease = self.lease();
            async move { lease.lease_leases(pb::LeaseLeasesRequest {}).await }
        });
        Ok(found.await?.leases.into_iter().map(|lease| lease.id).collect())
    }

    /// See [`crate::Store::ttl_lease`].
    pub async fn ttl_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let now = Instant::now();
        if let Some(id) = self.ttl_leases.lock().take(seconds, now) {
            return Ok(id);
        }
        let granted = ttl.saturating_add(TTL_LEASE_REUSE).as_secs();
        let (id, _) = self.lease_grant(0, i64::try_from(granted).unwrap_or(i64::MAX)).await?;
        self.ttl_leases.lock().opened(seconds, id, now);
        Ok(id)
    }

    /// Forgets a shared lease that somebody revoked.
    pub fn lost_lease(&self, id: LeaseId) {
        self.ttl_leases.lock().gone(id);
    }

    /// Watches a range; it goes on when connections are lost.
    pub fn watch(&self, request: WatchRequest) -> EtcdWatcher {
        EtcdWatcher::new(self.clone(), request)
    }

    /// Version and size, as its member tells.
    pub async fn status(&self) -> Result<(String, u64)> {
        let status = self.reading(|| {
            let mut maintenance = MaintenanceClient::new(self.channel.clone());
            async move { maintenance.status(pb::StatusRequest {}).await }
        });
        let status = status.await?;
        Ok((status.version, u64::try_from(status.db_size).unwrap_or(0)))
    }

    async fn writing<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
        match timeout(ETCD_ANSWER_DEADLINE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error(&status, Error::Write)),
            Err(_) => Err(Error::Write(format!("{} did not answer in time", self.shown))),
        }
    }

    async fn reading<T, F>(&self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + ETCD_PATIENCE;
        let mut pause = Duration::from_millis(20);
        loop {
            let failed = match timeout(ETCD_ANSWER_DEADLINE, call()).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if may_pass(&status) => error(&status, Error::Read),
                Ok(Err(status)) => return Err(error(&status, Error::Read)),
                Err(_) => Error::Read(format!("{} did not answer in time", self.shown)),
            };
            if Instant::now() + pause > until {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// A lost connection, a member that goes away, an election: another member or a moment later may help.
fn may_pass(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

/// Older etcds may report progress ahead of events, which then would be taken for seen.
fn progress_is_right(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        version => version >= (3, 6, 0),
    }
}

/// An error with its causes, which tonic keeps to itself.
fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_of_an_etcd_are_taken() {
        let parse = |endpoint: &str| EtcdEndpoints::parse(endpoint, &TlsFiles::default());
        assert!(parse("postgres://u@h/d").unwrap().is_none());
        let many = parse("http://a:2379, http://b:2379/").unwrap().unwrap();
        assert_eq!(many.to_string(), "http://a:2379,http://b:2379");
        assert!(parse("http://a:2379,b:2379").is_err());
        let half = TlsFiles { certificate: Some("x".into()), ..TlsFiles::default() };
        assert!(EtcdEndpoints::parse("http://a:2379", &half).is_err());
    }

    #[test]
    fn progress_is_asked_of_versions_that_answer_right() {
        for version in ["3.4.25", "3.5.8", "3.5.21", "3.6.0", "3.7.0-rc.0", "4.0.0"] {
            assert!(progress_is_right(version), "{version}");
        }
        for version in ["3.3.27", "3.4.24", "3.5.7", "2.3.8", "unknown", ""] {
            assert!(!progress_is_right(version), "{version}");
        }
    }
}
