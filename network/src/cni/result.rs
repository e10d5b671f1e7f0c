//! The result object of ADD.

use std::net::IpAddr;

use serde_json::{Value, json};
use skiff_host::link::Mac;

/// What ADD made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub bridge: (String, Mac),
    pub host_veth: (String, Mac),
    pub pod: (String, Mac),
    pub netns: String,
    pub mtu: u32,
    /// Address and gateway, per family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
}

impl Attachment {
    /// The result in the form of a version of the specification.
    pub fn to_json(&self, version: &str) -> String {
        let interface = |(name, mac): &(String, Mac)| json!({"name": name, "mac": mac.to_string()});
        let mut pod = interface(&self.pod);
        pod["sandbox"] = self.netns.as_str().into();
        if version == "1.1.0" {
            pod["mtu"] = self.mtu.into();
        }
        let routes: Vec<Value> = self
            .addresses
            .iter()
            .map(|(address, gateway)| {
                json!({"dst": if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway})
            })
            .collect();
        json!({
            "cniVersion": version,
            "interfaces": [interface(&self.bridge), interface(&self.host_veth), pod],
            "ips": self.addresses.iter().map(|(address, gateway)| ip(version, address, Some(gateway), 2)).collect::<Vec<_>>(),
            "routes": routes,
            "dns": {},
        })
        .to_string()
    }
}

/// The result of bringing loopback up.
pub fn loopback(version: &str, netns: &str) -> String {
    let interface = json!({"name": "lo", "mac": Mac::default().to_string(), "sandbox": netns});
    let mut v4 = ip(version, &IpAddr::from([127, 0, 0, 1]), None, 0);
    v4["address"] = "127.0.0.1/8".into();
    json!({"cniVersion": version, "interfaces": [interface], "ips": [v4], "dns": {}}).to_string()
}

fn ip(version: &str, address: &IpAddr, gateway: Option<&IpAddr>, interface: usize) -> Value {
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut ip = json!({"address": format!("{address}/{prefix}"), "interface": interface});
    if let Some(gateway) = gateway {
        ip["gateway"] = gateway.to_string().into();
    }
    if version.starts_with("0.") {
        ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
    }
    ip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_name_the_family_and_new_ones_the_mtu() {
        let attachment = Attachment {
            bridge: ("cni0".into(), Mac([1; 6])),
            host_veth: ("veth1".into(), Mac([2; 6])),
            pod: ("eth0".into(), Mac([3; 6])),
            netns: "/run/netns/x".into(),
            mtu: 1450,
            addresses: vec![("10.42.0.5".parse().unwrap(), "10.42.0.1".parse().unwrap())],
        };
        let json = |version| serde_json::from_str::<Value>(&attachment.to_json(version)).unwrap();
        assert_eq!(json("0.4.0")["ips"][0]["version"], "4");
        assert_eq!(json("1.0.0")["ips"][0]["version"], Value::Null);
        assert_eq!(json("1.1.0")["interfaces"][2]["mtu"], 1450);
        assert_eq!(json("1.0.0")["ips"][0]["interface"], 2);
        assert_eq!(json("1.0.0")["interfaces"][2]["sandbox"], "/run/netns/x");
        assert_eq!(json("1.0.0")["routes"][0]["gw"], "10.42.0.1");
    }
}
