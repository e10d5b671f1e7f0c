//! Tables of workloads: deployments and their kin, jobs, autoscalers, disruption budgets.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Refine, age, bool_text, computed, condition, count, int_at, integer, items, labels, name, selector, shortened,
    str_at, text,
};
use crate::{resource::Column, timestamp};

/// Container names and images, and a third column, all only with `-o wide`.
fn wide_columns(template: Template) -> Vec<Column> {
    match template {
        Template::Plain => vec![
            computed("Containers", |object, _| containers(object, "/spec/template/spec", "/name")).wide(),
            computed("Images", |object, _| containers(object, "/spec/template/spec", "/image")).wide(),
        ],
        Template::Cron => vec![
            computed("Containers", |object, _| containers(object, "/spec/jobTemplate/spec/template/spec", "/name"))
                .wide(),
            computed("Images", |object, _| containers(object, "/spec/jobTemplate/spec/template/spec", "/image")).wide(),
        ],
    }
}

enum Template {
    Plain,
    Cron,
}

fn containers(object: &Value, spec: &str, part: &str) -> Value {
    let containers = items(object, &format!("{spec}/containers"));
    containers.iter().map(|container| str_at(container, part)).collect::<Vec<_>>().join(",").into()
}

fn label_selector() -> Column {
    computed("Selector", |object, _| selector(object.pointer("/spec/selector")).into()).wide()
}

fn with(mut columns: Vec<Column>, more: Vec<Column>) -> Vec<Column> {
    columns.extend(more);
    columns
}

/// `spec.replicas`, which is 1 where nobody has set it.
fn desired(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn ready_of_desired() -> Column {
    computed("Ready", |object, _| format!("{}/{}", int_at(object, "/status/readyReplicas"), desired(object)).into())
}

pub(crate) fn deployments() -> Vec<Column> {
    let columns = vec![
        name(),
        ready_of_desired().about("Number of the pod with ready state"),
        integer("Up-to-date", "/status/updatedReplicas"),
        integer("Available", "/status/availableReplicas"),
        age(),
    ];
    with(with(columns, wide_columns(Template::Plain)), vec![label_selector()])
}

/// ReplicaSets and, with their plain map selector, ReplicationControllers.
pub(crate) fn replica_sets(plain_selector: bool) -> Vec<Column> {
    let columns = vec![
        name(),
        count("Desired", |object, _| desired(object).into()),
        integer("Current", "/status/replicas"),
        integer("Ready", "/status/readyReplicas"),
        age(),
    ];
    let selector = if plain_selector {
        computed("Selector", |object, _| labels(object.pointer("/spec/selector")).into()).wide()
    } else {
        label_selector()
    };
    with(with(columns, wide_columns(Template::Plain)), vec![selector])
}

pub(crate) fn daemon_sets() -> Vec<Column> {
    let columns = vec![
        name(),
        integer("Desired", "/status/desiredNumberScheduled"),
        integer("Current", "/status/currentNumberScheduled"),
        integer("Ready", "/status/numberReady"),
        integer("Up-to-date", "/status/updatedNumberScheduled"),
        integer("Available", "/status/numberAvailable"),
        computed("Node Selector", |object, _| labels(object.pointer("/spec/template/spec/nodeSelector")).into()),
        age(),
    ];
    with(with(columns, wide_columns(Template::Plain)), vec![label_selector()])
}

pub(crate) fn stateful_sets() -> Vec<Column> {
    with(vec![name(), ready_of_desired(), age()], wide_columns(Template::Plain))
}

pub(crate) fn pod_templates() -> Vec<Column> {
    vec![
        name(),
        computed("Containers", |object, _| containers(object, "/template/spec", "/name")),
        computed("Images", |object, _| containers(object, "/template/spec", "/image")),
        computed("Pod Labels", |object, _| labels(object.pointer("/template/metadata/labels")).into()),
    ]
}

pub(crate) fn controller_revisions() -> Vec<Column> {
    vec![
        name(),
        computed("Controller", |object, _| controller(object)).or("<none>"),
        integer("Revision", "/revision"),
        age(),
    ]
}

fn controller(object: &Value) -> Value {
    let owners = items(object, "/metadata/ownerReferences");
    let Some(owner) = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true))) else {
        return Value::Null;
    };
    let group = str_at(owner, "/apiVersion").split_once('/').map_or("", |(group, _)| group);
    let dot = if group.is_empty() { "" } else { "." };
    format!("{}{dot}{group}/{}", str_at(owner, "/kind").to_lowercase(), str_at(owner, "/name")).into()
}

