//! Network links: bridges, veth pairs and VXLAN devices, over rtnetlink.

use std::{net::IpAddr, os::fd::AsRawFd};

use crate::{
    netlink::{Attributes, Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, NetlinkError, read_text, read_u16, read_u32},
    netns::Netns,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const IFF_UP: u32 = 1;
const AF_UNSPEC: u8 = 0;
const AF_BRIDGE: u8 = 7;

/// The longest name a link may have.
pub const LINK_NAME_LEN_MAX: usize = 15;

/// A link-layer address; printed as `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| format!("{text:?} is not a MAC address"))?;
        }
        if parts.next().is_some() { Err(format!("{text:?} is not a MAC address")) } else { Ok(Mac(mac)) }
    }
}

/// A link as the kernel reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Mac,
    pub is_up: bool,
    /// Index of the bridge this link is a port of.
    pub master: Option<u32>,
    /// Index of the other end of a veth pair, or of the underlying link.
    pub lower: Option<u32>,
    /// `bridge`, `veth`, `vxlan`, ...; absent for hardware.
    pub kind: Option<String>,
    /// Settings of a VXLAN device.
    pub vxlan: Option<VxlanSettings>,
}

/// What makes two VXLAN devices compatible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanSettings {
    pub vni: u32,
    pub port: u16,
    /// Index of the underlying link.
    pub lower: Option<u32>,
    pub local: Option<IpAddr>,
    pub learning: bool,
}

/// One end of a veth pair to be.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Option<Mac>,
}

impl Netlink {
    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        if name.len() > LINK_NAME_LEN_MAX {
            return Ok(None);
        }
        let message = Message::new(RTM_GETLINK, 0).raw(&header(AF_UNSPEC, 0, 0, 0)).attribute_text(IFLA_IFNAME, name);
        let mut found = None;
        let result = self.get(message, || format!("read link {name}"), &mut |_, body| found = decode(body));
        match result {
            Ok(()) => Ok(found),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump(|| Message::new(RTM_GETLINK, 0).raw(&header(AF_UNSPEC, 0, 0, 0)), "list links", decode)
    }

