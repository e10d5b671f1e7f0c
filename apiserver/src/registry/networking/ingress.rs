//! Ingresses and IngressClasses.

use serde_json::Value;
use skiff_api::Cause;

use crate::registry::{
    core::pod::containers::port_number,
    strategy::{Operation, RequestContext, Strategy},
    validation::{Errors, Path, formats},
    value::{child, default, existing, field, int, list, text},
};

/// Ingresses.
pub struct IngressStrategy;

impl Strategy for IngressStrategy {
    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        if !matches!(op, Operation::Status { .. }) {
            spec(&mut errors, &object["spec"]);
        }
        errors.into_causes()
    }
}

fn spec(errors: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    let rules = list(spec, "rules");
    if rules.is_empty() && field(spec, "defaultBackend").is_none() {
        errors.invalid(&path, spec, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = field(spec, "defaultBackend") {
        backend(errors, &path.child("defaultBackend"), default);
    }
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        errors.invalid_all(&path.child("ingressClassName"), class, formats::dns_subdomain(class));
    }
    let rules_path = path.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        host(errors, &path.child("host"), text(rule, "host"));
        let Some(http) = field(rule, "http") else { continue };
        let http_path = path.child("http");
        let paths_path = http_path.child("paths");
        if list(http, "paths").is_empty() {
            errors.required(&paths_path, "");
        }
        for (j, entry) in list(http, "paths").iter().enumerate() {
            http_path_entry(errors, &paths_path.index(j), entry);
        }
    }
    let tls = path.child("tls");
    for (i, entry) in list(spec, "tls").iter().enumerate() {
        let path = tls.index(i);
        let hosts = path.child("hosts");
        for (j, name) in list(entry, "hosts").iter().filter_map(Value::as_str).enumerate() {
            host(errors, &hosts.index(j), name);
        }
        let secret = text(entry, "secretName");
        if !secret.is_empty() {
            errors.invalid_all(&path.child("secretName"), secret, formats::dns_subdomain(secret));
        }
    }
}

fn host(errors: &mut Errors, path: &Path<'_>, host: &str) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    } else if host.contains('*') {
        errors.invalid_all(path, host, formats::wildcard_subdomain(host));
    } else {
        errors.invalid_all(path, host, formats::dns_subdomain(host));
    }
}

fn http_path_entry(errors: &mut Errors, path: &Path<'_>, entry: &Value) {
    let kind = text(entry, "pathType");
    let value = text(entry, "path");
    match kind {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.invalid(&path.child("path"), value, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(bad) {
                    errors.invalid(&path.child("path"), value, format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if value.ends_with(bad) {
                    errors.invalid(&path.child("path"), value, format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.invalid(&path.child("path"), value, "must be an absolute path");
            }
        }
        other => errors.not_supported(&path.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(errors, &path.child("backend"), &entry["backend"]);
}

fn backend(errors: &mut Errors, path: &Path<'_>, backend: &Value) {
    match (field(backend, "service"), field(backend, "resource")) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.required(path, "must specify one of `service` or `resource`"),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let path = path.child("service");
            match text(service, "name") {
                "" => errors.required(&path.child("name"), ""),
                name => errors.invalid_all(&path.child("name"), name, formats::dns_1035_label(name)),
            }
            let port = &service["port"];
            let name = text(port, "name");
            match (name.is_empty(), int(port, "number").unwrap_or(0)) {
                (true, 0) => errors.required(&path, "port name or number is required"),
                (false, 0) => errors.invalid_all(&path.child("port").child("name"), name, formats::port_name(name)),
                (true, number) => port_number(errors, &path.child("port").child("number"), number),
                (false, _) => errors.invalid(&path, port, "cannot set both port name & port number"),
            }
        }
    }
}

/// IngressClasses: the controller is fixed.
pub struct IngressClassStrategy;

impl Strategy for IngressClassStrategy {
    fn default(&self, _op: Operation<'_>, object: &mut Value) {
        if let Some(parameters) = existing(child(object, "spec"), "parameters") {
            default(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        match text(spec, "controller") {
            "" => errors.required(&path.child("controller"), ""),
            name => errors.invalid_all(&path.child("controller"), name, formats::domain_prefixed_path(name)),
        }
        if let Operation::Update { old } = op {
            errors.immutable(&path.child("controller"), &spec["controller"], &old["spec"]["controller"]);
        }
        errors.into_causes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;
    use serde_json::json;

    #[test]
    fn backends_and_paths_are_checked() {
        let mut errors = Errors::new();
        let rules = json!({"rules": [{"host": "1.2.3.4", "http": {"paths": [
            {"path": "a", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}},
            {"backend": {}}]}}]});
        spec(&mut errors, &rules);
        assert_eq!(
            lines(errors.into_causes()),
            [
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
                "spec.rules[0].http.paths[1].backend: Required value: must specify one of `service` or `resource`"
            ]
        );
    }
}
