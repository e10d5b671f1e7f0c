//! Requests to a remote API server: the way to it, and forwarding to it.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use skiff_api::Status;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Aggregator, Remote, limits, remote::ServiceReference};
use crate::{
    authn::UserInfo,
    body::{self, Body},
    indexes::SLICES_BY_SERVICE,
    proxy::{
        BoxedIo, BrokenBody, ClientBody,
        headers::{self, Forwarded},
        target::{self, Endpoint, Target},
        transport,
    },
};

/// What may stand unencoded in the name of a header that carries extra data.
const HEADER_KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Aggregator {
    /// Forwards a request of an authorised user.
    pub async fn serve(&self, remote: &Remote, user: &UserInfo, request: Request<Body>) -> Response<Body> {
        let Some(service) = &remote.service else { return refusal(StatusCode::NOT_FOUND, "") };
        if !remote.available {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
        }
        let tls = match &remote.tls {
            Ok(tls) => tls,
            Err(why) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        match self.forward(service, tls, user, request).await {
            Ok(response) => response,
            Err(status) => {
                tracing::debug!(component = "aggregator", service = remote.name, %status, "forward request");
                refusal(StatusCode::SERVICE_UNAVAILABLE, &status.message)
            }
        }
    }

    async fn forward(
        &self,
        service: &ServiceReference,
        tls: &TlsConnector,
        user: &UserInfo,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let upgrade = headers::is_upgrade(request.headers());
        let path = request.uri().path().to_owned();
        let forwarded = Forwarded { path: &path, host: request.headers().get(header::HOST).cloned() };
        let mut outgoing = Request::new(no_body());
        *outgoing.method_mut() = request.method().clone();
        *outgoing.uri_mut() = path_and_query(request.uri())?;
        *outgoing.headers_mut() = headers::for_proxy(request.headers(), &forwarded, upgrade);
        identify(outgoing.headers_mut(), user);
        let io = self.connect(service, tls).await?;
        let host = HeaderValue::from_str(&service.host()).map_err(Status::internal)?;
        outgoing.headers_mut().insert(header::HOST, host);
        if upgrade {
            let mut response = exchange(io, outgoing).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let client = hyper::upgrade::on(&mut request);
                let backend = hyper::upgrade::on(&mut response);
                self.tasks.spawn(transport::splice(client, backend, self.stop.clone()));
            }
            return Ok(response);
        }
        let outgoing = outgoing.map(|_| request.into_body().map_err(BrokenBody::from_error).boxed_unsync());
        let mut response = exchange(io, outgoing).await?;
        headers::clean_response(response.headers_mut());
        Ok(response)
    }

    /// Asks for a document as the aggregator itself; the body is bounded.
    pub(super) async fn fetch(
        &self,
        service: &ServiceReference,
        tls: &TlsConnector,
        path: &str,
        accept: &'static str,
        known: Option<&HeaderValue>,
    ) -> Result<(StatusCode, HeaderMap, bytes::Bytes), Status> {
        let io = self.connect(service, tls).await?;
        let mut request = Request::get(path)
            .header(header::HOST, service.host())
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, "skiff-aggregator")
            .body(no_body())
            .map_err(Status::internal)?;
        if let Some(known) = known {
            request.headers_mut().insert(header::IF_NONE_MATCH, known.clone());
        }
        let aggregator = UserInfo {
            username: "system:kube-aggregator".to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..UserInfo::default()
        };
        identify(request.headers_mut(), &aggregator);
        let response = exchange(io, request).await?;
        let (parts, body) = response.into_parts();
        let bytes = body::read_at_most(body, limits::DOCUMENT_BYTES_MAX).await.map_err(Status::internal)?;
        Ok((parts.status, parts.headers, bytes))
    }

    /// An encrypted connection to one of the endpoints of a service.
    pub(crate) async fn connect(&self, service: &ServiceReference, tls: &TlsConnector) -> Result<BoxedIo, Status> {
        let dialer =
            self.dialer.as_ref().ok_or_else(|| Status::service_unavailable("this server has no way to services"))?;
        let endpoint = self.endpoint(service).await?;
        let host = service.host();
        let name = ServerName::try_from(host).map_err(|error| Status::internal(error.to_string()))?;
        let connecting = async {
            let io = dialer.dial_address(endpoint.node.as_deref(), SocketAddr::new(endpoint.ip, endpoint.port)).await?;
            tls.connect(name, io).await
        };
        match timeout(limits::CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(io)) => Ok(Box::new(io)),
            Ok(Err(error)) => Err(Status::service_unavailable(error.to_string())),
            Err(_) => Err(Status::service_unavailable("no connection in time")),
        }
    }

    /// One of the addresses behind the service.
    async fn endpoint(&self, reference: &ServiceReference) -> Result<Endpoint, Status> {
        let service = self.service(reference).ok_or_else(|| Status::not_found("", "services", &reference.name))?;
        let spec = service.spec.as_ref();
        if let Some(name) = spec
            .filter(|spec| spec.type_.as_deref() == Some("ExternalName"))
            .and_then(|spec| spec.external_name.as_deref())
        {
            let mut found = tokio::net::lookup_host((name, reference.port))
                .await
                .map_err(|error| Status::service_unavailable(format!("{name}: {error}")))?;
            let address = found.next().ok_or_else(|| Status::service_unavailable(format!("{name} has no address")))?;
            return Ok(Endpoint { ip: address.ip(), port: address.port(), node: None });
        }
        let port = reference.port.to_string();
        let target = Target { is_https: true, name: &reference.name, port: &port };
        let mut endpoints = target::service_endpoints(&service, &self.slices(reference), &target)?;
        let chosen = rand::Rng::random_range(&mut rand::rng(), 0..endpoints.len());
        Ok(endpoints.swap_remove(chosen))
    }

    pub(super) fn service(&self, reference: &ServiceReference) -> Option<Arc<Service>> {
        self.snapshot.get::<Service>(&reference.namespace, &reference.name)
    }

    pub(super) fn slices(&self, reference: &ServiceReference) -> Vec<Arc<EndpointSlice>> {
        let Some(store) = self.snapshot.store_of::<EndpointSlice>() else { return Vec::new() };
        let objects = store.by_index(&SLICES_BY_SERVICE, &format!("{}/{}", reference.namespace, reference.name));
        objects.iter().filter_map(|object| object.typed::<EndpointSlice>().ok()).collect()
    }
}

