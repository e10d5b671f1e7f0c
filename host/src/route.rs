//! Addresses, routes, neighbours and forwarding entries, over rtnetlink.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    link::Mac,
    netlink::{
        Attributes, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Netlink, NetlinkError, read_u16,
        read_u32,
    },
};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const ONLINK: u32 = 4;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

/// Marks the routes Skiff made, so that it finds them again and touches no others.
pub const ROUTE_PROTOCOL_SKIFF: u8 = 91;

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    /// Address and prefix length.
    pub net: IpNet,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub link: u32,
    /// The gateway is reachable on the link even if no address says so.
    pub onlink: bool,
    pub source: Option<IpAddr>,
    /// Who made it; [`ROUTE_PROTOCOL_SKIFF`] for ours.
    pub protocol: u8,
}

impl Route {
    /// A route of ours.
    pub fn new(destination: IpNet, gateway: Option<IpAddr>, link: u32) -> Route {
        Route { destination, gateway, link, onlink: false, source: None, protocol: ROUTE_PROTOCOL_SKIFF }
    }
}

/// A fixed entry of the neighbour table: this address has that MAC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    pub link: u32,
    pub address: IpAddr,
    pub mac: Mac,
}

/// A fixed forwarding entry of a VXLAN device: frames to that MAC go to this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardingEntry {
    pub link: u32,
    pub mac: Mac,
    pub remote: IpAddr,
}

