//! Fields that never change, kind by kind, with the words of the refusal.

use serde_json::{Value, json};

use crate::harness::*;

/// An object, and changes of it with how their refusal ends; empty when they are allowed.
struct Kind {
    path: &'static str,
    object: Value,
    changes: Vec<(Value, &'static str)>,
}

const IMMUTABLE: &str = "field is immutable";

fn kind(path: &'static str, object: Value, changes: Vec<(Value, &'static str)>) -> Kind {
    Kind { path, object, changes }
}

async fn check(kinds: Vec<Kind>) {
    let api = start().await;
    for Kind { path, mut object, changes } in kinds {
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = json!(if path.ends_with("services") { "fixed" } else { "fixed.e.io" });
        }
        let made = api.post(path, object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
        let one = format!("{path}/{}", made.body["metadata"]["name"].as_str().unwrap());
        for (change, why) in changes {
            let answer = api.patch(&one, "merge", change.clone()).await;
            if why.is_empty() {
                assert_eq!(answer.code, 200, "{path} {change}: {}", answer.body);
            } else {
                let message = answer.body["message"].as_str().unwrap_or_default().trim_end_matches(']');
                assert_eq!(answer.code, 422, "{path} {change}: {}", answer.body);
                assert!(message.contains(why), "{path} {change}: {message}");
            }
        }
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn metadata_data_and_roles_are_fixed() {
    check(vec![
        kind(
            "/api/v1/namespaces/n/configmaps",
            json!({"metadata": {}, "immutable": true, "data": {"a": "1"}}),
            vec![
                // Not refused: the time stays what it was (`api::system_metadata`).
                (json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}}), ""),
                (
                    json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}}),
                    "metadata.deletionTimestamp: Invalid value: \"2001-01-01T00:00:00Z\": field is immutable",
                ),
                (json!({"data": {"a": "2"}}), "data: Forbidden: field is immutable when `immutable` is set"),
                (json!({"immutable": false}), "immutable: Forbidden: field is immutable when `immutable` is set"),
                (json!({"metadata": {"labels": {"x": "y"}}}), ""),
            ],
        ),
        kind(
            "/api/v1/namespaces/n/secrets",
            json!({"metadata": {}, "stringData": {"a": "1"}}),
            vec![
                (json!({"type": "z"}), "type: Invalid value: \"z\": field is immutable"),
                (json!({"stringData": {"a": "2"}}), ""),
            ],
        ),
        kind(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings",
            json!({"metadata": {}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}),
            vec![(json!({"roleRef": {"name": "x"}}), "cannot change roleRef")],
        ),
        kind(
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({"metadata": {}, "value": 5}),
            vec![
                (json!({"value": 6}), "value: Forbidden: may not be changed in an update."),
                (
                    json!({"preemptionPolicy": "Never"}),
                    "preemptionPolicy: Invalid value: \"Never\": field is immutable",
                ),
            ],
        ),
        kind(
            "/apis/node.k8s.io/v1/runtimeclasses",
            json!({"metadata": {}, "handler": "a"}),
            vec![(json!({"handler": "b"}), "handler: Invalid value: \"b\": field is immutable")],
        ),
        kind(
            "/apis/networking.k8s.io/v1/ingressclasses",
            json!({"metadata": {}, "spec": {"controller": "a/b"}}),
            vec![(
                json!({"spec": {"controller": "a/c"}}),
                "spec.controller: Invalid value: \"a/c\": field is immutable",
            )],
        ),
        kind(
            "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices",
            json!({"metadata": {}, "addressType": "IPv4", "endpoints": []}),
            vec![(json!({"addressType": "IPv6"}), "addressType: Invalid value: \"IPv6\": field is immutable")],
        ),
        kind(
            "/apis/networking.k8s.io/v1/servicecidrs",
            json!({"metadata": {}, "spec": {"cidrs": ["10.99.0.0/24"]}}),
            vec![
                (json!({"spec": {"cidrs": ["10.98.0.0/24"]}}), IMMUTABLE),
                (json!({"spec": {"cidrs": ["10.99.0.0/24", "fd00::/108"]}}), ""),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn selectors_templates_and_services_are_fixed() {
    let workload =
        || json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template()}});
    let selector = || json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}});
    let other = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    let job = json!({"metadata": {}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let fixed = "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable";
    check(vec![
        kind("/apis/apps/v1/namespaces/n/deployments", workload(), vec![(selector(), fixed)]),
        kind("/apis/apps/v1/namespaces/n/replicasets", workload(), vec![(selector(), fixed)]),
        kind("/apis/apps/v1/namespaces/n/daemonsets", workload(), vec![(selector(), fixed)]),
        kind("/apis/apps/v1/namespaces/n/statefulsets", workload(), vec![
            (json!({"spec": {"serviceName": "y"}}), other),
            (json!({"spec": {"podManagementPolicy": "Parallel"}}), other),
            (json!({"spec": {"replicas": 2, "minReadySeconds": 1, "ordinals": {"start": 1}, "revisionHistoryLimit": 3}}), ""),
        ]),
        kind("/apis/apps/v1/namespaces/n/controllerrevisions", json!({"metadata": {}, "revision": 1, "data": {"a": 1}}), vec![
            (json!({"data": {"a": 2}}), "data: Invalid value: {\"a\":2}: field is immutable"),
            (json!({"revision": 2}), ""),
        ]),
        kind("/apis/batch/v1/namespaces/n/jobs", job, vec![
            (json!({"spec": {"completionMode": "Indexed"}}), "spec.completionMode: Invalid value: \"Indexed\": field is immutable"),
            (json!({"spec": {"completions": 3}}), "spec.completions: Invalid value: 3: field is immutable"),
            (json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}), "spec.template: Invalid value: "),
            (json!({"spec": {"managedBy": "x/y"}}), "spec.managedBy: Invalid value: \"x/y\": field is immutable"),
            (json!({"spec": {"parallelism": 3, "suspend": true, "backoffLimit": 2}}), ""),
        ]),
        kind("/api/v1/namespaces/n/services",
            json!({"metadata": {}, "spec": {"type": "LoadBalancer", "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local", "ports": [{"port": 1}]}}), vec![
            (json!({"spec": {"clusterIP": "10.43.9.9"}}), "may not change once set"),
            (json!({"spec": {"loadBalancerClass": "a/c"}}), "spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"),
            (json!({"spec": {"healthCheckNodePort": 31999}}), "spec.healthCheckNodePort: Invalid value: 31999: field is immutable"),
        ]),
        kind("/api/v1/namespaces/n/pods",
            json!({"metadata": {}, "spec": {"nodeName": "x", "activeDeadlineSeconds": 100, "containers": [{"name": "c", "image": "i"}]}}), vec![
            (json!({"spec": {"activeDeadlineSeconds": 200}}), "spec.activeDeadlineSeconds: Invalid value: 200: must be less than or equal to previous value"),
            (json!({"spec": {"activeDeadlineSeconds": 50}}), ""),
            (json!({"spec": {"hostNetwork": true}}), "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)"),
        ]),
    ])
    .await;
}

