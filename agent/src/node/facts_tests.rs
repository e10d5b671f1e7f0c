//! Claims about the node's status.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use skiff_client::{Body, Client, ClientError, Transport};

use super::*;
use crate::config::RuntimeConfig;

struct NoTransport;

#[async_trait]
impl Transport for NoTransport {
    async fn send(&self, _: http::Request<bytes::Bytes>) -> Result<http::Response<Body>, ClientError> {
        Err(ClientError::transport("not connected", "test"))
    }
}

struct World {
    config: AgentConfig,
    machine: MachineInfo,
    disk: FsUsage,
    network: bool,
    old: NodeStatus,
}

impl World {
    fn new() -> World {
        let client = Client::new(Arc::new(NoTransport), "test");
        let runtime = RuntimeConfig::External(PathBuf::from("/s"));
        let mut config = AgentConfig::new("n", PathBuf::from("/d"), runtime, client);
        config.node_ips = vec!["10.0.0.1".parse().unwrap()];
        World {
            config,
            machine: MachineInfo {
                cpus: 4,
                memory_bytes: 8 << 30,
                huge_pages: vec![(2 << 20, 3)],
                ..MachineInfo::default()
            },
            disk: FsUsage { capacity_bytes: 1000 << 20, available_bytes: 500 << 20, inodes: 100, inodes_free: 50 },
            network: true,
            old: NodeStatus::default(),
        }
    }

    fn status(&self) -> NodeStatus {
        let met = |name: &str, status| v1::RuntimeCondition { r#type: name.into(), status, ..Default::default() };
        let runtime_status = v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![met("RuntimeReady", true), met("NetworkReady", self.network)],
            }),
            ..Default::default()
        };
        node_status(&NodeFactsInput {
            config: &self.config,
            machine: &self.machine,
            disk: self.disk,
            memory_available: 4 << 30,
            runtime: None,
            runtime_status: Some(&runtime_status),
            pleg_healthy: true,
            images: &[],
            old: &self.old,
            now: Timestamp::from_second(100).unwrap(),
        })
    }

    fn condition(&self, name: &str) -> NodeCondition {
        self.status().conditions.unwrap().into_iter().find(|condition| condition.type_ == name).unwrap()
    }
}

#[test]
fn readiness_names_what_is_missing() {
    let mut world = World::new();
    assert_eq!(world.condition("Ready").status, "True");
    world.network = false;
    let ready = world.condition("Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("KubeletNotReady")));
    assert!(ready.message.unwrap().contains("NetworkReady=false"));
}

#[test]
fn a_full_disk_is_pressure() {
    let mut world = World::new();
    assert_eq!(world.condition("DiskPressure").status, "False");
    world.disk.available_bytes = 10 << 20;
    assert_eq!(world.condition("DiskPressure").status, "True");
    world.disk.available_bytes = 500 << 20;
    world.disk.inodes_free = 1;
    world.disk.inodes = 1000;
    assert_eq!(world.condition("DiskPressure").status, "True", "inodes count as well");
}

#[test]
fn conditions_keep_the_time_of_their_last_change() {
    let mut world = World::new();
    world.old = serde_json::from_value(serde_json::json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:07Z"}]}))
    .unwrap();
    assert_eq!(world.condition("Ready").last_transition_time.unwrap().0.as_second(), 7);
    world.network = false;
    assert_eq!(world.condition("Ready").last_transition_time.unwrap().0.as_second(), 100);
}

#[test]
fn capacity_holds_huge_pages_and_what_others_added() {
    let mut world = World::new();
    world.old =
        serde_json::from_value(serde_json::json!({"capacity": {"example.com/dongle": "4", "cpu": "99"}})).unwrap();
    let status = world.status();
    let (capacity, allocatable) = (status.capacity.unwrap(), status.allocatable.unwrap());
    assert_eq!(capacity["cpu"].0, "4");
    assert_eq!(capacity["hugepages-2Mi"].0, "6291456");
    assert_eq!(allocatable["example.com/dongle"].0, "4");
    assert!(quantity::value(&allocatable["memory"]) < quantity::value(&capacity["memory"]));
}