/// The user as headers of a front proxy.
fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    add(HeaderName::from_static("x-remote-user"), &user.username);
    if !user.uid.is_empty() {
        add(HeaderName::from_static("x-remote-uid"), &user.uid);
    }
    for group in &user.groups {
        add(HeaderName::from_static("x-remote-group"), group);
    }
    for (key, values) in &user.extra {
        let key = utf8_percent_encode(key, HEADER_KEY);
        let Ok(name) = HeaderName::try_from(format!("x-remote-extra-{key}").to_lowercase()) else { continue };
        for value in values {
            add(name.clone(), value);
        }
    }
}

async fn exchange(io: BoxedIo, request: Request<ClientBody>) -> Result<Response<Body>, Status> {
    transport::exchange(io, request).await.map_err(|error| Status::service_unavailable(error.to_string()))
}

fn path_and_query(uri: &http::Uri) -> Result<http::Uri, Status> {
    let text = uri.path_and_query().map_or("/", |path| path.as_str());
    text.parse().map_err(Status::internal)
}

fn no_body() -> ClientBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Upstream refuses in plain text here.
fn refusal(code: StatusCode, text: &str) -> Response<Body> {
    body::response(code.as_u16(), "text/plain; charset=utf-8", format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_travels_in_headers() {
        let mut headers = HeaderMap::new();
        let user = UserInfo {
            username: "jane".into(),
            groups: vec!["a".into(), "b".into()],
            extra: [("example.org/scope".to_owned(), vec!["x".to_owned(), "y".to_owned()])].into(),
            ..UserInfo::default()
        };
        identify(&mut headers, &user);
        let back = crate::authn::request_header::user(&headers).unwrap();
        assert_eq!(back, user);
    }
}
