//! This node's links: the one between nodes and the tunnel device.

use std::net::IpAddr;

use ipnet::IpNet;
use skiff_host::{
    link::{Link, Mac, VxlanSettings},
    netlink::{Netlink, NetlinkError},
};

use super::config::VxlanBackend;

/// What encapsulation costs: outer Ethernet, IP, UDP and VXLAN headers.
const VXLAN_OVERHEAD_V4: u32 = 50;
const VXLAN_OVERHEAD_V6: u32 = 70;

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("no link of this host has the node address {0}")]
    NoLinkWithAddress(IpAddr),
    #[error("link {0} does not exist")]
    NoLink(String),
    #[error("link {name} has no IPv{family} address")]
    NoAddress { name: String, family: u8 },
}

/// The link between nodes.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub link: Link,
    /// Where other nodes reach this one.
    pub public_ip: IpAddr,
    /// Networks on the link.
    pub networks: Vec<IpNet>,
}

/// Finds the link between nodes: by name, or as the one that has the node's address.
pub fn find_uplink(
    netlink: &mut Netlink,
    name: Option<&str>,
    node_ip: Option<IpAddr>,
    is_v4: bool,
) -> Result<Option<Uplink>, DeviceError> {
    let addresses = netlink.addresses()?;
    let of_family = |net: &IpNet| net.addr().is_ipv4() == is_v4 && !is_link_local(net);
    let (link, public_ip) = match (name, node_ip) {
        (Some(name), _) => {
            let link = netlink.link(name)?.ok_or_else(|| DeviceError::NoLink(name.to_owned()))?;
            let mut own = addresses.iter().filter(|address| address.link == link.index && of_family(&address.net));
            let preferred = own.clone().find(|address| Some(address.net.addr()) == node_ip);
            let address = preferred
                .or_else(|| own.next())
                .ok_or_else(|| DeviceError::NoAddress { name: name.to_owned(), family: if is_v4 { 4 } else { 6 } })?;
            let ip = address.net.addr();
            (link, ip)
        }
        (None, Some(ip)) => {
            let index = addresses
                .iter()
                .find(|address| address.net.addr() == ip)
                .map(|address| address.link)
                .ok_or(DeviceError::NoLinkWithAddress(ip))?;
            let link = netlink.links()?.into_iter().find(|link| link.index == index);
            (link.ok_or(DeviceError::NoLinkWithAddress(ip))?, ip)
        }
        (None, None) => return Ok(None),
    };
    let networks = addresses.iter().filter(|address| address.link == link.index && of_family(&address.net));
    Ok(Some(Uplink { networks: networks.map(|address| address.net.trunc()).collect(), link, public_ip }))
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// Name of the tunnel device: `flannel.1`, `flannel-v6.1`.
pub fn tunnel_name(vni: u32, is_v4: bool) -> String {
    if is_v4 { format!("flannel.{vni}") } else { format!("flannel-v6.{vni}") }
}

/// MTU inside the tunnel.
pub fn tunnel_mtu(backend: &VxlanBackend, uplink: &Uplink) -> u32 {
    let overhead = if uplink.public_ip.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 };
    backend.mtu.unwrap_or(uplink.link.mtu).saturating_sub(if backend.mtu.is_some() { 0 } else { overhead })
}

