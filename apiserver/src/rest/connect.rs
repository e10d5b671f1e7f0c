//! Subresources that are streams or end at another server: handed to
//! [`crate::proxy`] after admission.

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_api::{GroupVersionKind, Status};

use super::Call;
use crate::{
    admission::{self, AdmissionOperation, AdmissionRequest, Reinvocation},
    body::{Body, BodyError},
    metrics::LongRunning,
    options::Query,
    proxy::{self, Proxy},
    request_info::RequestInfo,
};

/// Why a client's body ended early.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StreamError(BodyError);

/// Serves `log`, `exec`, `attach`, `portforward` and `proxy`.
pub(crate) async fn connect(call: &Call<'_>, proxy: &Proxy, request: Request<Body>) -> Result<Response<Body>, Status> {
    let info = call.info;
    if info.subresource != "log" {
        admit(call).await?;
    }
    let counted = std::sync::Arc::new(LongRunning::start(&call.row, "CONNECT"));
    let target = proxy::Call {
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: call.namespace(),
        name: &info.name,
    };
    let request = request.map(|body| body.map_err(StreamError).boxed_unsync());
    let response = proxy.serve(target, request).boxed().await?;
    Ok(crate::body::guarded(response, counted))
}

/// The options in the query as the object that admission sees.
fn options_of(gvk: &GroupVersionKind, info: &RequestInfo, query: &Query) -> Value {
    let mut options = json!({"apiVersion": gvk.api_version(), "kind": gvk.kind});
    match info.subresource.as_str() {
        "proxy" => options["path"] = json!(format!("/{}", info.parts.get(3..).unwrap_or_default().join("/"))),
        "portforward" => {
            let ports: Vec<i64> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = json!(ports);
            }
        }
        _ => {}
    }
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(name) {
            options[name] = json!(true);
        }
    }
    if query.has("container") {
        options["container"] = json!(query.get("container"));
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    options
}

async fn admit(call: &Call<'_>) -> Result<(), Status> {
    let (gvr, options) = (call.row.gvr(), serde_json::Value::Null);
    let (gvk, _) = call.body_kind();
    let mut request = AdmissionRequest {
        operation: AdmissionOperation::Connect,
        resource: &gvr,
        kind: &gvk,
        subresource: &call.info.subresource,
        namespace: call.namespace(),
        name: &call.info.name,
        object: Some(options_of(&gvk, call.info, &call.query)),
        old_object: None,
        options: &options,
        user: call.user,
        dry_run: false,
        snapshot: call.store.caches.snapshot(),
        home: None,
        warnings: Vec::new(),
        annotations: Vec::new(),
        reinvocation: Reinvocation::default(),
    };
    admission::mutate(&call.store.admission, &mut request, &call.warnings).await?;
    admission::validate(&call.store.admission, &mut request, &call.warnings).await
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn admission_sees_the_options_of_a_stream() {
        let options = |path: &str, query: &str, kind: &'static str| {
            let gvk = GroupVersionKind::new("", "v1", kind);
            options_of(&gvk, &RequestInfo::parse(&Method::POST, path, query), &Query::parse(query))
        };
        let pod = "/api/v1/namespaces/n/pods/p";
        assert_eq!(
            options(&format!("{pod}/exec"), "command=sh&command=-c&stdin=true&tty=false&container=c", "PodExecOptions"),
            json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["sh", "-c"], "stdin": true, "container": "c"})
        );
        assert_eq!(options(&format!("{pod}/portforward"), "ports=80", "PodPortForwardOptions")["ports"], json!([80]));
        assert_eq!(options(&format!("{pod}/proxy/a/b"), "path=x", "PodProxyOptions")["path"], "/a/b");
        assert_eq!(options(&format!("{pod}/proxy"), "", "PodProxyOptions")["path"], "/");
    }
}
