//! Workloads: the `apps` group.

use super::build::{Describe, row};
use crate::resource::Resource;

pub(super) fn rows() -> Vec<Resource> {
    let apps = |kind, plural| row("apps", "v1", kind, plural);
    vec![
        apps("ControllerRevision", "controllerrevisions"),
        apps("DaemonSet", "daemonsets").short(&["ds"]).in_all().status(),
        apps("Deployment", "deployments").short(&["deploy"]).in_all().status().scale(),
        apps("ReplicaSet", "replicasets").short(&["rs"]).in_all().status().scale().select_or("status.replicas", "0"),
        apps("StatefulSet", "statefulsets").short(&["sts"]).in_all().status().scale(),
    ]
}
