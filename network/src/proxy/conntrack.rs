//! UDP flows that must not go on where they started.
//!
//! The kernel translates only the first packet of a flow and remembers. A
//! client that keeps sending to a service whose endpoint has gone, or which had
//! none when it began, would wait forever. Such flows, and only those, are
//! deleted; the client's next packet starts a new one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

use skiff_host::netlink_conntrack::{Flow, PROTOCOL_UDP};

use super::fragment::{Family, Fragment, Frontend};

/// Where flows of UDP frontends may go.
pub type Frontends = BTreeMap<Frontend, BTreeSet<SocketAddr>>;

/// The frontends that a change touches, with what they lead to afterwards.
pub fn changed(old: Option<&Fragment>, new: Option<&Fragment>) -> Frontends {
    let empty = BTreeMap::new();
    let old = old.map_or(&empty, |fragment| &fragment.udp);
    let new = new.map_or(&empty, |fragment| &fragment.udp);
    let gone = old.keys().filter(|frontend| !new.contains_key(frontend)).map(|frontend| (*frontend, BTreeSet::new()));
    let different = new.iter().filter(|(frontend, endpoints)| old.get(frontend) != Some(endpoints));
    gone.chain(different.map(|(frontend, endpoints)| (*frontend, endpoints.clone()))).collect()
}

/// The flows that lead anywhere else than their frontend now does.
pub fn stale<'a>(flows: &'a [Flow], frontends: &Frontends, node_addresses: &HashSet<IpAddr>) -> Vec<&'a Flow> {
    flows.iter().filter(|flow| is_stale(flow, frontends, node_addresses)).collect()
}

fn is_stale(flow: &Flow, frontends: &Frontends, node_addresses: &HashSet<IpAddr>) -> bool {
    if flow.original.protocol != PROTOCOL_UDP {
        return false;
    }
    let target = flow.original.destination;
    let by_address = frontends.get(&Frontend::Address(target));
    let by_node_port = || {
        let frontend = Frontend::NodePort(Family::of(target.ip()), target.port());
        node_addresses.contains(&target.ip()).then(|| frontends.get(&frontend)).flatten()
    };
    by_address.or_else(by_node_port).is_some_and(|endpoints| !endpoints.contains(&flow.reply.source))
}
