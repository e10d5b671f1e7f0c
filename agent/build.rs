//! Generates the gRPC clients (and, for tests, servers) from our own protocol
//! files, with a pure Rust compiler so that no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["proto/cri.proto", "proto/containerd_events.proto", "proto/health.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(descriptors)?;
    Ok(())
}
