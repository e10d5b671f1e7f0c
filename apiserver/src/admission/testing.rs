//! A bench for admission plugins: caches filled by hand and requests in one line.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_api::{GroupResource, GroupVersionKind, GroupVersionResource, Object, ResourceRegistry, Revision, Status};
use skiff_client::{Snapshot, StoreWriter, store};

use super::{Admission, AdmissionOperation, AdmissionRequest, Reinvocation};
use crate::authn::UserInfo;

/// Caches of a test.
pub struct Case {
    pub snapshot: Snapshot,
    pub user: UserInfo,
    writers: Vec<(GroupResource, StoreWriter)>,
}

impl Case {
    pub fn new() -> Case {
        Case { snapshot: Snapshot::new(), user: UserInfo::new("tester", &[]), writers: Vec::new() }
    }

    pub fn by(mut self, user: UserInfo) -> Case {
        self.user = user;
        self
    }

    /// Adds an object to the cache of its resource.
    pub fn with(mut self, group: &'static str, resource: &'static str, mut object: Value) -> Case {
        let key = GroupResource::new(group, resource);
        if !self.writers.iter().any(|(have, _)| *have == key) {
            let (writer, reader) = store::store(&[]);
            writer.replace(Vec::new(), Revision(1));
            self.snapshot.insert(key.clone(), reader);
            self.writers.push((key.clone(), writer));
        }
        object["metadata"]["resourceVersion"] = json!("2");
        let object = Object::from_value(&object).expect("test objects decode");
        if let Some((_, writer)) = self.writers.iter().find(|(have, _)| *have == key) {
            writer.apply(Arc::new(object));
        }
        self
    }

    pub fn create<'a>(
        &'a self,
        group: &'static str,
        resource: &'static str,
        namespace: &'a str,
        object: Value,
    ) -> Bench<'a> {
        self.bench(AdmissionOperation::Create, group, resource, namespace, Some(object), None)
    }

    pub fn update<'a>(
        &'a self,
        group: &'static str,
        resource: &'static str,
        namespace: &'a str,
        object: Value,
        old: Value,
    ) -> Bench<'a> {
        self.bench(AdmissionOperation::Update, group, resource, namespace, Some(object), Some(old))
    }

    pub fn delete<'a>(
        &'a self,
        group: &'static str,
        resource: &'static str,
        namespace: &'a str,
        name: &str,
    ) -> Bench<'a> {
        let old = json!({"metadata": {"name": name, "namespace": namespace}});
        self.bench(AdmissionOperation::Delete, group, resource, namespace, None, Some(old))
    }

    fn bench<'a>(
        &'a self,
        operation: AdmissionOperation,
        group: &'static str,
        resource: &'static str,
        namespace: &'a str,
        object: Option<Value>,
        old: Option<Value>,
    ) -> Bench<'a> {
        let named = object.as_ref().or(old.as_ref());
        let name = named.map(|object| crate::registry::value::name(object).to_owned()).unwrap_or_default();
        Bench {
            case: self,
            operation,
            gvr: GroupVersionResource::new(group, "v1", resource),
            gvk: kind_of(group, resource),
            subresource: "",
            namespace,
            name,
            object,
            old,
        }
    }
}

/// The kind of a built-in resource.
fn kind_of(group: &'static str, resource: &str) -> GroupVersionKind {
    let row = ResourceRegistry::builtin().lookup(group, "v1", resource);
    row.map_or_else(|| GroupVersionKind::new(group, "v1", "Thing"), |row| row.gvk())
}

/// One request ready to be shown to a plugin.
pub struct Bench<'a> {
    case: &'a Case,
    operation: AdmissionOperation,
    gvr: GroupVersionResource,
    gvk: GroupVersionKind,
    subresource: &'static str,
    namespace: &'a str,
    name: String,
    object: Option<Value>,
    old: Option<Value>,
}

impl Bench<'_> {
    pub fn sub(mut self, subresource: &'static str) -> Self {
        self.subresource = subresource;
        self
    }

    pub fn request<'r>(&'r self, options: &'r Value) -> AdmissionRequest<'r> {
        AdmissionRequest {
            operation: self.operation,
            resource: &self.gvr,
            kind: &self.gvk,
            subresource: self.subresource,
            namespace: self.namespace,
            name: &self.name,
            object: self.object.clone(),
            old_object: self.old.as_ref(),
            options,
            user: &self.case.user,
            dry_run: false,
            snapshot: &self.case.snapshot,
            home: None,
            warnings: Vec::new(),
            annotations: Vec::new(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// The object after the mutating pass.
    pub async fn mutate(&self, plugin: &dyn Admission) -> Result<Value, Status> {
        let options = json!({});
        let mut request = self.request(&options);
        plugin.mutate(&mut request).await?;
        Ok(request.object.unwrap_or_default())
    }

    /// The warnings of the validating pass.
    pub async fn validate(&self, plugin: &dyn Admission) -> Result<Vec<String>, Status> {
        let options = json!({});
        let mut request = self.request(&options);
        plugin.validate(&mut request).await?;
        Ok(request.warnings)
    }

    /// Tells the plugin that nothing came of the request.
    pub async fn abandon(&self, plugin: &dyn Admission) {
        let options = json!({});
        plugin.abandon(&self.request(&options)).await;
    }
}
