//! Bad input: every bound of a request, with upstream's status and message, and
//! hostile bodies that must neither hang nor end the server.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    errors::{JSON, ONE, case, check},
    harness::*,
};

const JSON_PATCH: &[(&str, &str)] = &[("content-type", "application/json-patch+json")];
const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
const STRATEGIC: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];
const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];
const YAML: &[(&str, &str)] = &[("content-type", "application/yaml")];

fn refusal(answer: &Answer) -> (u16, &str, &str) {
    let text = |name: &str| answer.body[name].as_str().unwrap_or_default();
    (answer.code, text("reason"), text("message"))
}

#[tokio::test]
async fn bodies_may_have_three_mebibytes() {
    let api = start().await;
    let mut body = br#"{"metadata":{"name":"wide"}}"#.to_vec();
    body.resize(3 << 20, b' ');
    assert_eq!(api.ask("POST", MAPS, JSON, Bytes::from(body.clone())).await.code, 201);
    body.push(b' ');
    let want = (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    for (method, path, headers) in
        [("POST", MAPS, JSON), ("PUT", ONE, JSON), ("PATCH", ONE, MERGE), ("PATCH", ONE, APPLY), ("DELETE", ONE, JSON)]
    {
        let path = format!("{path}?fieldManager=me");
        let refused = api.ask(method, &path, headers, Bytes::from(body.clone())).await;
        assert_eq!(refusal(&refused), want, "{method}");
    }
}

#[tokio::test]
async fn values_and_annotations_are_bounded() {
    let api = start().await;
    let mut map = config_map("big");
    map["metadata"]["annotations"] = json!({"a": "x".repeat((256 << 10) - 1)});
    assert_eq!(api.post(MAPS, map.clone()).await.code, 201, "the key counts as well");
    map["metadata"]["name"] = json!("big2");
    map["metadata"]["annotations"] = json!({"a": "x".repeat(256 << 10)});
    let refused = api.post(MAPS, map).await;
    let message = "ConfigMap \"big2\" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes";
    assert_eq!(refusal(&refused), (422, "Invalid", message));
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldValueTooLong");

    let mut map = config_map("full");
    map["data"]["k"] = json!("x".repeat((1 << 20) + 1));
    let message = "ConfigMap \"full\" is invalid: []: Too long: may not be more than 1048576 bytes";
    assert_eq!(refusal(&api.post(MAPS, map.clone()).await), (422, "Invalid", message));
    map["data"]["k"] = json!("x".repeat(1 << 20));
    assert_eq!(api.post(MAPS, map).await.code, 201);
}

#[tokio::test]
async fn json_patches_have_ten_thousand_operations_at_most() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    let operation = r#"{"op":"test","path":"/data/k","value":"v"}"#;
    let patch = |count: usize| Bytes::from(format!("[{}]", vec![operation; count].join(",")));
    assert_eq!(api.ask("PATCH", ONE, JSON_PATCH, patch(10_000)).await.code, 200);
    let message = "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    let refused = api.ask("PATCH", ONE, JSON_PATCH, patch(10_001)).await;
    assert_eq!(refusal(&refused), (413, "RequestEntityTooLarge", message));
    // Copies that double the object stop long before memory does.
    let doubling: Vec<Value> =
        (0..60).map(|at| json!({"op": "copy", "from": "/data", "path": format!("/data/k{at}")})).collect();
    let refused = api.patch(ONE, "json", Value::Array(doubling)).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{}", refused.body);
}

/// A body nested so deep that a recursive decoder would end the process.
fn nested(open: &str, close: &str, levels: usize) -> String {
    format!("{}{}", open.repeat(levels), close.repeat(levels))
}

