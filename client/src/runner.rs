//! Runs controllers: turns store events into keys, keys into outcomes, and
//! outcomes into writes.
//!
//! Invariants: a controller subscribes before it lists, so it misses nothing;
//! a key is never reconciled twice at the same time; a key whose last outcome
//! wrote something is reconciled again only when the snapshot shows those
//! writes (or the wait has timed out), so a controller never acts on a world
//! older than its own deeds.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use skiff_api::{GroupResource, Object, Status};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Client, ClientError, Context, Controller, EventRecorder, EventType, ObjectRef, Operation, Snapshot, Store,
    StoreEvent, WorkQueue,
    controller::EveryResource,
    limits::{CATCH_UP_WAIT_MAX, OPERATIONS_IN_FLIGHT_MAX},
    operation::{Executed, execute},
};

/// What every controller works with.
#[derive(Clone)]
pub struct RunnerDeps {
    pub client: Client,
    pub snapshot: Snapshot,
    pub recorder: EventRecorder,
}

/// Runs controllers until `token` is cancelled.
pub async fn run(controllers: Vec<Arc<dyn Controller>>, deps: RunnerDeps, token: CancellationToken) {
    let mut tasks = JoinSet::new();
    for controller in controllers {
        tasks.spawn(run_one(controller, deps.clone(), token.child_token()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(component = "controllers", %error, "controller task ended");
        }
    }
}

/// Runs one controller until `token` is cancelled.
pub async fn run_one(controller: Arc<dyn Controller>, deps: RunnerDeps, token: CancellationToken) {
    let name = controller.name();
    let deps = RunnerDeps {
        client: deps.client.for_part(name),
        recorder: deps.recorder.with_component(controller.event_component()),
        snapshot: deps.snapshot,
    };
    let runner = Arc::new(Runner {
        workers: controller.workers().max(1),
        controller,
        deps,
        queue: WorkQueue::named(name),
        memory: Mutex::default(),
    });
    tokio::select! {
        () = token.cancelled() => {}
        () = runner.run() => {}
    }
}

/// What the runner remembers of a key between two reconciles.
#[derive(Default)]
struct Memory {
    last_failure: Option<Arc<Status>>,
    /// What the snapshot must show before the next reconcile.
    written: Vec<Executed>,
}

struct Runner {
    controller: Arc<dyn Controller>,
    workers: usize,
    deps: RunnerDeps,
    queue: WorkQueue<ObjectRef>,
    memory: Mutex<HashMap<ObjectRef, Memory>>,
}

type Map<'a> = &'a (dyn Fn(Option<&Object>, Option<&Object>, &Snapshot) -> Vec<ObjectRef> + Send + Sync);

impl Runner {
    async fn run(&self) {
        let triggers = self.controller.triggers();
        let snapshot = &self.deps.snapshot;
        let mut sources = Vec::new();
        for trigger in &triggers {
            match snapshot.store(&trigger.resource) {
                Some(store) => sources.push((store.subscribe(), store, trigger)),
                None => {
                    let (name, resource) = (self.controller.name(), trigger.resource.to_string());
                    tracing::debug!(component = name, resource, "resource is not served, trigger left out");
                }
            }
        }
        let read = self.controller.reads().into_iter().filter_map(|resource| snapshot.store(&resource));
        let needed: Vec<Store> = read.chain(sources.iter().map(|(_, store, _)| store.clone())).collect();
        future::join_all(needed.iter().map(Store::wait_synced)).await;

        let mut tasks: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        for (subscription, store, trigger) in sources {
            tasks.push(self.pump(store, subscription, &*trigger.map).boxed());
        }
        for _ in 0..self.workers {
            tasks.push(self.work().boxed());
        }
        if let Some(map) = self.controller.every_resource() {
            tasks.push(self.follow_every_resource(map).boxed());
        }
        while tasks.next().await.is_some() {}
    }

    /// Turns the changes of one store into keys, beginning with all that is there.
    async fn pump(&self, store: Store, mut subscription: crate::Subscription, map: Map<'_>) {
        let snapshot = &self.deps.snapshot;
        self.add_all(&store, map);
        while let Some(event) = subscription.next().await {
            match event {
                StoreEvent::Applied { new, old } => self.add(map(Some(&new), old.as_deref(), snapshot)),
                StoreEvent::Deleted(last) => self.add(map(None, Some(&last), snapshot)),
                StoreEvent::Resync => self.add_all(&store, map),
            }
        }
    }

    fn add_all(&self, store: &Store, map: Map<'_>) {
        for object in store.list(None) {
            self.add(map(Some(&object), None, &self.deps.snapshot));
        }
    }

    fn add(&self, keys: Vec<ObjectRef>) {
        for key in keys {
            self.queue.add(key);
        }
    }

    /// Keeps one pump per store of the snapshot, starting more as stores are added.
    async fn follow_every_resource(&self, map: EveryResource) {
        let mut changes = self.deps.snapshot.changes();
        let mut pumps = FuturesUnordered::new();
        let mut followed: HashMap<GroupResource, Store> = HashMap::new();
        loop {
            for resource in self.deps.snapshot.resources() {
                let Some(store) = self.deps.snapshot.store(&resource) else { continue };
                if followed.get(&resource).is_some_and(|have| have.is_same(&store)) {
                    continue;
                }
                followed.insert(resource.clone(), store.clone());
                let map = Arc::clone(&map);
                pumps.push(async move {
                    let subscription = store.subscribe();
                    store.wait_synced().await;
                    self.pump(store, subscription, &|new, old, snapshot| map(&resource, new, old, snapshot)).await;
                });
            }
            followed.retain(|resource, _| self.deps.snapshot.store(resource).is_some());
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(()) = pumps.next() => {}
            }
        }
    }

    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            self.process(&key).await;
            self.queue.done(&key);
        }
    }

    async fn process(&self, key: &ObjectRef) {
        let Memory { last_failure, written } = self.memory.lock().remove(key).unwrap_or_default();
        self.catch_up(key, &written).await;
        let context = Context { now: Timestamp::now(), last_failure: last_failure.clone() };
        let decided = catch_unwind(AssertUnwindSafe(|| self.controller.reconcile(key, &self.deps.snapshot, &context)));
        let name = self.controller.name();
        let Ok(outcome) = decided else {
            tracing::error!(component = name, key = %Printed(key), "reconcile panicked, key is retried with back-off");
            return self.queue.add_rate_limited(key.clone());
        };
        let Carried { written, failure, deeds_done } = self.carry_out(outcome.operations).await;
        for event in outcome.events {
            // Normal events tell of deeds; when one of those failed, only warnings are true.
            if deeds_done || event.event_type == EventType::Warning {
                self.deps.recorder.record(event);
            }
        }
        let mut memory = Memory { last_failure: None, written };
        match failure {
            Some(error) => {
                if error.is_conflict() {
                    memory.last_failure = last_failure;
                    tracing::debug!(component = name, key = %Printed(key), %error, "write conflicts, trying again");
                } else {
                    // What the API refuses is told in the object's status and events.
                    if error.reason().is_some() {
                        tracing::info!(component = name, key = %Printed(key), %error, "write refused, trying again");
                    } else {
                        tracing::warn!(component = name, key = %Printed(key), %error, "write failed, trying again");
                    }
                    memory.last_failure = error.into_status().map(Arc::new);
                }
                self.remember(key, memory);
                self.queue.add_rate_limited(key.clone());
            }
            None if outcome.retry.is_some() => {
                let reason = outcome.retry.unwrap_or_default();
                tracing::debug!(component = name, key = %Printed(key), reason, "not ready yet, trying again");
                memory.last_failure = last_failure;
                self.remember(key, memory);
                self.queue.add_rate_limited(key.clone());
            }
            None => {
                self.remember(key, memory);
                self.queue.forget(key);
                if last_failure.is_some() {
                    // The outcome may have reported a failure that is over now.
                    self.queue.add(key.clone());
                }
                if let Some(delay) = outcome.requeue_after {
                    self.queue.add_after(key.clone(), delay.max(std::time::Duration::from_millis(1)));
                }
            }
        }
    }

    fn remember(&self, key: &ObjectRef, memory: Memory) {
        if memory.last_failure.is_some() || !memory.written.is_empty() {
            self.memory.lock().insert(key.clone(), memory);
        }
    }

    /// Waits until the snapshot shows what this key has written.
    async fn catch_up(&self, key: &ObjectRef, written: &[Executed]) {
        let wait = future::join_all(written.iter().filter_map(|write| {
            let store = self.deps.snapshot.store(&write.resource())?;
            Some(async move { store.wait_until(|store| write.is_visible_in(store)).await })
        }));
        if tokio::time::timeout(CATCH_UP_WAIT_MAX, wait).await.is_err() {
            let name = self.controller.name();
            tracing::warn!(component = name, key = %Printed(key), "snapshot does not show own writes yet, going on");
        }
    }

    /// Carries out operations in order, neighbours of one kind side by side, until one fails.
    async fn carry_out(&self, operations: Vec<Operation>) -> Carried {
        let mut carried = Carried { written: Vec::new(), failure: None, deeds_done: true };
        for group in groups(operations) {
            let is_deed = group.iter().any(is_deed);
            let (mut stopped, mut enough) = (false, false);
            let mut waiting = group.into_iter();
            let mut running = FuturesUnordered::new();
            loop {
                while carried.failure.is_none() && !enough && running.len() < OPERATIONS_IN_FLIGHT_MAX {
                    let Some(operation) = waiting.next() else { break };
                    running.push(execute(&self.deps.client, operation));
                }
                match running.next().await {
                    None => break,
                    Some(Ok(Executed::Stop)) => stopped = true,
                    Some(Ok(Executed::Enough)) => {
                        enough = true;
                        carried.deeds_done = false;
                    }
                    Some(Ok(Executed::Nothing)) => {}
                    Some(Ok(executed)) => Executed::remember(&mut carried.written, executed),
                    Some(Err(error)) => {
                        carried.failure.get_or_insert(error);
                    }
                }
            }
            if carried.failure.is_some() || stopped {
                carried.deeds_done &= !is_deed;
                break;
            }
        }
        carried
    }
}

