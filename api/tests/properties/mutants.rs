//! Mutated bodies: every decoder answers with a value or an error, in bounded
//! time and depth, and what it accepts it can write again.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use skiff_api::{
    FieldSelector, GroupVersionKind, Quantity, Selector, apply,
    codec::{json, protobuf, yaml},
    json_path::JsonPath,
    patch::{json_patch, merge, strategic},
    schema::Root,
};

use crate::{kinds, random, rng, stored};

/// No single body may take longer, even on a slow machine without optimisation.
const BODY_LIMIT: Duration = Duration::from_secs(5);

fn root(kind: &'static str) -> Root {
    Root::for_kind(&GroupVersionKind::new("", "v1", kind)).unwrap()
}

/// Changes, inserts, removes, repeats and cuts bytes.
fn mutate(rng: &mut StdRng, bytes: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => {
                let word = words.choose(rng).copied().unwrap_or(b"\0");
                bytes.splice(at..at, word.iter().copied());
            }
            2 if at < bytes.len() => {
                let end = (at + rng.random_range(1..20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 if at < bytes.len() => {
                let end = (at + rng.random_range(1..40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, part);
            }
            4 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn in_time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    assert!(begun.elapsed() < BODY_LIMIT, "{what} took {:?}", begun.elapsed());
    result
}

const JSON_WORDS: [&[u8]; 12] =
    [b"{", b"}", b"[", b"]", b"\"", b",", b":null", b"1e999", b"-0", b"\\ud800", b"{\"a\":", b"99999999999999999999"];

#[test]
fn mutated_json_is_decoded_or_refused() {
    let mut rng = rng(21);
    let mut accepted = 0;
    for (row, root) in kinds() {
        let object = random::object(&mut rng, root, &row.api_version(), &row.kind);
        let good = serde_json::to_vec(&object).unwrap();
        for _ in 0..12 {
            let bytes = mutate(&mut rng, &good, &JSON_WORDS);
            let Ok(decoded) = in_time("json", || json::decode(Some(root), &bytes)) else { continue };
            accepted += 1;
            let mut value = decoded.value;
            json::canonicalize(root, &mut value);
            if row.is_stored() {
                value["apiVersion"] = row.api_version().into();
                value["kind"] = serde_json::Value::from(&*row.kind);
                let _ = protobuf::encode_object(&value);
            }
        }
    }
    assert!(accepted > 10, "mutants must reach the depths: {accepted}");
}

const YAML_WORDS: [&[u8]; 12] =
    [b"\n", b"  ", b"- ", b": ", b"&a ", b"*a", b"|\n", b"---\n", b"? ", b"!!binary ", b"{", b"<<: *a\n"];

#[test]
fn mutated_yaml_is_decoded_or_refused() {
    let mut rng = rng(22);
    let pod = root("Pod");
    let good = yaml::encode(&random::object(&mut rng, &pod, "v1", "Pod")).unwrap();
    for _ in 0..300 {
        let bytes = mutate(&mut rng, good.as_bytes(), &YAML_WORDS);
        let _ = in_time("yaml", || yaml::decode(Some(&pod), &bytes));
    }
}

/// Aliases of aliases would grow without end.
#[test]
fn yaml_that_multiplies_itself_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = level - 1;
        let items = vec![format!("*a{before}"); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert!(in_time("aliases", || yaml::parse(text.as_bytes())).is_err());
}

#[test]
fn nesting_without_end_is_refused_in_every_format() {
    let pod = root("Pod");
    for depth in [500, 100_000] {
        let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for text in [&lists, &objects, &lists[..depth].to_owned()] {
            assert!(in_time("json", || json::decode(Some(&pod), text.as_bytes())).is_err());
            assert!(in_time("yaml", || yaml::decode(Some(&pod), text.as_bytes())).is_err());
            assert!(in_time("patch", || json_patch::apply(serde_json::json!({}), text.as_bytes())).is_err());
        }
    }
}

#[test]
fn mutated_protobuf_is_decoded_or_refused() {
    let mut rng = rng(23);
    for (row, root) in kinds() {
        let good = protobuf::encode_object(&random::object(&mut rng, root, &row.api_version(), &row.kind)).unwrap();
        for _ in 0..30 {
            let bytes = mutate(&mut rng, &good, &[b"\0", b"\xff\xff\xff\xff\x0f", b"k8s\0", b"\x0a\x7f"]);
            if let Ok(mut value) = in_time("protobuf", || protobuf::decode_object(&bytes)) {
                let gvk = GroupVersionKind::parse(
                    value["apiVersion"].as_str().unwrap_or_default(),
                    value["kind"].as_str().unwrap_or_default(),
                );
                if let Some(root) = Root::for_kind(&gvk) {
                    json::canonicalize(&root, &mut value);
                }
            }
            let _ = protobuf::decode_watch_event(&bytes);
        }
    }
}

#[test]
fn mutated_patches_are_applied_or_refused() {
    let mut rng = rng(24);
    let operations = br#"[{"op":"add","path":"/spec/a~1b/0","value":{"x":[1,2]}},{"op":"copy","from":"/spec","path":"/spec/copy"},
        {"op":"move","from":"/metadata/labels","path":"/x"},{"op":"test","path":"","value":null},{"op":"remove","path":"/spec/containers/-1"}]"#;
    let strategic_words: [&[u8]; 6] = [
        b"\"$patch\":\"delete\",",
        b"\"$retainKeys\":[\"a\"],",
        b"\"$setElementOrder/containers\":[{\"name\":1}],",
        b"\"$deleteFromPrimitiveList/finalizers\":[null],",
        b"null",
        b"[{}]",
    ];
    let pod = root("Pod");
    for _ in 0..200 {
        let object = random::object(&mut rng, &pod, "v1", "Pod");
        let bytes = mutate(&mut rng, operations, &JSON_WORDS);
        let _ = in_time("json patch", || json_patch::apply(object.clone(), &bytes));
        let text = serde_json::to_vec(&random::object(&mut rng, &pod, "v1", "Pod")).unwrap();
        let bytes = mutate(&mut rng, &text, &strategic_words);
        if let Ok(patch) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            let _ = in_time("strategic", || strategic::apply(&pod, object.clone(), patch.clone()));
            in_time("merge", || merge::apply(object.clone(), patch.clone()));
            let write = apply::Write {
                root: Some(&pod),
                api_version: "v1",
                manager: "m",
                subresource: "",
                now: jiff::Timestamp::UNIX_EPOCH,
                reset: &[],
            };
            let _ = in_time("apply", || apply::apply_patch(&write, Some(&object), &patch, true));
        }
    }
}

/// Field sets come from the network too: in `managedFields` of an update.
#[test]
fn mutated_field_sets_are_read_or_ignored() {
    let mut rng = rng(25);
    let map = root("ConfigMap");
    let fields =
        br#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:data":{"k:{\"name\":\"x\"}":{".":{}},"v:1":{},"i:0":{}}}"#;
    for _ in 0..300 {
        let bytes = mutate(&mut rng, fields, &JSON_WORDS);
        let Ok(fields) = serde_json::from_slice::<serde_json::Value>(&bytes) else { continue };
        let entry = serde_json::json!({"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields});
        let live = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "x", "managedFields": [entry]}, "data": {"a": "b"}});
        let config = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
        let write = apply::Write {
            root: Some(&map),
            api_version: "v1",
            manager: "m",
            subresource: "",
            now: jiff::Timestamp::UNIX_EPOCH,
            reset: &[],
        };
        let _ = in_time("apply", || apply::apply_patch(&write, Some(&live), &config, true));
    }
}

#[test]
fn mutated_selectors_paths_and_quantities_are_read_or_refused() {
    let mut rng = rng(26);
    let good: [&[u8]; 6] = [
        b"a=b,c!=d,e in (f,g),h notin (i),!j,k.l/m",
        b"spec.nodeName=a,status.phase!=Failed,metadata.name=x\\,y",
        b"{.spec.containers[0].name}",
        b".items[?(@.a=='b')].c",
        b"1.5Gi",
        b"-12e-3",
    ];
    for round in 0..3000 {
        let bytes = mutate(&mut rng, good[round % good.len()], &[b"(", b")", b",", b"=", b"\\", b"[", b"9999999999"]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        in_time("selector", || {
            if let Ok(selector) = Selector::from_str(&text) {
                let again = Selector::from_str(&selector.to_string()).expect("a selector reads its own text");
                assert_eq!(again.to_string(), selector.to_string());
            }
            let _ = FieldSelector::from_str(&text);
            if let Ok(path) = JsonPath::parse(&text) {
                path.select(&serde_json::json!({"items": [{"a": "b"}], "spec": {"containers": [{"name": "x"}]}}));
            }
            if let Ok(quantity) = Quantity::from_str(&text) {
                let shown = quantity.to_string();
                assert_eq!(Quantity::from_str(&shown).expect("a quantity reads its own text").to_string(), shown);
            }
        });
    }
}

#[test]
fn stored_forms_never_grow_when_read_again() {
    let mut rng = rng(27);
    for (row, root) in kinds() {
        let object = stored(&mut rng, row, root);
        let text = serde_json::to_vec(&object).unwrap();
        let mut read = json::decode(Some(root), &text).unwrap().value;
        json::canonicalize(root, &mut read);
        assert_eq!(serde_json::to_vec(&read).unwrap(), text, "{row:?}");
    }
}
