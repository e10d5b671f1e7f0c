//! Lists: selectors, pages, past versions, forms.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_api::Revision;
use skiff_apiserver::Backend;

use crate::harness::*;

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn filled() -> Harness {
    let api = start().await;
    for number in 0..7 {
        let label = if number % 2 == 0 { "even" } else { "odd" };
        assert_eq!(api.post(MAPS, labelled(&format!("m{number}"), label)).await.code, 201);
    }
    api
}

#[tokio::test]
async fn selectors_select() {
    let api = filled().await;
    assert_eq!(names(&api.get(&format!("{MAPS}?labelSelector=l%3Dodd")).await.body), ["m1", "m3", "m5"]);
    assert_eq!(names(&api.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm2")).await.body), ["m2"]);
    assert_eq!(api.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await.code, 400);
    assert_eq!(api.get(&format!("{MAPS}?labelSelector=a%20b")).await.code, 400);
    let all = api.get("/api/v1/configmaps").await.body;
    assert_eq!((all["kind"].as_str(), names(&all).len()), (Some("ConfigMapList"), 7));
    let none = api.get("/api/v1/namespaces/none/configmaps").await;
    assert_eq!((none.code, &none.body["items"]), (200, &json!([])));
}

#[tokio::test]
async fn pages_show_one_version_whatever_happens_meanwhile() {
    let api = filled().await;
    let first = api.get(&format!("{MAPS}?limit=3")).await.body;
    assert_eq!(names(&first), ["m0", "m1", "m2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    api.post(MAPS, config_map("m9")).await;
    api.delete(&format!("{MAPS}/m4"), json!(null)).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.body;
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = api.get(&format!("{MAPS}?limit=3&continue={token}")).await.body;
    assert_eq!(names(&third), ["m6"]);
    assert!(third["metadata"].get("continue").is_none() && third["metadata"].get("remainingItemCount").is_none());
}

#[tokio::test]
async fn a_compacted_page_expires_with_a_token_that_goes_on() {
    let api = filled().await;
    let first = api.get(&format!("{MAPS}?limit=3")).await.body;
    api.post(MAPS, config_map("m9")).await;
    let revision: Revision = api.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    api.backend.compact(revision).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = api.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")), "{}", expired.body);
    let token = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{MAPS}?continue={token}")).await.body;
    assert_eq!(names(&rest), ["m3", "m4", "m5", "m6", "m9"]);
}

#[tokio::test]
async fn versions_are_honoured() {
    let api = filled().await;
    let now = api.get(MAPS).await.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    api.post(MAPS, config_map("later")).await;
    assert_eq!(names(&api.get(MAPS).await.body).len(), 8, "reads see earlier writes");
    let exact = api.get(&format!("{MAPS}?resourceVersion={now}&resourceVersionMatch=Exact")).await.body;
    assert_eq!(names(&exact).len(), 7);
    let newer = api.get(&format!("{MAPS}?resourceVersion={now}")).await.body;
    assert_eq!(names(&newer).len(), 8);
    let future = api.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!((future.code, &future.body["reason"]), (504, &json!("Timeout")));
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(api.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.code, 422);
}

#[tokio::test]
async fn tables_have_columns_and_rows() {
    let api = filled().await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.ask("GET", MAPS, &accept, Bytes::new()).await.body;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"].as_array().unwrap().len(), 7);
    assert_eq!(table["rows"][0]["cells"][0], "m0");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let none = api.ask("GET", &format!("{MAPS}?includeObject=None"), &accept, Bytes::new()).await.body;
    assert!(none["rows"][0].get("object").is_none());
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let list = api.ask("GET", MAPS, &partial, Bytes::new()).await.body;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["items"][0].get("data").is_none());
}

#[tokio::test]
async fn items_of_built_in_kinds_leave_out_their_type() {
    let api = filled().await;
    let typed = |item: &Value| (item.get("kind").is_some(), item.get("apiVersion").is_some());
    for query in ["", "?limit=2", "?pretty=true", "?resourceVersion=0"] {
        let list = api.get(&format!("{MAPS}{query}")).await.body;
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")), "{query}");
        for item in list["items"].as_array().unwrap() {
            assert_eq!(typed(item), (false, false), "{query}: {item}");
        }
    }
    let yaml = api.ask("GET", MAPS, &[("accept", "application/yaml")], Bytes::new()).await.body;
    assert!(!yaml.as_str().unwrap().contains("kind: ConfigMap\n"), "{yaml}");
    // An object alone has its type, and so have the rows of a metadata list.
    assert_eq!(typed(&api.get(&format!("{MAPS}/m0")).await.body), (true, true));
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let list = api.ask("GET", MAPS, &partial, Bytes::new()).await.body;
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    // In another version than the stored one.
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "n", "kind": "X", "name": "x"},
        "message": "m", "reason": "r", "type": "Normal"});
    assert_eq!(api.post("/api/v1/namespaces/n/events", event).await.code, 201);
    let list = api.get("/apis/events.k8s.io/v1/namespaces/n/events").await.body;
    assert_eq!((typed(&list["items"][0]), &list["items"][0]["note"]), ((false, false), &json!("m")));
}

#[tokio::test]
async fn protobuf_goes_in_and_comes_out() {
    let api = start().await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    let body = skiff_api::codec::protobuf::encode_object(&config_map("p")).unwrap();
    let made = api.ask("POST", MAPS, &[("content-type", protobuf)], Bytes::from(body)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let request = http::Request::builder()
        .uri(MAPS)
        .header("accept", protobuf)
        .body(skiff_apiserver::body::full(Bytes::new()))
        .unwrap();
    let response = api.server.handle_as(request, admin()).await;
    assert_eq!(response.headers()["content-type"], protobuf);
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let list = skiff_api::codec::protobuf::decode_object(&bytes).unwrap();
    assert_eq!(names(&list), ["p"]);
}
