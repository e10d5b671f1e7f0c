//! Options of requests: what is taken, what is refused and with which causes.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    errors::{JSON, ONE, case, check},
    harness::*,
};

const MAP: &str = r#"{"metadata":{"name":"made"}}"#;

#[tokio::test]
async fn field_managers_are_named_by_option_or_agent() {
    let api = start().await;
    let long = "x".repeat(129);
    let refused = api.post(&format!("{MAPS}?fieldManager={long}"), config_map("a")).await;
    assert_eq!(refused.code, 422);
    let message = "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes";
    assert_eq!(refused.body["message"], message);
    check(
        &api,
        vec![case(("POST", "/api/v1/namespaces/n/configmaps?fieldManager=a%07b"), JSON, MAP, 422, "Invalid",
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\ab\": invalid character U+0007 (at position 1)")],
    )
    .await;
    for (agent, manager) in
        [("tool-x/v1 (linux)/abc", "tool-x"), (long.as_str(), &long[..128]), ("", "unknown"), ("plain", "plain")]
    {
        let headers = [("content-type", "application/json"), ("user-agent", agent)];
        let request = http::Request::builder().method("POST").uri(format!("{MAPS}?dryRun=All"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(skiff_apiserver::body::full(Bytes::from(config_map("a").to_string()))).unwrap();
        let made = answer(api.server.handle_as(request, admin()).await).await;
        assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], manager, "{agent:?}");
    }
}

#[tokio::test]
async fn every_questionable_field_is_named_unknown_ones_first() {
    let api = start().await;
    let body = r#"{"kind":"ConfigMap","kind":"ConfigMap","metadata":{"name":"q"},"data":{"a":"1","a":"2"},"Data":{"x":"y"},"foo":1}"#;
    let json = [("content-type", "application/json")];
    let warned = api.ask("POST", &format!("{MAPS}?dryRun=All"), &json, Bytes::from(body)).await;
    assert_eq!(warned.code, 201);
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    let want = [
        r#"299 - "unknown field \"Data\"""#,
        r#"299 - "unknown field \"foo\"""#,
        r#"299 - "duplicate field \"kind\"""#,
        r#"299 - "duplicate field \"data.a\"""#,
    ];
    assert_eq!(warnings, want, "names are compared by case");
    check(
        &api,
        vec![case(("POST", "/api/v1/namespaces/n/configmaps?fieldValidation=Strict"), JSON, body, 400, "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"Data\", unknown field \"foo\", duplicate field \"kind\", duplicate field \"data.a\"")],
    )
    .await;
    // Nothing is said when nothing is asked, and the last value counts.
    let ignored = api.ask("POST", &format!("{MAPS}?fieldValidation=Ignore"), &json, Bytes::from(body)).await;
    assert!(!ignored.headers.contains_key("warning"));
    assert_eq!((ignored.code, &ignored.body["data"]), (201, &json!({"a": "2"})));
}

#[tokio::test]
async fn a_dry_run_shows_generated_names_and_deletes_nothing_of_a_collection() {
    let api = start().await;
    let body = json!({"metadata": {"generateName": "gen-"}});
    let made = api.post(&format!("{MAPS}?dryRun=All"), body).await;
    let name = made.body["metadata"]["name"].as_str().unwrap();
    assert!(name.len() == 9 && name.starts_with("gen-"), "{name}");
    assert_eq!(api.get(&format!("{MAPS}/{name}")).await.code, 404);
    api.post(MAPS, config_map("kept")).await;
    assert_eq!(api.delete(&format!("{MAPS}?dryRun=All"), json!(null)).await.code, 200);
    let in_body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    assert_eq!(api.delete(&format!("{MAPS}/kept"), in_body).await.code, 200);
    assert_eq!(api.get(&format!("{MAPS}/kept")).await.code, 200);
}

