//! Recorded facts: what a client reads back of fields it left out.

use serde_json::{Value, json};

use crate::harness::*;

/// Whether `whole` has everything of `part`.
fn missing(whole: &Value, part: &Value, path: &str) -> Vec<String> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .flat_map(|(name, value)| {
                missing(whole.get(name).unwrap_or(&Value::Null), value, &format!("{path}.{name}"))
            })
            .collect(),
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            let both = whole.iter().zip(part).enumerate();
            both.flat_map(|(at, (have, want))| missing(have, want, &format!("{path}[{at}]"))).collect()
        }
        (have, want) if have == want => Vec::new(),
        (have, want) => vec![format!("{path}: {have} is not {want}")],
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

#[tokio::test]
async fn every_kind_comes_back_with_upstreams_defaults() {
    let api = start().await;
    let selector = json!({"matchLabels": {"a": "b"}});
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}});
    let hook = json!({"webhooks": [{"name": "a.b.example", "clientConfig": {"url": "https://a.example"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]});
    let cases = [
        (
            "/api/v1/namespaces/n/pods",
            json!({"spec": {"containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 1}],
            "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 1}},
            "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler", "enableServiceLinks": true, "securityContext": {}, "priority": 0,
                "preemptionPolicy": "PreemptLowerPriority", "serviceAccountName": "default",
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
                "containers": [{"imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File", "ports": [{"protocol": "TCP"}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}},
                    "env": [{"valueFrom": {"fieldRef": {"apiVersion": "v1"}}}],
                    "livenessProbe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                        "httpGet": {"scheme": "HTTP", "path": "/"}}}],
                "volumes": [{"secret": {"defaultMode": 420}}, {"hostPath": {"type": ""}}, {"projected": {"defaultMode": 420}}]},
                "status": {"phase": "Pending", "qosClass": "Burstable"}}),
        ),
        (
            "/apis/apps/v1/namespaces/n/deployments",
            json!({"spec": {"selector": selector, "template": template()}}),
            json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {
                "type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"spec": {"containers": [{"imagePullPolicy": "IfNotPresent"}]}}}}),
        ),
        (
            "/apis/apps/v1/namespaces/n/statefulsets",
            json!({"spec": {"selector": selector, "template": template()}}),
            json!({"spec": {"replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}}),
        ),
        (
            "/apis/apps/v1/namespaces/n/daemonsets",
            json!({"spec": {"selector": selector, "template": template()}}),
            json!({"spec": {"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}}}),
        ),
        (
            "/apis/batch/v1/namespaces/n/jobs",
            job.clone(),
            json!({"spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
                "suspend": false, "podReplacementPolicy": "TerminatingOrFailed", "manualSelector": false}}),
        ),
        (
            "/apis/batch/v1/namespaces/n/cronjobs",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": job}}),
            json!({"spec": {"concurrencyPolicy": "Allow", "suspend": false, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}}),
        ),
        (
            "/api/v1/namespaces/n/services",
            json!({"spec": {"ports": [{"port": 80}]}}),
            json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "ports": [{"protocol": "TCP", "targetPort": 80}]}}),
        ),
        (
            "/api/v1/namespaces/n/persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
            json!({"spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}),
        ),
        (
            "/api/v1/persistentvolumes",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}),
            json!({"spec": {"volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Pending"}}),
        ),
        (
            "/api/v1/namespaces/n/secrets",
            json!({"stringData": {"a": "b"}}),
            json!({"type": "Opaque", "data": {"a": "Yg=="}}),
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"provisioner": "a.example/b"}),
            json!({"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}),
        ),
        (
            "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
            json!({"spec": {"minReplicas": 1, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies",
            json!({"spec": {"podSelector": {}, "egress": [{}]}}),
            json!({"spec": {"policyTypes": ["Ingress", "Egress"]}}),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io"}]}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            hook,
            json!({"webhooks": [{"timeoutSeconds": 10, "failurePolicy": "Fail", "matchPolicy": "Equivalent", "namespaceSelector": {},
                "objectSelector": {}, "rules": [{"scope": "*"}]}]}),
        ),
        (
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            json!({"value": 3}),
            json!({"preemptionPolicy": "PreemptLowerPriority"}),
        ),
    ];
    for (path, mut object, want) in cases {
        object["metadata"] = json!({"generateName": "default-"});
        let made = api.post(path, object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
        assert_eq!(missing(&made.body, &want, ""), [""; 0], "{path}: {}", made.body);
    }
    let namespace = api.get("/api/v1/namespaces/n").await.body;
    let want = json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "n"}}, "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"}});
    assert_eq!(missing(&namespace, &want, ""), [""; 0]);
}

#[tokio::test]
async fn parts_that_depend_on_others_come_back_as_well() {
    let api = start().await;
    let cases = [
        (
            "/api/v1/namespaces/n/pods",
            json!({"spec": {"containers": [{"name": "c", "image": "x:latest", "resources": {"requests": {"cpu": "1"}}}]}}),
            json!({"spec": {"containers": [{"imagePullPolicy": "Always",
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]}}),
        ),
        (
            "/api/v1/namespaces/n/services",
            json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 7}]}}),
            json!({"spec": {"allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "ports": [{"targetPort": 7, "protocol": "TCP"}]}}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"port": 1}]}),
            json!({"ports": [{"name": "", "port": 1, "protocol": "TCP"}]}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
            json!({"webhooks": [{"name": "a.b.example", "clientConfig": {"url": "https://a.example"}, "sideEffects": "None",
                "admissionReviewVersions": ["v1"]}]}),
            json!({"webhooks": [{"failurePolicy": "Fail", "matchPolicy": "Equivalent", "reinvocationPolicy": "Never",
                "timeoutSeconds": 10, "namespaceSelector": {}, "objectSelector": {}}]}),
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json!({"spec": {"group": "e.io", "scope": "Namespaced", "names": {"plural": "x", "kind": "Foo"}, "versions":
                [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
            json!({"spec": {"conversion": {"strategy": "None"}, "names": {"listKind": "FooList", "singular": "foo"}}}),
        ),
    ];
    for (path, mut object, want) in cases {
        object["metadata"]["name"] = json!(if path.ends_with("definitions") { "x.e.io" } else { "x" });
        let made = api.post(path, object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.body);
        assert_eq!(missing(&made.body, &want, ""), Vec::<String>::new(), "{path}");
    }
}