#[tokio::test]
async fn storage_is_fixed() {
    let affinity = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "Exists"}]}]}});
    let claim = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    check(vec![
        kind("/api/v1/namespaces/n/persistentvolumeclaims",
            json!({"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
            vec![(json!({"spec": {"accessModes": ["ReadWriteMany"]}}), claim), (json!({"spec": {"volumeMode": "Block"}}), claim)]),
        kind("/api/v1/persistentvolumes",
            json!({"metadata": {}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}, "nodeAffinity": affinity("a")}}), vec![
            (json!({"spec": {"hostPath": {"path": "/y"}}}), "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"),
            (json!({"spec": {"volumeMode": "Block"}}), "spec.volumeMode: Invalid value: \"Block\": field is immutable"),
            (json!({"spec": {"nodeAffinity": affinity("b")}}), "field is immutable, except for updating from beta label to GA"),
            (json!({"spec": {"capacity": {"storage": "2Gi"}}}), ""),
        ]),
        kind("/apis/storage.k8s.io/v1/storageclasses", json!({"metadata": {}, "provisioner": "a/b"}), vec![
            (json!({"provisioner": "a/c"}), "provisioner: Forbidden: updates to provisioner are forbidden."),
            (json!({"parameters": {"a": "b"}}), "parameters: Forbidden: updates to parameters are forbidden."),
            (json!({"reclaimPolicy": "Retain"}), "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden."),
            (json!({"volumeBindingMode": "WaitForFirstConsumer"}), "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"),
            (json!({"allowVolumeExpansion": true}), ""),
        ]),
        kind("/apis/storage.k8s.io/v1/csidrivers", json!({"metadata": {}, "spec": {}}), vec![
            (json!({"spec": {"attachRequired": false}}), "spec.attachRequired: Invalid value: false: field is immutable"),
            (json!({"spec": {"volumeLifecycleModes": ["Ephemeral"]}}), "spec.volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable"),
            (json!({"spec": {"fsGroupPolicy": "File"}}), ""),
        ]),
        kind("/apis/storage.k8s.io/v1/csinodes", json!({"metadata": {}, "spec": {"drivers": [{"name": "a.b", "nodeID": "1"}]}}), vec![
            (json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "2"}]}}), "CSINodeDriver: Invalid value: {\"Name\":\"a.b\",\"NodeID\":\"2\",\"TopologyKeys\":null,\"Allocatable\":null}: field is immutable"),
            (json!({"spec": {"drivers": [{"name": "a.b", "nodeID": "1", "allocatable": {"count": 3}}]}}), ""),
            (json!({"spec": {"drivers": [{"name": "c.d", "nodeID": "2"}]}}), ""),
        ]),
        kind("/apis/storage.k8s.io/v1/volumeattachments",
            json!({"metadata": {}, "spec": {"attacher": "a.b", "nodeName": "x", "source": {"persistentVolumeName": "p"}}}),
            vec![(json!({"spec": {"nodeName": "y"}}), IMMUTABLE)]),
        kind("/apis/storage.k8s.io/v1/volumeattributesclasses", json!({"metadata": {}, "driverName": "a.b", "parameters": {"a": "b"}}), vec![
            (json!({"driverName": "c.d"}), "driverName: Forbidden: updates to driverName are forbidden."),
            (json!({"parameters": {"a": "c"}}), "parameters: Forbidden: updates to parameters are forbidden."),
        ]),
        kind("/apis/resource.k8s.io/v1/namespaces/n/resourceclaims",
            json!({"metadata": {}, "spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}}}),
            vec![(json!({"spec": {"devices": {"requests": [{"name": "b", "exactly": {"deviceClassName": "c"}}]}}}), IMMUTABLE)]),
    ])
    .await;
}

