//! All watch caches, fed by one watch of the whole store.
//!
//! One watch instead of one per resource: changes arrive in the one global
//! order, every cache knows at once how far the store has come (so a read that
//! must be current only waits for that number), and an idle resource costs
//! nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use parking_lot::RwLock;
use skiff_api::{GroupResource, Object, Revision, Status};
use skiff_client::Snapshot;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits,
    storage::{self, Backend, Change, Range, StorageError, WatchMessage, codec, handover::Handover},
    watch_cache::WatchCache,
};

/// Requests to the dispatcher that wait; senders wait when it is full.
const REQUESTS_LEN: usize = 16;

struct Add {
    resource: GroupResource,
    done: oneshot::Sender<Result<(), StorageError>>,
}

/// Where the store stood at the last steps of the clock, the oldest first.
#[derive(Default)]
struct Past(VecDeque<Revision>);

impl Past {
    /// One [`limits::COMPACTION_INTERVAL`] has passed; where the store stood [`limits::HISTORY_MIN`] ago, once that is known.
    fn step(&mut self, now: Revision) -> Option<Revision> {
        const STEPS: u64 = limits::HISTORY_MIN.as_secs() / limits::COMPACTION_INTERVAL.as_secs();
        self.0.push_back(now);
        (self.0.len() as u64 > STEPS).then(|| self.0.pop_front()).flatten()
    }
}

/// The caches and how far they have come.
pub struct Caches {
    backend: Arc<dyn Backend>,
    snapshot: Snapshot,
    by_resource: RwLock<HashMap<GroupResource, Arc<WatchCache>>>,
    progress: watch::Sender<Revision>,
    /// History before this revision is gone.
    compacted: AtomicU64,
    handover: Handover,
    requests: mpsc::Sender<Add>,
    inbox: parking_lot::Mutex<Option<mpsc::Receiver<Add>>>,
}

/// Caches whose watchers are to be woken, with when. At most one entry per cache.
#[derive(Default)]
struct Wakes(Vec<(Instant, Arc<WatchCache>)>);

impl Wakes {
    fn add(&mut self, cache: Arc<WatchCache>) {
        if !self.0.iter().any(|(_, have)| Arc::ptr_eq(have, &cache)) {
            self.0.push((Instant::now(), cache));
        }
    }

    /// Wakes the watchers for whom it is time.
    fn run(&mut self) {
        self.0.retain_mut(|(due, cache)| match cache.wake() {
            Some(later) => {
                *due = later;
                true
            }
            None => false,
        });
    }

    /// Waits until it is time for somebody; for ever when nobody waits.
    async fn ripen(&self) {
        match self.0.iter().map(|(due, _)| *due).min() {
            Some(first) => tokio::time::sleep_until(first).await,
            None => std::future::pending().await,
        }
    }
}

impl Caches {
    /// Empty caches for the given resources; [`Caches::run`] fills them.
    pub fn new(backend: Arc<dyn Backend>, resources: impl IntoIterator<Item = GroupResource>) -> Arc<Caches> {
        let (requests, inbox) = mpsc::channel(REQUESTS_LEN);
        let caches = Caches {
            backend,
            snapshot: Snapshot::new(),
            by_resource: RwLock::default(),
            progress: watch::Sender::new(Revision::ZERO),
            compacted: AtomicU64::new(0),
            handover: Handover::default(),
            requests,
            inbox: parking_lot::Mutex::new(Some(inbox)),
        };
        for resource in resources {
            caches.insert(Arc::new(WatchCache::new(resource)));
        }
        Arc::new(caches)
    }

