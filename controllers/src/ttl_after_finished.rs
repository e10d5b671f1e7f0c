//! Deletes Jobs some time after their end, if they say so.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use skiff_client::{Context, Controller, DeleteOptions, ObjectRef, Outcome, PropagationPolicy, Snapshot, Trigger};

use crate::{
    seen::{self, Seen},
    write,
};

pub struct TtlAfterFinishedController;

impl Controller for TtlAfterFinishedController {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![Trigger::itself::<Job>()]
    }

    fn reconcile(&self, key: &ObjectRef, world: &Snapshot, context: &Context) -> Outcome {
        let mut outcome = Outcome::done();
        let Some(job) = seen::get::<Job>(world, &key.namespace, &key.name) else { return outcome };
        let ttl = job.typed.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let (Some(ttl), Some(end), false) = (ttl, finished_at(&job), job.is_deleting()) else { return outcome };
        let rest = SignedDuration::from_secs(ttl.into()) - context.now.duration_since(end);
        if rest.is_positive() {
            outcome.requeue_after = Some(Duration::try_from(rest).unwrap_or_default());
            return outcome;
        }
        let options = DeleteOptions {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteOptions::with_uid(&job.meta().uid)
        };
        outcome.push(write::delete_with::<Job>(&job.object, options));
        outcome
    }
}

fn finished_at(job: &Seen<Job>) -> Option<Timestamp> {
    let conditions = job.typed.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|condition| condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed"))?;
    end.last_transition_time.as_ref().map(|time| time.0)
}
