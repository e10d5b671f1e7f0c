//! containerd as a supervised child that outlives us.

mod config;
mod killall;
mod supervisor;

pub use config::ContainerdConfig;
pub use killall::kill_all;
pub use supervisor::Containerd;
