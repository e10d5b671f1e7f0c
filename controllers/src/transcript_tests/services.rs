//! Endpoints and their slices.

use serde_json::json;
use skiff_client::Controller;

use super::{anything, check, note, start};
use crate::{
    endpoints::EndpointsController, endpointslice::EndpointSliceController,
    endpointslice_mirroring::EndpointSliceMirroringController, simulation::Simulation,
};

#[test]
fn endpoints_follow_pods() {
    let controllers: [&dyn Controller; 2] = [&EndpointsController, &EndpointSliceController];
    let mut simulation = start("endpoints");
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "a pod becomes ready, another is deleted");
    simulation.edit("pods", "d", "slow", |pod| pod["status"]["conditions"][0]["status"] = "True".into());
    simulation.delete("pods", "d", "web-1", None);
    simulation.settle(&controllers, false, anything);
    note(&mut simulation, "the service goes");
    simulation.delete("services", "d", "web", None);
    simulation.settle(&controllers, false, anything);
    check("endpoints", &simulation);
}

#[test]
fn many_endpoints_fill_slices_and_one_change_rewrites_one() {
    let mut simulation = start("endpoints");
    for index in 0..250 {
        simulation.put(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("many-{index}"), "namespace": "d", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", index / 100, index % 100),
                "conditions": [{"type": "Ready", "status": "True"}]}}));
    }
    simulation.settle(&[&EndpointSliceController], false, anything);
    let sizes: Vec<usize> = simulation
        .values("endpointslices.discovery.k8s.io", "d")
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web")
        .map(|slice| slice["endpoints"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 253);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    simulation.log.clear();
    simulation.edit("pods", "d", "many-7", |pod| pod["status"]["conditions"][0]["status"] = "False".into());
    simulation.settle(&[&EndpointSliceController], false, anything);
    assert_eq!(simulation.log.len(), 1, "{:?}", simulation.log);
}

#[test]
fn hand_made_endpoints_are_mirrored_into_slices() {
    let objects = "
apiVersion: v1
kind: Service
metadata: {name: ext, namespace: d}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: ext, namespace: d, labels: {a: b}}
subsets:
- addresses: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}]
  notReadyAddresses: [{ip: 192.0.2.2}]
  ports: [{port: 8080, protocol: TCP}]
";
    let controllers: [&dyn Controller; 1] = [&EndpointSliceMirroringController];
    let mut simulation = Simulation::new(objects);
    simulation.settle(&controllers, false, anything);
    let slices = simulation.values("endpointslices.discovery.k8s.io", "d");
    assert_eq!(slices.len(), 2);
    let v4 = slices.iter().find(|slice| slice["addressType"] == "IPv4").unwrap();
    assert_eq!(v4["endpoints"][1], json!({"addresses": ["192.0.2.2"], "conditions": {"ready": false}}));
    simulation.edit("endpoints", "d", "ext", |endpoints| {
        endpoints["subsets"] =
            json!([{"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 8080, "protocol": "TCP"}]}]);
    });
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("endpointslices.discovery.k8s.io", "d").len(), 1);
    simulation.delete("endpoints", "d", "ext", None);
    simulation.settle(&controllers, false, anything);
    assert!(simulation.values("endpointslices.discovery.k8s.io", "d").is_empty());
}
