//! Messages of the schema table as JSON schemas.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use skiff_api::{
    Resource, Verb,
    schema::{Field, Kind, ListType, MessageId, Scalar, Schema},
};

use super::{descriptions::Descriptions, names};

/// Which OpenAPI the schema is for; they differ in how references are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub fn reference(self, component: &str) -> String {
        match self {
            Dialect::V2 => format!("#/definitions/{component}"),
            Dialect::V3 => format!("#/components/schemas/{component}"),
        }
    }
}

/// What every custom resource says about its metadata.
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// Collects every schema that a document mentions.
pub struct Collector {
    dialect: Dialect,
    done: BTreeMap<String, Value>,
    seen: BTreeSet<MessageId>,
    open: Vec<MessageId>,
    descriptions: Arc<Descriptions>,
}

impl Collector {
    pub fn new(dialect: Dialect) -> Collector {
        Collector {
            dialect,
            done: BTreeMap::new(),
            seen: BTreeSet::new(),
            open: Vec::new(),
            descriptions: Descriptions::shared(),
        }
    }

    /// Adds the schema of a row's kind and list; returns their component names.
    pub fn kind(&mut self, row: &Resource) -> (String, String) {
        let gvk = |kind: &str| json!([{"group": row.group, "version": row.version, "kind": kind}]);
        let builtin = Schema::builtin();
        let package = skiff_api::schema::package_of(&row.group, &row.version);
        let object = match builtin.message(&package, &row.kind).filter(|_| row.schema.is_some()) {
            Some(id) => self.message(id),
            None => self.custom(row),
        };
        if let Some(schema) = self.done.get_mut(&object).filter(|schema| schema.is_object()) {
            schema["x-kubernetes-group-version-kind"] = gvk(&row.kind);
        }
        if !row.verbs.contains(Verb::List) {
            return (object.clone(), object);
        }
        let list = match object.strip_suffix(&*row.kind) {
            Some(prefix) => format!("{prefix}{}", row.list_kind),
            None => names::custom(row, &row.list_kind),
        };
        let list_meta = self.named("meta/v1", "ListMeta");
        let mut schema = json!({
            "type": "object", "required": ["items"],
            "description": format!("{} is a list of {}", row.list_kind, row.kind),
            "properties": {
                "metadata": self.reference(&list_meta),
                "items": {"type": "array", "items": self.reference(&object),
                    "description": format!("The objects of kind {}.", row.kind)},
            },
            "x-kubernetes-group-version-kind": gvk(&row.list_kind),
        });
        if let Some(properties) = schema["properties"].as_object_mut() {
            self.type_meta(properties);
        }
        self.done.insert(list.clone(), schema);
        (object, list)
    }

    /// Adds a message by package and name.
    pub fn named(&mut self, package: &str, name: &str) -> String {
        match Schema::builtin().message(package, name) {
            Some(id) => self.message(id),
            None => names::message(package, name),
        }
    }

    /// Everything collected, by component name.
    pub fn finish(mut self) -> Map<String, Value> {
        while let Some(id) = self.open.pop() {
            let message = Schema::builtin().get(id);
            let name = names::message(&message.package, &message.name);
            let mut schema = self.object(id);
            if let Some(present) = self.done.get(&name)
                && let Some(gvk) = present.get("x-kubernetes-group-version-kind")
            {
                schema["x-kubernetes-group-version-kind"] = gvk.clone();
            }
            self.done.insert(name, schema);
        }
        self.done.into_iter().collect()
    }

    fn message(&mut self, id: MessageId) -> String {
        let message = Schema::builtin().get(id);
        let name = names::message(&message.package, &message.name);
        if self.seen.insert(id) {
            self.open.push(id);
            // Holds the place until its turn comes.
            self.done.entry(name.clone()).or_insert_with(|| json!({}));
        }
        name
    }

    /// A custom resource: the schema of its definition, with the types every object has.
    fn custom(&mut self, row: &Resource) -> String {
        let name = names::custom(row, &row.kind);
        let meta = self.named("meta/v1", "ObjectMeta");
        let open = row.open_api.as_ref().is_some_and(|own| own["x-kubernetes-preserve-unknown-fields"] == true);
        if open && self.dialect == Dialect::V2 {
            // Clients of the older document refuse what it does not name, so it names nothing.
            self.done.insert(name.clone(), json!({"type": "object"}));
            return name;
        }
        let mut schema = match &row.open_api {
            Some(own) if self.dialect == Dialect::V3 => (**own).clone(),
            Some(own) => without_v3(own),
            None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        };
        let mut meta = self.reference(&meta);
        if self.dialect == Dialect::V3 {
            meta = json!({"allOf": [meta]});
        }
        meta["description"] = METADATA.into();
        schema["properties"]["metadata"] = meta;
        if let Some(properties) = schema["properties"].as_object_mut() {
            self.type_meta(properties);
        }
        self.done.insert(name.clone(), schema);
        name
    }

