//! The four ways in which keys become files.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{
    api::core,
    context::Context,
    pods::{pod, shell, with},
};

/// Where a volume's files come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    ConfigMap,
    Secret,
    ProjectedConfigMap,
    ProjectedSecret,
}

/// How a volume shows its keys; what is absent is not said.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub default_mode: Option<u32>,
    pub items: Option<Value>,
    pub optional: bool,
}

impl Source {
    pub fn is_secret(self) -> bool {
        matches!(self, Source::Secret | Source::ProjectedSecret)
    }

    pub fn plural(self) -> &'static str {
        if self.is_secret() { "secrets" } else { "configmaps" }
    }

    /// The object with these keys.
    pub fn object(self, name: &str, data: Value) -> Value {
        let field = if self.is_secret() { "stringData" } else { "data" };
        let mut object = Map::new();
        object.insert("metadata".to_owned(), json!({"name": name}));
        object.insert(field.to_owned(), data);
        Value::Object(object)
    }

    pub async fn create(self, context: &Context, namespace: &str, name: &str, data: Value) -> Result<Value> {
        context.create(&core(namespace, self.plural()), &self.object(name, data)).await
    }

    /// A volume of the object.
    pub fn volume(self, volume: &str, object: &str, shape: &Shape) -> Value {
        let mut source = Map::new();
        let key = if self == Source::Secret { "secretName" } else { "name" };
        source.insert(key.to_owned(), object.into());
        if let Some(items) = &shape.items {
            source.insert("items".to_owned(), items.clone());
        }
        if shape.optional {
            source.insert("optional".to_owned(), true.into());
        }
        let mut body = match self {
            Source::ConfigMap => json!({"configMap": source}),
            Source::Secret => json!({"secret": source}),
            Source::ProjectedConfigMap => json!({"projected": {"sources": [{"configMap": source}]}}),
            Source::ProjectedSecret => json!({"projected": {"sources": [{"secret": source}]}}),
        };
        if let (Some(mode), Some(body)) = (shape.default_mode, body.as_object_mut()) {
            for source in body.values_mut() {
                source["defaultMode"] = mode.into();
            }
        }
        body["name"] = volume.into();
        body
    }
}

/// A pod that runs a script with volumes mounted at `/etc/<volume name>`.
pub fn reader(context: &Context, name: &str, volumes: &[Value], script: &str) -> Value {
    let mounts: Vec<Value> = volumes
        .iter()
        .map(|volume| {
            let volume = volume["name"].as_str().unwrap_or_default();
            json!({"name": volume, "mountPath": format!("/etc/{volume}"), "readOnly": true})
        })
        .collect();
    let container = with(shell(context, script), json!({"volumeMounts": mounts}));
    with(pod(name, &[container]), json!({"spec": {"volumes": volumes}}))
}
