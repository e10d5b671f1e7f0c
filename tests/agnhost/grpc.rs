//! The health service over gRPC: every call is answered with SERVING.

use std::convert::Infallible;

use anyhow::Result;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// A message of five bytes of head and the field `status = SERVING`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

pub async fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("::", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(|_| async {
                let trailers = async {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    Some(Ok::<_, Infallible>(trailers))
                };
                let body = Full::new(Bytes::from_static(SERVING)).with_trailers(trailers);
                Response::builder().header("content-type", "application/grpc").body(body)
            });
            let served =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                println!("grpc: {error}");
            }
        });
    }
}