impl Netlink {
    /// Adds an address; IPv6 addresses skip duplicate detection, which would delay their use.
    pub fn add_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let flags = if net.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)
            .raw(&address_header(link, net, flags))
            .attribute(IFA_LOCAL, &octets(net.addr()))
            .attribute(IFA_ADDRESS, &octets(net.addr()));
        if net.addr().is_ipv4() && net.prefix_len() < 31 {
            message = message.attribute(IFA_BROADCAST, &octets(net.broadcast()));
        }
        self.execute(message, || format!("add address {net} to link {link}"))
    }

    pub fn delete_address(&mut self, link: u32, net: IpNet) -> Result<(), NetlinkError> {
        let message = Message::new(RTM_DELADDR, 0)
            .raw(&address_header(link, net, 0))
            .attribute(IFA_LOCAL, &octets(net.addr()))
            .attribute(IFA_ADDRESS, &octets(net.addr()));
        self.execute(message, || format!("delete address {net} from link {link}"))
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.dump(|| Message::new(RTM_GETADDR, 0).raw(&[0; 8]), "list addresses", decode_address)
    }

    /// Adds a route, in place of one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let scope = if route.gateway.is_none() { SCOPE_LINK } else { SCOPE_UNIVERSE };
        let message = route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route, scope);
        self.execute(message, || format!("add route to {}", route.destination))
    }

    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let scope = if route.gateway.is_none() { SCOPE_LINK } else { SCOPE_UNIVERSE };
        let message = route_message(RTM_DELROUTE, 0, route, scope);
        self.execute(message, || format!("delete route to {}", route.destination))
    }

    /// All unicast routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.dump(|| Message::new(RTM_GETROUTE, 0).raw(&[0; 12]), "list routes", decode_route)
    }

    pub fn replace_neighbour(&mut self, entry: &Neighbour) -> Result<(), NetlinkError> {
        let header = neighbour_header(family(entry.address), entry.link, NUD_PERMANENT, 0);
        let message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)
            .raw(&header)
            .attribute(NDA_DST, &octets(entry.address))
            .attribute(NDA_LLADDR, &entry.mac.0);
        self.execute(message, || format!("set neighbour {} to {}", entry.address, entry.mac))
    }

    pub fn delete_neighbour(&mut self, entry: &Neighbour) -> Result<(), NetlinkError> {
        let header = neighbour_header(family(entry.address), entry.link, 0, 0);
        let message = Message::new(RTM_DELNEIGH, 0).raw(&header).attribute(NDA_DST, &octets(entry.address));
        self.execute(message, || format!("delete neighbour {}", entry.address))
    }

    /// The fixed neighbours of a link, both families.
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = || Message::new(RTM_GETNEIGH, 0).raw(&neighbour_header(family, link, 0, 0));
            all.extend(self.dump(request, "list neighbours", |body| {
                let (index, state, address, mac) = decode_neighbour(body)?;
                (index == link && state & NUD_PERMANENT != 0).then_some(Neighbour {
                    link,
                    address: address?,
                    mac: mac?,
                })
            })?);
        }
        Ok(all)
    }

    /// Adds a forwarding entry, in place of one for the same MAC.
    pub fn replace_forwarding(&mut self, entry: &ForwardingEntry) -> Result<(), NetlinkError> {
        let message = forwarding_message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, entry);
        self.execute(message, || format!("forward {} to {}", entry.mac, entry.remote))
    }

    /// Adds one more destination for a MAC (the all-zero MAC floods to all of them).
    pub fn append_forwarding(&mut self, entry: &ForwardingEntry) -> Result<(), NetlinkError> {
        let message = forwarding_message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND, entry);
        self.execute(message, || format!("forward {} also to {}", entry.mac, entry.remote))
    }

    pub fn delete_forwarding(&mut self, entry: &ForwardingEntry) -> Result<(), NetlinkError> {
        let message = forwarding_message(RTM_DELNEIGH, 0, entry);
        self.execute(message, || format!("delete forwarding of {}", entry.mac))
    }

    /// The fixed forwarding entries of a VXLAN device.
    pub fn forwarding(&mut self, link: u32) -> Result<Vec<ForwardingEntry>, NetlinkError> {
        let request = || Message::new(RTM_GETNEIGH, 0).raw(&neighbour_header(AF_BRIDGE, link, 0, 0));
        self.dump(request, "list forwarding entries", |body| {
            let (index, state, remote, mac) = decode_neighbour(body)?;
            (index == link && state & (NUD_PERMANENT | NUD_NOARP) != 0).then_some(ForwardingEntry {
                link,
                remote: remote?,
                mac: mac?,
            })
        })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `struct ifaddrmsg`.
fn address_header(link: u32, net: IpNet, flags: u8) -> [u8; 8] {
    let mut header = [family(net.addr()), net.prefix_len(), flags, SCOPE_UNIVERSE, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header
}

fn decode_address(body: &[u8]) -> Option<Address> {
    let (prefix, link) = (*body.get(1)?, read_u32(body, 4)?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in Attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = address_of(value),
            IFA_ADDRESS => address = address_of(value),
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the peer's; IPv6 has only IFA_ADDRESS.
    Some(Address { link, net: IpNet::new(local.or(address)?, prefix).ok()? })
}

fn route_message(kind: u16, flags: u16, route: &Route, scope: u8) -> Message {
    let destination = route.destination.trunc();
    let mut header = [0; 12];
    header[0] = family(destination.addr());
    header[1] = destination.prefix_len();
    header[4] = TABLE_MAIN;
    header[5] = route.protocol;
    header[6] = scope;
    header[7] = TYPE_UNICAST;
    header[8..12].copy_from_slice(&(if route.onlink { ONLINK } else { 0 }).to_ne_bytes());
    let mut message = Message::new(kind, flags).raw(&header).attribute_u32(RTA_OIF, route.link);
    if destination.prefix_len() > 0 {
        message = message.attribute(RTA_DST, &octets(destination.addr()));
    }
    if let Some(gateway) = route.gateway {
        message = message.attribute(RTA_GATEWAY, &octets(gateway));
    }
    match route.source {
        Some(source) => message.attribute(RTA_PREFSRC, &octets(source)),
        None => message,
    }
}

fn decode_route(body: &[u8]) -> Option<Route> {
    let header = body.get(..12)?;
    let mut table = u32::from(header[4]);
    let unspecified = match header[0] {
        AF_INET => IpAddr::from([0u8; 4]),
        AF_INET6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let (mut destination, mut gateway, mut link, mut source) = (unspecified, None, 0, None);
    for (kind, value) in Attributes(&body[12..]) {
        match kind {
            RTA_DST => destination = address_of(value)?,
            RTA_GATEWAY => gateway = address_of(value),
            RTA_OIF => link = read_u32(value, 0)?,
            RTA_PREFSRC => source = address_of(value),
            RTA_TABLE => table = read_u32(value, 0)?,
            _ => {}
        }
    }
    (table == u32::from(TABLE_MAIN) && header[7] == TYPE_UNICAST).then_some(Route {
        destination: IpNet::new(destination, header[1]).ok()?,
        gateway,
        link,
        onlink: read_u32(header, 8)? & ONLINK != 0,
        source,
        protocol: header[5],
    })
}

/// `struct ndmsg`.
fn neighbour_header(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

fn decode_neighbour(body: &[u8]) -> Option<(u32, u16, Option<IpAddr>, Option<Mac>)> {
    let (index, state) = (read_u32(body, 4)?, read_u16(body, 8)?);
    let (mut address, mut mac) = (None, None);
    for (kind, value) in Attributes(body.get(12..)?) {
        match kind {
            NDA_DST => address = address_of(value),
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((index, state, address, mac))
}

fn forwarding_message(kind: u16, flags: u16, entry: &ForwardingEntry) -> Message {
    Message::new(kind, flags)
        .raw(&neighbour_header(AF_BRIDGE, entry.link, NUD_PERMANENT, NTF_SELF))
        .attribute(NDA_LLADDR, &entry.mac.0)
        .attribute(NDA_DST, &octets(entry.remote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::VxlanSettings, netns::Netns};

    fn in_namespace_with_vxlan(test: impl FnOnce(&mut Netlink, u32) + Send) {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let mut netlink = Netlink::route().unwrap();
                let settings = VxlanSettings { vni: 1, port: 8472, ..VxlanSettings::default() };
                netlink.add_vxlan("flannel.1", Mac([2; 6]), 1450, &settings).unwrap();
                let index = netlink.link("flannel.1").unwrap().unwrap().index;
                test(&mut netlink, index);
            })
            .unwrap();
    }

    #[test]
    fn addresses_and_routes_are_read_back_as_written() {
        in_namespace_with_vxlan(|netlink, link| {
            let net: IpNet = "10.42.0.0/32".parse().unwrap();
            netlink.add_address(link, net).unwrap();
            assert!(netlink.add_address(link, net).unwrap_err().is_exists());
            assert!(netlink.addresses().unwrap().contains(&Address { link, net }));
            let mut route = Route::new("10.42.1.0/24".parse().unwrap(), Some("10.42.1.0".parse().unwrap()), link);
            route.onlink = true;
            netlink.replace_route(&route).unwrap();
            netlink.replace_route(&route).unwrap();
            let ours = |netlink: &mut Netlink| -> Vec<Route> {
                let routes = netlink.routes().unwrap();
                routes.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL_SKIFF).collect()
            };
            assert_eq!(ours(netlink), [route.clone()]);
            netlink.delete_route(&route).unwrap();
            assert!(netlink.delete_route(&route).unwrap_err().is_not_found());
            assert!(ours(netlink).is_empty());
            netlink.delete_address(link, net).unwrap();
        });
    }

    #[test]
    fn neighbours_and_forwarding_entries_are_read_back_as_written() {
        in_namespace_with_vxlan(|netlink, link| {
            let mut neighbour = Neighbour { link, address: "10.42.1.0".parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, 1]) };
            netlink.replace_neighbour(&neighbour).unwrap();
            neighbour.mac = Mac([2, 0, 0, 0, 0, 9]);
            netlink.replace_neighbour(&neighbour).unwrap();
            assert_eq!(netlink.neighbours(link).unwrap(), [neighbour.clone()]);
            let mut entry = ForwardingEntry { link, mac: neighbour.mac, remote: "192.0.2.1".parse().unwrap() };
            netlink.replace_forwarding(&entry).unwrap();
            entry.remote = "192.0.2.2".parse().unwrap();
            netlink.replace_forwarding(&entry).unwrap();
            assert_eq!(netlink.forwarding(link).unwrap(), [entry.clone()]);
            netlink.delete_forwarding(&entry).unwrap();
            netlink.delete_neighbour(&neighbour).unwrap();
            assert!(netlink.delete_neighbour(&neighbour).unwrap_err().is_not_found());
            assert!(netlink.forwarding(link).unwrap().is_empty());
        });
    }
}
