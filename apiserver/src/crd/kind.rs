//! One custom resource as it is served: its versions, how objects go from one
//! to another, and what a stored object looks like to a reader.
//!
//! Readers never see stored bytes as they are: an object may have been written
//! under an older definition. It is brought into the version of the request,
//! pruned, and the defaults of that version are filled in. What comes out is
//! kept beside the object, so this happens once per object and version.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::{Object, Resource, Status, codec, resources::custom, schema::defaults};

use super::{nulls, review::Converter};
use crate::webhook::Webhooks;

/// Objects sent to a conversion webhook in one review.
const REVIEW_OBJECTS_MAX: usize = 500;

/// A definition, ready to serve.
pub(crate) struct CustomKind {
    /// Different for every state of every definition: what is cached under one is not valid under another.
    serial: u64,
    /// By version name, served or not.
    rows: HashMap<String, Arc<Resource>>,
    storage: Option<Arc<Resource>>,
    converter: Option<Converter>,
}

/// How an object looks in some versions.
#[derive(Default)]
struct Shown {
    forms: Mutex<Vec<(u64, String, Form)>>,
}

#[derive(Clone)]
enum Form {
    /// As it is stored.
    Same,
    Other(Arc<Object>),
}

impl CustomKind {
    pub fn new(definition: &Value, webhooks: &Webhooks) -> Result<CustomKind, custom::CustomError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        // Versions that are not served still say how objects in them are read.
        let mut all = definition.clone();
        for version in all["spec"]["versions"].as_array_mut().into_iter().flatten() {
            version["served"] = Value::Bool(true);
        }
        let rows: HashMap<String, Arc<Resource>> =
            custom::rows(&all)?.into_iter().map(|row| (row.version.to_string(), Arc::new(row))).collect();
        let mut versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        let storage = versions.find(|version| version["storage"] == true).and_then(|version| version["name"].as_str());
        Ok(CustomKind {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            storage: storage.and_then(|name| rows.get(name).cloned()),
            rows,
            converter: Converter::of(definition, webhooks),
        })
    }

    /// The rows of the versions that are served, in the order of the definition.
    pub fn served(&self, definition: &Value) -> Vec<Arc<Resource>> {
        let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        let served =
            versions.filter(|version| version["served"] == true).filter_map(|version| version["name"].as_str());
        served.filter_map(|name| self.rows.get(name).cloned()).collect()
    }

    /// The row of the version in which objects are stored.
    pub fn storage_row(&self) -> Option<Arc<Resource>> {
        self.storage.clone()
    }

    /// Objects in the version of a row.
    pub async fn present(&self, row: &Resource, objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
        let api_version = row.api_version();
        let mut shown: Vec<Option<Arc<Object>>> = Vec::with_capacity(objects.len());
        let mut missing = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            let form = self.known(object, &api_version);
            if form.is_none() {
                missing.push(index);
            }
            shown.push(form);
        }
        for part in missing.chunks(REVIEW_OBJECTS_MAX) {
            let mut values = Vec::with_capacity(part.len());
            for index in part {
                values.push(objects[*index].value().map_err(Status::internal)?);
            }
            for (index, value) in part.iter().zip(self.convert(values, &api_version).await?) {
                let object = &objects[*index];
                shown[*index] = Some(self.remember(object, &api_version, read_form(row, value))?);
            }
        }
        Ok(shown.into_iter().zip(objects).map(|(shown, object)| shown.unwrap_or(object)).collect())
    }

    /// One object in the version of a row.
    pub async fn present_one(&self, row: &Resource, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
        let mut shown = self.present(row, vec![Arc::clone(object)]).await?;
        shown.pop().ok_or_else(|| Status::internal("conversion gave no object"))
    }

    fn known(&self, object: &Arc<Object>, api_version: &str) -> Option<Arc<Object>> {
        let kept = forms_of(object);
        let forms = kept.forms.lock();
        let (_, _, form) =
            forms.iter().find(|(serial, version, _)| *serial == self.serial && version == api_version)?;
        Some(match form {
            Form::Same => Arc::clone(object),
            Form::Other(other) => Arc::clone(other),
        })
    }

    fn remember(&self, object: &Arc<Object>, api_version: &str, value: Value) -> Result<Arc<Object>, Status> {
        let same = object.api_version() == api_version && object.value().is_ok_and(|stored| stored == value);
        let (form, shown) = if same {
            (Form::Same, Arc::clone(object))
        } else {
            let other = Arc::new(Object::from_value(&value).map_err(Status::internal)?);
            (Form::Other(Arc::clone(&other)), other)
        };
        let kept = forms_of(object);
        let mut forms = kept.forms.lock();
        forms.retain(|(serial, version, _)| *serial == self.serial && version != api_version);
        forms.push((self.serial, api_version.to_owned(), form));
        Ok(shown)
    }

    /// An object as it is to be stored.
    pub async fn to_storage(&self, object: Value) -> Result<Value, Status> {
        match &self.storage {
            Some(row) => self.in_version(row, object).await,
            None => Ok(object),
        }
    }

    /// An object in the version of a row, without any further change.
    pub async fn in_version(&self, row: &Resource, object: Value) -> Result<Value, Status> {
        let mut converted = self.convert(vec![object], &row.api_version()).await?;
        converted.pop().ok_or_else(|| Status::internal("conversion gave no object"))
    }

    /// Objects in another version, without any further change.
    async fn convert(&self, mut objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, Status> {
        let foreign: Vec<usize> =
            (0..objects.len()).filter(|index| objects[*index]["apiVersion"] != api_version).collect();
        match &self.converter {
            None => {
                for index in foreign {
                    objects[index]["apiVersion"] = Value::String(api_version.to_owned());
                }
            }
            Some(converter) if !foreign.is_empty() => {
                let sent: Vec<Value> = foreign.iter().map(|index| objects[*index].take()).collect();
                let converted = converter.convert(&sent, api_version).await.map_err(Status::internal)?;
                for (index, value) in foreign.into_iter().zip(converted) {
                    objects[index] = value;
                }
            }
            Some(_) => {}
        }
        Ok(objects)
    }
}

/// The forms of an object that are known already.
fn forms_of(object: &Object) -> Arc<Shown> {
    let Ok(shown) = object.derive(|_| Ok::<_, std::convert::Infallible>(Shown::default()));
    shown
}

/// Prunes, and fills in the defaults of the version.
fn read_form(row: &Resource, mut value: Value) -> Value {
    if let Some(root) = &row.schema {
        // Wrong types are shown as they are: only writes are refused for them.
        let _ = codec::json::conform(root, &mut value);
        defaults::apply(root, &mut value);
    }
    if let Some(schema) = &row.open_api {
        nulls::prune(schema, &mut value);
    }
    value
}
