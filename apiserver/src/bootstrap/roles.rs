//! The rules of the default roles: a table of facts about upstream's bootstrap policy.
//!
//! A rule is written as four words lists: verbs, API groups (`core` is the
//! unnamed one), resources, and resource names; a rule about URLs has the list
//! of URLs alone. Words are separated by blanks.

/// A permission in compact form.
pub enum Rule {
    On(&'static str, &'static str, &'static str),
    Named(&'static str, &'static str, &'static str, &'static str),
    Urls(&'static str, &'static str),
}

use Rule::{Named, On, Urls};

/// A role and its rules.
pub struct Role {
    pub name: &'static str,
    pub rules: &'static [Rule],
}

const ALL: &str = "create delete deletecollection get list patch update watch";
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";

/// Roles of the whole cluster.
pub const CLUSTER_ROLES: &[Role] = &[
    Role { name: "cluster-admin", rules: &[On("*", "*", "*"), Urls("*", "*")] },
    Role {
        name: "system:discovery",
        rules: &[Urls(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        )],
    },
    Role { name: "system:public-info-viewer", rules: &[Urls("get", "/healthz /livez /readyz /version /version/")] },
    Role {
        name: "system:monitoring",
        rules: &[Urls(
            "get",
            "/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/* /statusz /flagz",
        )],
    },
    Role {
        name: "system:basic-user",
        rules: &[
            On("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    },
    Role {
        name: "system:service-account-issuer-discovery",
        rules: &[Urls(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    },
    Role {
        name: "system:cluster-trust-bundle-discovery",
        rules: &[On(READ, "certificates.k8s.io", "clustertrustbundles")],
    },
    Role { name: "system:node", rules: NODE },
    Role {
        name: "system:node-proxier",
        rules: &[
            On("list watch", "core", "services endpoints"),
            On("get list watch", "core", "nodes"),
            On("list watch", "discovery.k8s.io", "endpointslices"),
            On("list watch", "networking.k8s.io", "servicecidrs"),
            On("create patch update", "core events.k8s.io", "events"),
        ],
    },
    Role {
        name: "system:node-bootstrapper",
        rules: &[On("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    },
    Role {
        name: "system:node-problem-detector",
        rules: &[
            On("get", "core", "nodes"),
            On("patch", "core", "nodes/status"),
            On("create patch update", "core events.k8s.io", "events"),
        ],
    },
    Role {
        name: "system:kubelet-api-admin",
        rules: &[
            On(READ, "core", "nodes"),
            On("proxy", "core", "nodes"),
            On(
                "*",
                "core",
                "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/spec nodes/checkpoint nodes/configz nodes/healthz nodes/pods",
            ),
        ],
    },
    Role {
        name: "system:auth-delegator",
        rules: &[
            On("create", "authentication.k8s.io", "tokenreviews"),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    },
    Role { name: "system:kube-aggregator", rules: &[On(READ, "core", "services endpoints")] },
    Role { name: "system:kube-dns", rules: &[On("list watch", "core", "endpoints services")] },
    Role { name: "system:kube-controller-manager", rules: CONTROLLERS },
    Role { name: "system:kube-scheduler", rules: SCHEDULER },
    Role {
        name: "system:volume-scheduler",
        rules: &[
            On("get list patch update watch", "core", "persistentvolumes persistentvolumeclaims"),
            On(READ, "storage.k8s.io", "storageclasses"),
        ],
    },
    Role {
        name: "system:persistent-volume-provisioner",
        rules: &[
            On("create delete get list watch", "core", "persistentvolumes"),
            On("get list update watch", "core", "persistentvolumeclaims"),
            On(READ, "storage.k8s.io", "storageclasses"),
            On("watch", "core", "events"),
            On("create patch update", "core events.k8s.io", "events"),
        ],
    },
    Role {
        name: "system:heapster",
        rules: &[On(READ, "core", "events pods nodes namespaces"), On(READ, "apps", "deployments")],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &[On("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &[On("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")],
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &[Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")],
    },
];

/// What a node agent reads and writes; the node authorizer limits it further.
const NODE: &[Rule] = &[
    On("create", "authentication.k8s.io", "tokenreviews"),
    On("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    On(READ, "core", "services"),
    On("create get list watch", "core", "nodes"),
    On("patch update", "core", "nodes nodes/status"),
    On("create patch update", "core events.k8s.io", "events"),
    On(READ, "core", "pods"),
    On("create delete", "core", "pods"),
    On("patch update", "core", "pods/status"),
    On("create", "core", "pods/eviction serviceaccounts/token"),
    On(READ, "core", "configmaps secrets"),
    On("get", "core", "persistentvolumeclaims persistentvolumes endpoints"),
    On("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    On("create delete get patch update", "coordination.k8s.io", "leases"),
    On("get", "storage.k8s.io", "volumeattachments"),
    On("create delete get patch update", "storage.k8s.io", "csinodes"),
    On(READ, "storage.k8s.io", "csidrivers"),
    On(READ, "node.k8s.io", "runtimeclasses"),
    On("get patch update", "core", "persistentvolumeclaims/status"),
    On("get", "resource.k8s.io", "resourceclaims"),
    On("create delete deletecollection get list patch update watch", "resource.k8s.io", "resourceslices"),
    On("get list watch", "certificates.k8s.io", "clustertrustbundles"),
    On("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
];

/// The controllers of this process share one user. They collect and empty
/// namespaces of every kind, so they need every kind; they may hand on what
/// they do not hold because they aggregate roles.
const CONTROLLERS: &[Rule] = &[
    On(ALL, "*", "*"),
    On("bind escalate", "rbac.authorization.k8s.io", "clusterroles roles"),
    On("approve attest sign", "certificates.k8s.io", "signers"),
    Urls("get", "*"),
];

const SCHEDULER: &[Rule] = &[
    On("create patch update", "core events.k8s.io", "events"),
    On("create", "coordination.k8s.io", "leases"),
    Named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
    On(READ, "core", "nodes namespaces"),
    On("delete get list watch", "core", "pods"),
    On("create", "core", "bindings pods/binding"),
    On("patch update", "core", "pods/status"),
    On(READ, "core", "replicationcontrollers services"),
    On(READ, "apps extensions", "replicasets"),
    On(READ, "apps", "statefulsets"),
    On(READ, "policy", "poddisruptionbudgets"),
    On("get list patch update watch", "core", "persistentvolumeclaims persistentvolumes"),
    On("create", "authentication.k8s.io", "tokenreviews"),
    On("create", "authorization.k8s.io", "subjectaccessreviews"),
    On(READ, "storage.k8s.io", "csinodes csidrivers csistoragecapacities storageclasses volumeattachments"),
    On(READ, "resource.k8s.io", "resourceclaims resourceslices deviceclasses"),
    On("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
];

/// Everything a namespace's viewer reads.
pub const VIEW: &[Rule] = &[
    On(
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
    ),
    On(
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
    ),
    On(READ, "core", "namespaces"),
    On(READ, "discovery.k8s.io", "endpointslices"),
    On(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    On(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
    ),
    On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    On(READ, "metrics.k8s.io", "nodes pods"),
    On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    On(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

/// What an editor has beyond viewing.
pub const EDIT: &[Rule] = &[
    On(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    On("impersonate", "core", "serviceaccounts"),
    On(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    On("create", "core", "pods/eviction"),
    On(
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    ),
    On("create", "core", "serviceaccounts/token"),
    On(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    On(WRITE, "autoscaling", "horizontalpodautoscalers"),
    On(WRITE, "batch", "cronjobs jobs"),
    On(
        WRITE,
        "extensions",
        "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
    ),
    On(WRITE, "policy", "poddisruptionbudgets"),
    On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
    On(ALL, "coordination.k8s.io", "leases"),
    On(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
];

/// What an administrator of a namespace has beyond editing.
pub const ADMIN: &[Rule] = &[
    On("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    On(ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
];

/// Roles of one namespace: namespace, name, rules.
pub const ROLES: &[(&str, Role)] = &[
    (
        "kube-system",
        Role {
            name: "extension-apiserver-authentication-reader",
            rules: &[Named(READ, "core", "configmaps", "extension-apiserver-authentication")],
        },
    ),
    ("kube-system", Role { name: "system:controller:bootstrap-signer", rules: &[On(READ, "core", "secrets")] }),
    (
        "kube-system",
        Role {
            name: "system:controller:cloud-provider",
            rules: &[On("create get list update watch", "core", "configmaps")],
        },
    ),
    (
        "kube-system",
        Role {
            name: "system:controller:token-cleaner",
            rules: &[
                On("delete get list watch", "core", "secrets"),
                On("create patch update", "core events.k8s.io", "events"),
            ],
        },
    ),
    (
        "kube-system",
        Role {
            name: "system::leader-locking-kube-controller-manager",
            rules: &[
                On("watch", "core", "configmaps"),
                Named("get update", "core", "configmaps", "kube-controller-manager"),
                On("create get list watch", "coordination.k8s.io", "leases"),
                Named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            ],
        },
    ),
    (
        "kube-system",
        Role {
            name: "system::leader-locking-kube-scheduler",
            rules: &[
                On("watch", "core", "configmaps"),
                Named("get update", "core", "configmaps", "kube-scheduler"),
                On("create get list watch", "coordination.k8s.io", "leases"),
                Named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
            ],
        },
    ),
    (
        "kube-public",
        Role {
            name: "system:controller:bootstrap-signer",
            rules: &[
                On(READ, "core", "configmaps"),
                Named("update", "core", "configmaps", "cluster-info"),
                On("create patch update", "core events.k8s.io", "events"),
            ],
        },
    ),
];

/// Who a binding is for.
pub enum Subject {
    User(&'static str),
    Group(&'static str),
    Account(&'static str, &'static str),
}

use Subject::{Account, Group, User};

/// Bindings of the whole cluster: name, role, subjects.
pub const CLUSTER_BINDINGS: &[(&str, &str, &[Subject])] = &[
    ("cluster-admin", "cluster-admin", &[Group("system:masters")]),
    ("system:discovery", "system:discovery", &[Group("system:authenticated")]),
    ("system:basic-user", "system:basic-user", &[Group("system:authenticated")]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &[Group("system:authenticated"), Group("system:unauthenticated")],
    ),
    ("system:monitoring", "system:monitoring", &[Group("system:monitoring")]),
    ("system:node", "system:node", &[]),
    ("system:node-proxier", "system:node-proxier", &[User("system:kube-proxy")]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &[User("system:kube-controller-manager")]),
    ("system:kube-scheduler", "system:kube-scheduler", &[User("system:kube-scheduler")]),
    ("system:volume-scheduler", "system:volume-scheduler", &[User("system:kube-scheduler")]),
    ("system:kube-dns", "system:kube-dns", &[Account("kube-system", "kube-dns")]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &[Group("system:serviceaccounts")],
    ),
    (
        "system:cluster-trust-bundle-discovery",
        "system:cluster-trust-bundle-discovery",
        &[Group("system:serviceaccounts")],
    ),
    ("kube-apiserver-kubelet-admin", "system:kubelet-api-admin", &[User("kube-apiserver")]),
];

/// Bindings of one namespace to its roles: namespace, name, role, subjects.
pub const BINDINGS: &[(&str, &str, &str, &[Subject])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[User("system:kube-controller-manager"), User("system:kube-scheduler")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[User("system:kube-controller-manager"), Account("kube-system", "kube-controller-manager")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[User("system:kube-scheduler"), Account("kube-system", "kube-scheduler")],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Account("kube-system", "bootstrap-signer")],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &[Account("kube-system", "cloud-provider")],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &[Account("kube-system", "token-cleaner")],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Account("kube-system", "bootstrap-signer")],
    ),
];
