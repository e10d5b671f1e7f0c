//! Targets in process.

use async_trait::async_trait;
use skiff_kine::*;
use tempfile::TempDir;

use crate::servers;
use crate::target::{Ended, Result, Target, Watching};

pub struct Local {
    store: Store,
    _folder: Option<TempDir>,
}

pub async fn memory() -> Local {
    Local { store: Store::open(StoreOptions::memory()).await.unwrap(), _folder: None }
}

pub async fn sqlite() -> Local {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::sqlite(folder.path().join("state.db"))).await.unwrap();
    Local { store, _folder: Some(folder) }
}

pub async fn postgres() -> Local {
    database(servers::postgres_url()).await
}

pub async fn mariadb() -> Local {
    database(servers::mariadb_url()).await
}

async fn database(url: String) -> Local {
    let store = Store::open(StoreOptions::database(servers::database(&url))).await.unwrap();
    Local { store, _folder: None }
}

fn text<T>(result: skiff_kine::Result<T>) -> Result<T> {
    result.map_err(|error| error.to_string())
}

struct LocalWatch(Watcher);

#[async_trait]
impl Watching for LocalWatch {
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

/// A watch that could not begin tells so on its first read, as it does over the wire.
struct Refused(Ended);

#[async_trait]
impl Watching for Refused {
    async fn next(&mut self) -> std::result::Result<Vec<Event>, Ended> {
        Err(self.0.clone())
    }
}

#[async_trait]
impl Target for Local {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        text(self.store.range(request).await)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        text(self.store.txn(txn).await)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        text(self.store.compact(revision, true).await)
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        text(self.store.lease_grant(id, ttl).await)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        text(self.store.lease_revoke(id).await.map(|_| ()))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        text(self.store.lease_renew(id).await)
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseTtl> {
        text(self.store.lease_time_to_live(id, true))
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        Ok(self.store.leases())
    }

    async fn watch(&self, request: WatchRequest) -> Result<Box<dyn Watching>> {
        match self.store.watch(request) {
            Ok(watcher) => Ok(Box::new(LocalWatch(watcher))),
            Err(Error::Compacted { compact_revision }) => Ok(Box::new(Refused(Ended { compact_revision }))),
            Err(error) => Err(error.to_string()),
        }
    }
}
