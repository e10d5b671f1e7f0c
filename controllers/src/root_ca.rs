//! Publishes the cluster's CA in every namespace, as ConfigMap `kube-root-ca.crt`.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::json;
use skiff_api::GroupResource;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::{seen, serviceaccount::in_namespace, write};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str =
    "CA bundle that verifies the API server at its in-cluster address; it vouches for nothing else.";

/// Publishes this PEM bundle.
pub struct RootCaPublisher {
    pub ca_pem: String,
}

impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<Namespace>(), in_namespace::<ConfigMap>(NAME)]
    }

    fn reads(&self) -> Vec<GroupResource> {
        vec![GroupResource::of::<ConfigMap>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, _: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(namespace) = seen::get::<Namespace>(world, "", &key.name) else { return outcome };
        if namespace.is_deleting() {
            return outcome;
        }
        let Some(have) = seen::get::<ConfigMap>(world, &key.name, NAME) else {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": key.name, "annotations": {DESCRIPTION: DESCRIPTION_TEXT}},
                "data": {"ca.crt": self.ca_pem}});
            outcome.push(write::create::<ConfigMap>(&key.name, body));
            return outcome;
        };
        let data = have.typed.data.as_ref();
        let is_right = data.is_some_and(|data| data.len() == 1 && data.get("ca.crt") == Some(&self.ca_pem));
        if is_right && have.meta().annotations.contains_key(DESCRIPTION) {
            return outcome;
        }
        if let Ok(mut value) = have.object.value() {
            value["data"] = json!({"ca.crt": self.ca_pem});
            value["metadata"]["annotations"][DESCRIPTION] = DESCRIPTION_TEXT.into();
            outcome.push(write::update::<ConfigMap>(&have.object, value));
        }
        outcome
    }
}