    /// The stores of all caches, shared.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn get(&self, resource: &GroupResource) -> Option<Arc<WatchCache>> {
        self.by_resource.read().get(resource).cloned()
    }

    /// Every cache.
    pub fn all(&self) -> Vec<Arc<WatchCache>> {
        self.by_resource.read().values().cloned().collect()
    }

    /// Where writers lay down what is about to come back as a change.
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    /// How far the caches have come.
    pub fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Waits until the first complete load.
    pub async fn ready(&self) {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|revision| *revision > Revision::ZERO).await;
    }

    pub fn is_ready(&self) -> bool {
        self.revision() > Revision::ZERO
    }

    /// Waits until the caches show everything written so far.
    pub async fn catch_up(&self) -> Result<Revision, Status> {
        let target = self.backend.current_revision().await?;
        self.wait_for(target).await.map(|()| target)
    }

    /// Waits until the caches show `revision`; 504 when it does not come.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|have| *have >= revision);
        match tokio::time::timeout(limits::CATCH_UP_TIMEOUT, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(too_large(revision, self.revision())),
        }
    }

    /// Starts serving one more resource (a custom one); returns when it is loaded.
    pub async fn add(&self, resource: GroupResource) -> Result<(), Status> {
        if self.get(&resource).is_some() {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let stopped = || Status::service_unavailable("the server is stopping");
        self.requests.send(Add { resource, done }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?.map_err(Status::from)
    }

    /// Stops serving a resource; its watches end.
    pub fn remove(&self, resource: &GroupResource) {
        let removed = self.by_resource.write().remove(resource);
        self.snapshot.remove(resource);
        if let Some(cache) = removed {
            cache.close();
        }
    }

    /// The revision before which history is gone.
    pub fn compacted(&self) -> Revision {
        Revision(self.compacted.load(Ordering::Acquire))
    }

    /// Compacts the store again and again, always to where it stood
    /// [`limits::HISTORY_MIN`] ago, so that clients can resume for at least that long.
    pub async fn compact(&self, stop: CancellationToken) {
        let mut past = Past::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(limits::COMPACTION_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let Some(before) = past.step(self.revision()).filter(|before| *before > self.compacted()) else { continue };
            match self.backend.compact(before).await {
                Ok(()) | Err(StorageError::Compacted) => self.compacted.store(before.0, Ordering::Release),
                Err(error) => tracing::warn!(component = "compaction", %error, "compact the store"),
            }
        }
    }

    fn insert(&self, cache: Arc<WatchCache>) {
        self.snapshot.insert(cache.resource.clone(), cache.store().clone());
        self.by_resource.write().insert(cache.resource.clone(), cache);
    }

    /// Feeds the caches until the token is cancelled. Call once.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(mut inbox) = self.inbox.lock().take() else { return };
        let work = async {
            let mut lost = false;
            let mut wakes = Wakes::default();
            loop {
                let Err(error) = self.follow(&mut inbox, &mut wakes, lost).await else { continue };
                // Without its history a watch cannot resume: everything is read again.
                lost = matches!(error, StorageError::Compacted | StorageError::Future);
                tracing::warn!(component = "watch-cache", %error, "watch of the store broke, opening it again");
                tokio::time::sleep(limits::REWATCH_PAUSE).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
        for cache in self.all() {
            cache.close();
        }
    }

    /// Loads what is not loaded, then follows the store until the watch breaks.
    async fn follow(&self, inbox: &mut mpsc::Receiver<Add>, wakes: &mut Wakes, lost: bool) -> Result<(), StorageError> {
        let after = match self.revision() {
            Revision::ZERO => self.load_all().await?,
            _ if lost => self.load_all().await?,
            seen => seen,
        };
        let mut stream = self.backend.watch("", after).await?;
        let mut by_prefix = self.by_prefix();
        loop {
            tokio::select! {
                biased;
                message = stream.next() => match message {
                    Some(Ok(message)) => self.take_in(message, &by_prefix, wakes),
                    Some(Err(error)) => return Err(error),
                    None => return Err(StorageError::Unavailable("watch ended".to_owned())),
                },
                () = wakes.ripen() => wakes.run(),
                Some(add) = inbox.recv() => {
                    let result = self.load_one(add.resource).await;
                    by_prefix = self.by_prefix();
                    let _ = add.done.send(result);
                }
            }
        }
    }

    fn by_prefix(&self) -> HashMap<String, GroupResource> {
        self.by_resource.read().values().map(|cache| (cache.prefix.clone(), cache.resource.clone())).collect()
    }

    fn take_in(&self, message: WatchMessage, by_prefix: &HashMap<String, GroupResource>, wakes: &mut Wakes) {
        let revision = match message {
            WatchMessage::Progress(revision) => revision,
            WatchMessage::Changes(changes) => {
                for change in &changes {
                    let Some(cache) = self.of(change, by_prefix) else { continue };
                    cache.apply(change, &self.handover);
                    wakes.add(cache);
                }
                // A stream that never pauses delays nobody.
                wakes.run();
                changes.last().map_or(Revision::ZERO, |change| change.revision)
            }
        };
        if revision <= self.revision() {
            return;
        }
        for cache in self.by_resource.read().values() {
            cache.advance(revision);
        }
        self.progress.send_replace(revision);
    }

    /// The cache that a change belongs to.
    fn of(&self, change: &Change, by_prefix: &HashMap<String, GroupResource>) -> Option<Arc<WatchCache>> {
        storage::prefix_of(&change.key).and_then(|prefix| by_prefix.get(prefix)).and_then(|resource| self.get(resource))
    }

    async fn load_all(&self) -> Result<Revision, StorageError> {
        let revision = self.backend.current_revision().await?;
        for cache in self.all() {
            let objects = self.read(&cache.prefix, revision).await?;
            cache.load(objects, revision);
        }
        self.progress.send_replace(revision);
        Ok(revision)
    }

    async fn load_one(&self, resource: GroupResource) -> Result<(), StorageError> {
        let cache = Arc::new(WatchCache::new(resource));
        let revision = self.backend.current_revision().await?;
        let objects = self.read(&cache.prefix, revision).await?;
        cache.load(objects, revision);
        self.insert(cache);
        Ok(())
    }

    async fn read(&self, prefix: &str, at: Revision) -> Result<Vec<Arc<Object>>, StorageError> {
        let mut objects = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .backend
                .list(Range { prefix, after: after.as_deref(), limit: Some(limits::LIST_PAGE_KEYS), at: Some(at) })
                .await?;
            for kv in &page.items {
                match codec::decode(&kv.value, kv.revision) {
                    Ok(object) => objects.push(Arc::new(object)),
                    Err(error) => {
                        tracing::error!(component = "watch-cache", key = kv.key, %error, "stored value does not decode");
                    }
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more || after.is_none() {
                return Ok(objects);
            }
        }
    }
}

/// The answer to a version from the future.
pub fn too_large(wanted: Revision, have: Revision) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {wanted}, current: {have}"), 1);
    if let Some(details) = &mut status.details {
        details.causes = vec![skiff_api::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }];
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::storage::{Put, Swap, memory::MemoryBackend};

    #[test]
    fn history_lives_for_the_promised_time_and_one_step_more() {
        let mut past = Past::default();
        let given: Vec<_> = (1..=8).map(|minute| past.step(Revision(minute)).map(|revision| revision.0)).collect();
        assert_eq!(given, [None, None, None, None, None, Some(1), Some(2), Some(3)]);
    }

    #[tokio::test]
    async fn caches_load_follow_and_take_new_resources() {
        let backend = MemoryBackend::default();
        let write = |key: &'static str| {
            let backend = backend.clone();
            async move {
                let value = codec::encode(&json!({"kind": "X", "apiVersion": "v1", "metadata": {
                    "name": key.rsplit('/').next(), "namespace": "n"}}));
                let Swap::Done(revision) = backend.put(Put { key, expected: None, value, ttl: None }).await.unwrap()
                else {
                    panic!()
                };
                revision
            }
        };
        write("/registry/pods/n/a").await;
        write("/registry/example.com/widgets/n/w").await;
        let pods = GroupResource::new("", "pods");
        let caches = Caches::new(Arc::new(backend.clone()), [pods.clone()]);
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&caches).run(stop.clone()));
        caches.ready().await;
        assert!(caches.snapshot().store(&pods).unwrap().get("n", "a").is_some());
        let revision = write("/registry/pods/n/b").await;
        assert_eq!(caches.catch_up().await.unwrap(), revision);
        assert!(caches.snapshot().store(&pods).unwrap().get("n", "b").is_some());
        let revision = write("/elsewhere").await;
        assert_eq!(caches.catch_up().await.unwrap(), revision);
        let widgets = GroupResource::new("example.com", "widgets");
        caches.add(widgets.clone()).await.unwrap();
        assert_eq!(caches.snapshot().store(&widgets).unwrap().len(), 1);
        let revision = write("/registry/example.com/widgets/n/v").await;
        caches.wait_for(revision).await.unwrap();
        assert_eq!(caches.snapshot().store(&widgets).unwrap().len(), 2);
        stop.cancel();
        task.await.unwrap();
    }
}
