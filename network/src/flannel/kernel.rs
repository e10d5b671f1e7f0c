//! Brings the kernel's entries in line with a [`Plan`].

use std::collections::BTreeSet;

use skiff_host::{
    netlink::{Netlink, NetlinkError},
    route::{ROUTE_PROTOCOL_SKIFF, Route},
};

use super::plan::Plan;

/// Reads the entries that are ours: routes carrying our mark or leading into a
/// tunnel, and everything fixed on the tunnel devices.
pub fn read(netlink: &mut Netlink, tunnels: &[u32]) -> Result<Plan, NetlinkError> {
    // The kernel's own routes to an address of the tunnel device are not ours.
    let is_ours = |route: &Route| {
        route.protocol == ROUTE_PROTOCOL_SKIFF || (tunnels.contains(&route.link) && route.gateway.is_some())
    };
    let mut plan = Plan { routes: netlink.routes()?.into_iter().filter(is_ours).collect(), ..Plan::default() };
    for tunnel in tunnels {
        plan.neighbours.extend(netlink.neighbours(*tunnel)?);
        plan.forwarding.extend(netlink.forwarding(*tunnel)?);
    }
    Ok(plan)
}

/// Carries out the difference. What leads to a node is added before the route
/// that uses it; what is gone is removed in the opposite order.
pub fn apply(netlink: &mut Netlink, have: &Plan, want: &Plan) -> Result<(), NetlinkError> {
    for route in have.routes.difference(&want.routes).filter(|route| !is_replaced(route, &want.routes)) {
        gone(netlink.delete_route(route))?;
    }
    let forwarded: BTreeSet<_> = want.forwarding.iter().map(|entry| (entry.link, entry.mac)).collect();
    for entry in have.forwarding.difference(&want.forwarding) {
        if !forwarded.contains(&(entry.link, entry.mac)) {
            gone(netlink.delete_forwarding(entry))?;
        }
    }
    let known: BTreeSet<_> = want.neighbours.iter().map(|entry| (entry.link, entry.address)).collect();
    for entry in have.neighbours.difference(&want.neighbours) {
        if !known.contains(&(entry.link, entry.address)) {
            gone(netlink.delete_neighbour(entry))?;
        }
    }
    want.forwarding.difference(&have.forwarding).try_for_each(|entry| netlink.replace_forwarding(entry))?;
    want.neighbours.difference(&have.neighbours).try_for_each(|entry| netlink.replace_neighbour(entry))?;
    want.routes.difference(&have.routes).try_for_each(|route| netlink.replace_route(route))
}

/// A route to the same destination takes its place without a gap.
fn is_replaced(route: &Route, wanted: &BTreeSet<Route>) -> bool {
    wanted.iter().any(|want| want.destination == route.destination)
}

/// Removing what is already gone is success.
fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
