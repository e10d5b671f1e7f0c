//! Remote group versions in discovery: pure.

use serde_json::{Map, Value, json};

use super::{Learned, priorities};
use crate::registry::value::{list, text};

/// Remote group versions in the order of discovery: groups by the highest
/// priority any of their versions asks for, then versions by theirs.
fn groups(learned: &[Learned]) -> Vec<(&str, i64, Vec<&Learned>)> {
    let mut groups: Vec<(&str, i64, Vec<&Learned>)> = Vec::new();
    for remote in learned {
        match groups.iter_mut().find(|(name, ..)| *name == remote.group) {
            Some((_, priority, versions)) => {
                *priority = (*priority).max(remote.group_priority);
                versions.push(remote);
            }
            None => groups.push((&remote.group, remote.group_priority, vec![remote])),
        }
    }
    for (.., versions) in &mut groups {
        versions.sort_by(|a, b| b.version_priority.cmp(&a.version_priority).then_with(|| a.version.cmp(&b.version)));
    }
    groups.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    groups
}

/// Puts a remote group where its priority belongs among groups that are served here.
fn insert(items: &mut Vec<Value>, item: Value, priority: i64, name_of: impl Fn(&Value) -> String) {
    let at = items.iter().position(|have| priorities::of_group(&name_of(have)) < priority).unwrap_or(items.len());
    items.insert(at, item);
}

/// Adds remote versions to an `APIGroup`, or makes one.
pub fn merge_group(local: Option<Value>, group: &str, learned: &[Learned]) -> Option<Value> {
    let Some((_, _, versions)) = groups(learned).into_iter().find(|(name, ..)| *name == group) else { return local };
    let entry =
        |remote: &&Learned| json!({"groupVersion": format!("{group}/{}", remote.version), "version": remote.version});
    let mut merged = local.unwrap_or_else(|| json!({"name": group, "versions": []}));
    let mut all: Vec<Value> = list(&merged, "versions").to_vec();
    for remote in &versions {
        if !all.iter().any(|version| text(version, "version") == remote.version) {
            all.push(entry(remote));
        }
    }
    merged["preferredVersion"] = all.first().cloned()?;
    merged["versions"] = Value::Array(all);
    Some(merged)
}

/// Adds remote groups to the groups of an `APIGroupList`.
pub fn merge_groups(items: &mut Vec<Value>, learned: &[Learned]) {
    for (group, priority, _) in groups(learned) {
        let local = items.iter().position(|item| text(item, "name") == group);
        let before = local.map(|at| items[at].clone());
        let Some(merged) = merge_group(before, group, learned) else { continue };
        match local {
            Some(at) => items[at] = merged,
            None => insert(items, merged, priority, |item| text(item, "name").to_owned()),
        }
    }
}

/// Adds remote groups to the items of an `APIGroupDiscoveryList`.
pub fn merge_aggregated(items: &mut Vec<Value>, learned: &[Learned]) {
    let name_of = |item: &Value| text(&item["metadata"], "name").to_owned();
    for (group, priority, remotes) in groups(learned) {
        let versions = remotes.iter().map(|remote| version_of(remote));
        match items.iter_mut().find(|item| name_of(item) == group) {
            Some(item) => {
                let Some(have) = item["versions"].as_array_mut() else { continue };
                for version in versions {
                    have.retain(|other| text(other, "version") != text(&version, "version"));
                    have.push(version);
                }
            }
            None => {
                let versions: Vec<Value> = versions.collect();
                let item = json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions});
                insert(items, item, priority, name_of);
            }
        }
    }
}

fn version_of(remote: &Learned) -> Value {
    let freshness = if remote.stale { "Stale" } else { "Current" };
    let mut resources: Vec<Value> = Vec::new();
    for resource in list(&remote.resources, "resources") {
        match text(resource, "name").split_once('/') {
            None => resources.push(aggregated_resource(remote, resource)),
            Some((parent, name)) => {
                let found = resources.iter_mut().find(|have| text(have, "resource") == parent);
                let Some(parent) = found else { continue };
                let sub =
                    json!({"subresource": name, "responseKind": kind_of(remote, resource), "verbs": resource["verbs"]});
                match parent["subresources"].as_array_mut() {
                    Some(subresources) => subresources.push(sub),
                    None => parent["subresources"] = json!([sub]),
                }
            }
        }
    }
    let mut version = Map::new();
    version.insert("version".to_owned(), remote.version.as_str().into());
    if !resources.is_empty() {
        version.insert("resources".to_owned(), Value::Array(resources));
    }
    version.insert("freshness".to_owned(), freshness.into());
    Value::Object(version)
}

fn kind_of(remote: &Learned, resource: &Value) -> Value {
    let or = |name: &str, default: &str| match text(resource, name) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    json!({"group": or("group", &remote.group), "version": or("version", &remote.version), "kind": text(resource, "kind")})
}

fn aggregated_resource(remote: &Learned, resource: &Value) -> Value {
    let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
    let mut value = json!({"resource": text(resource, "name"), "responseKind": kind_of(remote, resource), "scope": scope,
        "singularResource": text(resource, "singularName"), "verbs": resource["verbs"]});
    for name in ["shortNames", "categories"] {
        if resource[name].is_array() {
            value[name] = resource[name].clone();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flunders(stale: bool) -> Learned {
        Learned {
            group: "wardle.example.com".into(),
            version: "v1alpha1".into(),
            group_priority: 2000,
            version_priority: 200,
            resources: json!({"resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["update"]}]}),
            stale,
            ..Learned::default()
        }
    }

    #[test]
    fn remote_groups_stand_by_their_priority() {
        let mut items = vec![json!({"name": "apps"}), json!({"name": "custom.example"})];
        merge_groups(&mut items, &[flunders(false)]);
        let names: Vec<&str> = items.iter().map(|item| text(item, "name")).collect();
        assert_eq!(names, ["apps", "wardle.example.com", "custom.example"]);
        assert_eq!(items[1]["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    }

    #[test]
    fn the_aggregated_form_is_made_of_the_resource_list() {
        let mut items = Vec::new();
        merge_aggregated(&mut items, &[flunders(true)]);
        let version = &items[0]["versions"][0];
        assert_eq!(version["freshness"], "Stale");
        let resource = &version["resources"][0];
        assert_eq!(resource["scope"], "Namespaced");
        assert_eq!(resource["responseKind"]["group"], "wardle.example.com");
        assert_eq!(resource["subresources"][0]["subresource"], "status");
    }

    #[test]
    fn a_remote_version_of_a_local_group_joins_it() {
        let local = json!({"name": "g", "versions": [{"groupVersion": "g/v1", "version": "v1"}]});
        let remote = Learned { group: "g".into(), version: "v2".into(), ..Learned::default() };
        let merged = merge_group(Some(local), "g", &[remote]).unwrap();
        assert_eq!(merged["versions"].as_array().unwrap().len(), 2);
        assert_eq!(merge_group(None, "other", &[]), None);
    }
}
