//! One task per remote APIService: is its server there, and what does it serve?
//!
//! A task looks again when its object, its Service or the endpoints change,
//! after a while when all is well, and with growing pauses when it is not.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;
use skiff_api::GroupResource;
use skiff_client::{Client, ClientError, StoreEvent};
use tokio::{sync::Notify, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    API_SERVICES, API_SERVICES_V1, Aggregator, Learned, Remote,
    availability::{self, Verdict},
    is_remote, limits, openapi,
    remote::{self, ServiceReference},
};
use crate::registry::value::text_at;

const SERVICES: GroupResource = GroupResource::new("", "services");
const SLICES: GroupResource = GroupResource::new("discovery.k8s.io", "endpointslices");

/// A running task and what wakes it.
struct Probe {
    wake: Arc<Notify>,
    service: ServiceReference,
    stop: CancellationToken,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn run(aggregator: &Arc<Aggregator>, client: &Client) {
    let stores = [API_SERVICES, SERVICES, SLICES].map(|resource| aggregator.snapshot.store(&resource));
    let [Some(api_services), Some(services), Some(slices)] = stores else { return };
    let (mut changes, mut service_changes, mut slice_changes) =
        (api_services.subscribe(), services.subscribe(), slices.subscribe());
    for store in [&api_services, &services, &slices] {
        store.wait_synced().await;
    }
    let mut probes: HashMap<String, Probe> = HashMap::new();
    look_at_all(aggregator, client, &api_services, &mut probes).await;
    loop {
        tokio::select! {
            event = changes.next() => match event {
                None => return,
                Some(StoreEvent::Resync) => look_at_all(aggregator, client, &api_services, &mut probes).await,
                Some(StoreEvent::Applied { new, old }) => {
                    // What a probe itself wrote is no reason to look again.
                    if old.is_none_or(|old| old.meta.generation != new.meta.generation) {
                        look_at(aggregator, client, &new, &mut probes).await;
                    }
                }
                Some(StoreEvent::Deleted(last)) => forget(aggregator, &last.meta.name, &mut probes),
            },
            event = service_changes.next() => match event {
                None => return,
                event => wake(&probes, event, |object| object.meta.name.to_string()),
            },
            event = slice_changes.next() => match event {
                None => return,
                event => wake(&probes, event, |object| {
                    object.meta.labels.get("kubernetes.io/service-name").map(ToString::to_string).unwrap_or_default()
                }),
            },
        }
    }
}

fn wake(probes: &HashMap<String, Probe>, event: Option<StoreEvent>, service: impl Fn(&skiff_api::Object) -> String) {
    if probes.is_empty() {
        return;
    }
    let object = match event {
        Some(StoreEvent::Applied { new, .. }) => Some(new),
        Some(StoreEvent::Deleted(last)) => Some(last),
        _ => None,
    };
    for probe in probes.values() {
        let concerned = object.as_ref().is_none_or(|object| {
            object.meta.namespace == probe.service.namespace && service(object) == probe.service.name
        });
        if concerned {
            probe.wake.notify_one();
        }
    }
}

async fn look_at_all(
    aggregator: &Arc<Aggregator>,
    client: &Client,
    api_services: &skiff_client::Store,
    probes: &mut HashMap<String, Probe>,
) {
    let present = api_services.list(None);
    let gone: Vec<String> =
        probes.keys().filter(|name| !present.iter().any(|object| object.meta.name == **name)).cloned().collect();
    for name in gone {
        forget(aggregator, &name, probes);
    }
    for object in present {
        look_at(aggregator, client, &object, probes).await;
    }
}

fn forget(aggregator: &Aggregator, name: &str, probes: &mut HashMap<String, Probe>) {
    if probes.remove(name).is_some() {
        aggregator.change_learned(|learned| learned.remove(name).is_some());
    }
}

/// Starts, restarts or ends the task of an object.
async fn look_at(
    aggregator: &Arc<Aggregator>,
    client: &Client,
    object: &skiff_api::Object,
    probes: &mut HashMap<String, Probe>,
) {
    let Ok(value) = object.value() else { return };
    let name = object.meta.name.to_string();
    if !is_remote(&value) {
        forget(aggregator, &name, probes);
        if let Err(error) = report(client, &value, &Verdict::local()).await {
            tracing::warn!(component = "aggregator", name, %error, "write status");
        }
        return;
    }
    let Ok(parsed) = Remote::parse(object, aggregator.identity.as_ref()) else { return };
    let Some(service) = parsed.service.clone() else { return };
    let known = Learned {
        group: parsed.group.clone(),
        version: parsed.version.clone(),
        group_priority: parsed.group_priority,
        version_priority: parsed.version_priority,
        stale: true,
        ..Learned::default()
    };
    aggregator.change_learned(|learned| {
        let before = learned.entry(name.clone()).or_default();
        let (resources, openapi_v3, openapi_v2, stale) =
            (before.resources.clone(), before.openapi_v3.clone(), Arc::clone(&before.openapi_v2), before.stale);
        let stale = stale || before.group.is_empty();
        *before = Learned { resources, openapi_v3, openapi_v2, stale, ..known };
        true
    });
    match probes.get(&name) {
        Some(probe) if probe.service == service => probe.wake.notify_one(),
        _ => {
            let probe =
                Probe { wake: Arc::new(Notify::new()), service: service.clone(), stop: aggregator.stop.child_token() };
            let task = Task {
                aggregator: Arc::clone(aggregator),
                client: client.clone(),
                name: name.clone(),
                service,
                etag: None,
            };
            let (wake, stop) = (Arc::clone(&probe.wake), probe.stop.clone());
            aggregator.tasks.spawn(async move {
                tokio::select! {
                    () = task.run(&wake) => {}
                    () = stop.cancelled() => {}
                }
            });
            probes.insert(name, probe);
        }
    }
}

/// Writes the verdict where the stored status differs.
async fn report(client: &Client, object: &Value, verdict: &Verdict) -> Result<(), ClientError> {
    let Some(status) = availability::status(object, verdict, Timestamp::now()) else { return Ok(()) };
    let mut object = object.clone();
    object["status"] = status;
    let name = text_at(&object, &["metadata", "name"]).to_owned();
    match client.update(&API_SERVICES_V1, None, &name, Some("status"), &object).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

struct Task {
    aggregator: Arc<Aggregator>,
    client: Client,
    name: String,
    service: ServiceReference,
    /// Of the OpenAPI v2 document.
    etag: Option<HeaderValue>,
}

impl Task {
    async fn run(mut self, wake: &Notify) {
        let mut pause = limits::RETRY_MIN;
        loop {
            let healthy = self.once().await;
            let rest = if healthy {
                pause = limits::RETRY_MIN;
                limits::RESYNC
            } else {
                pause = (pause * 2).min(limits::RETRY_MAX);
                pause
            };
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Checks once, remembers what was learned, then says so in the object; false to try again soon.
    async fn once(&mut self) -> bool {
        let aggregator = Arc::clone(&self.aggregator);
        let service = aggregator.service(&self.service);
        let verdict =
            match availability::unreachable(&self.service, service.as_deref(), &aggregator.slices(&self.service)) {
                Some(verdict) => verdict,
                None => match self.discover().await {
                    Ok(resources) => {
                        self.learn(|learned| {
                            let changed = learned.stale || learned.resources != resources;
                            learned.stale = false;
                            learned.resources = resources;
                            changed
                        });
                        Verdict::passed()
                    }
                    Err(message) => Verdict::failed_discovery(message),
                },
            };
        if !verdict.available {
            self.learn(|learned| !std::mem::replace(&mut learned.stale, true));
        }
        let stored = aggregator.snapshot.store(&API_SERVICES).and_then(|store| store.get("", &self.name));
        let Some(Ok(object)) = stored.map(|object| object.value()) else { return true };
        if let Err(error) = report(&self.client, &object, &verdict).await {
            tracing::debug!(component = "aggregator", name = self.name, %error, "write status");
            return false;
        }
        if verdict.available {
            self.openapi().await;
        }
        verdict.available
    }

    fn learn(&self, change: impl FnOnce(&mut Learned) -> bool) {
        self.aggregator.change_learned(|learned| learned.get_mut(&self.name).is_some_and(change));
    }

    fn group_version(&self) -> (String, String) {
        let (version, group) = self.name.split_once('.').unwrap_or_default();
        (group.to_owned(), version.to_owned())
    }

    /// The resource list of the group version, from the first of several tries that succeeds.
    async fn discover(&self) -> Result<Value, String> {
        let (group, version) = self.group_version();
        let path = format!("/apis/{group}/{version}");
        let url = format!("https://{}:{}{path}", self.service.host(), self.service.port);
        let tls = remote::insecure(self.aggregator.identity.as_ref())?;
        let mut message = String::new();
        for _ in 0..limits::CHECK_ATTEMPTS {
            let (code, _, bytes) = match self.get(&tls, &path, "application/json", None).await {
                Ok(answer) => answer,
                Err(why) => {
                    message = format!("failing or missing response from {url}: {why}");
                    continue;
                }
            };
            if code.is_success() || code.is_redirection() {
                return Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null));
            }
            message = format!("failing or missing response from {url}: bad status from {url}: {}", code.as_u16());
        }
        Err(message)
    }

    async fn get(
        &self,
        tls: &TlsConnector,
        path: &str,
        accept: &'static str,
        known: Option<&HeaderValue>,
    ) -> Result<(StatusCode, HeaderMap, bytes::Bytes), String> {
        let asked = self.aggregator.fetch(&self.service, tls, path, accept, known);
        match timeout(limits::CHECK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(status.message.to_string()),
            Err(_) => Err(format!("no answer within {:?}", limits::CHECK_TIMEOUT)),
        }
    }

    /// Fetches what the server says of its schemas; a server without is fine.
    async fn openapi(&mut self) {
        let (group, version) = self.group_version();
        let Some(tls) = self.trusted() else { return };
        if let Ok((StatusCode::OK, _, bytes)) = self.get(&tls, "/openapi/v3", "application/json", None).await {
            let found = serde_json::from_slice::<Value>(&bytes).ok().and_then(|index| {
                let path = &index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"];
                path.as_str().filter(|path| path.starts_with("/openapi/v3/")).map(str::to_owned)
            });
            self.learn(|learned| {
                let changed = learned.openapi_v3 != found;
                learned.openapi_v3 = found;
                changed
            });
        }
        if let Ok((StatusCode::OK, headers, bytes)) =
            self.get(&tls, "/openapi/v2", "application/json", self.etag.as_ref()).await
            && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
        {
            self.etag = headers.get(header::ETAG).cloned();
            let part = Arc::new(openapi::part_of(document, &group, &version));
            self.learn(|learned| {
                let changed = learned.openapi_v2 != part;
                learned.openapi_v2 = part;
                changed
            });
        }
    }

    /// TLS as users' requests have it: documents are only taken from a server that proves itself.
    fn trusted(&self) -> Option<TlsConnector> {
        let (group, version) = self.group_version();
        self.aggregator.remote(&group, &version)?.tls.clone().ok()
    }
}
