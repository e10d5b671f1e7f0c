//! Serves a store in a file on a unix socket: `serve FILE SOCKET`.

use std::path::Path;

use skiff_kine::grpc::serve_unix;
use skiff_kine::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(socket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FILE SOCKET".into());
    };
    let store = Store::open(StoreOptions::sqlite(file)).await?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let interrupted = async move {
        let result = tokio::signal::ctrl_c().await;
        stop.cancel();
        result
    };
    let (served, interrupted) = tokio::join!(serve_unix(store.clone(), Path::new(&socket), token), interrupted);
    served?;
    interrupted?;
    store.close().await?;
    Ok(())
}
