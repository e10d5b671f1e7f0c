//! Laws of patches and of server-side apply, over random objects of every kind.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_api::{
    Resource, apply,
    codec::json as codec,
    patch::{merge, strategic},
    schema::Root,
};

use crate::{kinds, random, rng, stored};

/// What a user would apply: no status, no system metadata.
fn configuration(root: &Root, object: &Value) -> Value {
    let mut config = object.clone();
    codec::minimize(root, &mut config);
    config = without_nulls(&config);
    let fields = config.as_object_mut().unwrap();
    fields.remove("status");
    fields.insert("metadata".to_owned(), json!({"name": "x", "labels": {"a": "b"}}));
    config
}

fn write<'a>(root: &'a Root, api_version: &'a str, manager: &'a str) -> apply::Write<'a> {
    let now = Timestamp::UNIX_EPOCH;
    apply::Write { root: Some(root), api_version, manager, subresource: "", now, reset: &["status"] }
}

/// Kinds that can be applied.
fn applied() -> impl Iterator<Item = (&'static Resource, &'static Root)> {
    kinds().filter(|(row, _)| row.is_stored())
}

/// Whether all of a configuration is in an object, but for zeros that say nothing.
fn holds(root: &Root, object: &Value, config: &Value) -> bool {
    let minimal = |value: &Value| {
        let mut value = value.clone();
        codec::minimize(root, &mut value);
        value
    };
    covers(&minimal(object), &minimal(config))
}

/// Whether every field of `part` is in `whole`; lists of objects may have grown.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).map_or(value.is_null(), |have| covers(have, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|item| whole.iter().any(|have| covers(have, item)))
        }
        (whole, part) => whole == part,
    }
}

#[test]
fn applying_twice_is_applying_once() {
    let mut rng = rng(11);
    for (row, root) in applied() {
        let version = row.api_version();
        let config = configuration(root, &stored(&mut rng, row, root));
        let write = write(root, &version, "me");
        let Ok(once) = apply::apply_patch(&write, None, &config, false) else { continue };
        assert!(holds(root, &once, &config), "{row:?}: what was applied is there");
        let twice = apply::apply_patch(&write, Some(&once), &config, false).unwrap();
        assert_eq!(twice, once, "{row:?}");
    }
}

#[test]
fn what_two_managers_apply_alike_is_owned_by_both_and_conflicts_with_neither() {
    let mut rng = rng(12);
    for (row, root) in applied() {
        let version = row.api_version();
        let config = configuration(root, &stored(&mut rng, row, root));
        let Ok(first) = apply::apply_patch(&write(root, &version, "one"), None, &config, false) else { continue };
        let second = apply::apply_patch(&write(root, &version, "two"), Some(&first), &config, false).unwrap();
        let entries = second["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{row:?}");
        assert_eq!(entries[0]["fieldsV1"], entries[1]["fieldsV1"], "{row:?}");
        // One leaves: nothing is lost, for the other still wants it.
        let bare = json!({"apiVersion": version, "kind": row.kind, "metadata": {"name": "x"}});
        let left = apply::apply_patch(&write(root, &version, "one"), Some(&second), &bare, false).unwrap();
        assert!(holds(root, &left, &config), "{row:?}\n{left}\n{config}");
        // Both leave: what they brought is gone.
        let gone = apply::apply_patch(&write(root, &version, "two"), Some(&left), &bare, false).unwrap();
        assert_eq!(gone["metadata"]["labels"], Value::Null, "{row:?}: {gone}");
    }
}

#[test]
fn force_takes_what_conflicts_and_then_nothing_conflicts() {
    let mut rng = rng(13);
    for (row, root) in applied() {
        let version = row.api_version();
        let (one, two) = (stored(&mut rng, row, root), stored(&mut rng, row, root));
        let (one, two) = (configuration(root, &one), configuration(root, &two));
        let Ok(live) = apply::apply_patch(&write(root, &version, "one"), None, &one, false) else { continue };
        let Ok(taken) = apply::apply_patch(&write(root, &version, "two"), Some(&live), &two, true) else { continue };
        assert!(holds(root, &taken, &two), "{row:?}\n{taken}\n{two}");
        let again = apply::apply_patch(&write(root, &version, "two"), Some(&taken), &two, false).unwrap();
        assert_eq!(again, taken, "{row:?}");
    }
}

#[test]
fn an_update_that_changes_nothing_changes_no_owner() {
    let mut rng = rng(14);
    for (row, root) in applied() {
        let version = row.api_version();
        let mut object = stored(&mut rng, row, root);
        object["metadata"] = json!({"name": "x"});
        apply::track_update(&write(root, &version, "one"), None, &mut object);
        let before = object.clone();
        apply::track_update(&write(root, &version, "two"), Some(&before), &mut object);
        assert_eq!(object, before, "{row:?}");
    }
}

#[test]
fn a_merge_patch_of_the_difference_makes_the_other_object() {
    let mut rng = rng(15);
    for (row, root) in kinds() {
        let (from, to) = (stored(&mut rng, row, root), stored(&mut rng, row, root));
        let changed = match merge::diff(&from, &to) {
            Some(patch) => merge::apply(from, patch),
            None => from,
        };
        assert_eq!(without_nulls(&changed), without_nulls(&to), "{row:?}");
        assert_eq!(merge::diff(&to, &to), None, "{row:?}");
    }
}

/// Neither patches nor configurations can say null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[test]
fn patches_applied_twice_are_patches_applied_once() {
    let mut rng = rng(16);
    for (row, root) in kinds() {
        let mut draw = || without_nulls(&random::object(&mut rng, root, &row.api_version(), &row.kind));
        let (object, patch) = (draw(), draw());
        let merged = merge::apply(object.clone(), patch.clone());
        assert_eq!(merge::apply(merged.clone(), patch.clone()), merged, "{row:?}: merge patch");
        // A random object may lack the key by which its lists merge.
        let Ok(once) = strategic::apply(root, object, patch.clone()) else { continue };
        let Ok(twice) = strategic::apply(root, once.clone(), patch) else { continue };
        assert_eq!(twice, once, "{row:?}: strategic merge patch");
    }
}

#[test]
fn the_two_forms_of_an_object_lead_to_each_other() {
    let mut rng = rng(17);
    for (row, root) in kinds() {
        let canonical = stored(&mut rng, row, root);
        let mut minimal = canonical.clone();
        codec::minimize(root, &mut minimal);
        let mut again = minimal.clone();
        codec::minimize(root, &mut again);
        assert_eq!(again, minimal, "{row:?}");
        codec::canonicalize(root, &mut again);
        assert_eq!(again, canonical, "{row:?}");
        codec::canonicalize(root, &mut again);
        assert_eq!(again, canonical, "{row:?}");
    }
}
