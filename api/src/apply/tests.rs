//! The rules of ownership, case by case.

use serde_json::json;

use super::*;
use crate::GroupVersionKind;

fn root(api_version: &str, kind: &str) -> Root {
    Root::for_kind(&GroupVersionKind::parse(api_version, kind)).unwrap()
}

struct World {
    root: Option<Root>,
    api_version: &'static str,
    live: Option<Value>,
    second: i64,
}

impl World {
    fn deployments() -> World {
        World { root: Some(root("apps/v1", "Deployment")), api_version: "apps/v1", live: None, second: 0 }
    }

    fn config_maps() -> World {
        World { root: Some(root("v1", "ConfigMap")), api_version: "v1", live: None, second: 0 }
    }

    fn write<'a>(&'a self, manager: &'a str) -> Write<'a> {
        let now = Timestamp::from_second(self.second).unwrap();
        let root = self.root.as_ref();
        Write { root, api_version: self.api_version, manager, subresource: "", now, reset: &["status"] }
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        self.second += 1;
        let mut config = config;
        config["apiVersion"] = json!(self.api_version);
        config["metadata"]["name"] = json!("x");
        self.live = Some(apply_patch(&self.write(manager), self.live.as_ref(), &config, force)?);
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) {
        self.try_apply(manager, config, false).unwrap();
    }

    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        self.second += 1;
        let mut new = self.live.clone().unwrap_or_else(|| json!({"metadata": {"name": "x"}}));
        change(&mut new);
        track_update(&self.write(manager), self.live.as_ref(), &mut new);
        self.live = Some(new);
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.live.as_ref().unwrap().pointer(pointer)
    }

    fn owners(&self) -> Vec<(String, Value)> {
        let managed = ManagedFields::of(self.live.as_ref().unwrap()).unwrap();
        managed.0.into_iter().map(|entry| (entry.manager, entry.fields.into_json())).collect()
    }

    fn fields_of(&self, manager: &str) -> Option<Value> {
        self.owners().into_iter().find(|(name, _)| name == manager).map(|(_, fields)| fields)
    }
}

#[test]
fn an_applied_field_left_out_later_is_removed() {
    let mut world = World::config_maps();
    world.apply("a", json!({"data": {"k": "1", "l": "2"}, "metadata": {"labels": {"x": "y"}}}));
    world.apply("a", json!({"data": {"k": "1"}}));
    assert_eq!(world.at("/data"), Some(&json!({"k": "1"})));
    assert_eq!(world.at("/metadata/labels"), None);
    assert_eq!(world.fields_of("a"), Some(json!({"f:data": {"f:k": {}}})));
}

#[test]
fn a_field_that_another_owns_too_stays() {
    let mut world = World::config_maps();
    world.apply("a", json!({"data": {"k": "1"}}));
    world.apply("b", json!({"data": {"k": "1", "m": "3"}}));
    world.apply("a", json!({"data": {"z": "9"}}));
    assert_eq!(world.at("/data"), Some(&json!({"k": "1", "m": "3", "z": "9"})));
    world.apply("b", json!({}));
    assert_eq!(world.at("/data"), Some(&json!({"z": "9"})));
}

#[test]
fn another_value_of_an_owned_field_is_a_conflict_unless_forced() {
    let mut world = World::deployments();
    world.apply("a", json!({"spec": {"replicas": 1}}));
    world.update("scaler", |object| object["spec"]["replicas"] = json!(3));
    assert_eq!(world.fields_of("a"), None, "the scaler took the only field");
    let error = world.try_apply("a", json!({"spec": {"replicas": 1}}), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
    let status = Status::from(error);
    assert_eq!((status.code, status.reason), (409, Reason::Conflict));
    assert_eq!(status.details.unwrap().causes[0].field, ".spec.replicas");
    world.try_apply("a", json!({"spec": {"replicas": 1}}), true).unwrap();
    assert_eq!(world.at("/spec/replicas"), Some(&json!(1)));
    assert_eq!(world.fields_of("scaler"), None);
    assert_eq!(world.fields_of("a"), Some(json!({"f:spec": {"f:replicas": {}}})));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let mut world = World::config_maps();
    world.apply("b", json!({"data": {"k": "1", "l": "1"}}));
    world.apply("c", json!({"data": {"m": "1"}}));
    let error = world.try_apply("a", json!({"data": {"k": "2", "l": "2", "m": "2"}}), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"b\":\n- .data.k\n- .data.l\nconflicts with \"c\":\n- .data.m"
    );
}

#[test]
fn equal_values_are_shared_without_conflict() {
    let mut world = World::deployments();
    world.apply("a", json!({"spec": {"replicas": 2}}));
    world.apply("b", json!({"spec": {"replicas": 2}}));
    assert!(world.fields_of("a").is_some() && world.fields_of("b").is_some());
    let error = world.try_apply("a", json!({"spec": {"replicas": 3}}), false).unwrap_err();
    assert!(error.to_string().contains("conflict with \"b\": .spec.replicas"), "{error}");
}

#[test]
fn list_elements_are_owned_and_removed_by_key() {
    let containers = |list: Value| json!({"spec": {"template": {"spec": {"containers": list}}}});
    let mut world = World::deployments();
    world.apply("a", containers(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "1"}])));
    world.apply("b", containers(json!([{"name": "z", "image": "1"}])));
    world.apply("a", containers(json!([{"name": "y", "image": "2"}])));
    assert_eq!(
        world.at("/spec/template/spec/containers"),
        Some(&json!([{"name": "y", "image": "2"}, {"name": "z", "image": "1"}]))
    );
    assert_eq!(
        world.fields_of("b"),
        Some(
            json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"z\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        )
    );
}

