//! Forms of bodies and answers beside plain JSON, and what HTTP says of them.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_api::codec::protobuf;

use crate::{
    errors::{case, check},
    harness::*,
};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const THINGS: &str = "/apis/e.io/v1/namespaces/n/things";

/// Answer bytes with their content type.
async fn raw(api: &Harness, path: &str, accept: &str) -> (u16, String, Bytes) {
    let request = http::Request::builder().uri(path).header("accept", accept);
    let request = request.body(skiff_apiserver::body::full(Bytes::new())).unwrap();
    let response = api.server.handle_as(request, admin()).await;
    let content_type = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    let code = response.status().as_u16();
    (code, content_type, http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes())
}

/// A server with a custom resource that has an object `t`.
async fn with_things() -> Harness {
    let api = start().await;
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.e.io"},
        "spec": {"group": "e.io", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut watch = api.watch(&format!("{definitions}?watch=1"), "application/json").await;
    assert_eq!(api.post(definitions, definition).await.code, 201);
    loop {
        let event = watch.next().await.unwrap();
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True") {
            break;
        }
    }
    let thing = json!({"apiVersion": "e.io/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"a": "x"}});
    let made = api.post(THINGS, thing).await;
    assert_eq!(made.code, 201, "{}", made.body);
    api
}

#[tokio::test]
async fn custom_resources_have_protobuf_for_metadata_only() {
    let api = with_things().await;
    let all = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let (code, _, bytes) = raw(&api, &format!("{THINGS}/t"), PROTOBUF).await;
    assert_eq!(code, 406);
    let status = protobuf::decode_object(&bytes).unwrap_or_else(|_| serde_json::from_slice(&bytes).unwrap());
    assert_eq!((&status["reason"], &status["message"]), (&json!("NotAcceptable"), &json!(all)));
    let (code, content_type, _) = raw(&api, &format!("{THINGS}/t"), &format!("{PROTOBUF},application/json")).await;
    assert_eq!((code, content_type.as_str()), (200, "application/json"), "the next clause counts");
    let accept = format!("{PROTOBUF};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json");
    let (code, content_type, bytes) = raw(&api, THINGS, &accept).await;
    assert_eq!((code, content_type.as_str()), (200, PROTOBUF));
    let list = protobuf::decode_object(&bytes).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("t"))
    );
    check(
        &api,
        vec![
            case(("GET", THINGS), &[("accept", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io")], "", 406,
                "NotAcceptable", all),
            case(("PATCH", "/apis/e.io/v1/namespaces/n/things/t"), &[("content-type", "application/strategic-merge-patch+json")],
                "{}", 415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"),
        ],
    )
    .await;
    let refused = api.ask("POST", THINGS, &[("content-type", PROTOBUF)], Bytes::from_static(b"k8s\0\x12\0")).await;
    assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")));
}

#[tokio::test]
async fn watches_have_types_of_their_own() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let streams = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    let (code, _, bytes) = raw(&api, &format!("{MAPS}?watch=1"), "application/yaml").await;
    assert_eq!(code, 406);
    assert!(String::from_utf8_lossy(&bytes).contains(streams), "{bytes:?}");
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    for accept in [PROTOBUF.to_owned(), format!("{PROTOBUF};stream=watch")] {
        let (code, content_type, bytes) = raw(&api, &path, &accept).await;
        assert_eq!((code, content_type.as_str()), (200, "application/vnd.kubernetes.protobuf;stream=watch"));
        let len = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), len + 4, "one frame");
    }
    let request = http::Request::builder().uri(&path).header("accept-encoding", "gzip");
    let request = request.body(skiff_apiserver::body::full(Bytes::new())).unwrap();
    let response = api.server.handle_as(request, admin()).await;
    assert!(!response.headers().contains_key("content-encoding"), "events are never held back to be compressed");
}

#[tokio::test]
async fn accepted_types_are_weighed_and_wildcards_mean_json() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    for (accept, want) in [
        ("application/json;q=0.1, application/yaml;q=0.9", "application/yaml"),
        ("text/html,*/*;q=0.1", "application/json"),
        ("application/*", "application/json"),
        ("", "application/json"),
        ("application/xml,application/yaml", "application/yaml"),
        (PROTOBUF, PROTOBUF),
    ] {
        let (code, content_type, _) = raw(&api, &path, accept).await;
        assert_eq!((code, content_type.as_str()), (200, want), "{accept}");
    }
    // Errors come in the negotiated form as well.
    let (code, _, bytes) = raw(&api, &format!("{MAPS}/none"), PROTOBUF).await;
    let status = protobuf::decode_object(&bytes).unwrap();
    assert_eq!(
        (code, &status["reason"], &status["message"]),
        (404, &json!("NotFound"), &json!("configmaps \"none\" not found"))
    );
    let yaml = api.ask("GET", &format!("{MAPS}/none"), &[("accept", "application/yaml")], Bytes::new()).await;
    assert!(yaml.body.as_str().unwrap().contains("\nreason: NotFound\n"), "{}", yaml.body);
}