/// The tunnel device with the first address of the node's subnet. A fitting
/// device of an earlier run is kept with its MAC, so that traffic goes on.
pub fn ensure_tunnel(
    netlink: &mut Netlink,
    backend: &VxlanBackend,
    uplink: &Uplink,
    subnet: IpNet,
    node_name: &str,
) -> Result<Link, DeviceError> {
    let name = tunnel_name(backend.vni, subnet.addr().is_ipv4());
    let settings = VxlanSettings {
        vni: backend.vni,
        port: backend.port,
        lower: Some(uplink.link.index),
        local: Some(uplink.public_ip),
        learning: false,
    };
    let mtu = tunnel_mtu(backend, uplink);
    let mut link = netlink.link(&name)?;
    if let Some(unfit) = link.take_if(|link| link.vxlan.as_ref() != Some(&settings)) {
        tracing::info!(component = "flannel", device = %name, "tunnel device has other settings, making it anew");
        netlink.delete_link(unfit.index)?;
    }
    let link = match link {
        Some(link) => link,
        None => {
            netlink.add_vxlan(&name, tunnel_mac(node_name, &name), mtu, &settings)?;
            netlink.link(&name)?.ok_or(DeviceError::NoLink(name))?
        }
    };
    if link.mtu != mtu {
        netlink.set_link_mtu(link.index, mtu)?;
    }
    netlink.set_link_up(link.index)?;
    let wanted = IpNet::from(subnet.network());
    for address in netlink.addresses()? {
        if address.link == link.index && address.net != wanted && !is_link_local(&address.net) {
            netlink.delete_address(link.index, address.net)?;
        }
    }
    match netlink.add_address(link.index, wanted) {
        Err(error) if !error.is_exists() => Err(error.into()),
        _ => Ok(link),
    }
}

/// A fixed address per node and device, so that peers' entries stay right after a reboot.
fn tunnel_mac(node_name: &str, device: &str) -> Mac {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in node_name.bytes().chain([0]).chain(device.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
    // Locally administered, not multicast.
    Mac([(a & 0xfe) | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use skiff_host::{link::VethEnd, netns::Netns};

    use super::*;
    use crate::flannel::config::Backend;

    #[test]
    fn a_fitting_device_is_kept_and_an_unfit_one_replaced() {
        let (host, peer) = (Netns::create().unwrap(), Netns::create().unwrap());
        host.run(|| {
            let mut netlink = Netlink::route().unwrap();
            let ends = (VethEnd { name: "eth0", mac: None }, VethEnd { name: "eth0", mac: None });
            netlink.add_veth(ends.0, ends.1, &peer, None, 1400).unwrap();
            let index = netlink.link("eth0").unwrap().unwrap().index;
            netlink.add_address(index, "192.0.2.1/24".parse().unwrap()).unwrap();
            let ip: IpAddr = "192.0.2.1".parse().unwrap();
            let uplink = find_uplink(&mut netlink, None, Some(ip), true).unwrap().unwrap();
            assert_eq!(uplink.networks, ["192.0.2.0/24".parse::<IpNet>().unwrap()]);
            let Backend::Vxlan(mut backend) = Backend::default() else { unreachable!() };
            let mut ensure = |backend: &VxlanBackend, subnet: &str| {
                ensure_tunnel(&mut netlink, backend, &uplink, subnet.parse().unwrap(), "n1").unwrap()
            };
            let first = ensure(&backend, "10.42.1.0/24");
            assert_eq!((first.name.as_str(), first.mtu), ("flannel.1", 1350));
            let second = ensure(&backend, "10.42.2.0/24");
            assert_eq!((second.index, second.mac), (first.index, first.mac));
            backend.port = 4789;
            let third = ensure(&backend, "10.42.2.0/24");
            assert_ne!(third.index, first.index);
            assert_eq!(third.mac, first.mac);
            let addresses = netlink.addresses().unwrap();
            let own: Vec<_> = addresses
                .iter()
                .filter(|address| address.link == third.index && address.net.addr().is_ipv4())
                .map(|address| address.net.to_string())
                .collect();
            assert_eq!(own, ["10.42.2.0/32"]);
        })
        .unwrap();
    }

    #[test]
    fn a_missing_address_or_link_is_named() {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let mut netlink = Netlink::route().unwrap();
                let error = find_uplink(&mut netlink, None, Some("192.0.2.9".parse().unwrap()), true).unwrap_err();
                assert!(error.to_string().contains("192.0.2.9"));
                let error = find_uplink(&mut netlink, Some("eth7"), None, true).unwrap_err();
                assert!(error.to_string().contains("eth7"));
            })
            .unwrap();
    }
}
