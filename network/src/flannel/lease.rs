//! What nodes tell each other: flannel's annotations on Node objects.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;
use skiff_api::Object;
use skiff_host::link::Mac;

const PREFIX: &str = "flannel.alpha.coreos.com/";

/// One node's part of the overlay in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyLease {
    /// The node's pods.
    pub subnet: IpNet,
    /// Where other nodes send packets for them.
    pub public_ip: IpAddr,
    /// The node's end of the tunnel; absent for plain routes.
    pub vtep_mac: Option<Mac>,
}

/// One node's part of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub backend: String,
    pub v4: Option<FamilyLease>,
    pub v6: Option<FamilyLease>,
}

#[derive(Deserialize)]
struct BackendData {
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

#[derive(Deserialize)]
struct RawNode {
    #[serde(default)]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

/// The pod subnets assigned to a node; empty while the controller has not done it.
pub fn pod_cidrs(node: &Object) -> Vec<IpNet> {
    match serde_json::from_slice::<RawNode>(node.json()) {
        Ok(RawNode { spec }) if spec.pod_cidrs.is_empty() => spec.pod_cidr.into_iter().collect(),
        Ok(RawNode { spec }) => spec.pod_cidrs,
        Err(error) => {
            tracing::warn!(component = "flannel", node = %node.meta.name, %error, "node has unreadable pod subnets");
            Vec::new()
        }
    }
}

impl Lease {
    /// The lease a node announces; `None` when it takes no part in the overlay (yet).
    pub fn of(node: &Object) -> Option<Lease> {
        let annotation = |name: &str| node.meta.annotations.get(&format!("{PREFIX}{name}")).map(String::as_str);
        if annotation("kube-subnet-manager") != Some("true") {
            return None;
        }
        let cidrs = pod_cidrs(node);
        let family = |is_v4: bool, ip: &str, data: &str| {
            let subnet = cidrs.iter().copied().find(|net| net.addr().is_ipv4() == is_v4)?;
            // A node behind address translation may say where it is really reached.
            let overwritten = annotation(&format!("{ip}-overwrite"));
            let public_ip = overwritten.or_else(|| annotation(ip))?.parse().ok()?;
            let vtep_mac = annotation(data)
                .and_then(|data| serde_json::from_str::<BackendData>(data).ok())
                .and_then(|data| data.vtep_mac.parse().ok());
            Some(FamilyLease { subnet, public_ip, vtep_mac })
        };
        let lease = Lease {
            backend: annotation("backend-type")?.to_owned(),
            v4: family(true, "public-ip", "backend-data"),
            v6: family(false, "public-ipv6", "backend-v6-data"),
        };
        (lease.v4.is_some() || lease.v6.is_some()).then_some(lease)
    }

    /// The annotations that announce this lease.
    pub fn annotations(&self, vni: u32) -> BTreeMap<String, String> {
        let mut annotations = BTreeMap::new();
        let mut set = |name: &str, value: String| annotations.insert(format!("{PREFIX}{name}"), value);
        set("kube-subnet-manager", "true".to_owned());
        set("backend-type", self.backend.clone());
        let data = |lease: &FamilyLease| match lease.vtep_mac {
            Some(mac) => json!({"VNI": vni, "VtepMAC": mac.to_string()}).to_string(),
            None => "null".to_owned(),
        };
        if let Some(lease) = &self.v4 {
            set("public-ip", lease.public_ip.to_string());
            set("backend-data", data(lease));
        }
        if let Some(lease) = &self.v6 {
            set("public-ipv6", lease.public_ip.to_string());
            set("backend-v6-data", data(lease));
        }
        annotations
    }

    /// The leases by family, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = &FamilyLease> {
        self.v4.iter().chain(&self.v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: &BTreeMap<String, String>) -> Object {
        Object::from_value(&json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "annotations": annotations},
            "spec": {"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd00:42:0:1::/64"]}}))
        .unwrap()
    }

    #[test]
    fn a_lease_survives_the_way_through_annotations() {
        let lease = Lease {
            backend: "vxlan".into(),
            v4: Some(FamilyLease {
                subnet: "10.42.1.0/24".parse().unwrap(),
                public_ip: "192.0.2.1".parse().unwrap(),
                vtep_mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            }),
            v6: None,
        };
        let annotations = lease.annotations(1);
        assert_eq!(annotations["flannel.alpha.coreos.com/backend-data"], r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}"#);
        assert_eq!(Lease::of(&node(&annotations)), Some(lease));
    }

    #[test]
    fn nodes_without_announcement_take_no_part() {
        assert_eq!(Lease::of(&node(&BTreeMap::new())), None);
    }
}