#[test]
fn sets_are_owned_by_value_and_atomic_lists_as_a_whole() {
    let mut world = World::deployments();
    world.apply(
        "a",
        json!({"metadata": {"finalizers": ["f/a"]}, "spec": {"template": {"spec": {"tolerations": [{"key": "t"}]}}}}),
    );
    world.apply("b", json!({"metadata": {"finalizers": ["f/b"]}}));
    assert_eq!(world.at("/metadata/finalizers"), Some(&json!(["f/a", "f/b"])));
    let other = json!({"spec": {"template": {"spec": {"tolerations": [{"key": "u"}]}}}});
    let error = world.try_apply("b", other, false).unwrap_err();
    assert!(error.to_string().ends_with(".spec.template.spec.tolerations"), "{error}");
    world.apply("a", json!({"metadata": {"finalizers": []}}));
    assert_eq!(world.at("/spec/template/spec/tolerations"), None);
}

#[test]
fn creation_by_update_owns_what_it_wrote_but_not_what_is_always_there() {
    let mut world = World::deployments();
    world.update("kubectl-create", |object| {
        *object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "n", "uid": "u",
            "labels": {"app": "w"}}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "w"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]}}}, "status": {}});
    });
    let managed = ManagedFields::of(world.live.as_ref().unwrap()).unwrap();
    assert_eq!(managed.0.len(), 1);
    assert_eq!(
        managed.0[0].fields.clone().into_json(),
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}})
    );
}

#[test]
fn a_write_that_changes_nothing_leaves_the_entries_alone() {
    let mut world = World::deployments();
    world.update("m", |object| object["spec"] = json!({"replicas": 1}));
    let before = world.live.clone();
    world.update("other", |_| {});
    assert_eq!(world.live, before);
    world.update("other", |object| {
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        object["metadata"]["resourceVersion"] = json!("9");
    });
    let entries = |object: &Option<Value>| object.as_ref().unwrap()["metadata"]["managedFields"].clone();
    assert_eq!(entries(&world.live), entries(&before), "server-set metadata is nobody's");
    let mut world = World::deployments();
    world.apply("a", json!({"spec": {"replicas": 1}}));
    let before = world.live.clone();
    world.apply("a", json!({"spec": {"replicas": 1}}));
    assert_eq!(world.live, before, "applying the same again keeps even the time");
}

#[test]
fn updates_move_ownership_and_remember_the_time() {
    let mut world = World::config_maps();
    world.update("a", |object| object["data"] = json!({"k": "1", "l": "1"}));
    world.update("b", |object| object["data"]["k"] = json!("2"));
    assert_eq!(world.fields_of("a"), Some(json!({"f:data": {".": {}, "f:l": {}}})));
    assert_eq!(world.fields_of("b"), Some(json!({"f:data": {"f:k": {}}})));
    world.update("b", |object| {
        object["data"].as_object_mut().unwrap().remove("k");
    });
    assert_eq!(world.fields_of("b"), None, "nothing left to own");
    let managed = ManagedFields::of(world.live.as_ref().unwrap()).unwrap();
    assert_eq!(managed.0[0].time, "1970-01-01T00:00:01Z");
}

#[test]
fn the_status_is_not_owned_through_the_object_and_separately_through_its_subresource() {
    let mut world = World::deployments();
    world.apply("a", json!({"spec": {"replicas": 1}, "status": {"replicas": 7}}));
    assert_eq!(world.at("/status/replicas"), None);
    let live = world.live.clone().unwrap();
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1});
    let write = Write { subresource: "status", reset: &["spec"], ..world.write("controller") };
    track_update(&write, Some(&live), &mut new);
    let managed = ManagedFields::of(&new).unwrap();
    let entry = managed.0.iter().find(|entry| entry.manager == "controller").unwrap();
    assert_eq!(
        (entry.subresource.as_str(), entry.fields.clone().into_json()),
        ("status", json!({"f:status": {".": {}, "f:replicas": {}}}))
    );
}

