//! The way from pods to the API: Service, Endpoints and EndpointSlice
//! `default/kubernetes`.

use std::net::IpAddr;

use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionResource, Reason};
use skiff_client::{Client, ClientError, DeleteOptions, Snapshot, StoreEvent, Subscription};
use tokio_util::sync::CancellationToken;

use super::{Bootstrap, is};
use crate::registry::{
    core::{service::family, service_ip::kubernetes_address},
    value::{child, copy_field, set},
};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

impl Bootstrap {
    /// Makes the three objects right.
    pub(super) async fn ensure_kubernetes_service(&self, client: &Client) -> Result<(), ClientError> {
        for (resource, object) in self.kubernetes_objects() {
            ensure(client, &resource, &object).await?;
        }
        Ok(())
    }

    /// Keeps the three objects right until `stop`: whoever deletes or changes
    /// them sees them come back. They name this server alone, which is right
    /// as long as a datastore has one server.
    pub async fn maintain(&self, client: &Client, snapshot: &Snapshot, stop: CancellationToken) {
        let watched = [
            GroupResource::new("", "services"),
            GroupResource::new("", "endpoints"),
            GroupResource::new("discovery.k8s.io", "endpointslices"),
        ];
        let mut changes: Vec<Subscription> =
            watched.iter().filter_map(|resource| snapshot.store(resource)).map(|store| store.subscribe()).collect();
        let [services, endpoints, slices] = changes.as_mut_slice() else {
            tracing::error!(component = "bootstrap", "the caches lack services or endpoints");
            return;
        };
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = services.next() => event,
                event = endpoints.next() => event,
                event = slices.next() => event,
            };
            let Some(event) = event else { return };
            if concerns(&event)
                && let Err(error) = self.ensure_kubernetes_service(client).await
            {
                tracing::warn!(component = "bootstrap", %error, "repair service default/kubernetes");
            }
        }
    }

    fn kubernetes_objects(&self) -> Vec<(GroupVersionResource, Value)> {
        let Some(primary) = self.service_cidrs.first() else { return Vec::new() };
        let ip = kubernetes_address(primary).to_string();
        let port = self.advertise_port;
        let address = self.advertise_address.to_string();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "sessionAffinity": "None",
                "ipFamilyPolicy": "SingleStack", "ipFamilies": [family(primary.network())],
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            },
        });
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
            "addressType": address_type(self.advertise_address),
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        vec![
            (GroupVersionResource::new("", "v1", "services"), service),
            (GroupVersionResource::new("", "v1", "endpoints"), endpoints),
            (GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices"), slice),
        ]
    }
}

fn address_type(ip: IpAddr) -> &'static str {
    family(ip)
}

fn concerns(event: &StoreEvent) -> bool {
    match event {
        StoreEvent::Applied { new: object, .. } | StoreEvent::Deleted(object) => {
            object.meta.namespace == NAMESPACE && object.meta.name == NAME
        }
        StoreEvent::Resync => true,
    }
}

async fn ensure(client: &Client, resource: &GroupVersionResource, wanted: &Value) -> Result<(), ClientError> {
    let existing = match client.get(resource, Some(NAMESPACE), NAME).await {
        Ok(existing) => existing.value()?,
        Err(error) if is(&error, Reason::NotFound) => {
            return match client.create(resource, Some(NAMESPACE), wanted).await {
                Err(error) if !is(&error, Reason::AlreadyExists) => Err(error),
                _ => Ok(()),
            };
        }
        Err(error) => return Err(error),
    };
    if moved(&existing, wanted) {
        // The range of service addresses was changed: an address cannot be, so the service is made anew.
        client.delete(resource, Some(NAMESPACE), NAME, &DeleteOptions::default()).await?;
        return client.create(resource, Some(NAMESPACE), wanted).await.map(drop);
    }
    let Some(merged) = merged(&existing, wanted) else { return Ok(()) };
    match client.update(resource, Some(NAMESPACE), NAME, None, &merged).await {
        Err(error) if !is(&error, Reason::Conflict) => Err(error),
        _ => Ok(()),
    }
}

/// Whether a service exists under another address than the wanted one.
fn moved(existing: &Value, wanted: &Value) -> bool {
    let address = |service: &Value| service["spec"]["clusterIP"].as_str().map(str::to_owned);
    address(wanted).is_some() && address(existing).is_some() && address(existing) != address(wanted)
}

/// The existing object with the wanted content; `None` when it has it already.
/// A service keeps what is not about ports and type; the others are replaced as a whole.
fn merged(existing: &Value, wanted: &Value) -> Option<Value> {
    let mut merged = existing.clone();
    for (key, label) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        set(child(child(&mut merged, "metadata"), "labels"), key, label.clone());
    }
    if wanted.get("spec").is_some() {
        for name in ["type", "clusterIP", "clusterIPs", "sessionAffinity", "ports"] {
            copy_field(child(&mut merged, "spec"), &wanted["spec"], name);
        }
    }
    for name in ["subsets", "endpoints", "ports", "addressType"] {
        if wanted.get(name).is_some() {
            copy_field(&mut merged, wanted, name);
        }
    }
    (merged != *existing).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_leads_to_the_advertised_one() {
        let bootstrap = Bootstrap {
            client_ca_pem: String::new(),
            request_header_ca_pem: String::new(),
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            advertise_address: "192.0.2.1".parse().unwrap(),
            advertise_port: 6443,
        };
        let objects = bootstrap.kubernetes_objects();
        assert_eq!(objects[0].1["spec"]["clusterIP"], "10.43.0.1");
        assert_eq!(objects[1].1["subsets"][0]["addresses"][0]["ip"], "192.0.2.1");
        assert_eq!(objects[2].1["addressType"], "IPv4");
        for (_, object) in objects {
            assert_eq!(merged(&object, &object), None, "a right object is left alone");
        }
    }

    #[test]
    fn another_address_is_noticed() {
        let at = |ip: &str| json!({"spec": {"clusterIP": ip}});
        assert!(moved(&at("10.43.0.1"), &at("10.96.0.1")) && !moved(&at("10.43.0.1"), &at("10.43.0.1")));
        assert!(!moved(&json!({"subsets": []}), &json!({"subsets": []})), "only services have one");
    }

    #[test]
    fn a_changed_port_is_put_right() {
        let wanted = json!({"metadata": {}, "spec": {"ports": [{"port": 443}]}});
        let existing = json!({"metadata": {"uid": "u"}, "spec": {"ports": [{"port": 1}], "clusterIP": "x"}});
        assert_eq!(merged(&existing, &wanted).unwrap()["spec"]["ports"], json!([{"port": 443}]));
    }
}
