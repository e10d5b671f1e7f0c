//! Paths of the node's server, parsed into values.

use percent_encoding::percent_decode_str;

use super::backend::PodRef;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Pods,
    /// `/metrics` and below; the whole path.
    Metrics(String),
    /// `/stats/summary`.
    Stats,
    ContainerLogs {
        pod: PodRef,
        container: String,
    },
    Exec {
        pod: PodRef,
        container: String,
    },
    Attach {
        pod: PodRef,
        container: String,
    },
    Run {
        pod: PodRef,
        container: String,
    },
    PortForward {
        pod: PodRef,
    },
}

impl Route {
    /// Parses a raw request path; `None` for an unknown one.
    pub fn parse(path: &str) -> Option<Self> {
        let mut segments = Vec::new();
        for segment in path.strip_prefix('/')?.split('/') {
            segments.push(percent_decode_str(segment).decode_utf8().ok()?.into_owned());
        }
        let pod = |namespace: &str, name: &str, uid: Option<&str>| PodRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if segments.len() > 1 && segments[1..].iter().any(|segment| segment.is_empty()) {
            return None;
        }
        let (pod, container) = match segments[..] {
            ["healthz"] | ["healthz", "ping" | "syncloop" | "log"] => return Some(Route::Healthz),
            ["pods"] => return Some(Route::Pods),
            ["stats", "summary"] => return Some(Route::Stats),
            ["metrics", ..] => return Some(Route::Metrics(path.to_owned())),
            ["portForward", ns, name] => return Some(Route::PortForward { pod: pod(ns, name, None) }),
            ["portForward", ns, name, uid] => return Some(Route::PortForward { pod: pod(ns, name, Some(uid)) }),
            ["containerLogs" | "exec" | "attach" | "run", ns, name, container] => (pod(ns, name, None), container),
            ["exec" | "attach" | "run", ns, name, uid, container] => (pod(ns, name, Some(uid)), container),
            _ => return None,
        };
        let container = container.to_owned();
        match segments[0] {
            "containerLogs" => Some(Route::ContainerLogs { pod, container }),
            "exec" => Some(Route::Exec { pod, container }),
            "attach" => Some(Route::Attach { pod, container }),
            _ => Some(Route::Run { pod, container }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: Option<&str>) -> PodRef {
        PodRef { namespace: "default".into(), name: "web-0".into(), uid: uid.map(str::to_owned) }
    }

    #[test]
    fn every_route_is_recognised() {
        let container = "app".to_owned();
        assert_eq!(Route::parse("/healthz"), Some(Route::Healthz));
        assert_eq!(Route::parse("/stats/summary"), Some(Route::Stats));
        assert_eq!(Route::parse("/metrics/cadvisor"), Some(Route::Metrics("/metrics/cadvisor".into())));
        let logs = Route::ContainerLogs { pod: pod(None), container: container.clone() };
        assert_eq!(Route::parse("/containerLogs/default/web-0/app"), Some(logs));
        let exec = Route::Exec { pod: pod(Some("u-1")), container: container.clone() };
        assert_eq!(Route::parse("/exec/default/web-0/u-1/app"), Some(exec));
        let run = Route::Run { pod: pod(None), container };
        assert_eq!(Route::parse("/run/default/web%2D0/app"), Some(run));
        assert_eq!(Route::parse("/portForward/default/web-0"), Some(Route::PortForward { pod: pod(None) }));
    }

    #[test]
    fn unknown_and_incomplete_paths_are_none() {
        for path in ["", "/", "/exec", "/exec/default/web-0", "/exec/default//app", "/containerLogs/a/b/c/d", "/etc"] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
