//! The network of a cluster: the CNI plugin, the overlay between nodes, the
//! service proxy, the cluster's DNS server, and the controllers around them.
//!
//! The parts share no state. Each decides in pure functions (`compile`,
//! `reconcile`) and acts through the host seam: netlink for links and routes,
//! one atomic nftables transaction per change for packet rules.

pub mod cni;
pub mod dns;
pub mod flannel;
pub mod limits;
pub mod node_hosts;
pub mod proxy;
pub mod service_lb;

pub use node_hosts::NodeHosts;
pub use service_lb::ServiceLb;
