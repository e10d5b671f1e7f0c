//! Removes requests for pods' certificates: whoever asked has the answer, or
//! asks again.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use skiff_client::{Context, Controller, ObjectRef, Outcome, Snapshot, Trigger};

use crate::write;

/// A request lives this long, answered or not.
const LIFE: SignedDuration = SignedDuration::from_mins(15);

pub struct PodCertificateCleaner;

impl Controller for PodCertificateCleaner {
    fn name(&self) -> &'static str {
        "podcertificaterequest-cleaner-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::new::<PodCertificateRequest>(|new, _, _| new.map(ObjectRef::of).into_iter().collect())]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(request) = world.object::<PodCertificateRequest>(&key.namespace, &key.name) else { return outcome };
        let Some(made) = request.meta.creation_timestamp.as_deref().and_then(write::parse_time) else { return outcome };
        match Duration::try_from(LIFE - context.now.duration_since(made)) {
            Ok(rest) if !rest.is_zero() => outcome.requeue_after = Some(rest),
            _ if request.meta.is_deleting() => {}
            _ => outcome.push(write::delete::<PodCertificateRequest>(&request)),
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::simulation::Simulation;

    #[test]
    fn a_request_goes_after_a_quarter_of_an_hour() {
        let mut simulation = Simulation::new("");
        simulation.put(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
            "metadata": {"name": "r", "namespace": "d"}, "spec": {}}));
        let key = ObjectRef::new("d", "r");
        let mut is_there_after = |seconds| {
            simulation.pass(seconds);
            simulation.step(&PodCertificateCleaner, &key);
            simulation.value("podcertificaterequests.certificates.k8s.io", "d", "r").is_some()
        };
        assert!(is_there_after(899));
        assert!(!is_there_after(1));
    }
}
