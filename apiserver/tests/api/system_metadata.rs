//! What only the server sets, and what a write that turns out to create must be allowed to.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;

use crate::{errors::ONE, harness::*};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases";

fn lease(metadata: Value) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}})
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
}

#[tokio::test]
async fn a_new_object_brings_no_system_metadata_along() {
    let api = start().await;
    let mut map = config_map("one");
    for (name, value) in [
        ("uid", json!("mine")),
        ("creationTimestamp", json!("2001-01-01T00:00:00Z")),
        ("deletionTimestamp", json!("2001-01-01T00:00:00Z")),
        ("deletionGracePeriodSeconds", json!(5)),
        ("selfLink", json!("/mine")),
    ] {
        map["metadata"][name] = value;
    }
    let made = api.post(MAPS, map).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let metadata = &made.body["metadata"];
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        assert_eq!(metadata.get(name), None, "{name}");
    }
    assert_ne!(metadata["uid"], "mine");
    assert_ne!(metadata["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert_eq!(metadata["managedFields"][0]["fieldsV1"], json!({"f:data": {".": {}, "f:k": {}}}));
}

#[tokio::test]
async fn an_update_keeps_the_time_of_creation_and_of_deletion() {
    let api = start().await;
    let mut map = config_map("one");
    map["metadata"]["finalizers"] = json!(["e.io/f"]);
    let made = api.post(MAPS, map.clone()).await.body;
    map["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    let put = api.put(ONE, map.clone()).await;
    assert_eq!(put.body["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"], "{}", put.body);
    let deleted = api.delete(ONE, Value::Null).await.body["metadata"]["deletionTimestamp"].clone();
    map["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    let put = api.put(ONE, map).await;
    assert_eq!((put.code, &put.body["metadata"]["deletionTimestamp"]), (200, &deleted), "{}", put.body);
}

#[tokio::test]
async fn an_owner_named_twice_is_kept_once_with_a_warning() {
    let api = start().await;
    let warning = |answer: &Answer| answer.headers["warning"].to_str().unwrap().to_owned();
    let mut map = config_map("one");
    map["metadata"]["ownerReferences"] = json!([owner("a", "u1"), owner("b", "u1"), owner("a", "u1")]);
    let kept = json!([owner("a", "u1"), owner("b", "u1")]);
    for made in [api.post(MAPS, map.clone()).await, api.put(ONE, map.clone()).await] {
        assert_eq!(made.body["metadata"]["ownerReferences"], kept, "{}", made.body);
        assert_eq!(
            warning(&made),
            "299 - \".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u1\""
        );
    }
    let patch = json!({"metadata": {"ownerReferences": map["metadata"]["ownerReferences"]}});
    let patched = api.patch(ONE, "merge", patch).await;
    assert_eq!(patched.body["metadata"]["ownerReferences"], kept);
    assert!(warning(&patched).contains("entries after mutating admission happens; "), "{}", warning(&patched));
}

#[tokio::test]
async fn creation_by_update_and_apply_needs_the_permission_to_create() {
    let api = start().await;
    let jane = UserInfo::new("jane", &[]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/n";
    let role = |verbs: &[&str]| {
        json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"], "verbs": verbs}]})
    };
    assert_eq!(api.post(&format!("{rbac}/roles"), role(&["update", "patch"])).await.code, 201);
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jane",
        "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    assert_eq!(api.post(&format!("{rbac}/rolebindings"), binding).await.code, 201);
    // The caches show the role and its binding once a list has caught up with them.
    let shown = || api.get("/apis/rbac.authorization.k8s.io/v1/roles");
    shown().await;
    let apply = [("content-type", "application/apply-patch+yaml")];
    let put = [("content-type", "application/json")];
    let map = Bytes::from(config_map("one").to_string());
    let new_lease = Bytes::from(lease(json!({"name": "l"})).to_string());
    let applied =
        || api.ask_as(jane.clone(), "PATCH", "/api/v1/namespaces/n/configmaps/one?fieldManager=m", &apply, map.clone());
    let updated = || {
        api.ask_as(jane.clone(), "PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", &put, new_lease.clone())
    };
    let refused = applied().await;
    assert_eq!(
        (refused.code, &refused.body["message"]),
        (
            403,
            &json!(
                "configmaps \"one\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"n\""
            )
        )
    );
    let refused = updated().await;
    assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")), "{}", refused.body);
    assert_eq!(api.put(&format!("{rbac}/roles/r"), role(&["update", "patch", "create"])).await.code, 200);
    shown().await;
    assert_eq!((applied().await.code, updated().await.code), (201, 201));
    // Where there is something to change, creation is not asked for.
    assert_eq!(api.put(&format!("{rbac}/roles/r"), role(&["update", "patch"])).await.code, 200);
    shown().await;
    let without_version = updated().await;
    assert_eq!((applied().await.code, without_version.code), (200, 422), "{}", without_version.body);
    assert_eq!(
        without_version.body["message"],
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
}

#[tokio::test]
async fn versions_and_uids_of_objects_that_are_not_there() {
    let api = start().await;
    // A version is compared with that of an object: where there is none it says nothing.
    let put = api.put(&format!("{LEASES}/a"), lease(json!({"name": "a", "resourceVersion": "5"}))).await;
    assert_eq!(put.code, 201, "{}", put.body);
    assert_ne!(put.body["metadata"]["resourceVersion"], "5");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "resourceVersion": "5"}});
    assert_eq!(api.patch(&format!("{ONE}?fieldManager=m"), "apply", config.clone()).await.code, 201);
    let stale = api.patch(&format!("{ONE}?fieldManager=m"), "apply", config).await;
    assert_eq!((stale.code, &stale.body["reason"]), (409, &json!("Conflict")));
    let other = api.put(&format!("{LEASES}/b"), lease(json!({"name": "b", "uid": "u"}))).await;
    let message = other.body["message"].as_str().unwrap();
    assert_eq!(other.code, 409, "{message}");
    assert!(message.ends_with("Precondition failed: UID in precondition: u, UID in object meta: "), "{message}");
    let gone = api.put(ONE.replace("one", "none").as_str(), config_map("none")).await;
    assert_eq!(gone.code, 404, "{}", gone.body);
}

#[tokio::test]
async fn managed_fields_are_forgotten_when_an_empty_list_is_sent() {
    let api = start().await;
    for entries in [json!([]), json!([{}])] {
        api.patch(&format!("{ONE}?fieldManager=m"), "apply", config_map("one")).await;
        let cleared = api.patch(ONE, "merge", json!({"metadata": {"managedFields": entries}})).await;
        assert_eq!((cleared.code, cleared.body["metadata"].get("managedFields")), (200, None), "{}", cleared.body);
        let mut put = api.patch(&format!("{ONE}?fieldManager=m"), "apply", config_map("one")).await.body;
        assert!(put["metadata"]["managedFields"].is_array());
        put["metadata"]["managedFields"] = entries.clone();
        let cleared = api.put(ONE, put).await;
        assert_eq!((cleared.code, cleared.body["metadata"].get("managedFields")), (200, None), "{}", cleared.body);
        let mut config = config_map("one");
        config["metadata"]["managedFields"] = entries;
        let refused = api.patch(&format!("{ONE}?fieldManager=m"), "apply", config).await;
        assert_eq!((refused.code, &refused.body["message"]), (400, &json!("metadata.managedFields must be nil")));
    }
    let mut config = config_map("one");
    config["metadata"]["managedFields"] = Value::Null;
    assert_eq!(api.patch(&format!("{ONE}?fieldManager=m"), "apply", config).await.code, 200);
}

#[tokio::test]
async fn what_has_no_namespace_loses_the_one_it_brings_along() {
    let api = start().await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5,
        "metadata": {"name": "c", "namespace": "n"}});
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let applied = format!("{classes}/d?fieldManager=m");
    let mut other = class.clone();
    other["metadata"]["name"] = json!("d");
    for answer in [
        api.post(classes, class.clone()).await,
        api.put(&format!("{classes}/c"), class).await,
        api.patch(&format!("{classes}/c"), "merge", json!({"metadata": {"namespace": "n"}})).await,
        api.patch(&applied, "apply", other.clone()).await,
        api.patch(&applied, "apply", other).await,
    ] {
        assert!(matches!(answer.code, 200 | 201), "{}", answer.body);
        assert_eq!(answer.body["metadata"].get("namespace"), None, "{}", answer.body);
    }
    let space = json!({"metadata": {"name": "m", "namespace": "elsewhere"}});
    assert_eq!(api.post("/api/v1/namespaces", space).await.body["metadata"].get("namespace"), None);
}

