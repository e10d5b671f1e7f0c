//! `status.typeChecking` of validating policies: what is wrong with their
//! expressions given the kinds that their rules name.
//!
//! Evaluation does not care: objects are untyped there. The warnings tell
//! authors what could never work. One task follows the policies and writes the
//! status once for each generation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use skiff_api::{
    GroupResource, GroupVersionKind, Object, Resource, ResourceRegistry, Status,
    schema::{Kind, MessageId, Root, Scalar, Schema},
};
use skiff_cel::{Env, FieldType, ObjectType, Program, Type, escape};
use skiff_client::StoreEvent;
use tokio_util::sync::CancellationToken;

use super::{expressions::with_variables, input};
use crate::registry::store::Store;

const POLICIES: GroupResource = GroupResource::new("admissionregistration.k8s.io", "validatingadmissionpolicies");
/// Kinds that one policy is checked against.
const KINDS_MAX: usize = 10;
/// Messages inside of messages.
const DEPTH_MAX: usize = 64;
/// Pause before a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the policies until the token is cancelled.
pub(crate) async fn run(store: &Store, stop: CancellationToken) {
    tokio::select! {
        () = follow(store) => {}
        () = stop.cancelled() => {}
    }
}

async fn follow(store: &Store) {
    let Some(policies) = store.snapshot().store(&POLICIES) else { return };
    let mut changes = policies.subscribe();
    policies.wait_synced().await;
    let mut due = policies.list(None);
    loop {
        let mut failed = Vec::new();
        for policy in due {
            if let Err(error) = check(store, &policy).await {
                tracing::warn!(component = "policy-status", policy = policy.meta.name, %error, "check types");
                failed.push(policy);
            }
        }
        due = tokio::select! {
            event = changes.next() => match event {
                None => return,
                Some(StoreEvent::Resync) => policies.list(None),
                Some(StoreEvent::Applied { new, .. }) => {
                    failed.retain(|policy| policy.meta.name != new.meta.name);
                    failed.push(new);
                    failed
                }
                Some(StoreEvent::Deleted(_)) => failed,
            },
            () = tokio::time::sleep(RETRY), if !failed.is_empty() => policies.list(None),
        };
    }
}

/// Checks one policy, unless that has been done.
async fn check(store: &Store, policy: &Object) -> Result<(), Status> {
    let value = policy.value().map_err(Status::internal)?;
    let generation = value["metadata"]["generation"].as_i64().unwrap_or_default();
    if value["status"]["observedGeneration"].as_i64().unwrap_or_default() >= generation {
        return Ok(());
    }
    let warnings = warnings(&value["spec"], store.resources());
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let change = |object: &mut Value| {
        if !object["status"].is_object() {
            object["status"] = json!({});
        }
        object["status"]["observedGeneration"] = json!(generation);
        object["status"]["typeChecking"] = checked.clone();
    };
    store.edit_own(&POLICIES, &policy.meta.name, "status", "validatingadmissionpolicy-status", &change).await
}