#[tokio::test]
async fn options_of_lists_and_watches_are_refused_with_every_cause() {
    let api = start().await;
    let list = "ListOptions.meta.k8s.io \"\" is invalid: ";
    let many = |causes: &[&str]| match causes {
        [one] => format!("{list}{one}"),
        more => format!("{list}[{}]", more.join(", ")),
    };
    let unset = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
    let requires =
        "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let only = "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
    for (query, message) in [
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            many(&[
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ]),
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Odd",
            many(&[
                "resourceVersionMatch: Unsupported value: \"Odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ]),
        ),
        (
            "resourceVersionMatch=NotOlderThan",
            many(&[
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ]),
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact&continue=abc",
            many(&[
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ]),
        ),
        ("sendInitialEvents=true", many(&["sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"])),
        ("watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1", many(&[unset])),
        ("watch=1&resourceVersionMatch=Exact&resourceVersion=1", many(&[unset, only])),
        ("watch=1&sendInitialEvents=true", many(&[requires])),
        ("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact", many(&[requires, only])),
    ] {
        let refused = api.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((refused.code, &refused.body["message"]), (422, &json!(message)), "{query}");
    }
    let token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJuL2EifQ";
    let refused = api.get(&format!("{MAPS}?limit=1&resourceVersion=5&continue={token}")).await;
    assert_eq!(refused.body["message"], "specifying resource version is not allowed when using continue");
    assert_eq!(refused.code, 400);
    assert_eq!(api.get(&format!("{MAPS}?timeoutSeconds=-1&limit=-1")).await.code, 200);
}

#[tokio::test]
async fn malformed_versions_are_refused_by_place() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
    let why = |text: &str| format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
    let list = |text: &str| format!("resourceVersion: Invalid value: \"{text}\": {}", why(text));
    check(
        &api,
        vec![
            case(("GET", "/api/v1/namespaces/n/configmaps?resourceVersion=abc"), &[], "", 400, "BadRequest",
                format!("invalid resource version: {}", list("abc"))),
            case(("GET", "/api/v1/namespaces/n/configmaps?resourceVersion=99999999999999999999"), &[], "", 400, "BadRequest",
                "invalid resource version: resourceVersion: Invalid value: \"99999999999999999999\": strconv.ParseUint: parsing \"99999999999999999999\": value out of range"),
            case(("GET", "/api/v1/namespaces/n/configmaps?watch=1&resourceVersion=-1"), &[], "", 422, "Invalid",
                format!("configmaps \"\" is invalid: {}", list("-1"))),
            case(("GET", "/api/v1/namespaces/n/configmaps/one?resourceVersion=abc"), &[], "", 400, "BadRequest", list("abc")),
            case(("PATCH", ONE), MERGE, r#"{"metadata":{"resourceVersion":"abc"}}"#, 400, "BadRequest", why("abc")),
            case(("PUT", ONE), JSON, r#"{"metadata":{"name":"one","resourceVersion":"abc"}}"#, 400, "BadRequest", why("abc")),
            case(("POST", MAPS), JSON, r#"{"metadata":{"name":"two","resourceVersion":"abc"}}"#, 400, "BadRequest",
                "resourceVersion should not be set on objects to be created"),
        ],
    )
    .await;
}

#[tokio::test]
async fn options_in_a_delete_body_win_over_the_query() {
    let api = start().await;
    let deleted = |name: &'static str, query: &'static str, body: Value| {
        let api = &api;
        async move {
            api.post(MAPS, config_map(name)).await;
            let answer = api.delete(&format!("{MAPS}/{name}{query}"), body).await;
            (answer.code, answer.body["metadata"]["finalizers"].clone())
        }
    };
    let foreground = json!({"propagationPolicy": "Foreground"});
    assert_eq!(deleted("a", "?propagationPolicy=Orphan", foreground).await, (200, json!(["foregroundDeletion"])));
    assert_eq!(deleted("b", "?propagationPolicy=Foreground", json!(null)).await, (200, json!(["foregroundDeletion"])));
    assert_eq!(deleted("c", "?orphanDependents=true", json!(null)).await, (200, json!(["orphan"])));
    assert_eq!(deleted("d", "", json!({"orphanDependents": false})).await, (200, json!(null)));
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["e.io/x"]);
    api.post(MAPS, held).await;
    let accepted = api.delete(&format!("{MAPS}/held"), json!({"orphanDependents": false})).await;
    assert_eq!((accepted.code, &accepted.body["metadata"]["finalizers"]), (202, &json!(["e.io/x"])));
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/n/jobs";
    api.post(jobs, job).await;
    let orphans = api.delete(&format!("{jobs}/j?dryRun=All"), json!(null)).await;
    let warning = orphans.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"child pods are preserved by default when jobs are deleted;"), "{warning}");
    assert_eq!(orphans.body["metadata"]["finalizers"], json!(["orphan"]), "{}", orphans.body);
    let told = api.delete(&format!("{jobs}/j?propagationPolicy=Background"), json!(null)).await;
    assert!(told.code == 200 && !told.headers.contains_key("warning"));
    check(
        &api,
        vec![case(
            ("DELETE", "/api/v1/namespaces/n/configmaps/a?gracePeriodSeconds=x"),
            &[],
            "",
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        )],
    )
    .await;
}

