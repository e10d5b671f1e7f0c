//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook.
//!
//! Mutating webhooks are asked one after the other in the order of their
//! configurations' names; those that want it (`reinvocationPolicy: IfNeeded`)
//! once more when a later one changed the object. Validating webhooks are asked
//! at the same time. What happens when one cannot be asked is its failure
//! policy's to say; an answer that refuses always refuses.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::Value;
use skiff_api::{Object, Status, patch::json_patch};
use uuid::Uuid;

use super::{
    Compiled,
    conditions::Conditions,
    input::Input,
    matching::{Criteria, is_exempt},
    review::{self, Answer},
};
use crate::{
    admission::{Admission, AdmissionRequest},
    authz::Authorizer,
    webhook::{ClientConfig, Webhooks},
};

/// Versions of the review, the best first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const TIMEOUT_SECONDS: u64 = 10;

/// One webhook of a configuration.
struct Hook {
    name: String,
    client: Result<ClientConfig, String>,
    criteria: Criteria,
    conditions: Conditions,
    /// `failurePolicy: Ignore`.
    ignores_failures: bool,
    reinvoked: bool,
    timeout: Duration,
    /// May be asked about a dry run.
    dry_run: bool,
    version: &'static str,
}

impl Hook {
    fn new(webhook: &Value) -> Hook {
        let versions = webhook["admissionReviewVersions"].as_array();
        let wanted = |version: &&str| versions.is_some_and(|versions| versions.iter().any(|have| have == *version));
        Hook {
            name: webhook["name"].as_str().unwrap_or_default().to_owned(),
            client: ClientConfig::parse(&webhook["clientConfig"]),
            criteria: Criteria::of_webhook(webhook),
            conditions: Conditions::new(&webhook["matchConditions"]),
            ignores_failures: webhook["failurePolicy"] == "Ignore",
            reinvoked: webhook["reinvocationPolicy"] == "IfNeeded",
            timeout: Duration::from_secs(webhook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)),
            dry_run: webhook["sideEffects"] == "None" || webhook["sideEffects"] == "NoneOnDryRun",
            version: VERSIONS.into_iter().find(wanted).unwrap_or("v1"),
        }
    }
}

/// Why there is no answer.
enum Failure {
    /// The failure policy decides.
    Call(String),
    Refused(Box<Status>),
}

/// What both plugins share.
struct Dispatcher {
    webhooks: Webhooks,
    authorizer: Arc<dyn Authorizer>,
    configurations: Compiled<Vec<Arc<Hook>>>,
    mutating: bool,
}

impl Dispatcher {
    fn hooks(&self, request: &AdmissionRequest<'_>) -> Vec<Arc<Hook>> {
        if is_exempt(request) {
            return Vec::new();
        }
        let all = self.configurations.all(request.snapshot, |object: &Object| {
            let configuration = object.value().unwrap_or_default();
            configuration["webhooks"].as_array().into_iter().flatten().map(|hook| Arc::new(Hook::new(hook))).collect()
        });
        all.iter().flat_map(|hooks| hooks.iter().cloned()).collect()
    }

    fn is_wanted(&self, hook: &Hook, request: &AdmissionRequest<'_>) -> Result<bool, Status> {
        if !hook.criteria.matches(request)? {
            return Ok(false);
        }
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let input = Input::new(request, &self.authorizer);
        let bindings = input.bindings(request);
        match hook.conditions.hold(&bindings) {
            Ok(holds) => Ok(holds),
            Err(_) if hook.ignores_failures => Ok(false),
            Err(error) => Err(request.forbidden(error)),
        }
    }

    async fn ask(&self, hook: &Hook, request: &AdmissionRequest<'_>) -> Result<Answer, Failure> {
        if request.dry_run && !hook.dry_run {
            let text = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Refused(Box::new(Status::bad_request(text))));
        }
        let client =
            hook.client.as_ref().map_err(|error| Failure::Call(format!("could not get REST client: {error}")))?;
        let uid = Uuid::new_v4().to_string();
        let question = review::question(request, hook.version, &uid);
        let answer = self.webhooks.post(client, &question, hook.timeout).await;
        let answer = answer.map_err(|error| Failure::Call(format!("failed to call webhook: {error}")))?;
        Answer::read(&answer, hook.version, &uid, self.mutating)
            .map_err(|error| Failure::Call(format!("received invalid webhook response: {error}")))
    }

    /// The answer of a webhook that allows; none when it could not be asked and that does not matter.
    async fn allowed(&self, hook: &Hook, request: &AdmissionRequest<'_>) -> Result<Option<Answer>, Status> {
        match self.ask(hook, request).await {
            Ok(answer) if answer.allowed => Ok(Some(answer)),
            Ok(answer) => Err(answer.refusal(&hook.name)),
            Err(Failure::Refused(status)) => Err(*status),
            Err(Failure::Call(error)) => {
                let error = format!("failed calling webhook {:?}: {error}", hook.name);
                if !hook.ignores_failures {
                    return Err(Status::internal(error));
                }
                tracing::warn!(component = "admission", %error, "failing open");
                Ok(None)
            }
        }
    }
}

/// Asks mutating webhooks.
pub struct MutatingWebhooks(Dispatcher);

impl MutatingWebhooks {
    pub fn new(webhooks: Webhooks, authorizer: Arc<dyn Authorizer>) -> MutatingWebhooks {
        let configurations = Compiled::new("mutatingwebhookconfigurations");
        MutatingWebhooks(Dispatcher { webhooks, authorizer, configurations, mutating: true })
    }

    /// Asks one webhook; true when it changed the object.
    async fn apply(&self, hook: &Hook, request: &mut AdmissionRequest<'_>) -> Result<bool, Status> {
        let Some(answer) = self.0.allowed(hook, request).await? else { return Ok(false) };
        request.warnings.extend(answer.warnings);
        if answer.patch.is_empty() {
            return Ok(false);
        }
        let Some(before) = &request.object else {
            return Err(Status::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        };
        let after = json_patch::apply(before.clone(), &answer.patch).map_err(Status::internal)?;
        let changed = after != *before;
        request.object = Some(after);
        Ok(changed)
    }
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.0.hooks(request);
        // Webhooks that want to know when a later one changes the object.
        let mut again: Vec<(usize, &Hook)> = Vec::new();
        let mut last_change = None;
        for (place, hook) in hooks.iter().enumerate() {
            if !self.0.is_wanted(hook, request)? {
                continue;
            }
            if hook.reinvoked {
                again.push((place, hook));
            }
            if self.apply(hook, request).await? {
                last_change = Some(place);
            }
        }
        for (place, hook) in again {
            if last_change > Some(place) && self.0.is_wanted(hook, request)? && self.apply(hook, request).await? {
                last_change = Some(hooks.len());
            }
        }
        Ok(())
    }
}

/// Asks validating webhooks.
pub struct ValidatingWebhooks(Dispatcher);

impl ValidatingWebhooks {
    pub fn new(webhooks: Webhooks, authorizer: Arc<dyn Authorizer>) -> ValidatingWebhooks {
        let configurations = Compiled::new("validatingwebhookconfigurations");
        ValidatingWebhooks(Dispatcher { webhooks, authorizer, configurations, mutating: false })
    }
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let mut wanted = Vec::new();
        for hook in self.0.hooks(request) {
            if self.0.is_wanted(&hook, request)? {
                wanted.push(hook);
            }
        }
        let answers = join_all(wanted.iter().map(|hook| self.0.allowed(hook, request))).await;
        for answer in answers {
            if let Some(answer) = answer? {
                request.warnings.extend(answer.warnings);
            }
        }
        Ok(())
    }
}
