//! One audited request as JSON lines of `audit.k8s.io/v1`.

use std::net::IpAddr;

use http::{HeaderMap, Request, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::policy::Level;
use crate::{authn::UserInfo, body::Body, request_info::RequestInfo, serve::ConnectionInfo, warnings::Annotations};

/// What is known of a request so far.
pub struct Record {
    fixed: Value,
    pub received: Timestamp,
    pub request_object: Option<Value>,
    pub response_object: Option<Value>,
    /// The Status that was the answer, if it was one.
    pub status: Option<Value>,
    pub code: Option<u16>,
    /// What authorization and admission noted.
    pub annotations: Annotations,
    level: Level,
    pub deletes: bool,
}

/// Bytes of a client's name that are recorded.
const USER_AGENT_BYTES_MAX: usize = 1024;
/// What is noted of webhooks' patches shows content, so it needs the level that shows bodies.
const PATCH_PREFIX: &str = "patch.webhook.admission.k8s.io/";

impl Record {
    pub fn new(
        info: &RequestInfo,
        user: &UserInfo,
        connection: Option<&ConnectionInfo>,
        request: &Request<Body>,
        audit_id: &str,
        level: Level,
    ) -> Record {
        let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let uri = request.uri().path_and_query().map_or_else(|| info.path.clone(), ToString::to_string);
        let mut fixed = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.as_str(), "auditID": audit_id,
            "requestURI": uri, "verb": info.verb, "user": user_value(user),
        });
        if let Some(agent) = agent {
            fixed["userAgent"] = match agent.get(..USER_AGENT_BYTES_MAX).filter(|start| start.len() < agent.len()) {
                Some(start) => format!("{start}...TRUNCATED").into(),
                None => agent.into(),
            };
        }
        // Components of this process have no address; they ask from this host.
        let peer = connection.and_then(|connection| connection.peer).map(|peer| peer.ip().to_canonical());
        fixed["sourceIPs"] = json!(source_ips(request.headers(), peer.unwrap_or(IpAddr::from([127, 0, 0, 1]))));
        if info.is_resource {
            fixed["objectRef"] = reference(info);
        }
        Record {
            fixed,
            received: Timestamp::now(),
            request_object: None,
            response_object: None,
            status: None,
            code: None,
            annotations: Annotations::new(),
            level,
            deletes: info.verb == "delete",
        }
    }

    /// What the URL does not say of the object, its body may.
    pub fn complete_reference(&mut self, object: &Value) {
        let Some(reference) = self.fixed.get_mut("objectRef").and_then(Value::as_object_mut) else { return };
        for field in ["namespace", "name", "uid", "resourceVersion"] {
            let text = object["metadata"][field].as_str().filter(|text| !text.is_empty());
            if let (false, Some(text)) = (reference.contains_key(field), text) {
                reference.insert(field.to_owned(), text.into());
            }
        }
    }

    pub fn impersonate(&mut self, user: &UserInfo) {
        self.fixed["impersonatedUser"] = user_value(user);
    }

    /// The line of a stage.
    pub fn event(&self, stage: &str, at: Timestamp) -> String {
        let mut event = self.fixed.clone();
        event["stage"] = stage.into();
        if stage != "RequestReceived" {
            if let Some(code) = self.code {
                event["responseStatus"] = status(code, self.status.as_ref());
            }
            for (name, object) in [("requestObject", &self.request_object), ("responseObject", &self.response_object)] {
                if let Some(object) = object {
                    event[name] = object.clone();
                }
            }
            let shown = |key: &str| self.level >= Level::Request || !key.starts_with(PATCH_PREFIX);
            for (key, value) in self.annotations.iter().filter(|(key, _)| shown(key)) {
                event["annotations"][key] = value.as_str().into();
            }
        }
        let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        event["requestReceivedTimestamp"] = time(self.received).into();
        event["stageTimestamp"] = time(at).into();
        event.to_string()
    }
}

fn user_value(user: &UserInfo) -> Value {
    if user.username.is_empty() { json!({}) } else { serde_json::to_value(user).unwrap_or_default() }
}

/// Where a request came from: what proxies on its way say, and the last of them.
fn source_ips(headers: &HeaderMap, peer: IpAddr) -> Vec<IpAddr> {
    let texts = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().split(',');
    let mut ips: Vec<IpAddr> = texts("x-forwarded-for").filter_map(|ip| ip.trim().parse().ok()).collect();
    let real = texts("x-real-ip").next().and_then(|ip| ip.trim().parse().ok());
    ips.extend(real.filter(|real| !ips.contains(real)));
    if ips.last() != Some(&peer) {
        ips.push(peer);
    }
    ips
}

/// What is said of a request whose credentials are bad.
pub fn attempted(headers: &HeaderMap, connection: Option<&ConnectionInfo>) -> String {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let scheme = authorization.trim().split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let certificate = connection.is_some_and(|connection| !connection.client_certificates.is_empty());
    let tried: Vec<&str> = ["basic", "bearer"]
        .into_iter()
        .filter(|method| scheme.as_deref() == Some(method))
        .chain(certificate.then_some("x509"))
        .collect();
    if tried.is_empty() {
        return "Authentication failed, no credentials provided".to_owned();
    }
    format!("Authentication failed, attempted: {}", tried.join(", "))
}

fn reference(info: &RequestInfo) -> Value {
    let mut reference = json!({"resource": info.resource, "apiVersion": info.version});
    for (name, value) in [
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("subresource", &info.subresource),
    ] {
        if !value.is_empty() {
            reference[name] = value.as_str().into();
        }
    }
    reference
}

fn status(code: u16, answer: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code});
    for name in ["status", "message", "reason", "details"] {
        if let Some(value) = answer.and_then(|answer| answer.get(name)) {
            status[name] = value.clone();
        }
    }
    status
}
