//! The Linux seam: mounts, cgroups, processes, namespaces, netlink and
//! nftables. The only crate that may hold `unsafe`.

pub mod address;
pub mod cgroup;
pub mod fs;
pub mod link;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netlink_conntrack;
pub mod netns;
pub mod nftables;
pub mod pause;
pub mod process;
pub mod route;
pub mod sysctl;
