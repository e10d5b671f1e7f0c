//! One function per route.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::{BackendError, PodRef, StreamSet, StreamingBackend};
use super::options::{ExecOptions, LogOptions, forwarded_ports, query_pairs};
use super::routes::Route;
use super::{Body, full, logs, text};
use crate::streaming::channels::ExecProtocol;
use crate::streaming::limits::RUN_OUTPUT_LEN_MAX;
use crate::streaming::upgrade::{self, STREAM_PROTOCOL, UpgradeError};
use crate::streaming::{StreamingError, portforward, remotecommand, websocket};

/// What every handler has.
#[derive(Clone)]
pub struct Context {
    pub backend: Arc<dyn StreamingBackend>,
    /// Owns the sessions that outlive their request.
    pub sessions: TaskTracker,
    pub token: CancellationToken,
}

/// Why a request is answered with an error.
#[derive(Debug)]
enum Failure {
    Backend(BackendError),
    Upgrade(UpgradeError),
    BadRequest(String),
    Forbidden(String),
    MethodNotAllowed,
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Failure::Backend(error)
    }
}

impl From<UpgradeError> for Failure {
    fn from(error: UpgradeError) -> Self {
        Failure::Upgrade(error)
    }
}

impl Failure {
    fn response(self) -> Response<Body> {
        match self {
            Failure::Backend(error) => text(error.status(), error.to_string()),
            Failure::Upgrade(UpgradeError::Refused { status, text: reason }) => text(status, reason),
            Failure::Upgrade(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            Failure::BadRequest(reason) => text(StatusCode::BAD_REQUEST, reason),
            Failure::Forbidden(reason) => text(StatusCode::FORBIDDEN, reason),
            Failure::MethodNotAllowed => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        }
    }
}

/// Answers an authorised request.
pub async fn handle(context: &Context, route: Route, request: Request<Incoming>) -> Response<Body> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let get_or_post = get || request.method() == Method::POST;
    let result = match route {
        Route::Healthz => Ok(text(StatusCode::OK, "ok")),
        Route::Pods if get => context.backend.pods().await.map(json).map_err(Failure::from),
        Route::Stats if get => stats(context, &request).await,
        Route::Metrics(path) if get => metrics(context, &path).await,
        Route::ContainerLogs { pod, container } if get => container_logs(context, &pod, &container, &request).await,
        Route::Exec { pod, container } if get_or_post => {
            remote_command(context, &pod, &container, request, Command::Exec).await
        }
        Route::Attach { pod, container } if get_or_post => {
            remote_command(context, &pod, &container, request, Command::Attach).await
        }
        Route::PortForward { pod } if get_or_post => port_forward(context, &pod, request).await,
        Route::Run { pod, container } if request.method() == Method::POST => {
            run(context, &pod, &container, &request).await
        }
        _ => Err(Failure::MethodNotAllowed),
    };
    result.unwrap_or_else(Failure::response)
}

