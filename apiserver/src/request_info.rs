//! What a URL asks for, by upstream's rules.
//!
//! `/api/v1/namespaces/n/pods/p/log` -> verb, group, version, namespace,
//! resource, name, subresource. Segments are split first and percent-decoded
//! afterwards, so an encoded slash never makes a new segment.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::{authn::UserInfo, authz::Attributes};

/// A request to a resource, or to a path that is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    /// The path as sent.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`; for other paths the lower-case HTTP method.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// The field selector of a list, watch or collection, decoded.
    pub field_selector: String,
    /// Decoded segments from the resource on; proxying reads the rest of the path here.
    pub parts: Vec<String>,
}

/// Subresources of a namespace; anything else behind its name is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path and query.
    pub fn parse(method: &Method, path: &str, query: &str) -> RequestInfo {
        let mut info =
            RequestInfo { path: path.to_owned(), verb: method.as_str().to_lowercase(), ..RequestInfo::default() };
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let rest = match segments.first().map(String::as_str) {
            Some("api") if segments.len() >= 3 => {
                info.version.clone_from(&segments[1]);
                &segments[2..]
            }
            Some("apis") if segments.len() >= 4 => {
                info.group.clone_from(&segments[1]);
                info.version.clone_from(&segments[2]);
                &segments[3..]
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = verb_of(method);
        info.resource_segments(rest);
        info.settle_verb(query);
        info
    }

    fn resource_segments(&mut self, mut rest: &[String]) {
        if let Some(("watch" | "proxy", behind)) = rest.split_first().map(|(first, rest)| (first.as_str(), rest))
            && !behind.is_empty()
        {
            self.verb = if rest[0] == "watch" { "watch".to_owned() } else { "proxy".to_owned() };
            rest = behind;
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            self.namespace.clone_from(&rest[1]);
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2].as_str()) {
                rest = &rest[2..];
            }
        }
        self.parts = rest.to_vec();
        self.resource = rest.first().cloned().unwrap_or_default();
        self.name = rest.get(1).cloned().unwrap_or_default();
        self.subresource = rest.get(2).cloned().unwrap_or_default();
    }

    fn settle_verb(&mut self, query: &str) {
        // The watch of one object keeps `get` as its verb, as upstream has it.
        if !self.name.is_empty() {
            return;
        }
        match self.verb.as_str() {
            "get" => self.verb = if is_watch(query) { "watch" } else { "list" }.to_owned(),
            "watch" => {}
            "delete" => self.verb = "deletecollection".to_owned(),
            _ => return,
        }
        let selector = query_pairs(query).find(|(name, _)| name == "fieldSelector");
        self.field_selector = selector.map(|(_, selector)| selector).unwrap_or_default();
        if self.verb != "deletecollection" {
            // A list of one name is authorized like a request for that object.
            self.name = single_name(&self.field_selector).unwrap_or_default();
        }
    }

    /// What is asked of authorizers when `user` wants this with `verb`.
    pub fn attributes(&self, user: &UserInfo, verb: &str) -> Attributes {
        Attributes {
            user: user.clone(),
            verb: verb.to_owned(),
            namespace: self.namespace.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: if self.is_resource { self.resource.clone() } else { String::new() },
            subresource: self.subresource.clone(),
            name: self.name.clone(),
            path: self.path.clone(),
            field_selector: self.field_selector.parse().unwrap_or_default(),
        }
    }

    /// Whether the URL names an object (not just a selector does).
    pub fn has_name_segment(&self) -> bool {
        self.parts.len() > 1
    }

    /// Watches, logs, exec, proxies: exempt from timeout and in-flight limits.
    pub fn is_long_running(&self) -> bool {
        self.is_resource
            && (self.verb == "watch"
                || self.verb == "proxy"
                || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward"))
    }
}

fn verb_of(method: &Method) -> String {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
    .to_owned()
}

/// Decoded pairs of a query.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Go's boolean texts; an option given without value counts as true.
pub fn query_bool(value: &str) -> bool {
    !matches!(value, "0" | "false" | "False" | "FALSE" | "f" | "F")
}

fn is_watch(query: &str) -> bool {
    query_pairs(query).any(|(name, value)| name == "watch" && query_bool(&value))
}

fn single_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, uri: &str) -> (String, String, String, String, String) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::parse(&method, path, query);
        (info.verb, info.namespace, info.resource, info.name, info.subresource)
    }

    fn five(verb: &str, ns: &str, resource: &str, name: &str, sub: &str) -> (String, String, String, String, String) {
        (verb.into(), ns.into(), resource.into(), name.into(), sub.into())
    }

    #[test]
    fn paths_become_requests() {
        let get = Method::GET;
        assert_eq!(parse(get.clone(), "/api/v1/namespaces"), five("list", "", "namespaces", "", ""));
        assert_eq!(parse(get.clone(), "/api/v1/namespaces/n"), five("get", "n", "namespaces", "n", ""));
        assert_eq!(
            parse(Method::PUT, "/api/v1/namespaces/n/finalize"),
            five("update", "n", "namespaces", "n", "finalize")
        );
        assert_eq!(parse(get.clone(), "/api/v1/namespaces/n/pods/p/log"), five("get", "n", "pods", "p", "log"));
        assert_eq!(parse(get.clone(), "/apis/apps/v1/deployments?watch=1"), five("watch", "", "deployments", "", ""));
        assert_eq!(parse(get.clone(), "/api/v1/watch/namespaces/n/pods"), five("watch", "n", "pods", "", ""));
        assert_eq!(
            parse(Method::DELETE, "/apis/apps/v1/namespaces/n/deployments"),
            five("deletecollection", "n", "deployments", "", "")
        );
        assert_eq!(
            parse(get.clone(), "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dp"),
            five("list", "n", "pods", "p", "")
        );
        assert_eq!(
            parse(get, "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"),
            five("get", "", "clusterroles", "system:node", "")
        );
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in
            ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v3/apis/apps/v1"]
        {
            let info = RequestInfo::parse(&Method::GET, path, "");
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn an_encoded_slash_stays_inside_its_segment() {
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/n/pods/a%2Fb", "");
        assert_eq!(info.name, "a/b");
        assert_eq!(info.subresource, "");
    }
}
