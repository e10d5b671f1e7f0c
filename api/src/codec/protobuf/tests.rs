//! Known bytes, and round trips of random objects of every kind.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, json};

use super::*;
use crate::{
    codec::json,
    schema::{Kind, MessageId, Scalar, Schema},
};

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
fn malformed_bytes_are_errors_not_panics() {
    let mut rng = StdRng::seed_from_u64(7);
    let pod = encode_object(&random_object(&mut rng, &root("v1", "Pod"), "v1", "Pod")).unwrap();
    for _ in 0..2000 {
        let mut bytes = pod.clone();
        for _ in 0..3 {
            let at = rng.random_range(4..bytes.len());
            bytes[at] = rng.random();
        }
        bytes.truncate(rng.random_range(4..=bytes.len()));
        let _ = decode_object(&bytes);
    }
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

#[test]
fn random_objects_of_every_kind_survive_the_wire() {
    let mut rng = StdRng::seed_from_u64(1);
    for row in crate::builtin() {
        let api_version = row.api_version();
        let Some(root) = &row.schema else { continue };
        for _ in 0..8 {
            let object = random_object(&mut rng, root, &api_version, &row.kind);
            let bytes = encode_object(&object).unwrap_or_else(|error| panic!("{row:?}: {error}"));
            let decoded = decode_object(&bytes).unwrap();
            assert_eq!(encode_object(&decoded).unwrap(), bytes, "{row:?}: encoding is not stable");
            let mut want = object.clone();
            assert_eq!(json::conform(root, &mut want).unwrap(), [""; 0], "{row:?}");
            json::minimize(root, &mut want);
            let mut have = decoded;
            json::minimize(root, &mut have);
            assert_eq!(have, want, "{row:?}");
            json::canonicalize(root, &mut have);
            let mut direct = object;
            json::canonicalize(root, &mut direct);
            assert_eq!(have, direct, "{row:?}: canonical forms differ");
        }
    }
}

/// An object with about half of its fields set, in canonical form.
fn random_object(rng: &mut StdRng, root: &Root, api_version: &str, kind: &str) -> Value {
    let mut fields = random_message(rng, &root.schema, root.id, 0);
    fields.insert("apiVersion".to_owned(), json!(api_version));
    fields.insert("kind".to_owned(), json!(kind));
    Value::Object(fields)
}

fn random_message(rng: &mut StdRng, schema: &Schema, id: MessageId, depth: usize) -> Map<String, Value> {
    let mut fields = Map::new();
    for field in schema.fields(id) {
        if rng.random_bool(if depth > 4 { 0.1 } else { 0.5 }) {
            fields.insert(field.json.to_string(), random_value(rng, schema, &field.kind, depth));
        }
    }
    fields
}

fn random_value(rng: &mut StdRng, schema: &Schema, kind: &Kind, depth: usize) -> Value {
    let count = rng.random_range(1..3);
    match kind {
        Kind::Message(id) if depth > 8 => {
            let _ = id;
            json!({})
        }
        Kind::Message(id) => Value::Object(random_message(rng, schema, *id, depth + 1)),
        Kind::List { element, .. } => {
            Value::Array((0..count).map(|_| random_value(rng, schema, element, depth + 1)).collect())
        }
        Kind::Map { value, .. } => {
            let entry = |at| format!("key{at}");
            Value::Object((0..count).map(|at| (entry(at), random_value(rng, schema, value, depth + 1))).collect())
        }
        Kind::Scalar(scalar) => random_scalar(rng, *scalar),
    }
}

fn random_scalar(rng: &mut StdRng, scalar: Scalar) -> Value {
    let number = rng.random_range(-1000..1000_i64);
    match scalar {
        Scalar::String => json!(format!("text{number}")),
        Scalar::Bool => json!(number > 0),
        Scalar::Int32 | Scalar::Int64 => json!(number),
        Scalar::Double => json!(0.5),
        Scalar::Bytes => json!("aGVsbG8="),
        Scalar::Quantity => json!(crate::Quantity::from_millis(number * 7 + 1).to_string()),
        Scalar::Time => json!("2024-05-06T07:08:09Z"),
        Scalar::MicroTime => json!("1969-12-31T23:59:58.123456Z"),
        Scalar::IntOrString if number > 0 => json!(number),
        Scalar::IntOrString => json!("50%"),
        Scalar::Duration => json!("1m30s"),
        Scalar::RawExtension | Scalar::FieldsV1 => json!({"f:x": {"a": [1, null]}}),
        Scalar::Json | Scalar::Any => json!([{"a": 1.5}]),
        Scalar::SchemaOrBool if number > 0 => json!(true),
        Scalar::SchemaOrArray if number > 0 => json!([{"type": "string"}]),
        Scalar::SchemaOrStringArray if number > 0 => json!(["a"]),
        Scalar::SchemaOrBool | Scalar::SchemaOrArray | Scalar::SchemaOrStringArray => json!({"type": "string"}),
    }
}