    /// Creates a bridge and brings it up. A fixed address keeps it stable when ports
    /// come and go. Multicast goes to all ports: with snooping, IPv6 neighbours
    /// would stay unknown for the first seconds of a port.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<(), NetlinkError> {
        let message = new_link(name, IFF_UP).attribute(IFLA_ADDRESS, &mac.0).attribute_u32(IFLA_MTU, mtu).nested(
            IFLA_LINKINFO,
            |info| {
                info.attribute(IFLA_INFO_KIND, b"bridge")
                    .nested(IFLA_INFO_DATA, |data| data.attribute(IFLA_BR_MCAST_SNOOPING, &[0]))
            },
        );
        self.execute(message, || format!("add bridge {name}"))
    }

    /// Creates a veth pair: `here` in this namespace (as a port of `master`, up),
    /// `there` in the namespace `netns` (down, to be configured).
    pub fn add_veth(
        &mut self,
        here: VethEnd<'_>,
        there: VethEnd<'_>,
        netns: &Netns,
        master: Option<u32>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = new_link(here.name, IFF_UP).attribute_u32(IFLA_MTU, mtu);
        if let Some(mac) = here.mac {
            message = message.attribute(IFLA_ADDRESS, &mac.0);
        }
        if let Some(master) = master {
            message = message.attribute_u32(IFLA_MASTER, master);
        }
        let message = message.nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, b"veth").nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    let peer = peer
                        .raw(&header(AF_UNSPEC, 0, 0, 0))
                        .attribute_text(IFLA_IFNAME, there.name)
                        .attribute_u32(IFLA_MTU, mtu)
                        .attribute_u32(IFLA_NET_NS_FD, netns.file().as_raw_fd() as u32);
                    match there.mac {
                        Some(mac) => peer.attribute(IFLA_ADDRESS, &mac.0),
                        None => peer,
                    }
                })
            })
        });
        self.execute(message, || format!("add veth pair {} and {}", here.name, there.name))
    }

    /// Creates a VXLAN device (without learning unless asked) and brings it up.
    pub fn add_vxlan(&mut self, name: &str, mac: Mac, mtu: u32, settings: &VxlanSettings) -> Result<(), NetlinkError> {
        let message = new_link(name, IFF_UP).attribute(IFLA_ADDRESS, &mac.0).attribute_u32(IFLA_MTU, mtu).nested(
            IFLA_LINKINFO,
            |info| {
                info.attribute(IFLA_INFO_KIND, b"vxlan").nested(IFLA_INFO_DATA, |data| {
                    let mut data = data
                        .attribute_u32(IFLA_VXLAN_ID, settings.vni)
                        .attribute(IFLA_VXLAN_PORT, &settings.port.to_be_bytes())
                        .attribute(IFLA_VXLAN_LEARNING, &[settings.learning.into()]);
                    if let Some(lower) = settings.lower {
                        data = data.attribute_u32(IFLA_VXLAN_LINK, lower);
                    }
                    match settings.local {
                        Some(IpAddr::V4(local)) => data.attribute(IFLA_VXLAN_LOCAL, &local.octets()),
                        Some(IpAddr::V6(local)) => data.attribute(IFLA_VXLAN_LOCAL6, &local.octets()),
                        None => data,
                    }
                })
            },
        );
        self.execute(message, || format!("add vxlan device {name}"))
    }

    /// Creates a dummy link and brings it up; not every kernel can.
    pub fn add_dummy(&mut self, name: &str) -> Result<(), NetlinkError> {
        let message = new_link(name, IFF_UP).nested(IFLA_LINKINFO, |info| info.attribute(IFLA_INFO_KIND, b"dummy"));
        self.execute(message, || format!("add dummy link {name}"))
    }

    /// Brings a link up.
    pub fn set_link_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_NEWLINK, 0).raw(&header(AF_UNSPEC, index, IFF_UP, IFF_UP));
        self.execute(message, || format!("bring link {index} up"))
    }

    /// Changes the largest packet size of a link.
    pub fn set_link_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_NEWLINK, 0).raw(&header(AF_UNSPEC, index, 0, 0)).attribute_u32(IFLA_MTU, mtu);
        self.execute(message, || format!("set mtu {mtu} on link {index}"))
    }

    /// Changes the link-layer address of a link.
    pub fn set_link_mac(&mut self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_NEWLINK, 0).raw(&header(AF_UNSPEC, index, 0, 0)).attribute(IFLA_ADDRESS, &mac.0);
        self.execute(message, || format!("set address {mac} on link {index}"))
    }

    /// Makes a link a port of the bridge `master`.
    pub fn set_link_master(&mut self, index: u32, master: u32) -> Result<(), NetlinkError> {
        let message =
            Message::new(RTM_NEWLINK, 0).raw(&header(AF_UNSPEC, index, 0, 0)).attribute_u32(IFLA_MASTER, master);
        self.execute(message, || format!("make link {index} a port of bridge {master}"))
    }

    /// Lets a bridge port send frames back where they came from, so that a pod
    /// can reach itself through a service.
    pub fn set_bridge_port_hairpin(&mut self, index: u32, on: bool) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_SETLINK, 0)
            .raw(&header(AF_BRIDGE, index, 0, 0))
            .nested(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_MODE, &[on.into()]));
        self.execute(message, || format!("set hairpin mode on link {index}"))
    }

    /// Removes a link; the other end of a veth pair goes with it.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_DELLINK, 0).raw(&header(AF_UNSPEC, index, 0, 0));
        self.execute(message, || format!("delete link {index}"))
    }
}

fn new_link(name: &str, flags: u32) -> Message {
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
        .raw(&header(AF_UNSPEC, 0, flags, flags))
        .attribute_text(IFLA_IFNAME, name)
}

