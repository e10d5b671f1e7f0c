//! The CNI plugin: Skiff itself, executed by the container runtime.
//!
//! One small program per sandbox: no runtime, no tables, no threads but those
//! that enter the pod's namespace. It connects a pod by a veth pair to a
//! bridge and gives it an address with full-length prefix and a default route
//! to the bridge, so that *all* traffic of a pod, also to pods beside it,
//! passes the host's routing. Connection tracking therefore sees both
//! directions of every service connection without bridge netfilter, which many
//! small kernels lack.
//!
//! Two configuration types are known: [`PLUGIN_NAME`] and `loopback`, which
//! older containerds run for every sandbox.

pub mod config;
pub mod host_port;
pub mod ipam;
pub mod plugin;
pub mod result;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

pub use config::{CniError, ErrorCode, NetConf, PLUGIN_NAME, PortMapping, SUPPORTED_VERSIONS};

/// Configurations are a few hundred bytes; this refuses nonsense.
const STDIN_BYTES_MAX: u64 = 1 << 20;

/// Runs one CNI command as told by environment and standard input. The result
/// or the error goes to standard output, as the specification wants it.
pub fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut input);
    let environment = config::Environment::from_process();
    let outcome = match read {
        Ok(_) => plugin::execute(&environment, &input),
        Err(error) => Err(CniError::new(ErrorCode::Io, "read network configuration", error)),
    };
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(config::version_of(&input)), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
