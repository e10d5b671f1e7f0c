//! What the server says of itself.

use anyhow::{Result, ensure};

use crate::context::Context;

crate::rows! { "api-machinery";
    "server version" {
        "should find the server version" => should_find_the_server_version,
    }
}

async fn should_find_the_server_version(context: Context) -> Result<()> {
    let version = context.get("/version").await?;
    for part in ["major", "minor"] {
        let text = version[part].as_str().unwrap_or_default();
        ensure!(text.parse::<u32>().is_ok(), "{part} is {text:?}");
    }
    Ok(())
}
