//! The service proxy: cluster addresses, node ports and load balancer
//! addresses, as nftables rules.
//!
//! ```text
//! Service, EndpointSlices --compile--> Fragment --Table::replace--> script --nft--> kernel
//! ```
//!
//! Each service compiles, alone, into a [`Fragment`]: its chains and its
//! elements of the shared lookup maps. [`Table`] holds all fragments and turns
//! a change of some of them into one transaction of proportional size. A packet
//! costs one map lookup however many services there are. The table belongs to
//! this component alone; it touches no other.

pub mod compile;
pub mod conntrack;
pub mod fragment;
pub mod frame;
pub mod input;
pub mod run;
pub mod table;

pub use compile::compile;
pub use fragment::Fragment;
pub use input::{NodeView, ServiceInput, SliceInput};
pub use run::{ProxyConfig, run};
pub use table::Table;
