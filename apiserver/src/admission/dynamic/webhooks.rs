//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook.
//!
//! Mutating webhooks are asked one after the other in the order of their
//! configurations' names; when one changes the object, all mutating admission
//! runs once more, and with it those webhooks that want it (`reinvocationPolicy:
//! IfNeeded`). A webhook is asked about the version of the resource that its
//! rules name. Validating webhooks are asked at the same time. What happens when one cannot be asked is its failure
//! policy's to say; an answer that refuses always refuses.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};
use skiff_api::{Object, Status, patch::json_patch};
use uuid::Uuid;

use super::{
    Compiled,
    conditions::Conditions,
    input::Input,
    matching::{Criteria, Form, Match, adopt, is_exempt},
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
/// The end of the keys of annotations about calls.
const ANNOTATIONS: &str = "webhook.admission.k8s.io";

/// One webhook of a configuration.
struct Hook {
    configuration: String,
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
    fn new(configuration: &str, webhook: &Value) -> Hook {
        let versions = webhook["admissionReviewVersions"].as_array();
        let wanted = |version: &&str| versions.is_some_and(|versions| versions.iter().any(|have| have == *version));
        Hook {
            configuration: configuration.to_owned(),
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

/// Which call of a webhook an annotation is about.
struct Place {
    round: u8,
    index: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round_{}_index_{}", self.round, self.index)
    }
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
            let hooks = configuration["webhooks"].as_array().into_iter().flatten();
            hooks.map(|hook| Arc::new(Hook::new(&object.meta.name, hook))).collect()
        });
        all.iter().flat_map(|hooks| hooks.iter().cloned()).collect()
    }

    /// Whether a webhook is to be asked, and about which version.
    async fn wanted(&self, hook: &Hook, request: &AdmissionRequest<'_>) -> Result<Match, Status> {
        let matched = hook.criteria.matches(request)?;
        if hook.conditions.is_empty() || matches!(matched, Match::No) {
            return Ok(matched);
        }
        let form = Form::of(request, &matched).await?;
        let converted = form.as_ref().map(|form| form.request(request));
        let seen = converted.as_ref().unwrap_or(request);
        let input = Input::new(seen, &self.authorizer);
        let holds = hook.conditions.hold(&input.bindings(seen));
        match holds {
            Ok(true) => Ok(matched),
            Ok(false) => Ok(Match::No),
            Err(_) if hook.ignores_failures => Ok(Match::No),
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

    /// Notes for the audit log that a webhook could not be asked and that this did not matter.
    fn note_failed_open(&self, place: &Place, hook: &Hook, request: &mut AdmissionRequest<'_>) {
        let kind = if self.mutating { "mutation" } else { "validating" };
        request.annotations.push((format!("failed-open.{kind}.{ANNOTATIONS}/{place}"), hook.name.clone()));
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
    async fn apply(
        &self,
        hook: &Hook,
        place: &Place,
        matched: &Match,
        request: &mut AdmissionRequest<'_>,
    ) -> Result<bool, Status> {
        let form = Form::of(request, matched).await?;
        let converted = form.as_ref().map(|form| form.request(request));
        let seen = converted.as_ref().unwrap_or(request);
        let Some(answer) = self.0.allowed(hook, seen).await? else {
            drop(converted);
            self.0.note_failed_open(place, hook, request);
            return Ok(false);
        };
        let patched = match (answer.patch.is_empty(), &seen.object) {
            (true, _) => None,
            (false, Some(before)) => Some(json_patch::apply(before.clone(), &answer.patch).map_err(Status::internal)?),
            (false, None) => {
                return Err(Status::internal(format!(
                    "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                    hook.name
                )));
            }
        };
        drop(converted);
        let patch: Value = serde_json::from_slice(&answer.patch).unwrap_or_default();
        answer.report(&hook.name, request);
        let Some(patched) = patched else { return Ok(false) };
        let noted = json!({"configuration": hook.configuration, "webhook": hook.name, "patch": patch,
            "patchType": "JSONPatch"});
        request.annotations.push((format!("patch.{ANNOTATIONS}/{place}"), noted.to_string()));
        let before = request.object.clone();
        adopt(request, matched, patched).await?;
        Ok(request.object != before)
    }
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let hooks = self.0.hooks(request);
        let again = request.reinvocation.again;
        request.reinvocation.webhooks.enter(again, request.object.as_ref());
        for (place, hook) in hooks.iter().enumerate() {
            // Names may stand twice, in two configurations.
            let key = format!("{place} {}", hook.name);
            if !request.reinvocation.webhooks.is_due(again, &key) {
                continue;
            }
            let matched = self.0.wanted(hook, request).await?;
            if matches!(matched, Match::No) {
                continue;
            }
            let place = Place { round: u8::from(again), index: place };
            let applied = self.apply(hook, &place, &matched, request).await;
            let mutated = *applied.as_ref().unwrap_or(&false);
            let noted = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
            request.annotations.push((format!("mutation.{ANNOTATIONS}/{place}"), noted.to_string()));
            if applied? {
                request.reinvocation.webhooks.changed();
                request.reinvocation.wanted = true;
            }
            if hook.reinvoked {
                request.reinvocation.webhooks.saw(key);
            }
        }
        request.reinvocation.webhooks.leave(request.object.as_ref());
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
            let matched = self.0.wanted(&hook, request).await?;
            if !matches!(matched, Match::No) {
                wanted.push((Form::of(request, &matched).await?, hook));
            }
        }
        let asked = wanted.iter().map(async |(form, hook)| match form {
            Some(form) => self.0.allowed(hook, &form.request(request)).await,
            None => self.0.allowed(hook, request).await,
        });
        let answers = join_all(asked).await;
        for (index, ((_, hook), answer)) in wanted.iter().zip(answers).enumerate() {
            match answer? {
                Some(answer) => answer.report(&hook.name, request),
                None => self.0.note_failed_open(&Place { round: 0, index }, hook, request),
            }
        }
        Ok(())
    }
}
