//! Signs the keys of nodes. The names in the certificate are ours to choose:
//! from a request only the public key is taken.

use std::net::IpAddr;

use http::{HeaderMap, Request, Response, StatusCode};
use skiff_client::Body;

use super::{
    Caller, NODE_IP_HEADER, NODE_NAME_HEADER, NODE_PASSWORD_HEADER, Refusal, Supervisor, internal, node_password,
    read_body, text,
};
use crate::pki::Leaf;

/// User of the service proxy and of the pod network on every node.
pub const PROXY_USER: &str = "system:kube-proxy";

/// Answers `POST /v1-skiff/<name>.crt`.
pub async fn issue(
    supervisor: &Supervisor,
    path: &str,
    request: Request<Body>,
    caller: &Caller,
) -> Result<Response<Body>, Refusal> {
    let node = required(request.headers(), NODE_NAME_HEADER)?;
    let password = required(request.headers(), NODE_PASSWORD_HEADER)?;
    if let Caller::Node(certified) = caller
        && *certified != node
    {
        let message = format!("the certificate is of node {certified}, the request is for {node}");
        return Err(Refusal(StatusCode::FORBIDDEN, message));
    }
    if !skiff_api::names::dns1123_subdomain(&node).is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, format!("{node:?} cannot be the name of a node")));
    }
    let addresses = addresses(request.headers())?;
    node_password::check(&supervisor.client, &node, &password).await?;
    let body = read_body(request).await?;
    let csr = std::str::from_utf8(&body)
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, "the certificate request is not PEM".to_owned()))?;
    let pki = &supervisor.pki;
    let signed = match path {
        "/v1-skiff/client-kubelet.crt" => {
            pki.client_ca.sign_request(csr, &Leaf::client(&format!("system:node:{node}"), Some("system:nodes")))
        }
        "/v1-skiff/client-kube-proxy.crt" => pki.client_ca.sign_request(csr, &Leaf::client(PROXY_USER, None)),
        "/v1-skiff/serving-kubelet.crt" => {
            let mut names = vec![node.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
            names.extend(addresses.iter().map(IpAddr::to_string));
            pki.server_ca.sign_request(csr, &Leaf::server(&format!("system:node:{node}"), &names))
        }
        _ => return Err(Refusal(StatusCode::NOT_FOUND, format!("{path} is not a certificate this server signs"))),
    };
    match signed {
        Ok(pem) => Ok(text(StatusCode::OK, pem)),
        Err(crate::pki::PkiError::Request(message)) => Err(Refusal(StatusCode::BAD_REQUEST, message)),
        Err(error) => Err(internal(error)),
    }
}

fn required(headers: &HeaderMap, name: &str) -> Result<String, Refusal> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    value.map(str::to_owned).ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, format!("the header {name} is missing")))
}

fn addresses(headers: &HeaderMap) -> Result<Vec<IpAddr>, Refusal> {
    let Some(list) = headers.get(NODE_IP_HEADER) else { return Ok(Vec::new()) };
    let list = list.to_str().unwrap_or_default();
    list.split(',')
        .map(|text| text.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|_| Refusal(StatusCode::BAD_REQUEST, format!("{list:?} is not a list of addresses")))
}
