//! Recorded facts: code, reason and text of refusals, word by word as upstream's.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// A request, and the code, reason and message of its refusal.
pub struct Case {
    request: (&'static str, &'static str),
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

pub fn case(
    request: (&'static str, &'static str),
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    code: u16,
    reason: &'static str,
    message: impl Into<String>,
) -> Case {
    Case { request, headers, body, code, reason, message: message.into() }
}

pub async fn check(api: &Harness, cases: Vec<Case>) {
    for Case { request: (method, path), headers, body, code, reason, message } in cases {
        let answer = api.ask(method, path, headers, Bytes::from(body)).await;
        let what = format!("{method} {path} {headers:?} {body}");
        assert_eq!((answer.code, &answer.body["reason"]), (code, &json!(reason)), "{what}: {}", answer.body);
        assert_eq!(answer.body["message"], message, "{what}");
        assert_eq!((&answer.body["kind"], &answer.body["status"]), (&json!("Status"), &json!("Failure")), "{what}");
        assert_eq!(answer.body["code"], code, "{what}");
    }
}

pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
pub const ONE: &str = "/api/v1/namespaces/n/configmaps/one";

#[tokio::test]
async fn media_types_are_refused_with_those_that_would_do() {
    let api = start().await;
    let not_acceptable = format!("only the following media types are accepted: {ACCEPTED}");
    let unsupported =
        format!("the body of the request was in an unknown format - accepted media types include: {ACCEPTED}");
    let patches = "the body of the request was in an unknown format - accepted media types include: \
                   application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                   application/apply-patch+yaml";
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table: &[(&str, &str)] =
        &[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    check(
        &api,
        vec![
            case(("GET", MAPS), &[("accept", "application/xml")], "", 406, "NotAcceptable", &not_acceptable),
            case(("GET", MAPS), &[("accept", "application/cbor")], "", 406, "NotAcceptable", &not_acceptable),
            case(
                ("GET", MAPS),
                &[("accept", "application/json;as=Nope;v=v1;g=meta.k8s.io")],
                "",
                406,
                "NotAcceptable",
                &not_acceptable,
            ),
            case(
                ("POST", review),
                table,
                r#"{"spec":{"resourceAttributes":{"verb":"get"}}}"#,
                406,
                "NotAcceptable",
                &not_acceptable,
            ),
            case(("POST", MAPS), &[("content-type", "text/plain")], "{}", 415, "UnsupportedMediaType", &unsupported),
            case(
                ("POST", MAPS),
                &[("content-type", "application/cbor")],
                "{}",
                415,
                "UnsupportedMediaType",
                &unsupported,
            ),
            case(("PATCH", ONE), JSON, "{}", 415, "UnsupportedMediaType", patches),
        ],
    )
    .await;
    // A later clause that can be met counts.
    let answer = api.ask("GET", MAPS, &[("accept", "application/xml, application/json;q=0.1")], Bytes::new()).await;
    assert_eq!(answer.code, 200);
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused_in_upstreams_words() {
    let api = start().await;
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input";
    check(
        &api,
        vec![
            case(("POST", MAPS), JSON, "{", 400, "BadRequest", format!("{unrecognized} ({{)")),
            case(("POST", MAPS), JSON, "", 400, "BadRequest", format!("{unrecognized} (<empty>)")),
            case(("POST", MAPS), JSON, r#"{"kind":"Secret","apiVersion":"v1"}"#, 400, "BadRequest",
                "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"),
            case(("POST", MAPS), JSON, r#"{"metadata":{"name":"x"},"data":{"a":1}}"#, 400, "BadRequest",
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
            case(("POST", MAPS), JSON, r#"{"metadata":{"name":"x","namespace":"other"}}"#, 400, "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request"),
            case(("POST", MAPS), JSON, r#"{"metadata":{"name":"x","resourceVersion":"5"}}"#, 400, "BadRequest",
                "resourceVersion should not be set on objects to be created"),
            case(("POST", MAPS), JSON, "{}", 422, "Invalid",
                "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"),
            case(("PUT", ONE), JSON, r#"{"metadata":{"name":"two"}}"#, 400, "BadRequest",
                "the name of the object (two) does not match the name on the URL (one)"),
        ],
    )
    .await;
}

#[tokio::test]
async fn options_are_refused_by_the_name_of_their_kind() {
    let api = start().await;
    let map = r#"{"metadata":{"name":"one"}}"#;
    api.post(MAPS, json!({"metadata": {"name": "one"}})).await;
    const MERGE: &[(&str, &str)] = &[("content-type", "application/merge-patch+json")];
    const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];
    check(
        &api,
        vec![
            case(("POST", "/api/v1/namespaces/n/configmaps?dryRun=Some"), JSON, map, 422, "Invalid",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""),
            case(("PUT", "/api/v1/namespaces/n/configmaps/one?fieldValidation=Loose"), JSON, map, 422, "Invalid",
                "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Loose\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
            case(("PATCH", "/api/v1/namespaces/n/configmaps/one?force=true"), MERGE, "{}", 422, "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"),
            case(("PATCH", ONE), APPLY, map, 422, "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"),
            case(("DELETE", ONE), JSON, r#"{"propagationPolicy":"Odd"}"#, 422, "Invalid",
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Odd\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""),
            case(("DELETE", ONE), JSON, r#"{"propagationPolicy":"Orphan","orphanDependents":true}"#, 422, "Invalid",
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set"),
            case(("GET", "/api/v1/namespaces/n/configmaps?limit=x"), &[], "", 400, "BadRequest",
                "strconv.ParseInt: parsing \"x\": invalid syntax"),
            case(("GET", "/api/v1/namespaces/n/configmaps?fieldSelector=a=b"), &[], "", 400, "BadRequest",
                "field label not supported: a"),
            case(("GET", "/api/v1/namespaces/n/configmaps?fieldSelector=a"), &[], "", 400, "BadRequest",
                "invalid selector: 'a'; can't understand 'a'"),
            case(("GET", "/api/v1/namespaces/n/configmaps?resourceVersionMatch=Exact"), &[], "", 422, "Invalid",
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
            case(("GET", "/api/v1/namespaces/n/configmaps?watch=1&sendInitialEvents=true"), &[], "", 422, "Invalid",
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ],
    )
    .await;
}

#[tokio::test]
async fn conflicts_and_failed_patches_tell_no_more_than_upstream() {
    let api = start().await;
    let one = api.post(MAPS, json!({"metadata": {"name": "one"}})).await.body;
    let uid = one["metadata"]["uid"].as_str().unwrap();
    const PATCH: &[(&str, &str)] = &[("content-type", "application/json-patch+json")];
    check(
        &api,
        vec![
            case(("POST", MAPS), JSON, r#"{"metadata":{"name":"one"}}"#, 409, "AlreadyExists", "configmaps \"one\" already exists"),
            case(("PUT", ONE), JSON, r#"{"metadata":{"name":"one","resourceVersion":"1"}}"#, 409, "Conflict",
                "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"),
            case(("PUT", ONE), JSON, r#"{"metadata":{"name":"one","uid":"other"}}"#, 409, "Conflict", format!(
                "Operation cannot be fulfilled on configmaps \"one\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/n/one, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other, UID in object meta: {uid}")),
            case(("DELETE", ONE), JSON, r#"{"preconditions":{"uid":"other"}}"#, 409, "Conflict", format!(
                "Operation cannot be fulfilled on configmaps \"one\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated")),
            case(("PATCH", ONE), PATCH, r#"[{"op":"test","path":"/data/a","value":1}]"#, 422, "Invalid",
                "the server rejected our request due to an error in our request"),
            case(("GET", "/api/v1/namespaces/n/configmaps/two"), &[], "", 404, "NotFound", "configmaps \"two\" not found"),
            case(("GET", "/apis/apps/v1/nosuch"), &[], "", 404, "NotFound", "the server could not find the requested resource"),
            case(("PUT", MAPS), JSON, "{}", 405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
        ],
    )
    .await;
    let far = api.get("/api/v1/namespaces/n/configmaps?resourceVersion=99999999").await;
    assert_eq!((far.code, &far.body["reason"]), (504, &json!("Timeout")));
    let text = far.body["message"].as_str().unwrap();
    assert!(text.starts_with("Timeout: Too large resource version: 99999999, current: "), "{text}");
    assert_eq!(far.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(far.body["details"]["retryAfterSeconds"], 1);
    let gone = api.delete(ONE, json!({})).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(gone.body["details"], json!({"name": "one", "kind": "configmaps", "uid": uid}));
    assert_eq!(gone.body.get("code"), None::<&Value>, "a deletion says no code");
}
