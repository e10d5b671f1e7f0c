//! What a node may do: its own node, lease, CSINode and pods, and of
//! everything else only what its pods refer to.
//!
//! The references are read from the pods of the node at the time of the
//! question, so there is no graph to keep. Rights that do not depend on the
//! object (creating events, watching services) come from the rules below, as in
//! upstream's bootstrap policy for nodes; what a node may write into its own
//! objects is limited further by the NodeRestriction admission plugin.

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;
use skiff_api::{GroupResource, Object};
use skiff_client::Snapshot;

use super::{Attributes, Authorizer, Decision, PolicyRule, rbac};
use crate::{authn::UserInfo, indexes};

/// Decides for members of `system:nodes`.
pub struct NodeAuthorizer {
    snapshot: Snapshot,
    rules: Vec<PolicyRule>,
}

/// Everything a pod refers to, found once per pod object.
#[derive(Default)]
struct References {
    secrets: HashSet<String>,
    config_maps: HashSet<String>,
    claims: HashSet<String>,
    service_account: String,
}

const READ: &[&str] = &["get", "list", "watch"];

impl NodeAuthorizer {
    pub fn new(snapshot: Snapshot) -> NodeAuthorizer {
        NodeAuthorizer { snapshot, rules: rules() }
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
            let references = pod.derive(|json| serde_json::from_slice::<Value>(json).map(|pod| references(&pod)));
            references.is_ok_and(|references| test(&references))
        })
    }

    fn decide(&self, node: &str, attributes: &Attributes) -> Decision {
        let Attributes { group, resource, subresource, verb, namespace, name, .. } = attributes;
        let allow = |yes: bool, why: &str| {
            if yes { Decision::Allow(String::new()) } else { Decision::NoOpinion(why.to_owned()) }
        };
        let reading = READ.contains(&verb.as_str());
        let no_relation = format!("no relationship found between node '{node}' and this object");
        match (group.as_str(), resource.as_str()) {
            ("", "secrets") => allow(
                reading && !name.is_empty() && self.any_pod(node, namespace, |pod| pod.secrets.contains(name)),
                &no_relation,
            ),
            ("", "configmaps") => allow(
                reading && !name.is_empty() && self.any_pod(node, namespace, |pod| pod.config_maps.contains(name)),
                &no_relation,
            ),
            ("", "persistentvolumeclaims") => allow(
                (verb == "get" && subresource.is_empty() || subresource == "status" && !name.is_empty())
                    && self.any_pod(node, namespace, |pod| pod.claims.contains(name)),
                &no_relation,
            ),
            ("", "persistentvolumes") => allow(verb == "get" && self.volume_in_use(node, name), &no_relation),
            ("", "serviceaccounts") => allow(
                (verb == "create" && subresource == "token" || verb == "get" && subresource.is_empty())
                    && self.any_pod(node, namespace, |pod| pod.service_account == *name),
                &no_relation,
            ),
            ("coordination.k8s.io", "leases") => allow(
                namespace == "kube-node-lease" && (name == node || verb == "create" && name.is_empty()),
                "can only access node lease with the same name as the requesting node",
            ),
            ("storage.k8s.io", "csinodes") => allow(
                name == node || verb == "create" && name.is_empty(),
                "can only access CSINode with the same name as the requesting node",
            ),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificates(node, attributes),
            ("", "nodes") if reading && name != node && verb != "get" => allow(true, ""),
            _ if self.rules.iter().any(|rule| rbac::allows(rule, attributes)) => Decision::Allow(String::new()),
            _ => Decision::NoOpinion(String::new()),
        }
    }

    /// Nodes ask for certificates of their pods (what they ask is for the admission plugin) and read what they asked.
    fn pod_certificates(&self, node: &str, attributes: &Attributes) -> Decision {
        let Attributes { subresource, verb, namespace, name, .. } = attributes;
        if !subresource.is_empty() {
            return Decision::NoOpinion(format!("nodes may not access the {subresource} subresource"));
        }
        let own = match verb.as_str() {
            "create" => true,
            "list" | "watch" => attributes.selects("spec.nodeName", node),
            "get" => self.is_own_request(node, namespace, name),
            _ => false,
        };
        if own {
            return Decision::Allow(String::new());
        }
        let why = "can only list/watch podcertificaterequests with spec.nodeName field selector";
        Decision::NoOpinion(if verb == "get" { String::new() } else { why.to_owned() })
    }

    fn is_own_request(&self, node: &str, namespace: &str, name: &str) -> bool {
        let resource = GroupResource::new("certificates.k8s.io", "podcertificaterequests");
        let request = self.snapshot.store(&resource).and_then(|store| store.get(namespace, name));
        request.and_then(|request| request.value().ok()).is_some_and(|request| request["spec"]["nodeName"] == node)
    }

    /// Whether a claim bound to the volume is used by a pod of the node.
    fn volume_in_use(&self, node: &str, volume: &str) -> bool {
        let Some(store) = self.snapshot.store(&GroupResource::new("", "persistentvolumes")) else { return false };
        let Some(claim) = store.get("", volume).and_then(|volume| volume.value().ok()) else { return false };
        let claim = &claim["spec"]["claimRef"];
        let text = |name: &str| claim[name].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        self.any_pod(node, &namespace, |pod| pod.claims.contains(&name))
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match attributes.user.node_name() {
            Some(node) => self.decide(node, attributes),
            None if attributes.user.is_in("system:nodes") => {
                Decision::NoOpinion(format!("unknown node for user {:?}", attributes.user.username))
            }
            None => Decision::NoOpinion(String::new()),
        }
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Vec<PolicyRule> {
        if user.node_name().is_some() { self.rules.clone() } else { Vec::new() }
    }
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> PolicyRule {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    PolicyRule {
        verbs: own(verbs),
        api_groups: vec![group.to_owned()],
        resources: own(resources),
        ..PolicyRule::default()
    }
}

/// Rights of every node, independent of objects.
fn rules() -> Vec<PolicyRule> {
    vec![
        rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
        rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews", "localsubjectaccessreviews"]),
        rule(READ, "", &["services", "endpoints", "namespaces"]),
        rule(READ, "discovery.k8s.io", &["endpointslices"]),
        rule(READ, "networking.k8s.io", &["networkpolicies"]),
        rule(&["create", "get", "list", "watch", "update", "patch", "delete"], "", &["nodes"]),
        rule(&["update", "patch"], "", &["nodes/status"]),
        rule(&["create", "update", "patch"], "", &["events"]),
        rule(&["create", "update", "patch"], "events.k8s.io", &["events"]),
        rule(&["get", "list", "watch", "create", "delete"], "", &["pods"]),
        rule(&["update", "patch"], "", &["pods/status"]),
        rule(&["create"], "", &["pods/eviction"]),
        rule(READ, "node.k8s.io", &["runtimeclasses"]),
        rule(READ, "storage.k8s.io", &["csidrivers", "storageclasses", "volumeattachments"]),
        rule(&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
        rule(&["get", "list", "watch"], "certificates.k8s.io", &["clustertrustbundles"]),
        rule(READ, "resource.k8s.io", &["resourceclaims"]),
        rule(
            &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
            "resource.k8s.io",
            &["resourceslices"],
        ),
    ]
}

/// Collects names of a pod's volumes, environment and pull secrets.
fn references(pod: &Value) -> References {
    let mut found = References::default();
    let spec = &pod["spec"];
    found.service_account = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    for secret in spec["imagePullSecrets"].as_array().into_iter().flatten() {
        add(&mut found.secrets, &secret["name"]);
    }
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
    // Drivers name their secrets in many places, always as an object called …secretRef.
    for (_, source) in volume.as_object().into_iter().flatten() {
        for (name, reference) in source.as_object().into_iter().flatten() {
            if name.to_ascii_lowercase().ends_with("secretref") {
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
        let (writer, pods) = store(&[indexes::PODS_BY_NODE]);
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "n"}, "spec": {
            "nodeName": "one", "serviceAccountName": "sa",
            "volumes": [{"name": "s", "secret": {"secretName": "mine"}},
                {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}]}]}});
        writer.apply(Arc::new(Object::from_value(&pod).unwrap()));
        snapshot.insert(GroupResource::new("", "pods"), pods);
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
                field_selector: selector.to_owned(),
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
    fn a_node_has_its_own_lease_and_general_rights() {
        assert!(ask("one", "update", "coordination.k8s.io", "leases", "kube-node-lease", "one"));
        assert!(!ask("one", "update", "coordination.k8s.io", "leases", "kube-node-lease", "two"));
        assert!(ask("one", "patch", "", "nodes/status", "", "one"));
        assert!(ask("one", "list", "", "pods", "", ""));
        assert!(ask("one", "create", "", "events", "n", ""));
        assert!(!ask("one", "delete", "", "namespaces", "", "n"));
    }
}
