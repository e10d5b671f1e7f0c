//! Connection tracking entries, over ctnetlink: listing and deleting flows.
//!
//! The kernel keeps sending an existing UDP "connection" to where its first
//! packet went. When a service endpoint goes away, flows bound to it must be
//! deleted, and only those.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::{Attributes, Message, Netlink, NetlinkError};

const SUBSYSTEM_CTNETLINK: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM_CTNETLINK | 1;
const CT_DELETE: u16 = SUBSYSTEM_CTNETLINK | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = 0x8000;

/// The UDP protocol number.
pub const PROTOCOL_UDP: u8 = 17;

/// One direction of a tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTuple {
    pub protocol: u8,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet was sent.
    pub original: FlowTuple,
    /// As answers arrive: its source is where the flow really goes.
    pub reply: FlowTuple,
    family: u8,
    /// The identifying attributes, given back verbatim to delete the flow.
    identity: Vec<(u16, Vec<u8>)>,
}

impl Netlink {
    /// All tracked flows with ports. Needs a socket from [`Netlink::netfilter`].
    pub fn flows(&mut self) -> Result<Vec<Flow>, NetlinkError> {
        self.dump(|| Message::new(CT_GET, 0).raw(&[0, 0, 0, 0]), "list tracked flows", decode)
    }

    /// Deletes exactly this flow; one that has ended meanwhile is not an error.
    pub fn delete_flow(&mut self, flow: &Flow) -> Result<(), NetlinkError> {
        let mut message = Message::new(CT_DELETE, 0).raw(&[flow.family, 0, 0, 0]);
        for (kind, value) in &flow.identity {
            message = message.attribute(*kind, value);
        }
        let context = || format!("delete flow {} to {}", flow.original.source, flow.original.destination);
        match self.execute(message, context) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}

fn decode(body: &[u8]) -> Option<Flow> {
    let family = *body.first()?;
    let (mut original, mut reply, mut identity) = (None, None, Vec::new());
    for (kind, value) in Attributes(body.get(4..)?) {
        match kind {
            CTA_TUPLE_ORIG => {
                original = decode_tuple(value);
                identity.push((kind | NESTED, value.to_vec()));
            }
            CTA_TUPLE_REPLY => reply = decode_tuple(value),
            CTA_ID | CTA_ZONE => identity.push((kind, value.to_vec())),
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, family, identity })
}

fn decode_tuple(tuple: &[u8]) -> Option<FlowTuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for (kind, value) in Attributes(tuple) {
        for (inner, value) in Attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC) => source = v4(value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST) => destination = v4(value),
                (CTA_TUPLE_IP, CTA_IP_V6_SRC) => source = v6(value),
                (CTA_TUPLE_IP, CTA_IP_V6_DST) => destination = v6(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = port(value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = port(value),
                _ => {}
            }
        }
    }
    Some(FlowTuple {
        protocol: protocol?,
        source: SocketAddr::new(source?, source_port?),
        destination: SocketAddr::new(destination?, destination_port?),
    })
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from)
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn port(bytes: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(bytes).ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::{netns::Netns, nftables::Nft};

    #[test]
    fn a_udp_flow_is_listed_with_its_real_destination_and_deleted_alone() {
        let netns = Netns::create().unwrap();
        netns
            .run(|| {
                let mut route = Netlink::route().unwrap();
                let lo = route.link("lo").unwrap().unwrap().index;
                route.set_link_up(lo).unwrap();
                route.add_address(lo, "192.0.2.1/32".parse().unwrap()).unwrap();
                let script = "table ip t {\n chain c {\n type nat hook output priority -100\n \
                              ip daddr 192.0.2.1 udp dport 53 dnat to 127.0.0.1:5353\n }\n}\n";
                Nft::default().apply(script).unwrap();
                let (first, second) = (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap());
                first.send_to(b"x", "192.0.2.1:53").unwrap();
                second.send_to(b"x", "192.0.2.1:54").unwrap();
                let mut netlink = Netlink::netfilter().unwrap();
                let udp = |netlink: &mut Netlink| -> Vec<Flow> {
                    let flows = netlink.flows().unwrap();
                    flows.into_iter().filter(|flow| flow.original.protocol == PROTOCOL_UDP).collect()
                };
                let flows = udp(&mut netlink);
                assert_eq!(flows.len(), 2, "{flows:?}");
                let translated = flows.iter().find(|flow| flow.original.destination.port() == 53).unwrap();
                assert_eq!(translated.reply.source, "127.0.0.1:5353".parse().unwrap());
                netlink.delete_flow(translated).unwrap();
                netlink.delete_flow(translated).unwrap();
                let rest = udp(&mut netlink);
                assert_eq!(rest.len(), 1);
                assert_eq!(rest[0].original.destination.port(), 54);
            })
            .unwrap();
    }
}
