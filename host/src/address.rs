//! The addresses this host has.

use std::net::{IpAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// An address and the link that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    pub link: String,
    pub address: IpAddr,
}

/// Addresses of all links that are up, loopback left out, in the kernel's order.
pub fn addresses() -> std::io::Result<Vec<LinkAddress>> {
    let all = getifaddrs()?;
    let usable =
        |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    Ok(all
        .filter(|entry| usable(entry.flags))
        .filter_map(|entry| {
            let storage = entry.address?;
            let address = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::from(v4.ip()),
                (_, Some(v6)) => IpAddr::from(v6.ip()),
                _ => return None,
            };
            Some(LinkAddress { link: entry.interface_name, address })
        })
        .collect())
}

/// The address with which this host reaches the world: the source address of
/// the default route, else the first global address of any link. `None` on a
/// host with nothing but loopback. No packet is sent.
pub fn default_address() -> Option<IpAddr> {
    let routed = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    match routed() {
        Ok(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => {
            let all = addresses().ok()?;
            let v4 = all.iter().find(|found| found.address.is_ipv4());
            v4.or(all.first()).map(|found| found.address)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_never_an_address_of_the_host() {
        assert!(addresses().unwrap().iter().all(|found| !found.address.is_loopback()));
    }
}