#[tokio::test]
async fn fields_of_every_kind_select_as_upstream_lists_them() {
    let api = start().await;
    let pods = "spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase \
                status.podIP status.podIPs status.nominatedNodeName metadata.name metadata.namespace";
    let events = "involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid \
                  involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason type source \
                  reportingComponent";
    for (path, fields) in [
        ("/api/v1/pods", pods),
        ("/api/v1/events", events),
        ("/apis/events.k8s.io/v1/events", "regarding.kind regarding.name reason type reportingController"),
        ("/api/v1/secrets", "type"),
        ("/api/v1/namespaces", "status.phase metadata.name"),
        ("/api/v1/nodes", "spec.unschedulable"),
        ("/api/v1/services", "spec.clusterIP spec.type"),
        ("/api/v1/replicationcontrollers", "status.replicas"),
        ("/apis/apps/v1/replicasets", "status.replicas"),
        ("/apis/batch/v1/jobs", "status.successful"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "spec.signerName"),
        ("/apis/certificates.k8s.io/v1/clustertrustbundles", "spec.signerName"),
        ("/apis/certificates.k8s.io/v1/podcertificaterequests", "spec.signerName spec.podName spec.nodeName"),
        (
            "/apis/networking.k8s.io/v1/ipaddresses",
            "spec.parentRef.group spec.parentRef.resource spec.parentRef.name spec.parentRef.namespace",
        ),
        ("/apis/resource.k8s.io/v1/resourceslices", "spec.nodeName spec.driver"),
    ] {
        for field in fields.split_whitespace() {
            let found = api.get(&format!("{path}?fieldSelector={field}%3Dnone")).await;
            assert_eq!(found.code, 200, "{path} {field}: {}", found.body);
        }
        let other = api.get(&format!("{path}?fieldSelector=spec.no.such%3Dx")).await;
        assert_eq!(other.body["message"], "field label not supported: spec.no.such", "{path}");
    }
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    for (name, node) in [("p", "one"), ("q", "two")] {
        assert_eq!(api.post("/api/v1/namespaces/n/pods", pod(name, node)).await.code, 201);
    }
    let count = async |query: &str| {
        api.get(&format!("/api/v1/pods?fieldSelector={query}")).await.body["items"].as_array().unwrap().len()
    };
    assert_eq!(count("spec.nodeName%3Done").await, 1);
    assert_eq!(count("spec.nodeName!%3Done,status.phase%3DPending").await, 1);
    assert_eq!(count("spec.restartPolicy%3DAlways,spec.hostNetwork%3Dfalse").await, 2);
    assert_eq!(api.get(ONE).await.code, 404);
}

#[tokio::test]
async fn certificates_are_selected_by_signer_pod_and_node() {
    let api = start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let anchor = params.self_signed(&key).unwrap().pem();
    let stub = BASE64.encode(params.serialize_request(&key).unwrap().der());
    let certificates = "/apis/certificates.k8s.io/v1";
    for signer in ["a", "b"] {
        let bundle = json!({"metadata": {"name": format!("example.com:{signer}:one")},
            "spec": {"signerName": format!("example.com/{signer}"), "trustBundle": anchor}});
        let made = api.post(&format!("{certificates}/clustertrustbundles"), bundle).await;
        assert_eq!(made.code, 201, "{}", made.body);
        let request = json!({"metadata": {"name": signer}, "spec": {"signerName": format!("example.com/{signer}"),
            "podName": format!("pod-{signer}"), "podUID": "1f7a54a1-b9d5-4f0a-9f6c-0a8e4f9a3b11",
            "serviceAccountName": "default", "serviceAccountUID": "1f7a54a1-b9d5-4f0a-9f6c-0a8e4f9a3b12",
            "nodeName": format!("node-{signer}"), "nodeUID": "1f7a54a1-b9d5-4f0a-9f6c-0a8e4f9a3b13",
            "stubPKCS10Request": stub}});
        let made = api.post(&format!("{certificates}/namespaces/n/podcertificaterequests"), request).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let names = async |resource: &str, selector: &str| {
        let list = api.get(&format!("{certificates}/{resource}?fieldSelector={selector}")).await.body;
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("clustertrustbundles", "spec.signerName%3Dexample.com/b").await, ["example.com:b:one"]);
    assert_eq!(names("clustertrustbundles", "spec.signerName!%3Dexample.com/b").await, ["example.com:a:one"]);
    for selector in ["spec.signerName%3Dexample.com/b", "spec.podName%3Dpod-b", "spec.nodeName%3Dnode-b"] {
        assert_eq!(names("podcertificaterequests", selector).await, ["b"], "{selector}");
    }
}
