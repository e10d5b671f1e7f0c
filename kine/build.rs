//! Compiles the etcd v3 and gRPC health messages; no protoc is needed.

use std::{error::Error, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["rpc.proto", "health.proto"], ["proto"])?;
    let described = PathBuf::from(std::env::var("OUT_DIR")?).join("services.bin");
    std::fs::write(described, files.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
