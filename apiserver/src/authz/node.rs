//! What a node may do: its own node, lease, CSINode and pods, and of
//! everything else only what its pods refer to.
//!
//! The references are read from the pods of the node at the time of the
//! question, so there is no graph to keep. Lists and watches must select what
//! is the node's by a field. Rights that do not depend on the object (creating
//! events, watching services) are those of the default role `system:node`; what
//! a node may write into its own objects is limited further by the
//! NodeRestriction admission plugin.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::Value;
use skiff_api::{GroupResource, Object};
use skiff_client::Snapshot;

use super::{Attributes, Authorizer, Decision, PolicyRule, rbac};
use crate::{authn::UserInfo, bootstrap, indexes};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Decides for members of `system:nodes`.
pub struct NodeAuthorizer {
    snapshot: Snapshot,
    rules: Vec<PolicyRule>,
}

/// Everything a pod refers to, found once per pod object.
#[derive(Default)]
pub(crate) struct References {
    pub secrets: HashSet<String>,
    pub config_maps: HashSet<String>,
    claims: HashSet<String>,
    resource_claims: HashSet<String>,
    service_account: String,
}

/// A question of one node.
struct Ask<'a> {
    node: &'a str,
    attributes: &'a Attributes,
}

impl Ask<'_> {
    fn verb_in(&self, verbs: &[&str]) -> bool {
        verbs.contains(&self.attributes.verb.as_str())
    }

    /// The end of most decisions: whether the object has to do with the node.
    fn related(&self, test: impl FnOnce() -> bool) -> Decision {
        if self.attributes.name.is_empty() {
            return no("No Object name found");
        }
        if test() {
            return yes();
        }
        no(format!("no relationship found between node '{}' and this object", self.node))
    }

    fn get(&self, test: impl FnOnce() -> bool) -> Decision {
        if self.attributes.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(test)
    }

    fn read_namespaced(&self, test: impl FnOnce() -> bool) -> Decision {
        if !self.verb_in(READ) {
            return no("can only read resources of this type");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.attributes.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(test)
    }

    fn create_token(&self, test: impl FnOnce() -> bool) -> Decision {
        if self.attributes.verb != "create" || self.attributes.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.attributes.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(test)
    }

    /// The name of an object that is created is for the admission plugin.
    fn own_name(&self, what: &str) -> Decision {
        if self.attributes.verb == "create" || self.attributes.name == self.node {
            return yes();
        }
        no(format!("can only access {what} with the same name as the requesting node"))
    }

    fn lease(&self) -> Decision {
        if !self.verb_in(OWN_OBJECT) {
            return no("can only get, create, update, patch, or delete a node lease");
        }
        if self.attributes.namespace != LEASE_NAMESPACE {
            return no(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
        }
        self.own_name("node lease")
    }

    fn csi_node(&self) -> Decision {
        if !self.verb_in(OWN_OBJECT) {
            return no("can only get, create, update, patch, or delete a CSINode");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        self.own_name("CSINode")
    }

    fn node(&self) -> Decision {
        let Attributes { subresource, verb, name, .. } = self.attributes;
        match (subresource.as_str(), verb.as_str()) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
            ("", "get" | "list" | "watch") if name == self.node => yes(),
            ("", "get" | "list" | "watch") if name.is_empty() => {
                no(format!("node '{}' cannot read all nodes, only its own Node object", self.node))
            }
            ("", "get" | "list" | "watch") => {
                no(format!("node '{}' cannot read '{name}', only its own Node object", self.node))
            }
            _ => no(""),
        }
    }
}

const READ: &[&str] = &["get", "list", "watch"];
const OWN_OBJECT: &[&str] = &["get", "create", "update", "patch", "delete"];

fn yes() -> Decision {
    Decision::Allow(String::new())
}

fn no(why: impl Into<String>) -> Decision {
    Decision::NoOpinion(why.into())
}

impl NodeAuthorizer {
    pub fn new(snapshot: Snapshot) -> NodeAuthorizer {
        NodeAuthorizer { snapshot, rules: bootstrap::rbac::rules_of_nodes() }
    }

    fn value(&self, group: &'static str, resource: &'static str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.snapshot.store(&GroupResource::new(group, resource))?;
        store.get(namespace, name)?.value().ok()
    }

    fn pods(&self, node: &str) -> Vec<Arc<Object>> {
        match self.snapshot.store(&GroupResource::new("", "pods")) {
            Some(store) => store.by_index(&indexes::PODS_BY_NODE, node),
            None => Vec::new(),
        }
    }

    /// Whether a pod of the node in that namespace passes a test.
    fn any_pod(&self, node: &str, namespace: &str, test: impl Fn(&References) -> bool) -> bool {
        self.pods(node).iter().filter(|pod| pod.meta.namespace == namespace).any(|pod| {
            let references = pod.derive(|json| serde_json::from_slice::<Value>(json).map(|pod| granted(&pod)));
            references.is_ok_and(|references| test(&references))
        })
    }

    fn decide(&self, node: &str, attributes: &Attributes) -> Decision {
        let Attributes { group, resource, subresource, verb, namespace, name, .. } = attributes;
        let ask = Ask { node, attributes };
        let any_pod = |test: &dyn Fn(&References) -> bool| self.any_pod(node, namespace, test);
        match (group.as_str(), resource.as_str()) {
            ("", "secrets") => ask.read_namespaced(|| {
                any_pod(&|pod| pod.secrets.contains(name)) || self.secret_of_volume(node, namespace, name)
            }),
            ("", "configmaps") => ask.read_namespaced(|| any_pod(&|pod| pod.config_maps.contains(name))),
            ("", "persistentvolumeclaims") if subresource == "status" => {
                if !ask.verb_in(&["update", "patch"]) {
                    return no("can only get/update/patch this type");
                }
                ask.related(|| any_pod(&|pod| pod.claims.contains(name)))
            }
            ("", "persistentvolumeclaims") => ask.get(|| any_pod(&|pod| pod.claims.contains(name))),
            ("", "persistentvolumes") => ask.get(|| self.volume_in_use(node, name)),
            ("resource.k8s.io", "resourceclaims") => ask.get(|| any_pod(&|pod| pod.resource_claims.contains(name))),
            ("storage.k8s.io", "volumeattachments") => ask.get(|| {
                self.value("storage.k8s.io", "volumeattachments", "", name)
                    .is_some_and(|attachment| attachment["spec"]["nodeName"] == node)
            }),
            // The account itself is read for what a certificate of a pod says of it.
            ("", "serviceaccounts") if verb == "get" => ask.get(|| any_pod(&|pod| pod.service_account == *name)),
            ("", "serviceaccounts") => ask.create_token(|| any_pod(&|pod| pod.service_account == *name)),
            ("coordination.k8s.io", "leases") => ask.lease(),
            ("storage.k8s.io", "csinodes") => ask.csi_node(),
            ("resource.k8s.io", "resourceslices") => self.resource_slice(&ask),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificates(&ask),
            ("", "nodes") => ask.node(),
            ("", "pods") => self.pod(&ask),
            _ if self.rules.iter().any(|rule| rbac::allows(rule, attributes)) => yes(),
            _ => no(""),
        }
    }

    fn pod(&self, ask: &Ask<'_>) -> Decision {
        let Attributes { subresource, verb, namespace, name, .. } = ask.attributes;
        let own = || {
            let store = self.snapshot.store(&GroupResource::new("", "pods"));
            store.and_then(|store| store.get(namespace, name)).is_some_and(|pod| indexes::node_of(&pod) == ask.node)
        };
        match (subresource.as_str(), verb.as_str()) {
            ("", "get") => ask.get(own),
            ("", "list" | "watch") if ask.attributes.selects("spec.nodeName", ask.node) => yes(),
            ("", "list" | "watch") if !name.is_empty() => ask.related(own),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            // Which pods, is for the admission plugin.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }

    fn resource_slice(&self, ask: &Ask<'_>) -> Decision {
        let Attributes { subresource, verb, name, .. } = ask.attributes;
        if !subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match verb.as_str() {
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => ask.related(|| {
                self.value("resource.k8s.io", "resourceslices", "", name)
                    .is_some_and(|slice| slice["spec"]["nodeName"] == ask.node)
            }),
            "watch" | "list" | "deletecollection" if ask.attributes.selects("spec.nodeName", ask.node) => yes(),
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no("only the following verbs are allowed for a ResourceSlice: \
                get, watch, list, create, update, patch, delete, deletecollection"),
        }
    }

    /// Nodes ask for certificates of their pods (what they ask is for the admission plugin) and read what they asked.
    fn pod_certificates(&self, ask: &Ask<'_>) -> Decision {
        let Attributes { subresource, verb, namespace, name, .. } = ask.attributes;
        if !subresource.is_empty() {
            return no(format!("nodes may not access the {subresource} subresource"));
        }
        match verb.as_str() {
            "create" => yes(),
            "get" => ask.related(|| {
                self.value("certificates.k8s.io", "podcertificaterequests", namespace, name)
                    .is_some_and(|request| request["spec"]["nodeName"] == ask.node)
            }),
            "list" | "watch" if ask.attributes.selects("spec.nodeName", ask.node) => yes(),
            _ => no("can only list/watch podcertificaterequests with spec.nodeName field selector"),
        }
    }

    /// Whether a claim bound to the volume is used by a pod of the node.
    fn volume_in_use(&self, node: &str, volume: &str) -> bool {
        let Some(volume) = self.value("", "persistentvolumes", "", volume) else { return false };
        let claim = &volume["spec"]["claimRef"];
        let text = |name: &str| claim[name].as_str().unwrap_or_default();
        self.any_pod(node, text("namespace"), |pod| pod.claims.contains(text("name")))
    }

    /// Whether a volume behind a claim of the node's pods names the secret for nodes.
    fn secret_of_volume(&self, node: &str, namespace: &str, secret: &str) -> bool {
        let mut claims = BTreeSet::new();
        for pod in self.pods(node) {
            let own = pod.derive(|json| serde_json::from_slice::<Value>(json).map(|pod| granted(&pod)));
            let own = own.map(|own| own.claims.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
            claims.extend(own.into_iter().map(|claim| (pod.meta.namespace.clone(), claim)));
        }
        claims.iter().any(|(claim_namespace, claim)| {
            let claim = self.value("", "persistentvolumeclaims", claim_namespace, claim);
            let volume = claim.and_then(|claim| {
                let volume = claim["spec"]["volumeName"].as_str()?;
                self.value("", "persistentvolumes", "", volume)
            });
            volume.is_some_and(|volume| names_secret(&volume["spec"], claim_namespace, namespace, secret))
        })
    }
}

/// Whether a volume's source gives a secret to nodes; without a namespace it is one beside the claim.
fn names_secret(spec: &Value, claim_namespace: &str, namespace: &str, secret: &str) -> bool {
    let sources = spec.as_object().into_iter().flatten().filter_map(|(_, source)| source.as_object());
    sources.flatten().any(|(name, reference)| {
        is_secret_reference(name)
            && !name.starts_with("controller")
            && reference["name"] == secret
            && reference["namespace"].as_str().unwrap_or(claim_namespace) == namespace
    })
}

/// Drivers name their secrets in many places, always as an object called ...secretRef.
fn is_secret_reference(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("secretref")
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match attributes.user.node_name() {
            Some("") => no(format!("unknown node for user {:?}", attributes.user.username)),
            Some(node) => self.decide(node, attributes),
            None => no(""),
        }
    }

    fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
        Vec::new()
    }

    fn rules_missing(&self, user: &UserInfo) -> Option<&'static str> {
        user.node_name().map(|_| "node authorizer does not support user rule resolution")
    }
}

/// What a pod opens to its node. A mirror pod comes from a file of the node: it must not widen what the node may read.
fn granted(pod: &Value) -> References {
    let is_mirror = pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_string();
    if is_mirror { References::default() } else { references(pod) }
}

/// Collects names of a pod's volumes, environment and pull secrets.
pub(crate) fn references(pod: &Value) -> References {
    let mut found = References::default();
    let spec = &pod["spec"];
    found.service_account = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    for secret in spec["imagePullSecrets"].as_array().into_iter().flatten() {
        add(&mut found.secrets, &secret["name"]);
    }
    resource_claims(&mut found.resource_claims, pod);
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        volume_references(&mut found, volume, pod);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            for source in container["envFrom"].as_array().into_iter().flatten() {
                add(&mut found.secrets, &source["secretRef"]["name"]);
                add(&mut found.config_maps, &source["configMapRef"]["name"]);
            }
            for variable in container["env"].as_array().into_iter().flatten() {
                add(&mut found.secrets, &variable["valueFrom"]["secretKeyRef"]["name"]);
                add(&mut found.config_maps, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    found
}

/// Claims that exist on their own, and those made for the pod, whose names are in its status.
fn resource_claims(found: &mut HashSet<String>, pod: &Value) {
    for (list, name) in [("spec", "resourceClaims"), ("status", "resourceClaimStatuses")] {
        for claim in pod[list][name].as_array().into_iter().flatten() {
            add(found, &claim["resourceClaimName"]);
        }
    }
    add(found, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
}

fn volume_references(found: &mut References, volume: &Value, pod: &Value) {
    add(&mut found.secrets, &volume["secret"]["secretName"]);
    add(&mut found.config_maps, &volume["configMap"]["name"]);
    add(&mut found.claims, &volume["persistentVolumeClaim"]["claimName"]);
    if volume["ephemeral"].is_object() {
        let (pod, volume) = (pod["metadata"]["name"].as_str(), volume["name"].as_str());
        found.claims.insert(format!("{}-{}", pod.unwrap_or_default(), volume.unwrap_or_default()));
    }
    for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
        add(&mut found.secrets, &source["secret"]["name"]);
        add(&mut found.config_maps, &source["configMap"]["name"]);
    }
    for (_, source) in volume.as_object().into_iter().flatten() {
        for (name, reference) in source.as_object().into_iter().flatten() {
            if is_secret_reference(name) {
                add(&mut found.secrets, &reference["name"]);
            }
        }
    }
}

fn add(set: &mut HashSet<String>, name: &Value) {
    if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
        set.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_client::store::store;

    use super::*;

    fn authorizer() -> NodeAuthorizer {
        let snapshot = Snapshot::new();
        let fill = |group: &'static str, resource: &'static str, object: Value| {
            let (writer, reader) = store(&[indexes::PODS_BY_NODE]);
            writer.apply(Arc::new(Object::from_value(&object).unwrap()));
            snapshot.insert(GroupResource::new(group, resource), reader);
        };
        fill(
            "",
            "pods",
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "n"}, "spec": {
                "nodeName": "one", "serviceAccountName": "sa",
                "volumes": [{"name": "s", "secret": {"secretName": "mine"}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
                "resourceClaims": [{"name": "d", "resourceClaimName": "device"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}]},
                "status": {"resourceClaimStatuses": [{"name": "e", "resourceClaimName": "made"}]}}),
        );
        fill(
            "",
            "persistentvolumeclaims",
            json!({"metadata": {"name": "claim", "namespace": "n"}, "spec": {"volumeName": "volume"}}),
        );
        fill(
            "",
            "persistentvolumes",
            json!({"metadata": {"name": "volume"}, "spec": {"claimRef": {"namespace": "n", "name": "claim"}, "csi": {
                "nodePublishSecretRef": {"name": "publish", "namespace": "drivers"},
                "controllerExpandSecretRef": {"name": "expand", "namespace": "drivers"}}}}),
        );
        fill("storage.k8s.io", "volumeattachments", json!({"metadata": {"name": "a"}, "spec": {"nodeName": "one"}}));
        fill("resource.k8s.io", "resourceslices", json!({"metadata": {"name": "s"}, "spec": {"nodeName": "one"}}));
        NodeAuthorizer::new(snapshot)
    }

    fn ask(node: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            user: UserInfo::new(format!("system:node:{node}"), &["system:nodes"]),
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        authorizer().authorize(&attributes).is_allowed()
    }

    #[test]
    fn a_node_sees_only_requests_for_its_own_pods() {
        let decide = |verb: &str, selector: &str, subresource: &str| {
            let attributes = Attributes {
                user: UserInfo::new("system:node:one", &["system:nodes"]),
                verb: verb.to_owned(),
                group: "certificates.k8s.io".to_owned(),
                resource: "podcertificaterequests".to_owned(),
                subresource: subresource.to_owned(),
                field_selector: selector.parse().unwrap(),
                ..Attributes::default()
            };
            authorizer().authorize(&attributes).is_allowed()
        };
        assert!(decide("create", "", ""));
        assert!(decide("watch", "spec.signerName=x/y,spec.nodeName=one", ""));
        assert!(decide("list", "spec.nodeName==one", ""));
        for selector in ["", "spec.nodeName=two", "spec.nodeName!=one", "spec.nodeName=one2"] {
            assert!(!decide("list", selector, ""), "{selector:?}");
        }
        assert!(!decide("delete", "spec.nodeName=one", "") && !decide("create", "", "status"));
        assert!(!ask("one", "get", "certificates.k8s.io", "podcertificaterequests", "n", "unknown"));
    }

    #[test]
    fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
        assert!(ask("one", "get", "", "secrets", "n", "mine"));
        assert!(ask("one", "get", "", "configmaps", "n", "kube-root-ca.crt"));
        assert!(ask("one", "get", "", "configmaps", "n", "env"));
        assert!(ask("one", "create", "", "serviceaccounts/token", "n", "sa"));
        assert!(!ask("one", "get", "", "secrets", "n", "other"));
        assert!(!ask("one", "get", "", "secrets", "m", "mine"));
        assert!(!ask("one", "list", "", "secrets", "n", ""));
        assert!(!ask("two", "get", "", "secrets", "n", "mine"));
        assert!(!ask("one", "update", "", "secrets", "n", "mine"));
    }

    #[test]
    fn a_mirror_pod_opens_nothing() {
        let pod = |annotations: Value| {
            granted(&json!({"metadata": {"annotations": annotations},
                "spec": {"imagePullSecrets": [{"name": "s"}]}}))
        };
        assert!(pod(json!({})).secrets.contains("s"));
        assert!(pod(json!({MIRROR_ANNOTATION: "x"})).secrets.is_empty());
    }

    #[test]
    fn a_node_reads_the_volumes_behind_its_claims_and_what_nodes_need_to_mount_them() {
        assert!(ask("one", "get", "", "persistentvolumeclaims", "n", "claim"));
        assert!(ask("one", "patch", "", "persistentvolumeclaims/status", "n", "claim"));
        assert!(ask("one", "get", "", "persistentvolumes", "", "volume"));
        assert!(ask("one", "get", "", "secrets", "drivers", "publish"));
        assert!(ask("one", "get", "storage.k8s.io", "volumeattachments", "", "a"));
        assert!(ask("one", "get", "resource.k8s.io", "resourceclaims", "n", "device"));
        assert!(ask("one", "get", "resource.k8s.io", "resourceclaims", "n", "made"));
        for (verb, resource, namespace, name) in [
            ("get", "secrets", "drivers", "expand"),
            ("get", "secrets", "n", "publish"),
            ("list", "persistentvolumes", "", "volume"),
            ("get", "persistentvolumeclaims/status", "n", "claim"),
        ] {
            assert!(!ask("one", verb, "", resource, namespace, name), "{verb} {resource} {name}");
        }
        assert!(!ask("two", "get", "", "secrets", "drivers", "publish"));
        assert!(!ask("two", "get", "", "persistentvolumes", "", "volume"));
        assert!(!ask("two", "get", "storage.k8s.io", "volumeattachments", "", "a"));
        assert!(!ask("one", "get", "resource.k8s.io", "resourceclaims", "n", "other"));
    }

    /// The reason of a refusal; empty when allowed.
    fn refusal(verb: &str, group: &str, resource: &str, name: &str, selector: &str) -> String {
        let decision = authorizer().authorize(&Attributes {
            user: UserInfo::new("system:node:one", &["system:nodes"]),
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            namespace: if resource == "pods" { "n".to_owned() } else { String::new() },
            field_selector: selector.parse().unwrap(),
            ..Attributes::default()
        });
        match decision {
            Decision::Allow(_) => String::new(),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => reason,
        }
    }

    #[test]
    fn a_node_lists_only_what_it_selects_as_its_own() {
        let pods = "can only list/watch pods with spec.nodeName field selector";
        for (verb, name, selector, why) in [
            ("list", "", "spec.nodeName=one", ""),
            ("watch", "", "status.phase!=Failed,spec.nodeName==one", ""),
            ("list", "p", "metadata.name=p", ""),
            ("get", "p", "", ""),
            ("list", "", "", pods),
            ("watch", "", "spec.nodeName=two", pods),
            ("list", "", "spec.nodeName!=one", pods),
            ("get", "q", "", "no relationship found between node 'one' and this object"),
        ] {
            assert_eq!(refusal(verb, "", "pods", name, selector), why, "{verb} {name} {selector}");
        }
        let all = "node 'one' cannot read all nodes, only its own Node object";
        for (verb, name, why) in [
            ("list", "one", ""),
            ("get", "one", ""),
            ("list", "", all),
            ("get", "two", "node 'one' cannot read 'two', only its own Node object"),
        ] {
            assert_eq!(refusal(verb, "", "nodes", name, ""), why, "{verb} {name}");
        }
        let slices = |verb, name, selector| refusal(verb, "resource.k8s.io", "resourceslices", name, selector);
        assert_eq!(slices("watch", "", "spec.nodeName=one"), "");
        assert_eq!(slices("delete", "s", ""), "");
        let only = "can only list/watch/deletecollection resourceslices with nodeName field selector";
        assert_eq!(slices("deletecollection", "", ""), only);
    }

    #[test]
    fn a_node_is_told_that_its_rules_are_not_all() {
        let node = UserInfo::new("system:node:one", &["system:nodes"]);
        assert!(authorizer().rules_missing(&node).is_some() && authorizer().rules_for(&node, "n").is_empty());
        assert_eq!(authorizer().rules_missing(&UserInfo::new("jane", &[])), None);
    }

    #[test]
    fn a_node_has_its_own_lease_and_general_rights() {
        assert!(ask("one", "update", "coordination.k8s.io", "leases", "kube-node-lease", "one"));
        assert!(!ask("one", "update", "coordination.k8s.io", "leases", "kube-node-lease", "two"));
        assert!(ask("one", "patch", "", "nodes/status", "", "one"));
        assert!(ask("one", "create", "", "events", "n", ""));
        assert!(!ask("one", "delete", "", "namespaces", "", "n"));
    }
}