    fn object(&mut self, id: MessageId) -> Value {
        let schema = Schema::builtin();
        let mut properties = Map::new();
        let mut required = Vec::new();
        if schema.get(id).type_meta {
            self.type_meta(&mut properties);
        }
        for field in schema.fields(id) {
            if field.required {
                required.push(Value::from(&*field.json));
            }
            properties.insert(field.json.clone().into_owned(), self.field(field));
        }
        let component = names::message(&schema.get(id).package, &schema.get(id).name);
        self.describe(&component, &mut properties);
        let mut object = json!({"type": "object", "properties": properties});
        if let Some(text) = self.descriptions.of(&component) {
            object["description"] = text.into();
        }
        if !required.is_empty() {
            object["required"] = required.into();
        }
        if schema.get(id).atomic {
            object["x-kubernetes-map-type"] = "atomic".into();
        }
        object
    }

    /// The two fields that every object begins with, in the words of a message that has them as its own.
    fn type_meta(&self, properties: &mut Map<String, Value>) {
        let like = names::message("meta/v1", "DeleteOptions");
        for field in ["apiVersion", "kind"] {
            let description = self.descriptions.of_field(&like, field);
            properties.insert(field.to_owned(), json!({"type": "string", "description": description}));
        }
    }

    /// Adds the descriptions of fields; a bare reference takes none, so it is wrapped in OpenAPI v3.
    fn describe(&self, component: &str, properties: &mut Map<String, Value>) {
        for (name, schema) in properties.iter_mut() {
            let Some(text) = self.descriptions.of_field(component, name) else { continue };
            if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
                *schema = json!({"allOf": [schema.take()]});
            }
            schema["description"] = text.into();
        }
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.value(&field.kind);
        let merges =
            [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys"), (field.patch.replace, "replace")];
        let strategies: Vec<&str> = merges.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
        let extended = !strategies.is_empty() || field.merge_key.is_some() || field.default.is_some();
        if extended && self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if let Some(key) = &field.merge_key {
            schema["x-kubernetes-patch-merge-key"] = Value::from(&**key);
        }
        if let Some(default) = &field.default {
            schema["default"] = (**default).clone();
        }
        schema
    }

    fn value(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Scalar(scalar) => self.scalar(*scalar),
            Kind::Message(id) => {
                let message = Schema::builtin().get(*id);
                // A copy of an atomic message whose fields have owners of their own.
                match message.name.strip_suffix('%') {
                    Some(base) => {
                        let component = self.named(&message.package, base);
                        let reference = self.reference(&component);
                        let mut schema = match self.dialect {
                            Dialect::V2 => reference,
                            Dialect::V3 => json!({"allOf": [reference]}),
                        };
                        schema["x-kubernetes-map-type"] = "granular".into();
                        schema
                    }
                    None => {
                        let name = self.message(*id);
                        self.reference(&name)
                    }
                }
            }
            Kind::List { element, list_type, .. } => {
                let mut schema = json!({"type": "array", "items": self.value(element)});
                match list_type {
                    ListType::Atomic => schema["x-kubernetes-list-type"] = "atomic".into(),
                    ListType::Set => schema["x-kubernetes-list-type"] = "set".into(),
                    ListType::Map(keys) => {
                        schema["x-kubernetes-list-type"] = "map".into();
                        schema["x-kubernetes-list-map-keys"] = keys.iter().map(|key| Value::from(&**key)).collect();
                    }
                }
                schema
            }
            Kind::Map { value, atomic } => {
                let mut schema = json!({"type": "object", "additionalProperties": self.value(value)});
                if *atomic {
                    schema["x-kubernetes-map-type"] = "atomic".into();
                }
                schema
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        if let Some(name) = names::scalar(scalar) {
            let dialect = self.dialect;
            self.done.entry(name.to_owned()).or_insert_with(|| component(scalar, dialect));
            return self.reference(name);
        }
        match scalar {
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
            _ => json!({"type": "string"}),
        }
    }

    pub fn reference(&self, component: &str) -> Value {
        json!({"$ref": self.dialect.reference(component)})
    }
}

/// The third version of OpenAPI says that two of these types have two forms.
fn component(scalar: Scalar, dialect: Dialect) -> Value {
    match scalar {
        Scalar::IntOrString if dialect == Dialect::V3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Scalar::Quantity if dialect == Dialect::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Scalar::Time => json!({"type": "string", "format": "date-time"}),
        Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
        Scalar::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Scalar::Quantity | Scalar::Duration => json!({"type": "string"}),
        Scalar::RawExtension | Scalar::FieldsV1 => json!({"type": "object"}),
        _ => json!({}),
    }
}

/// A schema without what OpenAPI v2 cannot say; where that leaves a gap, anything is allowed.
fn without_v3(schema: &Value) -> Value {
    const DROPPED: [&str; 6] = ["nullable", "oneOf", "anyOf", "not", "allOf", "x-kubernetes-validations"];
    match schema {
        Value::Object(fields) => {
            let keep = |name: &str| !DROPPED.contains(&name);
            let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let mut out: Map<String, Value> = Map::new();
            for (name, value) in fields.iter().filter(|(name, _)| keep(name)) {
                let value = match (name.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        let each = properties.iter().map(|(name, value)| (name.clone(), without_v3(value)));
                        Value::Object(each.collect())
                    }
                    ("items" | "additionalProperties", value) => without_v3(value),
                    (_, value) => value.clone(),
                };
                out.insert(name.clone(), value);
            }
            if open {
                out.remove("type");
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}