/// `struct ifinfomsg`.
fn header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn decode(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: read_u32(body, 4)?, is_up: read_u32(body, 8)? & IFF_UP != 0, ..Link::default() };
    for (kind, value) in Attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_MTU => link.mtu = read_u32(value, 0)?,
            IFLA_MASTER => link.master = read_u32(value, 0),
            IFLA_LINK => link.lower = read_u32(value, 0),
            IFLA_ADDRESS => link.mac = value.try_into().map(Mac).unwrap_or_default(),
            IFLA_LINKINFO => decode_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn decode_info(info: &[u8], link: &mut Link) {
    for (kind, value) in Attributes(info) {
        match kind {
            IFLA_INFO_KIND => link.kind = Some(read_text(value)),
            IFLA_INFO_DATA if link.kind.as_deref() == Some("vxlan") => link.vxlan = Some(decode_vxlan(value)),
            _ => {}
        }
    }
}

fn decode_vxlan(data: &[u8]) -> VxlanSettings {
    let mut settings = VxlanSettings::default();
    for (kind, value) in Attributes(data) {
        match kind {
            IFLA_VXLAN_ID => settings.vni = read_u32(value, 0).unwrap_or_default(),
            IFLA_VXLAN_LINK => settings.lower = read_u32(value, 0).filter(|index| *index != 0),
            IFLA_VXLAN_PORT => settings.port = read_u16(value, 0).map(u16::from_be).unwrap_or_default(),
            IFLA_VXLAN_LEARNING => settings.learning = value.first() == Some(&1),
            IFLA_VXLAN_LOCAL => settings.local = <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            IFLA_VXLAN_LOCAL6 => settings.local = <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => {}
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_and_a_veth_pair_across_namespaces_come_and_go() {
        let (host, pod) = (Netns::create().unwrap(), Netns::create().unwrap());
        host.run(|| {
            let mut netlink = Netlink::route().unwrap();
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            netlink.add_bridge("br0", mac, 1400).unwrap();
            assert!(netlink.add_bridge("br0", mac, 1400).unwrap_err().is_exists());
            let bridge = netlink.link("br0").unwrap().unwrap();
            assert_eq!((bridge.mtu, bridge.mac, bridge.is_up), (1400, mac, true));
            let (here, there) = (VethEnd { name: "v0", mac: None }, VethEnd { name: "eth0", mac: Some(Mac([2; 6])) });
            netlink.add_veth(here, there, &pod, Some(bridge.index), 1400).unwrap();
            let port = netlink.link("v0").unwrap().unwrap();
            assert_eq!(port.master, Some(bridge.index));
            netlink.set_bridge_port_hairpin(port.index, true).unwrap();
            let inner = pod.run(|| Netlink::route().unwrap().link("eth0").unwrap().unwrap()).unwrap();
            assert_eq!((inner.mac, inner.is_up, inner.lower), (Mac([2; 6]), false, Some(port.index)));
            netlink.delete_link(port.index).unwrap();
            assert!(netlink.link("v0").unwrap().is_none());
        })
        .unwrap();
        assert!(pod.run(|| Netlink::route().unwrap().link("eth0").unwrap()).unwrap().is_none());
    }

    #[test]
    fn vxlan_settings_are_read_back_as_written() {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let mut netlink = Netlink::route().unwrap();
                let settings = VxlanSettings {
                    vni: 1,
                    port: 8472,
                    lower: None,
                    local: Some("10.0.0.1".parse().unwrap()),
                    learning: false,
                };
                netlink.add_vxlan("flannel.1", Mac([2; 6]), 1450, &settings).unwrap();
                let link = netlink.link("flannel.1").unwrap().unwrap();
                assert_eq!(link.vxlan, Some(settings));
                assert_eq!(netlink.links().unwrap().len(), 2, "lo and flannel.1");
            })
            .unwrap();
    }

    #[test]
    fn mac_addresses_parse_strictly() {
        assert_eq!("0a:58:0a:2a:00:01".parse(), Ok(Mac([10, 88, 10, 42, 0, 1])));
        assert!("0a:58:0a:2a:00".parse::<Mac>().is_err());
        assert!("0a:58:0a:2a:00:01:02".parse::<Mac>().is_err());
        assert!("0a:58:0a:2a:00:x1".parse::<Mac>().is_err());
    }
}