#[tokio::test]
async fn rows_of_tables_hold_what_was_asked_for() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    api.post(MAPS, config_map("b")).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let row = async |include: &str| {
        let table = api.ask("GET", &format!("{MAPS}/a{include}"), &accept, Bytes::new()).await.body;
        table["rows"][0]["object"]["kind"].clone()
    };
    assert_eq!(row("?includeObject=None").await, Value::Null);
    assert_eq!(row("?includeObject=Metadata").await, "PartialObjectMetadata");
    assert_eq!(row("?includeObject=Object").await, "ConfigMap");
    assert_eq!(row("").await, "PartialObjectMetadata");
    let odd = api.ask("GET", &format!("{MAPS}/a?includeObject=Odd"), &accept, Bytes::new()).await;
    assert_eq!((odd.code, &odd.body["message"]), (400, &json!("unrecognized includeObject value: \"Odd\"")));
    let page = api.ask("GET", &format!("{MAPS}?limit=1"), &accept, Bytes::new()).await.body;
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    assert!(page["metadata"]["continue"].is_string() && page["metadata"]["resourceVersion"].is_string());
}

#[tokio::test]
async fn one_yaml_document_is_read() {
    let api = start().await;
    let two = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n---\nkind: ConfigMap\nmetadata: {name: second}\n";
    let made = api.ask("POST", MAPS, &[("content-type", "application/yaml")], Bytes::from(two)).await;
    assert_eq!((made.code, &made.body["metadata"]["name"]), (201, &json!("first")), "{}", made.body);
    assert_eq!(api.get(&format!("{MAPS}/second")).await.code, 404);
    let none = api.ask("POST", MAPS, &[], Bytes::from(config_map("untyped").to_string())).await;
    assert_eq!(none.code, 201, "a body without type is JSON");
}

#[tokio::test]
async fn headers_name_the_form_and_the_request() {
    let api = start().await;
    api.post(MAPS, config_map("a")).await;
    let found = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(found.headers["audit-id"].len(), 36);
    assert_eq!(found.headers["content-type"], "application/json");
    let given = api.ask("GET", &format!("{MAPS}/a"), &[("audit-id", "mine")], Bytes::new()).await;
    assert_eq!(given.headers["audit-id"], "mine");
    let head = api.ask("HEAD", &format!("{MAPS}/a"), &[], Bytes::new()).await;
    assert_eq!((head.code, head.headers["content-type"].to_str().unwrap()), (200, "application/json"));
    assert_eq!(api.ask("HEAD", &format!("{MAPS}/none"), &[], Bytes::new()).await.code, 404);
    assert_eq!(api.ask("OPTIONS", MAPS, &[], Bytes::new()).await.code, 405);
    for agent in ["curl/8.5", "Wget/1.21", "Mozilla/5.0 (X11)"] {
        let request = http::Request::builder().uri(format!("{MAPS}/a")).header("user-agent", agent);
        let request = request.body(skiff_apiserver::body::full(Bytes::new())).unwrap();
        let response = api.server.handle_as(request, admin()).await;
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert!(bytes.starts_with(b"{\n  \""), "{agent} is read by people");
    }
}

#[tokio::test]
async fn deprecated_kinds_say_so_with_every_answer() {
    let api = start().await;
    let endpoints = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    let path = "/api/v1/namespaces/n/endpoints";
    let made = api.post(path, json!({"metadata": {"name": "e"}})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    for (answer, text) in [
        (made, endpoints),
        (api.get(path).await, endpoints),
        (api.get(&format!("{path}/none")).await, endpoints),
        (api.get("/api/v1/componentstatuses").await, "v1 ComponentStatus is deprecated in v1.19+"),
    ] {
        let warnings: Vec<_> = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(warnings, [format!("299 - \"{text}\"")]);
    }
    assert!(!api.get(MAPS).await.headers.contains_key("warning"));
}

#[tokio::test]
async fn scale_has_a_table_and_metadata_of_its_own() {
    let api = start().await;
    api.post(DEPLOYMENTS, deployment("d")).await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    let as_kind = async |kind: &str| {
        let accept = format!("application/json;as={kind};v=v1;g=meta.k8s.io");
        api.ask("GET", &path, &[("accept", &accept)], Bytes::new()).await.body
    };
    let table = as_kind("Table").await;
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].clone()).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    let row = &table["rows"][0];
    assert_eq!((&row["cells"][0], &row["cells"][1], &row["cells"][2]), (&json!("d"), &json!(2), &json!(0)));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let metadata = as_kind("PartialObjectMetadata").await;
    assert_eq!((&metadata["kind"], &metadata["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("d")));
    assert_eq!(metadata.get("spec"), None);
}