#[tokio::test]
async fn certificates_addresses_and_migrations_are_fixed() {
    let certificate = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap().cert.pem();
    let claim = |name: &str| json!({"devices": {"requests": [{"name": name, "exactly": {"deviceClassName": "c"}}]}});
    let parent = json!({"group": "", "resource": "services", "namespace": "n", "name": "s"});
    let migration = json!({"metadata": {}, "spec": {"resource": {"group": "apps", "resource": "deployments"}}});
    check(vec![
        kind(
            "/apis/certificates.k8s.io/v1/clustertrustbundles",
            json!({"metadata": {"name": "a.b:c:d"}, "spec": {"signerName": "a.b/c", "trustBundle": certificate}}),
            vec![(
                json!({"spec": {"signerName": "a.b/d"}}),
                "spec.signerName: Invalid value: \"a.b/d\": field is immutable",
            )],
        ),
        kind(
            "/apis/networking.k8s.io/v1/ipaddresses",
            json!({"metadata": {"name": "10.99.7.7"}, "spec": {"parentRef": parent}}),
            vec![(json!({"spec": {"parentRef": {"name": "z"}}}), IMMUTABLE)],
        ),
        kind(
            "/apis/storagemigration.k8s.io/v1/storageversionmigrations",
            migration,
            vec![(json!({"spec": {"resource": {"resource": "pods"}}}), IMMUTABLE)],
        ),
        kind(
            "/apis/resource.k8s.io/v1/namespaces/n/resourceclaimtemplates",
            json!({"metadata": {}, "spec": {"spec": claim("a")}}),
            vec![(json!({"spec": {"spec": claim("b")}}), IMMUTABLE)],
        ),
    ])
    .await;
}
