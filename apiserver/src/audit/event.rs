//! One audited request as JSON lines of `audit.k8s.io/v1`.

use http::{Request, header};
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
    /// The Status of a failure.
    pub failure: Option<Value>,
    pub code: Option<u16>,
    /// What admission noted.
    pub annotations: Annotations,
}

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
            fixed["userAgent"] = agent.into();
        }
        // Components of this process have no address; they ask from this host.
        let peer = connection.and_then(|connection| connection.peer).map(|peer| peer.ip().to_canonical().to_string());
        fixed["sourceIPs"] = json!([peer.unwrap_or_else(|| "127.0.0.1".to_owned())]);
        if info.is_resource {
            fixed["objectRef"] = reference(info);
        }
        Record {
            fixed,
            received: Timestamp::now(),
            request_object: None,
            response_object: None,
            failure: None,
            code: None,
            annotations: Annotations::new(),
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
                event["responseStatus"] = status(code, self.failure.as_ref());
            }
            for (name, object) in [("requestObject", &self.request_object), ("responseObject", &self.response_object)] {
                if let Some(object) = object {
                    event[name] = object.clone();
                }
            }
            let decision = if self.code == Some(403) { "forbid" } else { "allow" };
            event["annotations"] =
                json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": ""});
            for (key, value) in &self.annotations {
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
    serde_json::to_value(user).unwrap_or_default()
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

fn status(code: u16, failure: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code});
    if let Some(failure) = failure.filter(|failure| failure["kind"] == "Status") {
        for name in ["status", "message", "reason", "details"] {
            if let Some(value) = failure.get(name) {
                status[name] = value.clone();
            }
        }
    }
    status
}
