//! What the server says of itself.

use anyhow::{Result, ensure};

use crate::context::Context;

crate::rows! {
    "should find the server version" => should_find_the_server_version,
}

async fn should_find_the_server_version(context: Context) -> Result<()> {
    let version = context.client.apiserver_version().await?;
    ensure!(version.major.parse::<u32>().is_ok(), "major {:?}", version.major);
    ensure!(version.minor.parse::<u32>().is_ok(), "minor {:?}", version.minor);
    Ok(())
}
