//! NodeRestriction: a node agent writes only its own Node, the pods bound to
//! it, its Lease, and what else belongs to it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::{GroupResource, Object, Status};

use super::lookup;
use crate::{
    admission::{Admission, AdmissionOperation as Op, AdmissionRequest},
    authz::{Attributes, Authorizer, node::references},
    registry::value::{entries, field, list, text},
};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels under kubernetes.io and k8s.io that a node may set on itself.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub struct NodeRestriction {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Op) -> bool {
        operation != Op::Connect
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let in_group = request.user.is_in("system:nodes");
        let Some(node) = request.user.node_name() else {
            if in_group && request.user.username.starts_with("system:node:") {
                return Err(
                    request.forbidden(format!("could not determine node from user {:?}", request.user.username))
                );
            }
            return Ok(());
        };
        let verdict = match (&*request.resource.group, &*request.resource.resource, request.subresource) {
            ("", "pods", subresource) => pod(request, node, subresource),
            ("", "nodes", _) => self::node(request, node),
            ("", "serviceaccounts", "token") => token(request, node, &*self.authorizer),
            ("", "persistentvolumeclaims", subresource) => claim(request, node, subresource),
            ("coordination.k8s.io", "leases", _) => lease(request, node),
            ("storage.k8s.io", "csinodes", _) => named_after(request, node, "csinode"),
            ("resource.k8s.io", "resourceslices", _) => slice(request, node),
            ("certificates.k8s.io", "podcertificaterequests", subresource) => {
                return pod_certificate(request, node, subresource);
            }
            _ => Ok(()),
        };
        verdict.map_err(|why| request.forbidden(why))
    }
}

fn pod(request: &AdmissionRequest<'_>, node: &str, subresource: &str) -> Result<(), String> {
    match (subresource, request.operation) {
        ("", Op::Create) => new_pod(request, node),
        ("", Op::Delete) => bound_here(request.old_object, node, "delete pods"),
        ("status", Op::Update) => {
            bound_here(request.old_object, node, "update pod status for pods")?;
            let labels =
                |object: Option<&Value>| object.map(|object| object["metadata"]["labels"].clone()).unwrap_or_default();
            if labels(request.object.as_ref()) != labels(request.old_object) {
                return Err(format!("node {node:?} cannot update labels through pod status"));
            }
            if claim_names(request.object.as_ref()) != claim_names(request.old_object) {
                return Err(format!("node {node:?} cannot update resource claim statuses"));
            }
            Ok(())
        }
        ("eviction", Op::Create) => {
            let pod = lookup::find(request.snapshot, GroupResource::new("", "pods"), request.namespace, request.name);
            let pod = pod.and_then(|pod| pod.value().ok());
            bound_here(pod.as_ref(), node, "evict pods")
        }
        ("", _) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            request.operation.as_str()
        )),
        (other, _) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
    }
}

/// The claims that were made for a pod: the scheduler's to say, and they open what they name.
fn claim_names(pod: Option<&Value>) -> Vec<(&str, &str)> {
    let statuses = pod.map(|pod| list(&pod["status"], "resourceClaimStatuses")).unwrap_or_default();
    statuses.iter().map(|status| (text(status, "name"), text(status, "resourceClaimName"))).collect()
}

