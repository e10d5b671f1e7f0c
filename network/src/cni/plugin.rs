//! The commands: ADD, DEL, CHECK, GC, STATUS and VERSION.
//!
//! Every command can be repeated. DEL succeeds on whatever is left, including
//! nothing; ADD takes back what it did when it fails half-way.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde_json::json;
use skiff_host::{
    link::{Link, Mac, VethEnd},
    netlink::{Netlink, NetlinkError},
    netns::Netns,
    nftables::Nft,
    route::{Address, Route},
    sysctl,
};

use super::{
    config::{CniError, Environment, ErrorCode, LOOPBACK_NAME, NetConf, PortMapping, SUPPORTED_VERSIONS},
    host_port,
    ipam::{self, IpamError, Pool},
    result::{self, Attachment},
};

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> Self {
        let code = match &error {
            IpamError::Exhausted { .. } => ErrorCode::Exhausted,
            IpamError::Io { .. } | IpamError::Corrupt { .. } => ErrorCode::Io,
        };
        CniError::new(code, "allocate pod address", error)
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        CniError::kernel(error)
    }
}

/// Runs the command and returns what goes to standard output.
pub fn execute(environment: &Environment, input: &[u8]) -> Result<String, CniError> {
    if environment.command == "VERSION" {
        let newest = SUPPORTED_VERSIONS.last();
        return Ok(json!({"cniVersion": newest, "supportedVersions": SUPPORTED_VERSIONS}).to_string());
    }
    let conf = NetConf::parse(input)?;
    match (environment.command.as_str(), conf.plugin_type.as_str()) {
        ("ADD", LOOPBACK_NAME) => loopback_up(environment, &conf),
        ("DEL" | "CHECK" | "GC" | "STATUS", LOOPBACK_NAME) => Ok(String::new()),
        ("ADD", _) => add(environment, &conf),
        ("DEL", _) => {
            environment.validate()?;
            conf.validate()?;
            remove(&environment.container_id, &environment.interface, &conf).map(|()| String::new())
        }
        ("CHECK", _) => check(environment, &conf).map(|()| String::new()),
        ("GC", _) => collect_garbage(&conf).map(|()| String::new()),
        ("STATUS", _) => conf.validate().map(|()| String::new()),
        (command, _) => {
            Err(CniError::new(ErrorCode::InvalidEnvironment, "unknown CNI_COMMAND", format!("{command:?}")))
        }
    }
}

fn loopback_up(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    let path = environment.required_netns()?;
    open_netns(path)?.run(set_loopback_up).map_err(CniError::kernel)??;
    Ok(result::loopback(&conf.cni_version, path))
}

fn set_loopback_up() -> Result<(), CniError> {
    let mut netlink = Netlink::route()?;
    match netlink.link("lo")? {
        Some(lo) if !lo.is_up => Ok(netlink.set_link_up(lo.index)?),
        _ => Ok(()),
    }
}

fn add(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    environment.validate()?;
    conf.validate()?;
    let netns_path = environment.required_netns()?;
    let netns = open_netns(netns_path)?;
    let (container, interface) = (environment.container_id.as_str(), environment.interface.as_str());
    let mappings = conf.port_mappings()?;
    let mut pool = Pool::open(&lease_dir(conf))?;
    let displaced = pool.displace_ports(container, interface, &mappings);
    let addresses = pool.reserve(container, interface, netns_path, &conf.subnets, &mappings)?;
    drop(pool);
    let connected = connect(environment, conf, &netns, &addresses).and_then(|attachment| {
        publish(conf, &mappings, &displaced, &addresses)?;
        Ok(attachment)
    });
    match connected {
        Ok(attachment) => Ok(attachment.to_json(&conf.cni_version)),
        Err(error) => {
            // The first failure is the one to report.
            let _ = remove(container, interface, conf);
            Err(error)
        }
    }
}

fn connect(
    environment: &Environment,
    conf: &NetConf,
    netns: &Netns,
    addresses: &[IpAddr],
) -> Result<Attachment, CniError> {
    allow_forwarding(conf)?;
    let mut netlink = Netlink::route()?;
    let bridge = ensure_bridge(&mut netlink, conf)?;
    let veth = veth_name(&environment.container_id, &environment.interface);
    if let Some(stale) = netlink.link(&veth)? {
        netlink.delete_link(stale.index)?;
    }
    let mac = pod_mac(addresses);
    let here = VethEnd { name: &veth, mac: None };
    let there = VethEnd { name: &environment.interface, mac: Some(mac) };
    netlink.add_veth(here, there, netns, Some(bridge.index), conf.mtu)?;
    let port =
        netlink.link(&veth)?.ok_or_else(|| CniError::kernel(format!("{veth} vanished right after it was made")))?;
    netlink.set_bridge_port_hairpin(port.index, conf.hairpin_mode)?;
    let gateways: Vec<IpAddr> = conf.subnets.iter().copied().map(ipam::gateway).collect();
    let pairs: Vec<(IpAddr, IpAddr)> = addresses.iter().copied().zip(gateways).collect();
    netns.run(|| configure_pod(&environment.interface, &pairs)).map_err(CniError::kernel)??;
    Ok(Attachment {
        bridge: (conf.bridge.clone(), bridge.mac),
        host_veth: (veth, port.mac),
        pod: (environment.interface.clone(), mac),
        netns: environment.netns.clone(),
        mtu: conf.mtu,
        addresses: pairs,
    })
}