fn json(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn stats(context: &Context, request: &Request<Incoming>) -> Result<Response<Body>, Failure> {
    let pairs = query_pairs(request.uri().query());
    let asked = pairs.iter().find(|(name, _)| *name == "only_cpu_and_memory");
    let brief = asked.is_some_and(|(_, value)| matches!(&value[..], "1" | "t" | "T" | "true" | "TRUE" | "True"));
    Ok(json(context.backend.stats(brief).await?))
}

async fn metrics(context: &Context, path: &str) -> Result<Response<Body>, Failure> {
    let Some(metrics) = context.backend.metrics(path).await else {
        return Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"));
    };
    let mut response = Response::new(full(metrics));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn container_logs(
    context: &Context,
    pod: &PodRef,
    container: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let pairs = query_pairs(request.uri().query());
    let options = LogOptions::parse(&pairs, Timestamp::now()).map_err(Failure::BadRequest)?;
    let source = context.backend.logs(pod, container, options.previous).await?;
    // The first bytes are read before the status goes out, so that an unreadable log is an error and not an empty success.
    let pieces = logs::open(source, options, context.backend.clone(), context.token.clone())
        .await
        .map_err(|error| BackendError::Internal(format!("read log of container {container:?}: {error}")))?;
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Exec,
    Attach,
}

/// What a client wants its connection to become.
enum Wish {
    Spdy,
    WebSocket,
}

fn wish<B>(request: &Request<B>) -> Result<Wish, Failure> {
    if websocket::is_requested(request) {
        return Ok(Wish::WebSocket);
    }
    let headers = request.headers();
    if websocket::has_token(headers, header::CONNECTION, "upgrade")
        && websocket::has_token(headers, header::UPGRADE, "SPDY/3.1")
    {
        return Ok(Wish::Spdy);
    }
    Err(Failure::BadRequest("unable to upgrade: missing upgrade headers in request".into()))
}

async fn remote_command(
    context: &Context,
    pod: &PodRef,
    container: &str,
    request: Request<Incoming>,
    command: Command,
) -> Result<Response<Body>, Failure> {
    let options = ExecOptions::parse(&query_pairs(request.uri().query())).map_err(Failure::BadRequest)?;
    let wish = wish(&request)?;
    let found = context.backend.container(pod, container).await?;
    let url = match command {
        Command::Exec => context.backend.exec_url(&found.id, &options.command, options.streams).await?,
        Command::Attach => context.backend.attach_url(&found.id, options.streams).await?,
    };
    match wish {
        Wish::Spdy => pass_through(context, request, &url).await,
        Wish::WebSocket => {
            let name = choose(&request, |name| ExecProtocol::named(name).is_some())?;
            let protocol = ExecProtocol::named(&name).unwrap_or(ExecProtocol::OLDEST);
            let runtime = upgrade::join(&url, &[HeaderValue::from_static("v4.channel.k8s.io")]).await?;
            let StreamSet { stdin, stdout, stderr, tty } = options.streams;
            let wanted = remotecommand::Wanted { stdin, stdout, stderr, tty };
            switch_to_websocket(context, request, &name, move |client, token| {
                Box::pin(async move { remotecommand::serve(client, protocol, wanted, runtime.io, token).await })
            })
        }
    }
}

async fn port_forward(context: &Context, pod: &PodRef, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let ports = forwarded_ports(&query_pairs(request.uri().query())).map_err(Failure::BadRequest)?;
    let wish = wish(&request)?;
    let sandbox = context.backend.sandbox(pod).await?;
    let url = context.backend.port_forward_url(&sandbox.id, &ports).await?;
    if let Wish::Spdy = wish {
        return pass_through(context, request, &url).await;
    }
    let known = |name: &str| name == portforward::TUNNEL_PROTOCOL || portforward::channel_framing(name).is_some();
    let name = choose(&request, known)?;
    if name != portforward::TUNNEL_PROTOCOL && ports.is_empty() {
        return Err(Failure::BadRequest("query parameter \"port\" is required".into()));
    }
    let runtime = upgrade::join(&url, &[HeaderValue::from_static(portforward::SPDY_PROTOCOL)]).await?;
    match portforward::channel_framing(&name) {
        None => switch_to_websocket(context, request, &name, move |client, token| {
            Box::pin(async move { portforward::serve_tunnel(client, runtime.io, token).await })
        }),
        Some(framing) => switch_to_websocket(context, request, &name, move |client, token| {
            Box::pin(async move { portforward::serve_channels(client, framing, &ports, runtime.io, token).await })
        }),
    }
}

fn choose<B>(request: &Request<B>, supported: impl Fn(&str) -> bool) -> Result<String, Failure> {
    websocket::choose_protocol(request.headers(), supported)
        .ok_or_else(|| Failure::Forbidden("no supported websocket subprotocol was requested".into()))
}

type Client = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Answers with the switch and serves the client in a task that the server owns.
fn switch_to_websocket<F>(
    context: &Context,
    mut request: Request<Incoming>,
    protocol: &str,
    serve: F,
) -> Result<Response<Body>, Failure>
where
    F: for<'a> FnOnce(&'a mut Client, &'a CancellationToken) -> BoxFuture<'a, Result<(), StreamingError>>,
    F: Send + 'static,
{
    let response = websocket::accept::<Bytes>(request.headers(), protocol)
        .ok_or_else(|| Failure::BadRequest("not a valid websocket handshake".into()))?
        .map(full);
    let client = hyper::upgrade::on(&mut request);
    let token = context.token.clone();
    context.sessions.spawn(async move {
        let Some(io) = upgraded(client, &token).await else { return };
        let mut client = WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket::config())).await;
        if let Err(error) = serve(&mut client, &token).await {
            tracing::debug!(component = "kubelet", %error, "stream ended early");
        }
        websocket::finish(client).await;
    });
    Ok(response)
}

/// Joins a SPDY client to the runtime, byte for byte.
async fn pass_through(context: &Context, mut request: Request<Incoming>, url: &str) -> Result<Response<Body>, Failure> {
    let protocols: Vec<HeaderValue> = request.headers().get_all(STREAM_PROTOCOL).iter().cloned().collect();
    let runtime = upgrade::join(url, &protocols).await?;
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if let Some(protocol) = runtime.protocol {
        headers.insert(STREAM_PROTOCOL, protocol);
    }
    let client = hyper::upgrade::on(&mut request);
    let token = context.token.clone();
    let mut runtime = runtime.io;
    context.sessions.spawn(async move {
        let Some(mut client) = upgraded(client, &token).await else { return };
        tokio::select! {
            () = token.cancelled() => {}
            result = tokio::io::copy_bidirectional(&mut client, &mut runtime) => {
                if let Err(error) = result {
                    tracing::debug!(component = "kubelet", %error, "stream ended early");
                }
            }
        }
    });
    Ok(response)
}

async fn upgraded(client: OnUpgrade, token: &CancellationToken) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    tokio::select! {
        () = token.cancelled() => None,
        result = client => match result {
            Ok(io) => Some(TokioIo::new(io)),
            Err(error) => {
                tracing::debug!(component = "kubelet", %error, "client left during the upgrade");
                None
            }
        },
    }
}

/// Runs a command to its end and answers with its output.
async fn run(
    context: &Context,
    pod: &PodRef,
    container: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let pairs = query_pairs(request.uri().query());
    let command: Vec<String> =
        pairs.into_iter().filter(|(name, _)| name == "cmd").flat_map(|(_, v)| split_words(&v)).collect();
    let found = context.backend.container(pod, container).await?;
    let streams = StreamSet { stdout: true, stderr: true, ..StreamSet::default() };
    let url = context.backend.exec_url(&found.id, &command, streams).await?;
    let runtime = upgrade::join(&url, &[HeaderValue::from_static("v4.channel.k8s.io")]).await?;
    match remotecommand::collect(runtime.io, RUN_OUTPUT_LEN_MAX, &context.token).await {
        Ok((output, _)) => Ok(text(StatusCode::OK, output)),
        Err(error) => Err(BackendError::Internal(error.to_string()).into()),
    }
}

/// Upstream splits the one `cmd` value at spaces.
fn split_words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}
