//! Requests that end at a node, a pod or a service: log, exec, attach, port-forward and the `proxy` subresources.
//!
//! Everything leaves through a [`NodeDialer`], which the program fills with the tunnel, so a node needs no open port. The
//! kubelet is spoken to with TLS and the API server's client certificate over that stream; an upgraded connection is then
//! joined to the client's byte for byte, half-close kept.
//!
//! Invariants: a client's credentials never leave this process; a body is streamed, never collected; an upgraded session ends
//! with either side or with the server's token, and is awaited at stop.

pub mod dialer;
pub mod headers;
pub mod limits;
pub mod location;
pub mod rewrite;
pub mod target;
pub mod transport;
pub mod websocket_log;

pub use dialer::{BoxedIo, NodeDialer};

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::Status;
use skiff_client::{Body, Snapshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use headers::{Forwarded, is_upgrade};
use limits::{DOCUMENT_LEN_MAX, ERROR_TEXT_LEN_MAX, STOP_TIMEOUT};
use location::{KubeletCall, Stream};
use target::{Endpoint, ProxyPath, Target};
use transport::{Backend, Transport};

/// The resource and object a request names; from the API server's request info.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `pods`, `services` or `nodes`.
    pub resource: &'a str,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// As in the URL: for `proxy` it may carry scheme and port.
    pub name: &'a str,
}

impl Call<'_> {
    /// Whether this subresource is served here.
    pub fn is_proxied(resource: &str, subresource: &str) -> bool {
        matches!(
            (resource, subresource),
            ("pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("services" | "nodes", "proxy")
        )
    }
}

/// What the proxy is made of.
pub struct ProxyConfig {
    /// The way to nodes and pods.
    pub dialer: Arc<dyn NodeDialer>,
    /// TLS towards kubelets: their CA, and the API server's client certificate. The server name is the node's name.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    /// Pods, nodes, services and endpoint slices are read from here.
    pub snapshot: Snapshot,
}

/// Why a client's body ended early.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokenBody(Box<dyn std::error::Error + Send + Sync>);

impl BrokenBody {
    pub(crate) fn from_error(error: Box<dyn std::error::Error + Send + Sync>) -> BrokenBody {
        BrokenBody(error)
    }
}

/// A client's body on its way to a backend.
pub type ClientBody = UnsyncBoxBody<Bytes, BrokenBody>;

/// Serves proxied requests.
pub struct Proxy {
    transport: Transport,
    snapshot: Snapshot,
    sessions: TaskTracker,
    token: CancellationToken,
}

impl Proxy {
    /// A proxy whose sessions end with `token`.
    pub fn new(config: ProxyConfig, token: CancellationToken) -> Result<Self, rustls::Error> {
        let transport = Transport::new(config.dialer, config.kubelet_tls)?;
        Ok(Proxy { transport, snapshot: config.snapshot, sessions: TaskTracker::new(), token })
    }

    /// Waits, for a bounded time, until the sessions have ended; the token must have been cancelled.
    pub async fn stopped(&self) {
        self.sessions.close();
        if timeout(STOP_TIMEOUT, self.sessions.wait()).await.is_err() {
            tracing::warn!(component = "apiserver", left = self.sessions.len(), "proxied streams did not end in time");
        }
    }