#[tokio::test]
async fn an_update_must_name_its_object() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut nameless = deployment("d");
    nameless["metadata"] = json!({});
    let scale = json!({"spec": {"replicas": 3}});
    for (path, body) in
        [(path.clone(), nameless.clone()), (format!("{path}/status"), nameless), (format!("{path}/scale"), scale)]
    {
        let refused = api.put(&path, body).await;
        let message = "the name of the object (d based on URL) was undeterminable: name must be provided";
        assert_eq!((refused.code, &refused.body["message"]), (400, &json!(message)), "{path}");
    }
}

#[tokio::test]
async fn a_taken_name_of_an_object_with_a_prefix_is_to_be_tried_again() {
    let api = start().await;
    let mut map = config_map("one");
    map["metadata"]["generateName"] = json!("on");
    assert_eq!(api.post(MAPS, map.clone()).await.code, 201);
    let taken = api.post(MAPS, map).await;
    let message = "configmaps \"one\" already exists, the server was not able to generate a unique name for the object";
    assert_eq!((taken.code, &taken.body["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!((&taken.body["message"], &taken.headers["retry-after"]), (&json!(message), &"1".parse().unwrap()));
    let plain = api.post(MAPS, config_map("one")).await;
    assert_eq!(plain.body["message"], "configmaps \"one\" already exists");
}
