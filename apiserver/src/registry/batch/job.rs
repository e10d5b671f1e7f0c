//! Jobs.

use serde_json::{Value, json};
use skiff_api::Cause;

use crate::registry::{
    core::pod::{defaults, strategy, update::changes, validation as pod},
    strategy::{Operation, RequestContext, Strategy},
    validation::{
        Errors, Path, meta,
        numbers::{non_negative, positive},
        selector,
    },
    value::{
        child, copy_field, default, default_text, existing, field, flag, int, items, list, map, name, remove, same,
        set, text,
    },
};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";
const PARALLELISM_INDEXED_MAX: i64 = 100_000;

pub struct JobStrategy;

impl Strategy for JobStrategy {
    fn default(&self, op: Operation<'_>, object: &mut Value) {
        if op.is_create() {
            label_as_template(object);
        }
        let spec = child(object, "spec");
        if field(spec, "completions").is_none() && field(spec, "parallelism").is_none() {
            set(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        let per_index = field(spec, "backoffLimitPerIndex").is_some();
        default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
        default(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        default(spec, "manualSelector", false);
        let failures = field(spec, "podFailurePolicy").is_some();
        default(spec, "podReplacementPolicy", if failures { "Failed" } else { "TerminatingOrFailed" });
        if let Some(policy) = existing(spec, "podFailurePolicy") {
            for rule in items(policy, "rules") {
                for condition in items(rule, "onPodConditions") {
                    default_text(condition, "status", "True");
                }
            }
        }
        if let Some(template) = existing(spec, "template") {
            defaults::template(template);
        }
    }

    fn prepare(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &mut Value) {
        if !op.is_create() {
            return;
        }
        set(object, "status", json!({}));
        if !flag(&object["spec"], "manualSelector") {
            generate_selector(object);
            label_as_template(object);
        }
    }

    fn validate(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<Cause> {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        match op {
            Operation::Create => job_spec(&mut errors, &path, &object["spec"], true),
            Operation::Update { old } => {
                job_spec(&mut errors, &path, &object["spec"], true);
                update(&mut errors, object, old);
            }
            _ => {}
        }
        errors.into_causes()
    }

    fn warnings(&self, _context: &RequestContext<'_>, op: Operation<'_>, object: &Value) -> Vec<String> {
        if op.is_create() {
            strategy::warnings(&object["spec"]["template"]["spec"], "spec.template.spec")
        } else {
            Vec::new()
        }
    }
}

/// A job without labels has those of its pods, which by then include its own name and uid.
fn label_as_template(job: &mut Value) {
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    let has_some = |labels: &Value| labels.as_object().is_some_and(|labels| !labels.is_empty());
    if !has_some(&job["metadata"]["labels"]) && has_some(&labels) {
        set(child(job, "metadata"), "labels", labels);
    }
}

/// The pods of a job are found by the job's own uid.
fn generate_selector(job: &mut Value) {
    let uid = text(&job["metadata"], "uid").to_owned();
    let own_name = name(job).to_owned();
    let spec = child(job, "spec");
    let labels = map(child(child(child(spec, "template"), "metadata"), "labels"));
    for (key, value) in [(OLD_NAME_LABEL, &own_name), (NAME_LABEL, &own_name), (OLD_UID_LABEL, &uid), (UID_LABEL, &uid)]
    {
        labels.entry(key).or_insert_with(|| value.as_str().into());
    }
    if field(spec, "selector").is_none() {
        set(spec, "selector", json!({"matchLabels": {}}));
    }
    set(child(child(spec, "selector"), "matchLabels"), UID_LABEL, uid);
}

/// A job's spec at `path`; templates of cron jobs have no selector yet.
pub fn job_spec(errors: &mut Errors, path: &Path<'_>, spec: &Value, with_selector: bool) {
    for name in [
        "parallelism",
        "completions",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "ttlSecondsAfterFinished",
    ] {
        non_negative(errors, &path.child(name), &spec[name]);
    }
    if field(spec, "activeDeadlineSeconds").is_some() {
        non_negative(errors, &path.child("activeDeadlineSeconds"), &spec["activeDeadlineSeconds"]);
    }
    completion(errors, path, spec);
    policies(errors, path, spec);
    let template_path = path.child("template");
    let template = &spec["template"];
    if with_selector {
        let wanted = &spec["selector"];
        if wanted.is_null() {
            errors.required(&path.child("selector"), "");
        } else {
            selector::label_selector(errors, &path.child("selector"), wanted);
            let labels = &template["metadata"]["labels"];
            if meta::selects_everything(wanted) || !selector::matches_value(wanted, labels) {
                errors.invalid(
                    &template_path.child("metadata").child("labels"),
                    labels,
                    "`selector` does not match template `labels`",
                );
            }
        }
    }
    pod::template(errors, &template_path, template);
    let policy = text(&template["spec"], "restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        "" | "Always" => {
            errors.required(
                &template_path.child("spec").child("restartPolicy"),
                "valid values: \"OnFailure\", \"Never\"",
            );
        }
        other => {
            errors.not_supported(&template_path.child("spec").child("restartPolicy"), other, &["OnFailure", "Never"])
        }
    }
    if field(spec, "podFailurePolicy").is_some() && policy != "Never" {
        errors.invalid(
            &template_path.child("spec").child("restartPolicy"),
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        );
    }
}

fn completion(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    let mode = text(spec, "completionMode");
    if !matches!(mode, "" | "NonIndexed" | "Indexed") {
        errors.not_supported(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    }
    if mode == "Indexed" {
        if field(spec, "completions").is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if int(spec, "parallelism").is_some_and(|count| count > PARALLELISM_INDEXED_MAX) {
            errors.invalid(
                &path.child("parallelism"),
                &spec["parallelism"],
                format!("must be less than or equal to {PARALLELISM_INDEXED_MAX} when completion mode is Indexed"),
            );
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = field(spec, name) {
                errors.invalid(&path.child(name), value, "requires indexed completion mode");
            }
        }
        if field(spec, "successPolicy").is_some() {
            errors.invalid(&path.child("successPolicy"), &spec["successPolicy"], "requires indexed completion mode");
        }
    }
    if let (Some(failed), Some(completions)) = (int(spec, "maxFailedIndexes"), int(spec, "completions"))
        && failed > completions
    {
        errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
    if field(spec, "maxFailedIndexes").is_some() && field(spec, "backoffLimitPerIndex").is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

fn policies(errors: &mut Errors, path: &Path<'_>, spec: &Value) {
    if let Some(policy) = field(spec, "podReplacementPolicy").and_then(Value::as_str) {
        let with_failures = field(spec, "podFailurePolicy").is_some();
        let supported: &[&str] = if with_failures { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !supported.contains(&policy) {
            errors.not_supported(&path.child("podReplacementPolicy"), policy, supported);
        }
    }
    let failure_path = path.child("podFailurePolicy");
    let rules_path = failure_path.child("rules");
    for (i, rule) in list(&spec["podFailurePolicy"], "rules").iter().enumerate() {
        let path = rules_path.index(i);
        errors.one_of(&path.child("action"), text(rule, "action"), &["Count", "FailIndex", "FailJob", "Ignore"]);
        let codes = field(rule, "onExitCodes");
        let conditions = !list(rule, "onPodConditions").is_empty();
        if codes.is_some() == conditions {
            errors.invalid(&path, rule, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        let Some(codes) = codes else { continue };
        let codes_path = path.child("onExitCodes");
        errors.one_of(&codes_path.child("operator"), text(codes, "operator"), &["In", "NotIn"]);
        let values = list(codes, "values");
        if values.is_empty() {
            errors.invalid(&codes_path.child("values"), &codes["values"], "at least one value is required");
        }
        if text(codes, "operator") == "In" && values.iter().any(|value| value == 0) {
            errors.invalid(&codes_path.child("values"), 0, "must not be 0 for the In operator");
        }
    }
    let success_rules = path.child("successPolicy");
    let rules_path = success_rules.child("rules");
    for (i, rule) in list(&spec["successPolicy"], "rules").iter().enumerate() {
        let path = rules_path.index(i);
        if field(rule, "succeededCount").is_none() && field(rule, "succeededIndexes").is_none() {
            errors.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        positive(errors, &path.child("succeededCount"), &rule["succeededCount"]);
    }
}

fn update(errors: &mut Errors, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    let elastic = text(new_spec, "completionMode") == "Indexed"
        && same(new_spec, &json!({"completions": new_spec["parallelism"]}), "completions");
    if !elastic || int(new_spec, "completions").is_none() {
        errors.immutable(&path.child("completions"), &new_spec["completions"], &old_spec["completions"]);
    }
    for name in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        errors.immutable(&path.child(name), &new_spec[name], &old_spec[name]);
    }
    let mut template = new_spec["template"].clone();
    let waiting = flag(old_spec, "suspend") && field(&old["status"], "startTime").is_none();
    if waiting {
        // A job that has not begun may still be sent elsewhere.
        for name in ["annotations", "labels"] {
            copy_field(child(&mut template, "metadata"), &old_spec["template"]["metadata"], name);
        }
        let spec = child(&mut template, "spec");
        for name in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy_field(spec, &old_spec["template"]["spec"], name);
        }
        match field(&old_spec["template"]["spec"], "affinity") {
            Some(affinity) => set(spec, "affinity", affinity.clone()),
            None => drop(remove(spec, "affinity")),
        }
    }
    if !changes(&template, &old_spec["template"]).is_empty() {
        errors.invalid(&path.child("template"), &new_spec["template"], "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::validation::lines;

    fn job(spec: Value) -> Value {
        let mut spec = spec;
        if spec.get("template").is_none() {
            spec["template"] = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
        }
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        JobStrategy.default(Operation::Create, &mut object);
        generate_selector(&mut object);
        label_as_template(&mut object);
        object
    }

    fn check(spec: Value) -> Vec<String> {
        let mut errors = Errors::new();
        job_spec(&mut errors, &Path::new("spec"), &job(spec)["spec"], true);
        lines(errors.into_causes())
    }

    #[test]
    fn a_plain_job_is_completed_with_defaults_and_selector() {
        let object = job(json!({}));
        let spec = &object["spec"];
        assert_eq!(
            (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]),
            (&json!(1), &json!(1), &json!(6))
        );
        assert_eq!(spec["selector"], json!({"matchLabels": {UID_LABEL: "u"}}));
        assert_eq!(spec["template"]["metadata"]["labels"][NAME_LABEL], "j");
        assert_eq!(object["metadata"]["labels"], spec["template"]["metadata"]["labels"]);
        assert_eq!(check(json!({})), Vec::<String>::new());
        assert!(job(json!({"parallelism": 2}))["spec"].get("completions").is_none());
    }

    #[test]
    fn wrong_jobs_get_upstreams_errors() {
        let always = json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
        assert_eq!(
            check(always),
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
        assert_eq!(
            check(json!({"completionMode": "Indexed", "parallelism": 1})),
            ["spec.completions: Required value: when completion mode is Indexed"]
        );
        assert_eq!(
            check(json!({"backoffLimit": -1})),
            ["spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"]
        );
    }

    #[test]
    fn a_waiting_job_may_be_sent_elsewhere() {
        let old = job(json!({"suspend": true}));
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        let mut errors = Errors::new();
        update(&mut errors, &new, &old);
        assert!(errors.is_empty());
        update(&mut errors, &new, &job(json!({})));
        assert_eq!(lines(errors.into_causes()).len(), 1);
    }
}