#[tokio::test]
async fn deep_bodies_are_refused_in_every_format() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let (arrays, objects) = (nested("[", "]", 200_000), nested(r#"{"a":"#, "}", 0));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(200_000), objects + &"}".repeat(200_000));
    for deep in [&arrays, &objects] {
        let in_field = format!(r#"{{"metadata":{{"name":"deep"}},"data":{deep}}}"#);
        let in_operation = format!(r#"[{{"op":"add","path":"/data","value":{deep}}}]"#);
        let unknown = format!(r#"{{"unknown":{deep}}}"#);
        let deployment = format!("{DEPLOYMENTS}/d");
        for (method, path, headers, body) in [
            ("POST", MAPS, JSON, &in_field),
            ("POST", MAPS, YAML, &in_field),
            ("PUT", ONE, JSON, &in_field),
            ("PATCH", ONE, MERGE, &in_field),
            ("PATCH", ONE, JSON_PATCH, &in_operation),
            ("PATCH", &deployment, STRATEGIC, &unknown),
            ("PATCH", &format!("{ONE}?fieldManager=me"), APPLY, &in_field),
            ("DELETE", ONE, JSON, &unknown),
        ] {
            let refused = api.ask(method, path, headers, Bytes::from(body.clone())).await;
            assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")), "{method} {path}");
        }
    }
    assert_eq!(api.get(ONE).await.code, 200, "the server goes on");
}

#[tokio::test]
async fn broken_protobuf_is_refused() {
    let api = start().await;
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    let mut long = b"k8s\0".to_vec();
    // A length of 2^63 and nothing behind it; then groups within groups.
    long.extend([0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let groups = [b"k8s\0".as_slice(), &[0x0b; 4096]].concat();
    for body in [b"k8s\0".to_vec(), b"{}".to_vec(), vec![0; 64], long, groups] {
        let refused = api.ask("POST", MAPS, &headers, Bytes::from(body.clone())).await;
        assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")), "{body:?}");
    }
}

#[tokio::test]
async fn selectors_are_refused_in_the_parsers_words() {
    let api = start().await;
    let label = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    for (selector, message) in [
        ("a%20b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt".to_owned()),
        ("a%20in%20(b", "unable to parse requirement: found '', expected: ',' or ')'".to_owned()),
        ("%3Db", "unable to parse requirement: found '=', expected: !, identifier, or 'end of string'".to_owned()),
        ("a%3Db%3Dc", "unable to parse requirement: found '=', expected: ',' or 'end of string'".to_owned()),
        ("a%3Db,", "unable to parse requirement: found '', expected: identifier after ','".to_owned()),
        ("a%20in%20b", "unable to parse requirement: found 'b', expected: '('".to_owned()),
        ("-a", format!("unable to parse requirement: <nil>: Invalid value: \"-a\": name part {label} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")),
        ("a%3Dx%07", "unable to parse requirement: <nil>: Invalid value: \"x\\a\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')".to_owned()),
    ] {
        let refused = api.get(&format!("{MAPS}?labelSelector={selector}")).await;
        assert_eq!(refusal(&refused), (400, "BadRequest", message.as_str()), "{selector}");
    }
    let long = "x".repeat(64);
    let refused = api.get(&format!("{MAPS}?labelSelector=a%3D{long}")).await;
    let message =
        format!("unable to parse requirement: <nil>: Invalid value: \"{long}\": must be no more than 63 characters");
    assert_eq!(refusal(&refused), (400, "BadRequest", message.as_str()));
    // As long as a URL may be, and not slower for it.
    let many = format!("{MAPS}?labelSelector={}", vec!["a%3Db"; 3000].join(","));
    assert_eq!(api.get(&many).await.code, 200);
    for (selector, message) in [
        ("metadata.name%3Da,b", "invalid selector: 'metadata.name=a,b'; can't understand 'b'"),
        ("metadata.name%3Da%5Cx", "invalid field selector: invalid escape sequence: 'a\\x'"),
        ("spec.nodeName%3Dx", "field label not supported: spec.nodeName"),
    ] {
        let refused = api.get(&format!("{MAPS}?fieldSelector={selector}")).await;
        assert_eq!(refusal(&refused), (400, "BadRequest", message), "{selector}");
    }
}

#[tokio::test]
async fn continue_tokens_are_not_believed() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let api = start().await;
    for name in ["a", "b"] {
        api.post(MAPS, config_map(name)).await;
    }
    let token = |token: Value| URL_SAFE_NO_PAD.encode(token.to_string());
    let invalid = "invalid continue token: continue key is not valid";
    for (token, message) in [
        (
            token(json!({"v": "meta.k8s.io/v2", "rv": 5, "start": "n/a"})),
            format!("{invalid}: server does not recognize this encoded version meta.k8s.io/v2"),
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 0, "start": "n/a"})),
            format!("{invalid}: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 5, "start": ""})),
            format!("{invalid}: encoded start key empty (version meta.k8s.io/v1)"),
        ),
        (
            token(json!({"v": "meta.k8s.io/v1", "rv": 5, "start": "../secrets/n/a"})),
            format!("{invalid}: ../secrets/n/a"),
        ),
        (token(json!({"v": "meta.k8s.io/v1", "rv": 5, "start": "n//a"})), format!("{invalid}: n//a")),
    ] {
        let refused = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
        assert_eq!(refusal(&refused), (400, "BadRequest", message.as_str()), "{token}");
    }
    for text in ["x", "e30", "%2B%2F", "W10", "bnVsbA", "eHg"] {
        let refused = api.get(&format!("{MAPS}?continue={text}")).await;
        assert_eq!(refused.code, 400, "{text}");
        assert!(refused.body["message"].as_str().unwrap().starts_with(invalid), "{}", refused.body);
    }
    // A start outside of what is listed shows nothing of it.
    let other = token(json!({"v": "meta.k8s.io/v1", "rv": -1, "start": "zz/a"}));
    assert_eq!(api.get(&format!("{MAPS}?continue={other}")).await.body["items"], json!([]));
}

#[tokio::test]
async fn a_delete_body_must_be_delete_options() {
    let api = start().await;
    api.post(MAPS, config_map("one")).await;
    check(
        &api,
        vec![case(
            ("DELETE", ONE),
            JSON,
            r#"{"kind":"Pod","apiVersion":"v1"}"#,
            400,
            "BadRequest",
            "no kind \"Pod\" is registered for version \"v1\"",
        )],
    )
    .await;
    assert_eq!(api.get(ONE).await.code, 200);
    let options = r#"{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","unknown":1}"#;
    assert_eq!(api.ask("DELETE", ONE, JSON, Bytes::from(options)).await.code, 200);
}
