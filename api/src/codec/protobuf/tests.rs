//! Known bytes. Round trips of random objects of every kind are in `tests/properties`.

use serde_json::json;

use super::*;
use crate::schema::Schema;

fn root(api_version: &str, kind: &str) -> Root {
    Root::for_kind(&GroupVersionKind::parse(api_version, kind)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_empty_lease_has_the_bytes_of_generated_code() {
    // metadata: eight empty or zero fields, then an empty creationTimestamp; spec: no non-pointer field.
    let meta = "0a0012001a0022002a00320038004200";
    let bytes = encode_message(&root("coordination.k8s.io/v1", "Lease"), &json!({})).unwrap();
    assert_eq!(hex(&bytes), format!("0a10{meta}1200"));
}

#[test]
fn envelopes_are_those_of_stored_objects() {
    let bytes = seal("v1", "Pod", b"x");
    assert_eq!(hex(&bytes), format!("6b387300{}", "0a090a0276311203506f64120178".to_owned() + "1a002200"));
    let envelope = open(&bytes).unwrap();
    assert_eq!((envelope.api_version, envelope.kind, envelope.raw), ("v1", "Pod", b"x".as_slice()));
    assert_eq!(open(b"{}"), Err(ProtobufError::NotEnveloped));
}

#[test]
fn special_scalars_have_their_wire_forms() {
    let bytes = |api, kind, value| hex(&encode_message(&root(api, kind), &value).unwrap());
    let service = bytes("v1", "Service", json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}));
    // name "", protocol "", port 80, targetPort {1: string, 2: 0, 3: "web"}, nodePort 0
    assert!(
        service.contains("0a001200185022090801100") && service.contains("1a03776562") && service.contains("2800"),
        "{service}"
    );
    let lease = bytes("coordination.k8s.io/v1", "Lease", json!({"spec": {"renewTime": "1970-01-01T00:00:01.000002Z"}}));
    assert!(lease.ends_with("12072205080110d00f"), "{lease}");
    let secret = bytes("v1", "Secret", json!({"data": {"b": "AQ==", "a": ""}, "type": "t"}));
    assert!(
        secret.ends_with("12050a016112001206".to_owned().as_str()) || secret.contains("12050a01611200"),
        "{secret}"
    );
    let node = bytes("v1", "Node", json!({"status": {"capacity": {"cpu": "2"}}}));
    assert!(node.contains("0a0a0a0363707512030a0132"), "{node}");
}

#[test]
fn negative_integers_are_sign_extended() {
    let class = root("scheduling.k8s.io/v1", "PriorityClass");
    let bytes = encode_message(&class, &json!({"value": -1})).unwrap();
    assert!(hex(&bytes).contains("10ffffffffffffffffff01"));
    assert_eq!(decode_message(&class, &bytes).unwrap()["value"], -1);
}

#[test]
fn inline_structures_are_nested_on_the_wire_and_flat_in_json() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {
        "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": "http", "path": "/x"}, "periodSeconds": 5},
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": [{"configMap": {"name": "m"}}]}}]}});
    assert_eq!(decode_object(&encode_object(&pod).unwrap()).unwrap(), pod);
}

#[test]
fn a_pointer_to_zero_survives_and_a_plain_zero_is_absent() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0, "paused": false}});
    let decoded = decode_object(&encode_object(&deployment).unwrap()).unwrap();
    assert_eq!(decoded["spec"], json!({"replicas": 0}));
}

#[test]
fn lists_join_encoded_items() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let item = encode_message(&root("v1", "Pod"), &pod).unwrap();
    let items = [item.as_slice(), item.as_slice()];
    let list = encode_list("v1", "PodList", &json!({"resourceVersion": "5"}), items.into_iter()).unwrap();
    let value = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "a"}}]});
    assert_eq!(decode_object(&list).unwrap(), value);
    assert_eq!(encode_object(&value).unwrap(), list);
}

#[test]
fn watch_frames_carry_an_enveloped_object() {
    let object = encode_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})).unwrap();
    let frame = encode_watch_event("ADDED", &object);
    let (length, message) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, message.len());
    let (event_type, inner) = decode_watch_event(message).unwrap();
    assert_eq!((event_type, inner), ("ADDED", object.as_slice()));
}

#[test]
fn options_statuses_and_partial_metadata_are_known_everywhere() {
    for value in [
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}),
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "details": {"name": "x", "causes": [{"field": "f"}]}}),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a", "labels": {"x": "y"}}}),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": [{"metadata": {"name": "a"}}]}),
        json!({"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "pods", "verbs": ["get"]}]}),
    ] {
        assert_eq!(decode_object(&encode_object(&value).unwrap()).unwrap(), value);
    }
    let table = json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table", "rows": []});
    assert!(matches!(encode_object(&table), Err(ProtobufError::NoWireForm(_))));
}

#[test]
fn nesting_without_end_is_an_error() {
    let deep = (0..500).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut writer = Writer::with_capacity(inner.len() + 8);
        writer.bytes(24, &{
            let mut or_array = Writer::with_capacity(inner.len() + 8);
            or_array.bytes(1, &inner);
            or_array.finish()
        });
        writer.finish()
    });
    let nested = (0..500).fold(b"{}".to_vec(), |inner, _| {
        let mut extension = Writer::with_capacity(inner.len() + 8);
        extension.bytes(1, &inner);
        let mut revision = Writer::with_capacity(inner.len() + 16);
        revision.bytes(2, &extension.finish());
        seal("apps/v1", "ControllerRevision", &revision.finish())
    });
    assert_eq!(decode_object(&nested), Err(ProtobufError::Malformed("exceeded max depth")));
    let schema = Schema::builtin();
    let props = Root { schema: schema.clone(), id: schema.json_schema().unwrap() };
    assert_eq!(decode_message(&props, &deep), Err(ProtobufError::Malformed("exceeded max depth")));
}
