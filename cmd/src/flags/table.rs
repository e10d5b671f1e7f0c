//! Every flag, once. Names and defaults follow K3s where both have the flag.

/// Which sub-commands know a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Both `server` and `agent` (a server runs an agent too).
    Node,
    Server,
    /// Only a joining agent.
    Agent,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// `--flag`, `--flag=false`.
    Switch,
    /// One value; the last one given wins.
    One(&'static str),
    /// May be repeated or comma-separated; all values count.
    Many(&'static str),
}

/// A row of the table.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub value: Value,
    /// Shown in the help and used when nothing is given; empty for none.
    pub default: &'static str,
    pub scope: Scope,
    /// Heading in the help.
    pub group: &'static str,
    pub help: &'static str,
}

impl Flag {
    /// `SKIFF_` and the name in capitals.
    pub fn environment_variable(&self) -> String {
        format!("SKIFF_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

const fn flag(
    scope: Scope,
    group: &'static str,
    name: &'static str,
    value: Value,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, short: None, value, default, scope, group, help }
}

const fn short(letter: char, mut flag: Flag) -> Flag {
    flag.short = Some(letter);
    flag
}

use Scope::{Agent, Node, Server};
use Value::{Many, One, Switch};

const GENERAL: &str = "General";
const LISTEN: &str = "Listener";
const CLUSTER: &str = "Cluster";
const NODE: &str = "Node";
const RUNTIME: &str = "Runtime";
const STORE: &str = "Datastore";

/// All flags in the order of the help.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    short('c', flag(Node, GENERAL, "config", One("FILE"), "/etc/skiff/config.yaml", "Configuration file; FILE.d/*.yaml are read after it")),
    short('d', flag(Node, GENERAL, "data-dir", One("DIR"), "/var/lib/skiff", "Folder for all state")),
    short('t', flag(Node, GENERAL, "token", One("TOKEN"), "", "Shared secret for joining the cluster")),
    flag(Node, GENERAL, "token-file", One("FILE"), "", "File that holds the token"),
    flag(Node, GENERAL, "verbose", Switch, "", "Log what components do, not only problems"),
    flag(Node, GENERAL, "log-level", One("FILTER"), "", "Log filter such as debug or apiserver=debug,agent=info"),
    flag(Node, GENERAL, "log-format", One("FORMAT"), "text", "Log format: text or json"),

    short('s', flag(Agent, CLUSTER, "server", One("URL"), "", "Server to join, for example https://10.0.0.1:6443")),

    flag(Server, LISTEN, "bind-address", One("IP"), "0.0.0.0", "Address to listen on"),
    flag(Server, LISTEN, "https-listen-port", One("PORT"), "6443", "Port of the API and of joining agents"),
    flag(Server, LISTEN, "advertise-address", One("IP"), "", "Address by which pods reach the API (default: node IP)"),
    flag(Server, LISTEN, "tls-san", Many("NAME"), "", "Extra names or addresses in the server's certificate"),

    flag(Server, CLUSTER, "kube-apiserver-arg", Many("NAME=VALUE"), "", "Argument of upstream's API server: audit-policy-file, audit-log-path, audit-log-maxsize, -maxbackup, -maxage, audit-webhook-config-file, -mode, -batch-max-size, -batch-max-wait, -initial-backoff"),
    flag(Server, CLUSTER, "cluster-cidr", One("CIDR"), "10.42.0.0/16", "Range of pod addresses"),
    flag(Server, CLUSTER, "service-cidr", One("CIDR"), "10.43.0.0/16", "Range of service addresses"),
    flag(Server, CLUSTER, "service-node-port-range", One("FROM-TO"), "30000-32767", "Range of node ports"),
    flag(Server, CLUSTER, "cluster-dns", One("IP"), "", "Address of the cluster's DNS service (default: tenth of service-cidr)"),
    flag(Server, CLUSTER, "cluster-domain", One("DOMAIN"), "cluster.local", "DNS domain of the cluster"),
    flag(Server, CLUSTER, "flannel-backend", One("BACKEND"), "vxlan", "How pods of different nodes reach each other: vxlan, host-gw or none"),
    flag(Server, CLUSTER, "agent-token", One("TOKEN"), "", "Separate secret for agents (default: the token)"),
    flag(Server, CLUSTER, "disable", Many("NAME"), "", "Bundled component not to deploy: coredns, flannel, servicelb"),
    flag(Server, CLUSTER, "disable-agent", Switch, "", "Run no node on this host"),

    short('o', flag(Server, GENERAL, "write-kubeconfig", One("FILE"), "/etc/skiff/skiff.yaml", "Where to write the administrator's kubeconfig")),
    flag(Server, GENERAL, "write-kubeconfig-mode", One("MODE"), "0600", "Permissions of that file"),

    flag(Server, STORE, "datastore-endpoint", One("URL"), "", "Datastore other than the file in data-dir: sqlite://, postgres://, mysql://, or https://HOST:2379,... of an etcd"),
    flag(Server, STORE, "datastore-cafile", One("FILE"), "", "Authority that signed the certificate of that datastore"),
    flag(Server, STORE, "datastore-certfile", One("FILE"), "", "Certificate to show to that datastore"),
    flag(Server, STORE, "datastore-keyfile", One("FILE"), "", "Key of that certificate"),
    flag(Server, STORE, "etcd-socket", One("PATH"), "", "Unix socket of the etcd API (default: DATA-DIR/server/kine.sock)"),
    flag(Server, STORE, "etcd-expose", One("IP:PORT"), "", "Serve the etcd API on this address too, to clients with a certificate of DATA-DIR/server/tls/etcd"),
    flag(Server, STORE, "quota-backend-bytes", One("BYTES"), "8589934592", "Refuse to grow beyond this, with etcd's NOSPACE alarm; 0 leaves it to the disk"),
    flag(Server, STORE, "etcd-disable-snapshots", Switch, "", "Take no snapshots by the clock"),
    flag(Server, STORE, "etcd-snapshot-schedule-cron", One("CRON"), "0 */12 * * *", "When to take snapshots of the datastore"),
    flag(Server, STORE, "etcd-snapshot-retention", One("COUNT"), "5", "How many of them to keep; 0 keeps all"),
    flag(Server, STORE, "etcd-snapshot-dir", One("DIR"), "", "Where to keep them (default: DATA-DIR/server/db/snapshots)"),
    flag(Server, STORE, "etcd-snapshot-name", One("NAME"), "etcd-snapshot", "How their names begin; node name and time follow"),
    flag(Server, STORE, "etcd-snapshot-compress", Switch, "", "Pack them by zstd"),

    flag(Node, NODE, "node-name", One("NAME"), "", "Name of this node (default: host name)"),
    short('i', flag(Node, NODE, "node-ip", Many("IP"), "", "Address of this node (default: of the default route)")),
    flag(Node, NODE, "node-label", Many("KEY=VALUE"), "", "Label to register the node with"),
    flag(Node, NODE, "node-taint", Many("KEY=VALUE:EFFECT"), "", "Taint to register the node with"),
    flag(Node, NODE, "max-pods", One("COUNT"), "110", "Most pods on this node"),
    flag(Node, NODE, "kubelet-arg", Many("NAME=VALUE"), "", "Argument of upstream's node agent: eviction-hard=SIGNAL<AMOUNT[,SIGNAL<AMOUNT]"),
    flag(Node, NODE, "kubelet-port", One("PORT"), "10250", "Port of the node agent, reached through the tunnel"),
    flag(Node, NODE, "resolv-conf", One("FILE"), "/etc/resolv.conf", "Resolver configuration that pods inherit"),
    flag(Node, NODE, "cgroup-root", One("PATH"), "", "Parent cgroup of all pods (default: / for the default data folder, else an own one)"),

    flag(Node, RUNTIME, "prefer-host-bin", Switch, "", "Use containerd, runc and nft of the host before those of the payload"),
    flag(Node, RUNTIME, "pause-image", One("IMAGE"), "", "Image of pod sandboxes (default: Skiff's own)"),
    flag(Node, RUNTIME, "system-default-registry", One("REGISTRY"), "", "Registry of upstream's system images, used instead of Skiff's own"),
    flag(Node, RUNTIME, "snapshotter", One("NAME"), "overlayfs", "containerd snapshotter"),
    flag(Node, RUNTIME, "flannel-iface", One("LINK"), "", "Network link that carries pod traffic between nodes"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_letters_are_unique() {
        let mut names = HashSet::new();
        let mut letters = HashSet::new();
        for flag in FLAGS {
            assert!(names.insert(flag.name), "{} stands twice", flag.name);
            assert!(flag.short.is_none_or(|letter| letters.insert(letter)), "-{:?} stands twice", flag.short);
            assert!(!flag.help.is_empty() && !flag.help.ends_with('.'), "{}: help is a phrase", flag.name);
        }
    }
}