/// Inside the pod's namespace: loopback, address, and everything via the gateway.
fn configure_pod(interface: &str, addresses: &[(IpAddr, IpAddr)]) -> Result<(), CniError> {
    set_loopback_up()?;
    let mut netlink = Netlink::route()?;
    let link = netlink
        .link(interface)?
        .ok_or_else(|| CniError::kernel(format!("{interface} is missing in the pod's namespace")))?;
    if addresses.iter().any(|(address, _)| address.is_ipv6()) {
        set_sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        set_sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
    }
    // Pods reach each other through the host on purpose; a redirect would undo that.
    set_sysctl("net/ipv4/conf/all/accept_redirects", "0")?;
    set_sysctl(&format!("net/ipv4/conf/{interface}/accept_redirects"), "0")?;
    netlink.set_link_up(link.index)?;
    for (address, gateway) in addresses {
        netlink.add_address(link.index, IpNet::from(*address))?;
        let mut to_gateway = Route::new(IpNet::from(*gateway), None, link.index);
        to_gateway.source = Some(*address);
        netlink.replace_route(&to_gateway)?;
        let everything: IpNet =
            if gateway.is_ipv4() { IpNet::V4(ipnet::Ipv4Net::default()) } else { IpNet::V6(ipnet::Ipv6Net::default()) };
        netlink.replace_route(&Route::new(everything, Some(*gateway), link.index))?;
    }
    Ok(())
}

