//! Targets through gRPC: our own face over a unix socket, and a real etcd, both by our client of etcds.

use std::time::Duration;

use async_trait::async_trait;
use skiff_kine::grpc::serve_unix;
use skiff_kine::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::etcd::Etcd as Process;
use crate::target::{Ended, Result, Target, Watching};

pub struct Remote {
    pub channel: Channel,
    pub client: Etcd,
    /// What etcdctl is given as endpoint.
    pub endpoint: String,
    server: Server,
}

enum Server {
    Ours { token: CancellationToken, _task: JoinHandle<()>, _folder: TempDir },
    Etcd(#[allow(dead_code)] Box<Process>),
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
    remote(channel, endpoint, Server::Ours { token, _task: task, _folder: folder })
}

fn remote(channel: Channel, endpoint: String, server: Server) -> Remote {
    Remote { client: Etcd::over(channel.clone(), endpoint.clone()), channel, endpoint, server }
}

pub async fn real_etcd() -> Remote {
    etcd(crate::etcd::start().await).await
}

/// An etcd that is starting, once it serves.
pub async fn etcd(etcd: Process) -> Remote {
    let remote = remote(connect(&etcd.url).await, etcd.url.clone(), Server::Etcd(Box::new(etcd)));
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
    for _ in 0..3000 {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no connection to {endpoint:?}");
}

struct RemoteWatch(EtcdWatcher);

#[async_trait]
impl Watching for RemoteWatch {
    async fn next(&mut self) -> std::result::Result<Vec<Event>, Ended> {
        loop {
            match self.0.next().await {
                Ok(WatchMessage::Events(events)) => {
                    return Ok(events.iter().map(|event| event.as_ref().clone()).collect());
                }
                Ok(WatchMessage::Progress(_)) => {}
                Err(Error::Compacted { compact_revision }) => return Err(Ended { compact_revision }),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn text<T>(result: skiff_kine::Result<T>) -> Result<T> {
    result.map_err(|error| error.to_string())
}

#[async_trait]
impl Target for Remote {
    fn keeps_tombstones(&self) -> bool {
        matches!(self.server, Server::Ours { .. })
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        text(self.client.range(request).await)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        text(self.client.txn(txn).await)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        text(self.client.compact(revision, true).await)
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        text(self.client.lease_grant(id, ttl).await)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        text(self.client.lease_revoke(id).await.map(drop))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        text(self.client.lease_renew(id).await)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseTtl> {
        text(self.client.lease_time_to_live(id, true).await)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        text(self.client.leases().await)
    }

    async fn watch(&self, request: WatchRequest) -> Result<Box<dyn Watching>> {
        let mut watcher = self.client.watch(request);
        match watcher.begin().await {
            // Told on the first read, as etcd itself may.
            Ok(()) | Err(Error::Compacted { .. }) => Ok(Box::new(RemoteWatch(watcher))),
            Err(error) => Err(error.to_string()),
        }
    }
}
