//! Values that only their own functions can look into.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    authorizer::{Check, Decided, Scope},
    formats::Format,
    quantity::Quantity,
    url::Url,
};

/// Such a value.
#[derive(Clone, Debug)]
pub enum Opaque {
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Url),
    Semver(semver::Version),
    Format(&'static Format),
    Authorizer(Scope),
    /// A path, group or resource being checked.
    Check(Box<Check>),
    Decision(Arc<Decided>),
}

/// An address with a prefix length; the address need not be the first of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpNet);

impl Opaque {
    pub fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Opaque::Check(check) => check.type_name(),
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// What costs are computed from: bytes of an address, else 1.
    pub fn size(&self) -> u64 {
        let bytes = |address: &IpAddr| if address.is_ipv4() { 4 } else { 16 };
        match self {
            Opaque::Ip(address) => bytes(address),
            Opaque::Cidr(cidr) => u64::from(cidr.0.prefix_len()).div_ceil(8),
            _ => 1,
        }
    }

    pub fn equals(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a.compare(b).is_eq(),
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            (Opaque::Url(a), Opaque::Url(b)) => a == b,
            (Opaque::Semver(a), Opaque::Semver(b)) => a.cmp_precedence(b).is_eq(),
            (Opaque::Format(a), Opaque::Format(b)) => a.name == b.name,
            (Opaque::Check(a), Opaque::Check(b)) => a == b,
            _ => false,
        }
    }

    /// The text form, where there is one.
    pub fn text(&self) -> Option<String> {
        match self {
            Opaque::Ip(address) => Some(address.to_string()),
            Opaque::Cidr(cidr) => Some(cidr.0.to_string()),
            Opaque::Quantity(quantity) => Some(quantity.to_string()),
            Opaque::Semver(version) => Some(version.to_string()),
            Opaque::Url(url) => Some(url.text.clone()),
            _ => None,
        }
    }
}
