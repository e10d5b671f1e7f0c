//! Workloads: the `apps` group.

use super::build::{Describe, row};
use crate::{printers::workloads, resource::Resource};

pub(super) fn rows() -> Vec<Resource> {
    let apps = |kind, plural| row("apps", "v1", kind, plural);
    vec![
        apps("ControllerRevision", "controllerrevisions").columns(workloads::controller_revisions()),
        apps("DaemonSet", "daemonsets").columns(workloads::daemon_sets()).short(&["ds"]).in_all().status(),
        apps("Deployment", "deployments")
            .columns(workloads::deployments())
            .short(&["deploy"])
            .in_all()
            .status()
            .scale(),
        apps("ReplicaSet", "replicasets")
            .columns(workloads::replica_sets(false))
            .short(&["rs"])
            .in_all()
            .status()
            .scale()
            .select_or("status.replicas", "0"),
        apps("StatefulSet", "statefulsets")
            .columns(workloads::stateful_sets())
            .short(&["sts"])
            .in_all()
            .status()
            .scale(),
    ]
}
