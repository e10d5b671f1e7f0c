//! Shared by the node tests: an API in memory and images made on the spot.

pub mod api;
pub mod image;
pub mod machine;
