//! Serves a store in a file on a unix socket or on TCP: `serve FILE SOCKET|ADDRESS:PORT`.

use std::path::Path;

use skiff_kine::grpc::Listener;
use skiff_kine::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(socket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FILE SOCKET|ADDRESS:PORT".into());
    };
    let store = Store::open(StoreOptions::sqlite(file)).await?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let interrupted = async move {
        let result = tokio::signal::ctrl_c().await;
        stop.cancel();
        result
    };
    let listener = match socket.parse() {
        Ok(address) => Listener::tcp(address, None).await?,
        Err(_) => Listener::unix(Path::new(&socket))?,
    };
    let (served, interrupted) = tokio::join!(listener.serve(store.clone(), token), interrupted);
    served?;
    interrupted?;
    store.close().await?;
    Ok(())
}