    /// Answers an authorised and admitted request. The request's URI is the client's; its upgrade, if any, is taken over.
    pub fn serve<'a, B>(&'a self, call: Call<'a>, request: Request<B>) -> BoxFuture<'a, Result<Response<Body>, Status>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = request.map(|body| body.map_err(|error| BrokenBody(error.into())).boxed_unsync());
        self.dispatch(call, request).boxed()
    }

    async fn dispatch(&self, call: Call<'_>, request: Request<ClientBody>) -> Result<Response<Body>, Status> {
        match (call.resource, call.subresource) {
            ("pods", "log") => self.log(call, request).await,
            ("pods", "exec") => self.stream(call, Stream::Exec, request).await,
            ("pods", "attach") => self.stream(call, Stream::Attach, request).await,
            ("pods", "portforward") => self.stream(call, Stream::PortForward, request).await,
            (_, "proxy") => self.proxy(call, request).await,
            _ => Err(Status::no_route()),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Status> {
        self.snapshot.get::<Pod>(namespace, name).ok_or_else(|| Status::not_found("", "pods", name))
    }

    /// The kubelet of a node, by the port it has reported.
    fn kubelet(&self, name: &str) -> Result<Backend, Status> {
        let node = self.snapshot.get::<Node>("", name).ok_or_else(|| Status::not_found("", "nodes", name))?;
        Ok(Backend::Kubelet { node: name.to_owned(), port: location::kubelet_port(&node) })
    }

    /// A small document of a node's kubelet, read by this server for itself.
    pub async fn kubelet_text(&self, node: &str, path: &str) -> Result<String, Status> {
        let request = Request::get(path).body(no_body()).map_err(Status::internal)?;
        let response = self.transport.send(&self.kubelet(node)?, request).await.map_err(|error| error.internal())?;
        if !response.status().is_success() {
            return Err(Status::internal(format!("the kubelet of {node} answered {}", response.status())));
        }
        let body = crate::body::read_at_most(response.into_body(), DOCUMENT_LEN_MAX).await.map_err(Status::internal)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn log(&self, call: Call<'_>, mut request: Request<ClientBody>) -> Result<Response<Body>, Status> {
        let pod = self.pod(call.namespace, call.name)?;
        let path = match location::log(&pod, request.uri().query().unwrap_or_default())? {
            KubeletCall::Unassigned => return Ok(plain_text(empty())),
            KubeletCall::At { node, path } => (self.kubelet(&node)?, path),
        };
        let (backend, path) = path;
        let outgoing = Request::get(path).body(no_body()).map_err(Status::internal)?;
        let response = self.transport.send(&backend, outgoing).await.map_err(|error| error.internal())?;
        if !response.status().is_success() {
            return Err(log_failure(call.name, response).await);
        }
        let body = response.into_body();
        if is_upgrade(request.headers()) {
            return websocket_log::answer(&mut request, body, &self.sessions, &self.token);
        }
        Ok(plain_text(body))
    }

    async fn stream(
        &self,
        call: Call<'_>,
        stream: Stream,
        mut request: Request<ClientBody>,
    ) -> Result<Response<Body>, Status> {
        let pod = self.pod(call.namespace, call.name)?;
        let (node, path) = location::stream(stream, &pod, request.uri().query().unwrap_or_default())?;
        let backend = self.kubelet(&node)?;
        if !is_upgrade(request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let mut outgoing = Request::new(no_body());
        *outgoing.method_mut() = request.method().clone();
        *outgoing.uri_mut() = path.parse().map_err(Status::internal)?;
        *outgoing.headers_mut() = headers::for_upgrade(request.headers());
        let response = self.transport.send(&backend, outgoing).await.map_err(|error| error.internal())?;
        Ok(self.join(&mut request, response))
    }

    /// Passes the answer on; after a switch of protocols both byte streams are joined.
    fn join(&self, request: &mut Request<ClientBody>, mut response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            headers::clean_response(response.headers_mut());
            return response;
        }
        let client = hyper::upgrade::on(request);
        let backend = hyper::upgrade::on(&mut response);
        let token = self.token.clone();
        self.sessions.spawn(transport::splice(client, backend, token));
        response
    }

    async fn proxy(&self, call: Call<'_>, mut request: Request<ClientBody>) -> Result<Response<Body>, Status> {
        let raw = request.uri().path().to_owned();
        let split = ProxyPath::split(&raw).ok_or_else(Status::no_route)?;
        let target = Target::parse(call.resource, call.name)?;
        let (backend, host) = self.backend(call, &target)?;
        let upgrade = is_upgrade(request.headers());
        if split.rest.is_empty() && !upgrade && matches!(*request.method(), Method::GET | Method::HEAD) {
            return redirect_to_slash(request.uri());
        }
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = if split.rest.is_empty() { "/" } else { split.rest };
        let forwarded = Forwarded { path: &raw, host: request.headers().get(header::HOST).cloned() };
        let mut outgoing_headers = headers::for_proxy(request.headers(), &forwarded, upgrade);
        outgoing_headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(Status::internal)?);
        let uri = format!("{path}{query}").parse().map_err(Status::internal)?;
        if upgrade {
            let mut outgoing = Request::new(no_body());
            *outgoing.method_mut() = request.method().clone();
            *outgoing.uri_mut() = uri;
            *outgoing.headers_mut() = outgoing_headers;
            let response = self.transport.send(&backend, outgoing).await.map_err(|error| error.unavailable())?;
            return Ok(self.join(&mut request, response));
        }
        let (mut parts, body) = request.into_parts();
        parts.uri = uri;
        parts.headers = outgoing_headers;
        parts.version = http::Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        let outgoing = Request::from_parts(parts, body);
        let mut response = self.transport.send(&backend, outgoing).await.map_err(|error| error.unavailable())?;
        headers::clean_response(response.headers_mut());
        let prefix = split.prefix;
        rewrite::location(response.headers_mut(), prefix, &host);
        Ok(rewrite::links(response, prefix, &host))
    }

    /// Where a `proxy` request goes, and the Host it is sent with.
    fn backend(&self, call: Call<'_>, target: &Target<'_>) -> Result<(Backend, String), Status> {
        match call.resource {
            "nodes" => self.node_backend(target),
            "pods" => self.pod_backend(call.namespace, target),
            _ => self.service_backend(call.namespace, target),
        }
    }

    /// A node without port, or with its kubelet's, is its kubelet; any other port is spoken to in plain text.
    fn node_backend(&self, target: &Target<'_>) -> Result<(Backend, String), Status> {
        let node = self.snapshot.get::<Node>("", target.name);
        let node = node.ok_or_else(|| Status::not_found("", "nodes", target.name))?;
        let (name, kubelet_port) = (target.name.to_owned(), location::kubelet_port(&node));
        let port = match target.port {
            "" => kubelet_port,
            text => text.parse().map_err(|_| Status::bad_request(format!("invalid node request {text:?}")))?,
        };
        let host = format!("{name}:{port}");
        let backend = match port == kubelet_port || target.is_https {
            true => Backend::Kubelet { node: name, port },
            false => Backend::NodePort { node: name, port },
        };
        Ok((backend, host))
    }

    fn pod_backend(&self, namespace: &str, target: &Target<'_>) -> Result<(Backend, String), Status> {
        let pod = self.pod(namespace, target.name)?;
        let endpoint = target::pod_endpoint(&pod, target)?;
        Ok(plain_backend(endpoint, target.is_https, target.name))
    }

    fn service_backend(&self, namespace: &str, target: &Target<'_>) -> Result<(Backend, String), Status> {
        let name = target.name;
        let service = self.snapshot.get::<Service>(namespace, name);
        let service = service.ok_or_else(|| Status::not_found("", "services", name))?;
        let slices = self.snapshot.list::<EndpointSlice>(Some(namespace));
        let endpoints = target::service_endpoints(&service, &slices, target)?;
        let chosen = rand::Rng::random_range(&mut rand::rng(), 0..endpoints.len());
        let endpoint = endpoints.into_iter().nth(chosen).ok_or_else(|| Status::internal("no endpoint was chosen"))?;
        Ok(plain_backend(endpoint, target.is_https, name))
    }
}

fn plain_backend(endpoint: Endpoint, is_https: bool, name: &str) -> (Backend, String) {
    let address = SocketAddr::new(endpoint.ip, endpoint.port);
    let backend = Backend::Address { node: endpoint.node, address, tls_name: is_https.then(|| name.to_owned()) };
    (backend, address.to_string())
}

/// A path that stops at `proxy` is sent to the same with a slash, so that relative links work.
fn redirect_to_slash(uri: &http::Uri) -> Result<Response<Body>, Status> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{}/{query}", uri.path());
    Response::builder()
        .status(StatusCode::MOVED_PERMANENTLY)
        .header(header::LOCATION, location)
        .body(empty())
        .map_err(Status::internal)
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn no_body() -> ClientBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn plain_text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The kubelet's refusal as a Status, with its text as the message.
async fn log_failure(pod: &str, response: Response<Body>) -> Status {
    let status = response.status();
    let text = match crate::body::read_at_most(response.into_body(), ERROR_TEXT_LEN_MAX).await {
        Ok(body) => String::from_utf8_lossy(&body).trim_end().to_owned(),
        Err(error) => format!("the kubelet answered {status}; its text could not be read: {error}"),
    };
    match status {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            let mut failure = Status::not_found("", "pods", pod);
            failure.message = format!("the server could not find the requested resource ( pods/log {pod}): {text}");
            failure
        }
        _ => Status::internal(text),
    }
}
