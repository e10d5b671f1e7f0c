//! Gives every namespace its `default` service account.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::json;
use skiff_api::GroupResource;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{seen, write};

pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<Namespace>(), in_namespace::<ServiceAccount>("default")]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<ServiceAccount>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(namespace) = seen::get::<Namespace>(world, "", &key.name) else { return outcome };
        if namespace.is_deleting() || world.object::<ServiceAccount>(&key.name, "default").is_some() {
            return outcome;
        }
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": key.name}});
        outcome.push(write::create::<ServiceAccount>(&key.name, body));
        outcome
    }
}

/// Objects of one name wake their namespace.
pub(crate) fn in_namespace<K: k8s_openapi::Resource>(name: &'static str) -> Trigger {
    Trigger::new::<K>(move |new, old, _| match new.or(old) {
        Some(object) if object.meta.name == name => vec![ObjectRef::new("", object.meta.namespace.clone())],
        _ => Vec::new(),
    })
}