pub(crate) fn jobs() -> Vec<Column> {
    let columns = vec![
        name(),
        computed("Status", |job, _| job_status(job).into()),
        computed("Completions", |job, _| completions(job).into()),
        computed("Duration", job_duration),
        age(),
    ];
    with(with(columns, wide_columns(Template::Plain)), vec![label_selector()])
}

fn job_status(job: &Value) -> &'static str {
    let holds = |kind| condition(job, kind) == "True";
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if !str_at(job, "/metadata/deletionTimestamp").is_empty() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Value) -> String {
    let succeeded = int_at(job, "/status/succeeded");
    match (job.pointer("/spec/completions").and_then(Value::as_i64), int_at(job, "/spec/parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> Value {
    let Ok(start) = timestamp::parse(str_at(job, "/status/startTime")) else { return Value::Null };
    let end = timestamp::parse(str_at(job, "/status/completionTime")).unwrap_or(now);
    timestamp::human_duration(end.duration_since(start)).into()
}

pub(crate) fn cron_jobs() -> Vec<Column> {
    let columns = vec![
        name(),
        text("Schedule", "/spec/schedule"),
        text("Timezone", "/spec/timeZone").or("<none>"),
        computed("Suspend", |job, _| bool_text(job.pointer("/spec/suspend")).into()),
        count("Active", |job, _| items(job, "/status/active").len().into()),
        computed("Last Schedule", |job, now| {
            let last = str_at(job, "/status/lastScheduleTime");
            if last.is_empty() { Value::Null } else { timestamp::age(Some(last), now).into() }
        })
        .or("<none>"),
        age(),
    ];
    let nothing = computed("Selector", |job, _| selector(job.pointer("/spec/jobTemplate/spec/selector")).into());
    with(with(columns, wide_columns(Template::Cron)), vec![nothing.or("<none>").wide()])
}

pub(crate) fn disruption_budgets() -> Vec<Column> {
    vec![
        name(),
        computed("Min Available", |budget, _| amount(budget, "/spec/minAvailable")),
        computed("Max Unavailable", |budget, _| amount(budget, "/spec/maxUnavailable")),
        integer("Allowed Disruptions", "/status/disruptionsAllowed"),
        age(),
    ]
}

fn amount(budget: &Value, pointer: &str) -> Value {
    match budget.pointer(pointer) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}

pub(crate) fn autoscalers() -> Vec<Column> {
    vec![
        name(),
        computed("Reference", |scaler, _| {
            format!("{}/{}", str_at(scaler, "/spec/scaleTargetRef/kind"), str_at(scaler, "/spec/scaleTargetRef/name"))
                .into()
        }),
        computed("Targets", |scaler, _| targets(scaler).into()),
        computed("MinPods", |scaler, _| {
            scaler
                .pointer("/spec/minReplicas")
                .and_then(Value::as_i64)
                .map_or("<unset>".into(), |min| min.to_string().into())
        }),
        integer("MaxPods", "/spec/maxReplicas"),
        integer("Replicas", "/status/currentReplicas"),
        age(),
    ]
}

/// `cpu: 12%/80%` per metric, current over target.
fn targets(scaler: &Value) -> String {
    let mut texts: Vec<String> = Vec::new();
    if let Some(target) = scaler.pointer("/spec/targetCPUUtilizationPercentage").and_then(Value::as_i64) {
        let current = scaler.pointer("/status/currentCPUUtilizationPercentage").and_then(Value::as_i64);
        let current = current.map_or("<unknown>".to_owned(), |current| format!("{current}%"));
        texts.push(format!("cpu: {current}/{target}%"));
    }
    for (number, metric) in items(scaler, "/spec/metrics").iter().enumerate() {
        let current = items(scaler, "/status/currentMetrics").get(number);
        texts.push(target(metric, current));
    }
    shortened(&texts, 2, "<none>").replace(',', ", ")
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = match str_at(metric, "/type") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let parts = [("averageUtilization", "%", ""), ("averageValue", "", " (avg)"), ("value", "", "")];
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (part, unit, suffix) in parts {
        let Some(wanted) = metric.pointer(&format!("/{source}/target/{part}")) else { continue };
        let have = current.and_then(|current| current.pointer(&format!("/{source}/current/{part}")));
        let have = have.map_or("<unknown>".to_owned(), |have| format!("{}{unit}", show(have)));
        let suffix = if source == "external" || source == "object" { suffix } else { "" };
        let prefix = match str_at(metric, &format!("/{source}/name")) {
            "" => String::new(),
            name => format!("{name}: "),
        };
        return format!("{prefix}{have}/{}{unit}{suffix}", show(wanted));
    }
    "<auto>".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::json;

    #[test]
    fn deployments_compare_ready_with_desired() {
        let object = json!({"metadata": meta("d"), "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 3}});
        assert_eq!(
            row("apps", "v1", "deployments", object.clone()),
            ["d", "1/3", "3", "0", "60s", "x,y", "i:1,j", "a=b"]
        );
        assert_eq!(row("apps", "v1", "replicasets", object.clone())[..5], ["d", "3", "0", "1", "60s"]);
        assert_eq!(row("apps", "v1", "statefulsets", object)[..3], ["d", "1/3", "60s"]);
    }

    #[test]
    fn jobs_show_status_completions_and_duration() {
        let job = json!({"metadata": meta("j"), "spec": {"completions": 2},
            "status": {"succeeded": 2, "startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:00:07Z",
                "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(row("batch", "v1", "jobs", job)[..5], ["j", "Complete", "2/2", "7s", "60s"]);
        let running =
            json!({"metadata": meta("j"), "spec": {"parallelism": 3}, "status": {"startTime": "2024-01-01T00:00:58Z"}});
        assert_eq!(row("batch", "v1", "jobs", running)[1..4], ["Running", "0/1 of 3", "2s"]);
        let cron = json!({"metadata": meta("c"), "spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}]}});
        assert_eq!(
            row("batch", "v1", "cronjobs", cron)[..7],
            ["c", "* * * * *", "<none>", "False", "1", "<none>", "60s"]
        );
    }

    #[test]
    fn autoscalers_show_current_over_target() {
        let scaler = json!({"metadata": meta("h"), "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}, "status": {}});
        assert_eq!(
            row("autoscaling", "v2", "horizontalpodautoscalers", scaler),
            ["h", "Deployment/d", "cpu: <unknown>/80%", "<unset>", "5", "0", "60s"]
        );
    }

    #[test]
    fn revisions_and_budgets() {
        let revision = json!({"metadata": {"name": "r", "ownerReferences": [{"controller": true, "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d"}]}, "revision": 4});
        assert_eq!(row("apps", "v1", "controllerrevisions", revision), ["r", "daemonset.apps/d", "4", "<unknown>"]);
        let budget =
            json!({"metadata": meta("b"), "spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 2}});
        assert_eq!(row("policy", "v1", "poddisruptionbudgets", budget), ["b", "50%", "N/A", "2", "60s"]);
    }
}
