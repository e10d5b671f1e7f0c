//! JSON, YAML and protobuf of the same object are the same object.

use serde_json::{Value, json as value};
use skiff_api::{
    codec::{json, protobuf, yaml},
    schema::Root,
};

use crate::{kinds, random, rng, stored};

#[test]
fn objects_of_every_kind_survive_protobuf_bit_by_bit() {
    let mut rng = rng(1);
    for (row, root) in kinds() {
        for _ in 0..8 {
            let object = random::object(&mut rng, root, &row.api_version(), &row.kind);
            let bytes = protobuf::encode_object(&object).unwrap_or_else(|error| panic!("{row:?}: {error}"));
            let decoded = protobuf::decode_object(&bytes).unwrap();
            assert_eq!(protobuf::encode_object(&decoded).unwrap(), bytes, "{row:?}: encoding is not stable");
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

/// As a client that writes protobuf, reads JSON, and writes that back.
#[test]
fn what_was_written_in_protobuf_and_read_in_json_has_the_same_bytes_again() {
    let mut rng = rng(2);
    for (row, root) in kinds() {
        let sent = protobuf::encode_object(&stored(&mut rng, row, root)).unwrap();
        let mut kept = protobuf::decode_object(&sent).unwrap();
        json::canonicalize(root, &mut kept);
        let read = json::decode(Some(root), &serde_json::to_vec(&kept).unwrap()).unwrap();
        assert!(read.unknown.is_empty() && read.duplicate.is_empty(), "{row:?}: {:?}", read.unknown);
        let mut again = read.value;
        json::canonicalize(root, &mut again);
        assert_eq!(again, kept, "{row:?}");
        assert_eq!(protobuf::encode_object(&again).unwrap(), sent, "{row:?}");
    }
}

#[test]
fn yaml_reads_as_the_json_it_was_made_of() {
    let mut rng = rng(3);
    for (row, root) in kinds() {
        let object = stored(&mut rng, row, root);
        let text = yaml::encode(&object).unwrap();
        let mut read =
            yaml::decode(Some(root), text.as_bytes()).unwrap_or_else(|error| panic!("{row:?}: {error}")).value;
        json::canonicalize(root, &mut read);
        assert_eq!(read, object, "{row:?}");
    }
}

#[test]
fn lists_are_joined_from_the_messages_of_their_items() {
    let mut rng = rng(4);
    for (row, root) in kinds().filter(|(row, _)| row.is_stored()) {
        let items: Vec<Value> = (0..3).map(|_| stored(&mut rng, row, root)).collect();
        let envelopes: Vec<Vec<u8>> = items.iter().map(|item| protobuf::encode_object(item).unwrap()).collect();
        let messages = envelopes.iter().map(|envelope| protobuf::open(envelope).unwrap().raw);
        let meta = value!({"resourceVersion": "7", "continue": "c", "remainingItemCount": 2});
        let bytes = protobuf::encode_list(&row.api_version(), &row.list_kind, &meta, messages).unwrap();
        let list = protobuf::decode_object(&bytes).unwrap();
        assert_eq!((&list["kind"], &list["metadata"]), (&value!(row.list_kind), &meta), "{row:?}");
        for (item, mut have) in items.into_iter().zip(list["items"].as_array().unwrap().clone()) {
            json::canonicalize(root, &mut have);
            have["apiVersion"] = item["apiVersion"].clone();
            have["kind"] = item["kind"].clone();
            assert_eq!(have, item, "{row:?}");
        }
    }
}

#[test]
fn watch_frames_carry_envelopes_and_say_their_length() {
    let mut rng = rng(5);
    for (row, root) in kinds().filter(|(row, _)| row.is_stored()) {
        let object = protobuf::encode_object(&stored(&mut rng, row, root)).unwrap();
        let mut stream = protobuf::encode_watch_event("ADDED", &object);
        stream.extend(protobuf::encode_watch_event("DELETED", &object));
        for event in ["ADDED", "DELETED"] {
            let length = u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize;
            let frame: Vec<u8> = stream.drain(..4 + length).collect();
            assert_eq!(protobuf::decode_watch_event(&frame[4..]).unwrap(), (event, object.as_slice()), "{row:?}");
        }
        assert!(stream.is_empty());
    }
}

#[test]
fn metadata_alone_has_a_protobuf_form_for_every_kind() {
    let mut rng = rng(6);
    let partial =
        Root::for_kind(&skiff_api::GroupVersionKind::new("meta.k8s.io", "v1", "PartialObjectMetadata")).unwrap();
    for (row, root) in kinds().filter(|(row, _)| row.is_stored()) {
        let metadata = stored(&mut rng, row, root)["metadata"].take();
        let object = value!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        let mut read = protobuf::decode_object(&protobuf::encode_object(&object).unwrap()).unwrap();
        json::canonicalize(&partial, &mut read);
        assert_eq!(read, object, "{row:?}");
    }
}