/// The warnings about a policy's `spec`.
fn warnings(spec: &Value, resources: &ResourceRegistry) -> Vec<Value> {
    let rows = kinds(spec, resources);
    let mut base = input::env().with_type("namespaceObject", Type::Dyn);
    if !spec["paramKind"].is_null() {
        base = base.with_type("params", params_type(&spec["paramKind"], resources));
    }
    let envs: Vec<(String, Env)> = rows
        .iter()
        .map(|row| {
            let ty = row.schema.as_ref().map_or(Type::Dyn, |root| type_of(&row.kind, root));
            let base = base.clone().with_type("object", ty.clone()).with_type("oldObject", ty);
            (format!("{}/{}, Kind={}", row.group, row.version, row.kind), with_variables(&base, spec).0)
        })
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for name in ["expression", "messageExpression"] {
            let expression = validation[name].as_str().unwrap_or_default();
            let wrong: Vec<String> = envs
                .iter()
                .filter(|_| !expression.is_empty())
                .filter_map(|(kind, env)| Some(format!("{kind}: {}\n", Program::compile(expression, env).err()?)))
                .collect();
            if !wrong.is_empty() {
                let field = format!("spec.validations[{index}].{name}");
                warnings.push(json!({"fieldRef": field, "warning": wrong.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that rules without wildcards name.
fn kinds(spec: &Value, resources: &ResourceRegistry) -> Vec<Arc<Resource>> {
    let mut found: Vec<Arc<Resource>> = Vec::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let texts = |name: &str| {
            let all = rule[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            all.collect::<Vec<&str>>()
        };
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        let plain: Vec<&str> = texts("resources").into_iter().filter(|text| !text.contains(['*', '/'])).collect();
        for group in &groups {
            for version in &versions {
                let rows = plain.iter().filter_map(|resource| resources.lookup(group, version, resource));
                found.extend(rows);
            }
        }
    }
    found.sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
    found.dedup_by(|a, b| a.gvk() == b.gvk());
    found.truncate(KINDS_MAX);
    found
}

fn params_type(kind: &Value, resources: &ResourceRegistry) -> Type {
    let text = |name: &str| kind[name].as_str().unwrap_or_default();
    let row = resources.by_kind(&GroupVersionKind::parse(text("apiVersion"), text("kind")));
    let root = row.as_ref().and_then(|row| row.schema.as_ref());
    root.map_or(Type::Dyn, |root| type_of(text("kind"), root))
}

/// The type of a kind's objects.
fn type_of(name: &str, root: &Root) -> Type {
    Types { schema: &root.schema, inside: Vec::new() }.message(root.id, name)
}

struct Types<'s> {
    schema: &'s Schema,
    /// The messages around: what contains itself has no bounds.
    inside: Vec<MessageId>,
}

impl Types<'_> {
    fn message(&mut self, id: MessageId, name: &str) -> Type {
        let message = self.schema.get(id);
        if message.preserve_unknown || self.inside.contains(&id) || self.inside.len() >= DEPTH_MAX {
            return Type::Dyn;
        }
        self.inside.push(id);
        let mut fields = BTreeMap::new();
        if message.type_meta {
            for json in ["apiVersion", "kind"] {
                fields.insert(json.to_owned(), FieldType { json: json.to_owned(), ty: Type::String });
            }
        }
        let schema = self.schema;
        for field in schema.fields(id) {
            let Some(escaped) = escape(&field.json) else { continue };
            let ty = self.kind(&field.kind, &format!("{name}.{}", field.json));
            fields.insert(escaped, FieldType { json: field.json.to_string(), ty });
        }
        self.inside.pop();
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields }))
    }

    fn kind(&mut self, kind: &Kind, name: &str) -> Type {
        match kind {
            Kind::Message(id) => self.message(*id, name),
            Kind::List { element, .. } => Type::list(self.kind(element, &format!("{name}.@idx"))),
            Kind::Map { value, .. } => Type::map(Type::String, self.kind(value, &format!("{name}.@elem"))),
            Kind::Scalar(scalar) => match scalar {
                Scalar::String | Scalar::Duration => Type::String,
                Scalar::Bool => Type::Bool,
                Scalar::Int32 | Scalar::Int64 => Type::Int,
                Scalar::Double => Type::Double,
                Scalar::Bytes => Type::Bytes,
                Scalar::Time | Scalar::MicroTime => Type::Timestamp,
                _ => Type::Dyn,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resources: &[&str], validations: Value) -> Vec<(String, String)> {
        let spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": resources}]}, "validations": validations,
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}]});
        let warnings = warnings(&spec, &ResourceRegistry::builtin());
        let text = |warning: &Value, name: &str| warning[name].as_str().unwrap().to_owned();
        warnings.iter().map(|warning| (text(warning, "fieldRef"), text(warning, "warning"))).collect()
    }

    #[test]
    fn confusions_of_types_are_found_and_nothing_else() {
        let right = json!([{"expression": "object.spec.replicas > 1 && object.metadata.labels['a'] == 'b'"},
            {"expression": "object.spec.template.spec.containers.all(c, c.image.startsWith('r/') && has(c.resources.limits))"},
            {"expression": "variables.replicas < 3 && oldObject.metadata.creationTimestamp != object.metadata.creationTimestamp"}]);
        assert_eq!(of(&["deployments"], right), []);
        let wrong = json!([{"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
            {"expression": "variables.replicas == 'a' || object.spec.nothing"}]);
        let found = of(&["deployments", "replicasets/status", "statefulsets"], wrong);
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        let wanted = [
            "spec.validations[0].expression",
            "spec.validations[0].messageExpression",
            "spec.validations[1].expression",
        ];
        assert_eq!(fields, wanted);
        let of_greater = "found no matching overload for '_>_' applied to '(int, string)'";
        let lines: Vec<&str> = found[0].1.split('\n').filter(|line| line.contains(of_greater)).collect();
        assert!(
            lines.len() == 2 && lines[0].starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: "),
            "{found:?}"
        );
        assert!(found[1].1.contains("found no matching overload for '_+_' applied to '(string, int)'"), "{found:?}");
        assert_eq!(of(&["*"], json!([{"expression": "object.spec.nothing == 1"}])), []);
    }

    #[test]
    fn kinds_that_contain_themselves_end() {
        let registry = ResourceRegistry::builtin();
        for row in registry.table().rows() {
            if let Some(root) = &row.schema {
                assert!(matches!(type_of(&row.kind, root), Type::Object(_)), "{}", row.kind);
            }
        }
    }
}
