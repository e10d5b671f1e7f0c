//! Calls to webhooks: conversion of custom resources, and admission.
//!
//! A webhook is a URL, or a Service that is reached the way aggregated API
//! servers are: by dialling one of its endpoints, so that a server without a
//! node reaches it too. The certificate must be for `name.namespace.svc` (or
//! the host of the URL) and vouched for by `caBundle`, or by the roots of the
//! host where there is none. Answers are bounded in size and time.

pub mod config;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    aggregation::Aggregator,
    body,
    proxy::{BoxedIo, transport},
};

pub use config::{ClientConfig, Target};

/// Largest answer of a webhook.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The way to webhooks; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    services: Arc<Aggregator>,
}

impl Webhooks {
    pub(crate) fn new(services: Arc<Aggregator>) -> Webhooks {
        Webhooks { services }
    }

    /// Posts a review and reads the answer. The error is a text in the form
    /// that Go's HTTP client gives, as clients see it in messages.
    pub async fn post(&self, config: &ClientConfig, review: &Value, limit: Duration) -> Result<Value, String> {
        let url = format!("{}?timeout={}s", config.url(), limit.as_secs());
        let failed = |why: String| format!("Post {url:?}: {why}");
        let body = Bytes::from(serde_json::to_vec(review).map_err(|error| error.to_string())?);
        match timeout(limit, self.exchange(config, &url, body)).await {
            Ok(Ok((200..=299, bytes))) => {
                serde_json::from_slice(&bytes).map_err(|error| format!("couldn't decode the answer: {error}"))
            }
            Ok(Ok((code, bytes))) => Err(refused(code, &bytes)),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    async fn exchange(&self, config: &ClientConfig, url: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        let io = self.connect(config).await?;
        let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(header::HOST, config.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let response = transport::exchange(io, request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let bytes =
            body::read_at_most(response.into_body(), ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
        Ok((code, bytes))
    }

    async fn connect(&self, config: &ClientConfig) -> Result<BoxedIo, String> {
        match &config.target {
            Target::Service { reference, .. } => {
                self.services.connect(reference, &config.tls).await.map_err(|status| status.message)
            }
            Target::Url { host, port, .. } => {
                let name = rustls::pki_types::ServerName::try_from(host.clone())
                    .map_err(|_| format!("{host:?} is no name of a server"))?;
                let dialled = TcpStream::connect((host.as_str(), *port)).await;
                let stream = dialled.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
                let tls = config.tls.connect(name, stream).await.map_err(|error| error.to_string())?;
                Ok(Box::new(tls))
            }
        }
    }
}

/// An answer with an error code, with the beginning of what it says.
fn refused(code: u16, bytes: &[u8]) -> String {
    const SHOWN: usize = 1024;
    if let Ok(status) = serde_json::from_slice::<Value>(bytes)
        && let Some(message) = status["message"].as_str()
    {
        return message.to_owned();
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).trim().to_owned();
    match code {
        404 => "the server could not find the requested resource".to_owned(),
        500 => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        code => format!("the server responded with the status code {code} but did not return more information: {text}"),
    }
}