/// A node makes pods only to mirror what it runs anyway; they refer to nothing.
fn new_pod(request: &AdmissionRequest<'_>, node: &str) -> Result<(), String> {
    let Some(pod) = &request.object else { return Ok(()) };
    if field(&pod["metadata"]["annotations"], MIRROR_ANNOTATION).is_none() {
        return Err(format!(
            "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(&pod["spec"], "nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    owned_by(request, list(&pod["metadata"], "ownerReferences"), node)?;
    if !text(&pod["spec"], "serviceAccountName").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    let references = references(pod);
    let volumes = || list(&pod["spec"], "volumes").iter();
    let bundle = |volume: &Value| {
        list(&volume["projected"], "sources").iter().any(|source| field(source, "clusterTrustBundle").is_some())
    };
    for (is_so, what) in [
        (!references.secrets.is_empty(), "secrets"),
        (!references.config_maps.is_empty(), "configmaps"),
        (volumes().any(bundle), "clustertrustbundles"),
        (volumes().any(|volume| field(volume, "persistentVolumeClaim").is_some()), "persistentvolumeclaims"),
        (!list(&pod["spec"], "resourceClaims").is_empty(), "resourceclaims"),
    ] {
        if is_so {
            return Err(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    Ok(())
}

/// The one owner of a mirror pod is its node.
fn owned_by(request: &AdmissionRequest<'_>, owners: &[Value], node: &str) -> Result<(), String> {
    let can_only =
        |how: &str| Err(format!("node {node:?} can only create pods with {how} owner reference set to itself"));
    let owner = match owners {
        [] => return can_only("an"),
        [owner] => owner,
        _ => return can_only("a single"),
    };
    if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
        return can_only("an");
    }
    if owner["controller"] != true {
        return can_only("a controller");
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let found = lookup::find(request.snapshot, GroupResource::new("", "nodes"), "", node);
    let Some(found) = found else { return Err(format!("error looking up node {node} to verify uid: not found")) };
    let (given, real) = (text(owner, "uid"), found.meta.uid.as_str());
    if given == real { Ok(()) } else { Err(format!("node {node} UID mismatch: expected {given} got {real}")) }
}

fn bound_here(pod: Option<&Value>, node: &str, what: &str) -> Result<(), String> {
    let here = pod.is_some_and(|pod| text(&pod["spec"], "nodeName") == node);
    if here { Ok(()) } else { Err(format!("node {node:?} can only {what} with spec.nodeName set to itself")) }
}

fn node(request: &AdmissionRequest<'_>, node: &str) -> Result<(), String> {
    let named = request.object.as_ref().map_or(request.name, |object| text(&object["metadata"], "name"));
    let name = if request.name.is_empty() { named } else { request.name };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = &request.object else { return Ok(()) };
    match request.old_object {
        None => {
            let labels: Vec<&str> = entries(&new["metadata"], "labels")
                .map(|(key, _)| key.as_str())
                .filter(|key| is_foreign(key))
                .collect();
            if !labels.is_empty() {
                let labels = labels.join(", ");
                return Err(format!("node {node:?} is not allowed to set the following labels: {labels}"));
            }
            if list(&new["metadata"], "ownerReferences").is_empty() {
                Ok(())
            } else {
                Err(format!("node {node:?} is not allowed to set owner references"))
            }
        }
        Some(old) => {
            if new["spec"]["taints"] != old["spec"]["taints"] {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let changed = changed_labels(&new["metadata"]["labels"], &old["metadata"]["labels"]);
            if changed.is_empty() {
                Ok(())
            } else {
                Err(format!("is not allowed to modify labels: {}", changed.join(", ")))
            }
        }
    }
}

fn changed_labels<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let maps = || [new, old].into_iter().filter_map(Value::as_object);
    let mut changed: Vec<&str> = maps()
        .flat_map(|map| map.keys())
        .map(String::as_str)
        .filter(|key| new.get(key) != old.get(key) && is_foreign(key))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// A label of the project's own domains that nodes may not set.
fn is_foreign(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let under = |suffix: &str| domain == suffix || domain.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    if !under("kubernetes.io") && !under("k8s.io") {
        return false;
    }
    !OWN_LABELS.contains(&key) && !OWN_PREFIXES.iter().any(|prefix| under(prefix))
}

/// A node may have tokens made for accounts of its pods, for whom these mean them.
fn token(request: &AdmissionRequest<'_>, node: &str, authorizer: &dyn Authorizer) -> Result<(), String> {
    let Some(body) = &request.object else { return Ok(()) };
    let bound = &body["spec"]["boundObjectRef"];
    if text(bound, "apiVersion") != "v1" || text(bound, "kind") != "Pod" || text(bound, "name").is_empty() {
        return Err("node requested token not bound to a pod".to_owned());
    }
    let uid = text(bound, "uid");
    if uid.is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let pod = lookup::find(request.snapshot, GroupResource::new("", "pods"), request.namespace, text(bound, "name"));
    let Some(pod) = pod else { return Err(format!("pod {:?} not found", text(bound, "name"))) };
    if pod.meta.uid.as_str() != uid {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        ));
    }
    let pod = pod.value().map_err(|error| error.to_string())?;
    if text(&pod["spec"], "nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let audience = match list(&body["spec"], "audiences") {
        [] => "",
        [audience] => audience.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    if names_audience(request, &pod["spec"], audience) || may_ask_for(request, authorizer, audience) {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user.username
    ))
}

/// Whether a volume of the pod, or the driver behind one, wants tokens for that audience.
fn names_audience(request: &AdmissionRequest<'_>, spec: &Value, audience: &str) -> bool {
    let find = |group: &'static str, resource: &'static str, namespace: &str, name: &str| {
        let found = lookup::find(request.snapshot, GroupResource::new(group, resource), namespace, name);
        found.and_then(|object: Arc<Object>| object.value().ok()).unwrap_or_default()
    };
    let of_driver = |driver: &str| {
        let driver = find("storage.k8s.io", "csidrivers", "", driver);
        list(&driver["spec"], "tokenRequests").iter().any(|request| text(request, "audience") == audience)
    };
    let of_claim = |claim: &str| {
        let claim = find("", "persistentvolumeclaims", request.namespace, claim);
        let volume = find("", "persistentvolumes", "", text(&claim["spec"], "volumeName"));
        of_driver(text(&volume["spec"]["csi"], "driver"))
    };
    list(spec, "volumes").iter().any(|volume| {
        let projected =
            list(&volume["projected"], "sources").iter().filter_map(|source| field(source, "serviceAccountToken"));
        projected.into_iter().any(|token| text(token, "audience") == audience)
            || of_driver(text(&volume["csi"], "driver"))
            || field(volume, "persistentVolumeClaim").is_some_and(|claim| of_claim(text(claim, "claimName")))
            || field(volume, "ephemeral").is_some()
                && of_claim(&format!("{}-{}", request_pod(request), text(volume, "name")))
    })
}

/// The pod a token is asked for.
fn request_pod<'r>(request: &'r AdmissionRequest<'_>) -> &'r str {
    request.object.as_ref().map(|body| text(&body["spec"]["boundObjectRef"], "name")).unwrap_or_default()
}

/// A node may be given audiences by rules whose resource is the audience.
fn may_ask_for(request: &AdmissionRequest<'_>, authorizer: &dyn Authorizer, audience: &str) -> bool {
    let attributes = Attributes {
        user: request.user.clone(),
        verb: "request-serviceaccounts-token-audience".to_owned(),
        namespace: request.namespace.to_owned(),
        version: "*".to_owned(),
        resource: audience.to_owned(),
        name: request.name.to_owned(),
        ..Attributes::default()
    };
    authorizer.authorize(&attributes).is_allowed()
}

/// Of a claim a node writes what it has done to the volume.
fn claim(request: &AdmissionRequest<'_>, node: &str, subresource: &str) -> Result<(), String> {
    if (subresource, request.operation) != ("status", Op::Update) {
        return Err(format!("node {node:?} may only update PVC status"));
    }
    let rest = |claim: Option<&Value>| {
        let mut claim = claim.cloned().unwrap_or_default();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]),
        ] {
            let part = claim.get_mut(part).and_then(Value::as_object_mut);
            if let Some(part) = part {
                part.retain(|name, _| !fields.contains(&name.as_str()));
            }
        }
        claim
    };
    if rest(request.object.as_ref()) == rest(request.old_object) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"))
}

fn lease(request: &AdmissionRequest<'_>, node: &str) -> Result<(), String> {
    if request.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    named_after(request, node, "lease")
}

fn named_after(request: &AdmissionRequest<'_>, node: &str, what: &str) -> Result<(), String> {
    let named = request.object.as_ref().map_or(request.name, |object| text(&object["metadata"], "name"));
    if named == node {
        Ok(())
    } else {
        Err(format!("can only access {what} with the same name as the requesting node"))
    }
}

fn slice(request: &AdmissionRequest<'_>, node: &str) -> Result<(), String> {
    let object = request.object.as_ref().or(request.old_object);
    let here = object.is_some_and(|object| text(&object["spec"], "nodeName") == node);
    if here {
        Ok(())
    } else {
        Err("can only access ResourceSlices with the same node name as the requesting node".to_owned())
    }
}

/// A node asks for certificates of pods that run on it, as what they are. Uids
/// that do not fit may come from a look that is too old, so those are no
/// refusals for good.
fn pod_certificate(request: &AdmissionRequest<'_>, node: &str, subresource: &str) -> Result<(), Status> {
    let forbid = |why: String| Err(request.forbidden(why));
    if request.operation != Op::Create {
        return forbid(format!("unexpected operation {}", request.operation.as_str()));
    }
    if !subresource.is_empty() {
        return forbid(format!("unexpected subresource {subresource}"));
    }
    let Some(object) = &request.object else { return Ok(()) };
    let asked = |name: &str| text(&object["spec"], name);
    if asked("nodeName") != node {
        let named = asked("nodeName");
        return forbid(format!(
            "PodCertificateRequest.Spec.NodeName={named:?}, which is not the requesting node {node:?}"
        ));
    }
    let full = |name: &str| format!("{}/{name}", request.namespace);
    let pod_name = full(asked("podName"));
    let find = |kind: &str, resource: &'static str, namespace: &str, name: &str, shown: &str| {
        let found = lookup::find(request.snapshot, GroupResource::new("", resource), namespace, name);
        found.ok_or_else(|| {
            Status::internal(format!(
                "while retrieving {kind} {shown:?} named in the PodCertificateRequest: {resource} {name:?} not found"
            ))
        })
    };
    let differs = |what: String| Err(Status::internal(format!("PodCertificateRequest for pod {pod_name:?} {what}")));
    let own = find("node", "nodes", "", node, node)?;
    if own.meta.uid.as_str() != asked("nodeUID") {
        let (uid, real) = (asked("nodeUID"), own.meta.uid.as_str());
        return differs(format!("names node UID {uid:?}, inconsistent with the running node ({real:?})"));
    }
    let pod = find("pod", "pods", request.namespace, asked("podName"), &pod_name)?;
    if pod.meta.uid.as_str() != asked("podUID") {
        let (uid, real) = (asked("podUID"), pod.meta.uid.as_str());
        return differs(format!("contains pod UID ({uid:?}) which differs from running pod {real:?}"));
    }
    let value = pod.value().map_err(|error| Status::internal(error.to_string()))?;
    if text(&value["spec"], "nodeName") != node {
        return forbid(format!("pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"));
    }
    if pod.meta.annotations.contains_key(MIRROR_ANNOTATION) {
        return forbid(format!("pod {pod_name:?} is a mirror pod"));
    }
    let (account, running) = (asked("serviceAccountName"), text(&value["spec"], "serviceAccountName"));
    if account != running {
        return forbid(format!(
            "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({account:?}) that differs from running pod ({running:?})"
        ));
    }
    let found = find("service account", "serviceaccounts", request.namespace, account, &full(account))?;
    if found.meta.uid.as_str() != asked("serviceAccountUID") {
        let (uid, real) = (asked("serviceAccountUID"), found.meta.uid.as_str());
        return differs(format!(
            "names service account UID {uid:?}, which differs from the running service account ({real:?})"
        ));
    }
    let signer = asked("signerName");
    let mounts = list(&value["spec"], "volumes")
        .iter()
        .flat_map(|volume| list(&volume["projected"], "sources"))
        .any(|source| text(&source["podCertificate"], "signerName") == signer);
    if mounts {
        Ok(())
    } else {
        forbid(format!("pod {pod_name:?} does not mount a podCertificate projected volume for signer {signer:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::testing::Case, authn::UserInfo};
    use serde_json::json;

    fn plugin() -> NodeRestriction {
        NodeRestriction { authorizer: Arc::new(crate::authz::Masters) }
    }

    /// Allows everything.
    struct Anything;

    impl Authorizer for Anything {
        fn authorize(&self, _: &Attributes) -> crate::authz::Decision {
            crate::authz::Decision::Allow(String::new())
        }

        fn rules_for(&self, _: &UserInfo, _: &str) -> Vec<crate::authz::PolicyRule> {
            Vec::new()
        }
    }

    fn case() -> Case {
        Case::new().by(UserInfo::new("system:node:a", &["system:nodes"]))
    }

    #[tokio::test]
    async fn a_node_writes_only_itself() {
        let case = case();
        let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        let own = node("a", json!({"kubernetes.io/os": "linux", "x": "y", "node.kubernetes.io/z": "1"}));
        assert!(case.create("", "nodes", "", own.clone()).validate(&plugin()).await.is_ok());
        let other = case.create("", "nodes", "", node("b", json!({}))).validate(&plugin()).await.unwrap_err();
        assert!(other.message.ends_with("node \"a\" is not allowed to modify node \"b\""), "{}", other.message);
        let role = node("a", json!({"node-role.kubernetes.io/control-plane": ""}));
        let error = case.create("", "nodes", "", role).validate(&plugin()).await.unwrap_err();
        assert!(
            error
                .message
                .ends_with("is not allowed to set the following labels: node-role.kubernetes.io/control-plane")
        );
        let mut tainted = own.clone();
        tainted["spec"] = json!({"taints": [{"key": "a"}]});
        assert!(case.update("", "nodes", "", tainted, own).validate(&plugin()).await.is_err());
    }

    #[tokio::test]
    async fn a_node_touches_only_its_pods() {
        let case = case();
        let pod = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        assert!(case.update("", "pods", "n", pod("a"), pod("a")).sub("status").validate(&plugin()).await.is_ok());
        assert!(case.update("", "pods", "n", pod("b"), pod("b")).sub("status").validate(&plugin()).await.is_err());
        assert!(case.update("", "pods", "n", pod("a"), pod("a")).validate(&plugin()).await.is_err());
        let mut claims = pod("a");
        claims["status"] = json!({"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "other"}]});
        assert!(case.update("", "pods", "n", claims, pod("a")).sub("status").validate(&plugin()).await.is_err());
    }

    #[tokio::test]
    async fn a_mirror_pod_is_owned_by_its_node_and_refers_to_nothing() {
        let case = case().with("", "nodes", json!({"metadata": {"name": "a", "uid": "u"}}));
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "u", "controller": true});
        let with = async |place: &str, value: Value| {
            let mut pod = json!({"metadata": {"name": "p", "annotations": {MIRROR_ANNOTATION: "x"},
                "ownerReferences": [owner]}, "spec": {"nodeName": "a", "containers": [{"name": "c"}]}});
            *pod.pointer_mut(place).unwrap() = value;
            let tried = case.create("", "pods", "n", pod).validate(&plugin()).await;
            tried.map(|_| String::new()).unwrap_or_else(|status| status.message)
        };
        assert_eq!(with("/metadata/name", json!("p")).await, "");
        let other = |name: &str, value: Value| {
            let mut owner = owner.clone();
            owner[name] = value;
            json!([owner])
        };
        let spec = |name: &str, value: Value| json!({"nodeName": "a", name: value});
        for (place, value, why) in [
            ("/metadata/annotations", json!({}), "can only create mirror pods"),
            ("/metadata/ownerReferences", json!([]), "with an owner reference set to itself"),
            ("/metadata/ownerReferences", json!([owner, owner]), "with a single owner reference set to itself"),
            ("/metadata/ownerReferences", other("name", json!("b")), "with an owner reference set to itself"),
            ("/metadata/ownerReferences", other("controller", json!(false)), "with a controller owner reference"),
            ("/metadata/ownerReferences", other("uid", json!("x")), "node a UID mismatch: expected x got u"),
            ("/metadata/ownerReferences", other("blockOwnerDeletion", json!(true)), "must not set blockOwnerDeletion"),
            ("/spec", spec("serviceAccountName", json!("s")), "reference a service account"),
            ("/spec", spec("imagePullSecrets", json!([{"name": "s"}])), "reference secrets"),
            (
                "/spec",
                spec("containers", json!([{"envFrom": [{"configMapRef": {"name": "m"}}]}])),
                "reference configmaps",
            ),
            (
                "/spec",
                spec("volumes", json!([{"projected": {"sources": [{"clusterTrustBundle": {}}]}}])),
                "reference clustertrustbundles",
            ),
            (
                "/spec",
                spec("volumes", json!([{"persistentVolumeClaim": {"claimName": "c"}}])),
                "reference persistentvolumeclaims",
            ),
            ("/spec", spec("resourceClaims", json!([{"name": "c"}])), "reference resourceclaims"),
        ] {
            let message = with(place, value).await;
            assert!(message.contains(why), "{why}: {message}");
        }
    }

    #[tokio::test]
    async fn of_a_claim_a_node_writes_what_it_did_to_the_volume() {
        let claim = |phase: &str, capacity: &str| {
            json!({"metadata": {"name": "c", "resourceVersion": capacity},
                "status": {"phase": phase, "capacity": {"storage": capacity}}})
        };
        let case = case();
        let update = async |new: Value| {
            let bench = case.update("", "persistentvolumeclaims", "n", new, claim("Bound", "1Gi")).sub("status");
            bench.validate(&plugin()).await.is_ok()
        };
        assert!(update(claim("Bound", "2Gi")).await);
        assert!(!update(claim("Lost", "1Gi")).await);
    }

    #[tokio::test]
    async fn tokens_belong_to_pods_of_the_node() {
        let pod = |name: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": {"nodeName": node, "volumes": [
            {"projected": {"sources": [{"serviceAccountToken": {}}, {"serviceAccountToken": {"audience": "vault"}}]}},
            {"csi": {"driver": "driver"}}]}})
        };
        let driver = json!({"metadata": {"name": "driver"}, "spec": {"tokenRequests": [{"audience": "store"}]}});
        let case = case().with("", "pods", pod("here", "a")).with("", "pods", pod("there", "b")).with(
            "storage.k8s.io",
            "csidrivers",
            driver,
        );
        let for_whom = |name: &str, audiences: &[&str]| {
            json!({"metadata": {"name": "sa"}, "spec": {"audiences": audiences,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u"}}})
        };
        let ask = |name: &str| for_whom(name, &[]);
        for (audiences, refusal) in [
            (&["vault"][..], ""),
            (&["store"], ""),
            (
                &["other"],
                "audience \"other\" not found in pod spec volume, system:node:a is not authorized to request tokens for this audience",
            ),
            (&["vault", "store"], "node may only request 0 or 1 audiences"),
        ] {
            let bench = case.create("", "serviceaccounts", "n", for_whom("here", audiences)).sub("token");
            let message =
                bench.validate(&plugin()).await.map(|_| String::new()).unwrap_or_else(|status| status.message);
            assert!(message.ends_with(refusal) && message.is_empty() == refusal.is_empty(), "{message}");
        }
        let allowing = NodeRestriction { authorizer: Arc::new(Anything) };
        let bench = case.create("", "serviceaccounts", "n", for_whom("here", &["other"])).sub("token");
        assert!(bench.validate(&allowing).await.is_ok(), "rules may give more");
        assert!(case.create("", "serviceaccounts", "n", ask("here")).sub("token").validate(&plugin()).await.is_ok());
        assert!(case.create("", "serviceaccounts", "n", ask("there")).sub("token").validate(&plugin()).await.is_err());
        assert!(
            case.create("", "serviceaccounts", "n", json!({"spec": {}}))
                .sub("token")
                .validate(&plugin())
                .await
                .is_err()
        );
    }
    #[tokio::test]
    async fn certificates_are_asked_for_pods_of_the_node_as_they_are() {
        let pod = |name: &str, node: &str| {
            json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "uid": "p"}, "spec": {"nodeName": node,
                "serviceAccountName": "sa", "volumes": [{"projected": {"sources": [
                    {"podCertificate": {"signerName": "example.com/a"}}]}}]}})
        };
        let of = |kind: &str, name: &str, uid: &str, namespace: Option<&str>| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "uid": uid, "namespace": namespace}});
        let case = case()
            .with("", "nodes", of("Node", "a", "u", None))
            .with("", "serviceaccounts", of("ServiceAccount", "sa", "s", Some("n")))
            .with("", "pods", pod("here", "a"))
            .with("", "pods", pod("there", "b"));
        let good = json!({"nodeName": "a", "nodeUID": "u", "podName": "here", "podUID": "p",
            "serviceAccountName": "sa", "serviceAccountUID": "s", "signerName": "example.com/a"});
        let ask = |name: &str, value: &str| {
            let mut spec = good.clone();
            spec[name] = value.into();
            case.create("certificates.k8s.io", "podcertificaterequests", "n", json!({"metadata": {}, "spec": spec}))
        };
        ask("podUID", "p").validate(&plugin()).await.unwrap();
        for (name, value, code, wanted) in [
            ("nodeName", "b", 403, "PodCertificateRequest.Spec.NodeName=\"b\", which is not the requesting node \"a\""),
            ("nodeUID", "x", 500, "names node UID \"x\", inconsistent with the running node (\"u\")"),
            (
                "podName",
                "there",
                403,
                "pod \"n/there\" is not running on node \"a\" named in the PodCertificateRequest",
            ),
            ("podName", "none", 500, "while retrieving pod \"n/none\" named in the PodCertificateRequest"),
            ("podUID", "x", 500, "contains pod UID (\"x\") which differs from running pod \"p\""),
            (
                "serviceAccountName",
                "b",
                403,
                "contains serviceAccountName (\"b\") that differs from running pod (\"sa\")",
            ),
            ("serviceAccountUID", "x", 500, "names service account UID \"x\""),
            ("signerName", "example.com/b", 403, "for signer \"example.com/b\""),
        ] {
            let error = ask(name, value).validate(&plugin()).await.unwrap_err();
            assert_eq!(error.code, code, "{name}: {}", error.message);
            assert!(error.message.contains(wanted), "{name}: {}", error.message);
        }
    }
}