#[test]
fn managed_fields_can_be_edited_and_reset() {
    let mut world = World::config_maps();
    world.apply("a", json!({"data": {"k": "1"}}));
    world.update("b", |object| object["metadata"]["managedFields"] = json!([{}]));
    assert_eq!(world.at("/metadata/managedFields"), None);
    world.apply("c", json!({"data": {"l": "2"}}));
    assert_eq!(world.fields_of("before-first-apply"), Some(json!({"f:data": {".": {}, "f:k": {}}})));
    world.update("b", |object| {
        let list = object["metadata"]["managedFields"].as_array_mut().unwrap();
        list.iter_mut().for_each(|entry| entry["manager"] = json!("renamed"));
    });
    assert!(world.owners().iter().all(|(manager, _)| manager == "renamed"));
}

#[test]
fn configurations_that_are_no_part_of_an_object_are_refused() {
    let mut world = World::deployments();
    let error = |world: &mut World, config| world.try_apply("a", config, false).unwrap_err().to_string();
    assert_eq!(
        error(&mut world, json!({"spec": {"foo": 1}})),
        "failed to create typed patch object (/x; apps/v1, Kind=): .spec.foo: field not declared in schema"
    );
    assert!(error(&mut world, json!({"spec": {"replicas": "x"}})).contains("cannot unmarshal string"));
    assert_eq!(error(&mut world, json!({"metadata": {"managedFields": []}})), "metadata.managedFields must be nil");
    let twice = json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}});
    assert!(error(&mut world, twice).contains("duplicate entries"));
    let write = world.write("a");
    let wrong = apply_patch(&write, None, &json!({"apiVersion": "apps/v2"}), false).unwrap_err();
    assert!(wrong.to_string().starts_with("Incorrect version specified in apply patch"));
}

#[test]
fn schemaless_objects_apply_maps_field_by_field_and_lists_whole() {
    let mut world = World { root: None, api_version: "example.com/v1", live: None, second: 0 };
    world.apply("a", json!({"spec": {"m": {"x": 1}, "l": [1]}}));
    world.apply("b", json!({"spec": {"m": {"y": 2}}}));
    assert_eq!(world.at("/spec"), Some(&json!({"m": {"x": 1, "y": 2}, "l": [1]})));
    assert!(world.try_apply("b", json!({"spec": {"l": [2]}}), false).is_err());
    world.apply("a", json!({"spec": {"m": {}}}));
    assert_eq!(world.at("/spec"), Some(&json!({"m": {"y": 2}})));
}

#[test]
fn quantities_in_another_notation_are_the_same_value() {
    let limits = |cpu: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}}}]}}}});
    let mut world = World::deployments();
    world.apply("a", limits("1"));
    world.apply("b", limits("1000m"));
    assert!(world.fields_of("a").is_some());
}

#[test]
fn server_side_apply_takes_over_from_client_side_apply() {
    let mut world = World::config_maps();
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "annotations": {}}, "data": {"k": "1"}}).to_string();
    world.update("kubectl-client-side-apply", |object| {
        object["data"] = json!({"k": "1"});
        object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    });
    world.apply("kubectl", json!({"data": {"k": "2"}}));
    assert_eq!(world.at("/data/k"), Some(&json!("2")));
    let annotation = world.at("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration").unwrap();
    assert!(annotation.as_str().unwrap().contains("\"k\":\"2\""), "{annotation}");

    world.update("someone", |object| object["data"]["k"] = json!("3"));
    assert!(world.try_apply("kubectl", json!({"data": {"k": "4"}}), false).is_err(), "changed since: a real conflict");
}

/// Random histories: applying twice is the same as once, and what a manager
/// applied without conflict is there afterwards.
#[test]
fn applying_is_idempotent_and_effective() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..200 {
        let mut world = World::deployments();
        for _ in 0..8 {
            let manager = ["a", "b", "c"][rng.random_range(0..3)];
            let names = ["x", "y", "z"];
            let containers: Vec<Value> = names
                .iter()
                .filter(|_| rng.random_bool(0.5))
                .map(|name| json!({"name": name, "image": format!("i{}", name.len())}))
                .collect();
            let labels: Map<String, Value> = ["l", "m", "n"]
                .iter()
                .filter(|_| rng.random_bool(0.5))
                .map(|key| ((*key).to_owned(), json!("v")))
                .collect();
            let config =
                json!({"metadata": {"labels": labels}, "spec": {"template": {"spec": {"containers": containers}}}});
            world.try_apply(manager, config.clone(), true).unwrap();
            let once = world.live.clone().unwrap();
            for (key, value) in config["metadata"]["labels"].as_object().unwrap() {
                assert_eq!(&once["metadata"]["labels"][key], value);
            }
            let have =
                once.pointer("/spec/template/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
            for container in config["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
                assert_eq!(have.iter().filter(|item| item["name"] == container["name"]).count(), 1);
            }
            world.try_apply(manager, config, false).unwrap();
            assert_eq!(world.live.as_ref(), Some(&once));
        }
        for manager in ["a", "b", "c"] {
            world.try_apply(manager, json!({}), false).unwrap();
        }
        assert_eq!(world.at("/metadata/labels"), None, "nobody applies labels any more");
        let left = world.at("/spec/template/spec/containers");
        assert!(left.is_none_or(|list| list == &json!([])), "{left:?}");
    }
}
