//! Keeps the node's status in the API true: on change, and now and then anyway.

use std::sync::{Arc, atomic::Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use serde_json::{Value, json};
use skiff_api::GroupVersionResource;
use skiff_client::{ClientError, EventType, Patch};
use skiff_host::process::{MachineInfo, machine_info, memory_available_bytes};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    facts::{NodeFactsInput, node_status, runtime_condition},
    registration,
};
use crate::{
    config::{AgentEvent, EventSinkFn},
    context::Context,
    cri::v1,
    events, limits,
    pods::PodSet,
};

/// Reports the node.
pub struct NodeReporter {
    context: Arc<Context>,
    machine: MachineInfo,
    events: EventSinkFn,
    /// Wakes the reporter before its time.
    pub changed: Arc<Notify>,
    runtime: Option<v1::VersionResponse>,
    /// What the runtime said last, and when: a short silence (a restart) does not make the node unready.
    runtime_status: Option<(v1::StatusResponse, Instant)>,
    written: Option<(NodeStatus, Instant)>,
    ready: Option<bool>,
}

impl NodeReporter {
    pub fn new(context: Arc<Context>, events: EventSinkFn) -> NodeReporter {
        NodeReporter {
            context,
            machine: machine_info(),
            events,
            changed: Arc::new(Notify::new()),
            runtime: None,
            runtime_status: None,
            written: None,
            ready: None,
        }
    }

    /// Registers the node and returns its uid.
    pub async fn register(&mut self) -> String {
        let status = self.status(&NodeStatus::default()).await;
        let (uid, labels) = registration::register(&self.context.config, &status).await;
        {
            let mut view = self.context.node.write();
            view.labels = labels;
            view.allocatable = status.allocatable.clone().unwrap_or_default();
        }
        let name = &self.context.config.node_name;
        let event = events::node(name, name, EventType::Normal, "Starting", "Starting kubelet.");
        self.context.recorder.record(event);
        (self.events)(AgentEvent::NodeRegistered);
        uid
    }

    /// Reports until `token` is cancelled.
    pub async fn run(mut self, pods: Arc<PodSet>, token: CancellationToken) {
        loop {
            if let Err(error) = self.round(&pods).await {
                tracing::warn!(component = "node", %error, "write node status");
            }
            // The runtime announces neither network nor disk changes, so they are looked at; while the
            // node is not ready yet more often, because every pod waits for it.
            let pause = if self.ready == Some(true) { limits::NODE_CHECK_PERIOD } else { limits::NODE_CHECK_STARTING };
            tokio::select! {
                () = token.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn round(&mut self, pods: &PodSet) -> Result<(), ClientError> {
        let context = Arc::clone(&self.context);
        let nodes = GroupVersionResource::of::<Node>();
        let name = &context.config.node_name;
        let node = match context.config.client.get(&nodes, None, name).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => {
                self.register().await;
                context.config.client.get(&nodes, None, name).await?
            }
            Err(error) => return Err(error),
        };
        let typed = node.typed::<Node>()?;
        let old = typed.status.clone().unwrap_or_default();
        let status = self.status(&old).await;
        {
            let mut view = context.node.write();
            view.labels = node.meta.labels.clone();
            view.allocatable = status.allocatable.clone().unwrap_or_default();
        }
        self.note_readiness(&status, pods);
        let due = self.written.as_ref().is_none_or(|(_, at)| at.elapsed() >= limits::NODE_STATUS_PERIOD);
        if !due && same(&status, &old) {
            return Ok(());
        }
        let patch = Patch::Strategic(json!({"status": patch(&status)?}));
        context.config.client.patch(&nodes, None, name, Some("status"), &patch).await?;
        self.written = Some((status, Instant::now()));
        Ok(())
    }

    fn note_readiness(&mut self, status: &NodeStatus, pods: &PodSet) {
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        if self.ready == Some(ready) {
            return;
        }
        self.ready = Some(ready);
        let name = &self.context.config.node_name;
        let (reason, message) = if ready {
            ("NodeReady", format!("Node {name} status is now: NodeReady"))
        } else {
            ("NodeNotReady", format!("Node {name} status is now: NodeNotReady"))
        };
        self.context.recorder.record(events::node(name, name, EventType::Normal, reason, message));
        (self.events)(AgentEvent::NodeReady(ready));
        pods.wake_all();
    }

    async fn status(&mut self, old: &NodeStatus) -> NodeStatus {
        let context = Arc::clone(&self.context);
        if self.runtime.is_none() {
            self.runtime = context.cri.version().await.ok();
        }
        match context.cri.status().await {
            Ok(status) => self.runtime_status = Some((status, Instant::now())),
            Err(error) => {
                tracing::debug!(component = "node", %error, "status of the runtime");
                // It may come back in another version.
                self.runtime = None;
            }
        }
        let fresh = self.runtime_status.as_ref().filter(|(_, at)| at.elapsed() < limits::RUNTIME_SILENCE_MAX);
        let runtime_status = fresh.map(|(status, _)| status.clone());
        let network =
            runtime_condition(runtime_status.as_ref(), "NetworkReady").is_some_and(|condition| condition.status);
        context.network_ready.store(network, Ordering::Relaxed);
        let images = context.cri.list_images().await.unwrap_or_default();
        node_status(&NodeFactsInput {
            config: &context.config,
            machine: &self.machine,
            disk: skiff_host::fs::usage(&context.config.data_dir).unwrap_or_default(),
            memory_available: memory_available_bytes(),
            runtime: self.runtime.as_ref(),
            runtime_status: runtime_status.as_ref(),
            pleg_healthy: context.pleg.is_healthy(),
            images: &images,
            old,
            now: Timestamp::now(),
        })
    }
}

/// Whether `old` in the API already says all of `new` but for heartbeat times.
fn same(new: &NodeStatus, old: &NodeStatus) -> bool {
    let conditions = new.conditions.iter().flatten().all(|condition| {
        old.conditions.iter().flatten().any(|have| {
            have.type_ == condition.type_
                && have.status == condition.status
                && have.reason == condition.reason
                && have.message == condition.message
        })
    });
    conditions
        && new.addresses == old.addresses
        && new.capacity == old.capacity
        && new.allocatable == old.allocatable
        && new.node_info == old.node_info
        && new.images == old.images
        && new.daemon_endpoints == old.daemon_endpoints
}

/// The new status as a strategic merge patch. Addresses are merged by type, of which
/// there may be several, so the list is replaced as a whole.
fn patch(new: &NodeStatus) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(new)?;
    if let Some(list) = value["addresses"].as_array_mut() {
        list.push(json!({"$patch": "replace"}));
    }
    Ok(value)
}