/// The bridge with its gateway addresses, made or corrected as needed. Plugin
/// processes race here at start-up: whoever comes second finds it made.
fn ensure_bridge(netlink: &mut Netlink, conf: &NetConf) -> Result<Link, CniError> {
    let name = &conf.bridge;
    let gateways: Vec<IpNet> =
        conf.subnets.iter().filter_map(|net| IpNet::new(ipam::gateway(*net), net.prefix_len()).ok()).collect();
    let bridge = match netlink.link(name)? {
        Some(link) => link,
        None => {
            let mac = pod_mac(&gateways.iter().map(IpNet::addr).collect::<Vec<_>>());
            match netlink.add_bridge(name, mac, conf.mtu) {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
            netlink.link(name)?.ok_or_else(|| CniError::kernel(format!("bridge {name} vanished")))?
        }
    };
    if bridge.kind.as_deref() != Some("bridge") {
        let details = format!("link {name} exists and is a {}", bridge.kind.as_deref().unwrap_or("device"));
        return Err(CniError::new(ErrorCode::InvalidConfiguration, "invalid bridge", details));
    }
    if !bridge.is_up {
        netlink.set_link_up(bridge.index)?;
    }
    if bridge.mtu != conf.mtu {
        netlink.set_link_mtu(bridge.index, conf.mtu)?;
    }
    ensure_addresses(netlink, &bridge, &gateways)?;
    // Traffic between two pods enters and leaves by the bridge: no redirects then.
    set_sysctl(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
    Ok(bridge)
}

/// Exactly the gateways; an address of an earlier subnet would attract its pods' traffic.
fn ensure_addresses(netlink: &mut Netlink, bridge: &Link, gateways: &[IpNet]) -> Result<(), CniError> {
    let have: Vec<Address> = netlink.addresses()?.into_iter().filter(|address| address.link == bridge.index).collect();
    for address in &have {
        let is_link_local = matches!(address.net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        if !is_link_local && !gateways.contains(&address.net) {
            match netlink.delete_address(bridge.index, address.net) {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
    }
    for gateway in gateways.iter().filter(|gateway| !have.iter().any(|address| address.net == **gateway)) {
        match netlink.add_address(bridge.index, *gateway) {
            Err(error) if !error.is_exists() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn allow_forwarding(conf: &NetConf) -> Result<(), CniError> {
    if conf.subnets.iter().any(|net| net.addr().is_ipv4()) {
        set_sysctl("net/ipv4/ip_forward", "1")?;
    }
    if conf.subnets.iter().any(|net| net.addr().is_ipv6()) {
        set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn publish(
    conf: &NetConf,
    mappings: &[PortMapping],
    displaced: &[(PortMapping, Vec<IpAddr>)],
    addresses: &[IpAddr],
) -> Result<(), CniError> {
    if mappings.is_empty() {
        return Ok(());
    }
    let script = host_port::publish(&conf.table, mappings, displaced, addresses);
    Nft::new(&conf.nft)
        .apply(&script)
        .map_err(|error| CniError::new(ErrorCode::Kernel, "publish host ports", error))?;
    // Published ports answer on 127.0.0.1 too, whose packets the bridge would refuse.
    // The table just made keeps others from reaching 127.0.0.0/8 that way.
    set_sysctl(&format!("net/ipv4/conf/{}/route_localnet", conf.bridge), "1")
}

/// Takes down what ADD set up, as far as it is still there.
fn remove(container: &str, interface: &str, conf: &NetConf) -> Result<(), CniError> {
    let mut netlink = Netlink::route()?;
    if let Some(veth) = netlink.link(&veth_name(container, interface))? {
        match netlink.delete_link(veth.index) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    let mut pool = Pool::open(&lease_dir(conf))?;
    if let Some(lease) = pool.lease(container, interface).filter(|lease| !lease.port_mappings.is_empty()) {
        let script = host_port::withdraw(&conf.table, &lease.port_mappings, &lease.addresses);
        Nft::new(&conf.nft)
            .apply(&script)
            .map_err(|error| CniError::new(ErrorCode::Kernel, "withdraw host ports", error))?;
    }
    pool.release(container, interface)?;
    Ok(())
}

fn check(environment: &Environment, conf: &NetConf) -> Result<(), CniError> {
    environment.validate()?;
    conf.validate()?;
    let netns = open_netns(environment.required_netns()?)?;
    let drift = |details: String| Err(CniError::new(ErrorCode::Drift, "pod network has changed", details));
    let lease = Pool::open(&lease_dir(conf))?.lease(&environment.container_id, &environment.interface).cloned();
    let Some(lease) = lease else {
        return Err(CniError::new(ErrorCode::UnknownContainer, "no lease", &environment.container_id));
    };
    let mut netlink = Netlink::route()?;
    let veth = veth_name(&environment.container_id, &environment.interface);
    let bridge = netlink.link(&conf.bridge)?.map(|bridge| bridge.index);
    match netlink.link(&veth)? {
        Some(link) if link.master == bridge && bridge.is_some() => {}
        Some(_) => return drift(format!("{veth} is not a port of {}", conf.bridge)),
        None => return drift(format!("{veth} is missing")),
    }
    let inside = netns.run(|| -> Result<Vec<IpAddr>, CniError> {
        let mut netlink = Netlink::route()?;
        let link = netlink.link(&environment.interface)?.map(|link| link.index);
        let addresses = netlink.addresses()?.into_iter();
        Ok(addresses.filter(|address| Some(address.link) == link).map(|address| address.net.addr()).collect())
    });
    let inside = inside.map_err(CniError::kernel)??;
    match lease.addresses.iter().find(|address| !inside.contains(address)) {
        Some(missing) => drift(format!("{} has no address {missing}", environment.interface)),
        None => Ok(()),
    }
}

/// Removes attachments the runtime no longer knows.
fn collect_garbage(conf: &NetConf) -> Result<(), CniError> {
    conf.validate()?;
    let Some(valid) = &conf.valid_attachments else { return Ok(()) };
    let stale: Vec<(String, String)> = Pool::open(&lease_dir(conf))?
        .leases()
        .filter(|(container, interface, _)| {
            !valid.iter().any(|known| known.container_id == *container && known.ifname == *interface)
        })
        .map(|(container, interface, _)| (container.to_owned(), interface.to_owned()))
        .collect();
    stale.iter().try_for_each(|(container, interface)| remove(container, interface, conf))
}

fn open_netns(path: &str) -> Result<Netns, CniError> {
    Netns::open(path).map_err(|error| CniError::new(ErrorCode::Io, format!("open network namespace {path}"), error))
}

fn set_sysctl(name: &str, value: &str) -> Result<(), CniError> {
    sysctl::set(name, value).map_err(CniError::kernel)
}

fn lease_dir(conf: &NetConf) -> PathBuf {
    conf.data_dir.join(&conf.name)
}

/// The host's end of a pod's veth pair: derived, so that DEL needs no record.
pub fn veth_name(container: &str, interface: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in container.bytes().chain([0]).chain(interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("veth{:011x}", hash & 0xfff_ffff_ffff)
}

/// A link-layer address derived from the IP address, so that neighbours' caches
/// stay right when an address is used again.
fn pod_mac(addresses: &[IpAddr]) -> Mac {
    match addresses.first() {
        Some(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            Mac([0x0a, 0x58, a, b, c, d])
        }
        Some(IpAddr::V6(address)) => {
            let octets = address.octets();
            Mac([0x0a, 0x59, octets[12], octets[13], octets[14], octets[15]])
        }
        None => Mac([0x0a, 0x58, 0, 0, 0, 0]),
    }
}
