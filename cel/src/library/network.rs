//! IP addresses and CIDRs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::opaque::{Cidr, Opaque};
use crate::{
    fault::Fault,
    functions::{Args, Implementation},
    value::Value,
};

pub fn find(name: &str) -> Option<Implementation> {
    Some(match name {
        "ip" => |args| match args.get(0)? {
            Value::String(text) => address(text).map(|address| Value::opaque(Opaque::Ip(address))).map_err(Fault::new),
            _ => Ok(Value::opaque(Opaque::Ip(cidr_of(args, 0)?.0.addr()))),
        },
        "isIP" => |args| Ok(Value::Bool(address(args.text(0)?).is_ok())),
        "ip.isCanonical" => |args| {
            let text = args.text(0)?;
            Ok(Value::Bool(address(text).map_err(Fault::new)?.to_string() == text))
        },
        "family" => |args| Ok(Value::Int(if ip_of(args, 0)?.is_ipv4() { 4 } else { 6 })),
        "isUnspecified" => |args| Ok(Value::Bool(ip_of(args, 0)?.is_unspecified())),
        "isLoopback" => |args| Ok(Value::Bool(ip_of(args, 0)?.is_loopback())),
        "isLinkLocalMulticast" => |args| Ok(Value::Bool(is_link_local_multicast(ip_of(args, 0)?))),
        "isLinkLocalUnicast" => |args| Ok(Value::Bool(is_link_local_unicast(ip_of(args, 0)?))),
        "isGlobalUnicast" => |args| {
            let address = ip_of(args, 0)?;
            let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
            let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
            Ok(Value::Bool(!broadcast && !other && !is_link_local_unicast(address)))
        },
        "cidr" => |args| {
            let cidr = cidr(args.text(0)?).map_err(Fault::new)?;
            Ok(Value::opaque(Opaque::Cidr(cidr)))
        },
        "isCIDR" => |args| Ok(Value::Bool(cidr(args.text(0)?).is_ok())),
        "containsIP" => |args| {
            let other = match args.get(1)? {
                Value::String(text) => address(text).map_err(Fault::new)?,
                _ => ip_of(args, 1)?,
            };
            Ok(Value::Bool(cidr_of(args, 0)?.0.contains(&other)))
        },
        "containsCIDR" => |args| {
            let other = match args.get(1)? {
                Value::String(text) => cidr(text).map_err(Fault::new)?,
                _ => cidr_of(args, 1)?,
            };
            let own = cidr_of(args, 0)?.0;
            let inside = own.contains(&other.0.addr()) && own.prefix_len() <= other.0.prefix_len();
            Ok(Value::Bool(inside))
        },
        "prefixLength" => |args| Ok(Value::Int(i64::from(cidr_of(args, 0)?.0.prefix_len()))),
        "masked" => |args| Ok(Value::opaque(Opaque::Cidr(Cidr(cidr_of(args, 0)?.0.trunc())))),
        _ => return None,
    })
}

fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => (v6.segments()[0] & 0xff0f) == 0xff02,
    }
}

/// Without zones, and without IPv4 in the form of IPv6.
fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        if text.contains('%') {
            format!("IP address {text:?} with zone value is not allowed")
        } else {
            format!(
                "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
            )
        }
    })?;
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(address)
}

fn cidr(text: &str) -> Result<Cidr, String> {
    let network: IpNet = text.parse().map_err(|_| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?})")
    })?;
    if matches!(network.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(Cidr(network))
}

fn ip_of(args: &Args<'_, '_>, index: usize) -> Result<IpAddr, Fault> {
    match args.get(index)? {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(address) => Ok(*address),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

fn cidr_of(args: &Args<'_, '_>, index: usize) -> Result<Cidr, Fault> {
    match args.get(index)? {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Cidr(cidr) => Ok(*cidr),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}