/// How far an outcome got.
struct Carried {
    written: Vec<Executed>,
    failure: Option<ClientError>,
    /// Whether everything was done but, perhaps, telling about it in a status.
    deeds_done: bool,
}

fn is_deed(operation: &Operation) -> bool {
    !matches!(operation, Operation::Update { subresource: Some("status"), .. })
}

/// Splits operations into runs that may go side by side: neighbouring creates
/// or deletes of different objects. Everything else stands alone.
fn groups(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut groups: Vec<Vec<Operation>> = Vec::new();
    for operation in operations {
        let joins = match (groups.last().and_then(|group| group.last()), &operation) {
            (Some(Operation::Create { resource: a, .. }), Operation::Create { resource: b, .. }) => a == b,
            (Some(Operation::Delete { resource: a, .. }), Operation::Delete { resource: b, .. }) => a == b,
            (Some(Operation::DeleteCollection { .. }), Operation::DeleteCollection { .. }) => true,
            _ => false,
        };
        match groups.last_mut() {
            Some(group) if joins => group.push(operation),
            _ => groups.push(vec![operation]),
        }
    }
    groups
}

/// A key as logs show it.
struct Printed<'a>(&'a ObjectRef);

impl std::fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.namespace.is_empty() {
            f.write_str(&self.0.name)
        } else {
            write!(f, "{}/{}", self.0.namespace, self.0.name)
        }
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
