//! The network of a node: the CNI plugin, the overlay between nodes, the
//! service proxy and the cluster's DNS server.
//!
//! The parts share no state. Each decides in pure functions (`compile`) and
//! acts through the host seam: netlink for links and routes, one atomic
//! nftables transaction per change for packet rules.

pub mod cni;
pub mod dns;
pub mod flannel;
pub mod limits;
pub mod proxy;
