//! The table of pods: the summary that people read first.

use jiff::Timestamp;
use serde_json::Value;

use super::{Refine, age, computed, condition, int_at, items, name, str_at, text};
use crate::{resource::Column, timestamp};

pub(crate) fn columns() -> Vec<Column> {
    vec![
        name(),
        computed("Ready", |pod, _| summary(pod).ready())
            .about("The aggregate readiness state of this pod for accepting traffic."),
        computed("Status", |pod, _| summary(pod).status.into())
            .about("The aggregate status of the containers in this pod."),
        computed("Restarts", |pod, now| summary(pod).restarts(now)).about(
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        age(),
        computed("IP", |pod, _| pod_ip(pod)).or("<none>").wide(),
        text("Node", "/spec/nodeName").or("<none>").wide(),
        text("Nominated Node", "/status/nominatedNodeName").or("<none>").wide(),
        computed("Readiness Gates", |pod, _| readiness_gates(pod)).or("<none>").wide(),
    ]
}

fn pod_ip(pod: &Value) -> Value {
    let first = str_at(pod, "/status/podIPs/0/ip");
    if first.is_empty() { str_at(pod, "/status/podIP").into() } else { first.into() }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return Value::Null;
    }
    let met = gates.iter().filter(|gate| condition(pod, str_at(gate, "/conditionType")) == "True").count();
    format!("{met}/{}", gates.len()).into()
}

/// What the containers of a pod add up to.
struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: String,
}

impl Summary {
    fn ready(&self) -> Value {
        format!("{}/{}", self.ready, self.total).into()
    }

    fn restarts(&self, now: Timestamp) -> Value {
        if self.restarts == 0 || self.last_restart.is_empty() {
            return self.restarts.to_string().into();
        }
        format!("{} ({} ago)", self.restarts, timestamp::age(Some(&self.last_restart), now)).into()
    }

    fn add_restarts(&mut self, container: &Value) {
        self.restarts += int_at(container, "/restartCount");
        // RFC 3339 text of UTC times orders as the times do.
        let finished = str_at(container, "/lastState/terminated/finishedAt");
        if finished > self.last_restart.as_str() {
            self.last_restart = finished.to_owned();
        }
    }
}

/// The state of a container that ended, in one word.
fn ended(terminated: &Value) -> String {
    match (str_at(terminated, "/reason"), int_at(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", int_at(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    let declared = items(pod, "/spec/initContainers").iter().find(|container| str_at(container, "/name") == name);
    declared.is_some_and(|container| str_at(container, "/restartPolicy") == "Always")
}

fn summary(pod: &Value) -> Summary {
    let sidecars = items(pod, "/spec/initContainers").iter().filter(|c| str_at(c, "/restartPolicy") == "Always");
    let mut summary = Summary {
        ready: 0,
        total: items(pod, "/spec/containers").len() + sidecars.count(),
        status: str_at(pod, "/status/phase").to_owned(),
        restarts: 0,
        last_restart: String::new(),
    };
    let reason = str_at(pod, "/status/reason");
    if !reason.is_empty() {
        summary.status = reason.to_owned();
    }
    let gated = |c: &Value| str_at(c, "/type") == "PodScheduled" && str_at(c, "/reason") == "SchedulingGated";
    if items(pod, "/status/conditions").iter().any(gated) {
        summary.status = "SchedulingGated".to_owned();
    }
    let sidecar_restarts = initializing(pod, &mut summary);
    if let Some((restarts, last_restart)) = sidecar_restarts {
        (summary.restarts, summary.last_restart) = (restarts, last_restart);
        running(pod, &mut summary);
    }
    let deleting = pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let over = matches!(str_at(pod, "/status/phase"), "Succeeded" | "Failed");
    if deleting && reason == "NodeLost" {
        summary.status = "Unknown".to_owned();
    } else if deleting && !over {
        summary.status = "Terminating".to_owned();
    }
    summary
}

/// Looks at init containers. When initialization is over, returns the restarts of
/// sidecars alone, with which the count of running containers starts.
fn initializing(pod: &Value, summary: &mut Summary) -> Option<(i64, String)> {
    let mut sidecars = Summary { ready: 0, total: 0, status: String::new(), restarts: 0, last_restart: String::new() };
    let mut done = true;
    for (number, container) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
        summary.add_restarts(container);
        let sidecar = is_sidecar(pod, str_at(container, "/name"));
        if sidecar {
            sidecars.add_restarts(container);
        }
        let terminated = container.pointer("/state/terminated").filter(|state| !state.is_null());
        let waiting = str_at(container, "/state/waiting/reason");
        let flag = |pointer: &str| container.pointer(pointer).and_then(Value::as_bool) == Some(true);
        let status = match terminated {
            Some(state) if int_at(state, "/exitCode") == 0 => continue,
            _ if sidecar && flag("/started") => {
                summary.ready += usize::from(flag("/ready"));
                continue;
            }
            Some(state) => ended(state),
            None if !waiting.is_empty() && waiting != "PodInitializing" => waiting.to_owned(),
            None => format!("{number}/{}", items(pod, "/spec/initContainers").len()),
        };
        summary.status = format!("Init:{status}");
        done = false;
        break;
    }
    (done || condition(pod, "Initialized") == "True").then_some((sidecars.restarts, sidecars.last_restart))
}

fn running(pod: &Value, summary: &mut Summary) {
    let mut any_running = false;
    for container in items(pod, "/status/containerStatuses").iter().rev() {
        summary.add_restarts(container);
        let waiting = str_at(container, "/state/waiting/reason");
        let terminated = container.pointer("/state/terminated").filter(|state| !state.is_null());
        let is_running = container.pointer("/state/running").is_some_and(|state| !state.is_null());
        if !waiting.is_empty() {
            summary.status = waiting.to_owned();
        } else if let Some(state) = terminated {
            summary.status = ended(state);
        } else if is_running && container.get("ready") == Some(&Value::Bool(true)) {
            any_running = true;
            summary.ready += 1;
        }
    }
    if summary.status == "Completed" && any_running {
        let ready = condition(pod, "Ready") == "True";
        summary.status = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{meta, row};
    use serde_json::{Value, json};

    fn pod(spec: Value, status: Value) -> Vec<String> {
        let spec = if spec.is_null() { json!({"containers": [{"name": "a"}, {"name": "b"}]}) } else { spec };
        row("", "v1", "pods", json!({"metadata": meta("p"), "spec": spec, "status": status}))
    }

    fn running(ready: bool, restarts: i64) -> Value {
        json!({"name": "a", "ready": ready, "restartCount": restarts, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:50Z"}}})
    }

    #[test]
    fn a_running_pod_shows_restarts_and_their_age() {
        let cells = pod(
            Value::Null,
            json!({"phase": "Running", "containerStatuses": [running(true, 2), running(false, 1)], "podIPs": [{"ip": "10.0.0.1"}]}),
        );
        assert_eq!(cells, ["p", "1/2", "Running", "3 (10s ago)", "60s", "10.0.0.1", "<none>", "<none>", "<none>"]);
    }

    #[test]
    fn waiting_and_terminated_reasons_win_over_the_phase() {
        let waiting = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(
            pod(Value::Null, json!({"phase": "Running", "containerStatuses": [waiting]}))[2],
            "CrashLoopBackOff"
        );
        let exited = json!({"state": {"terminated": {"exitCode": 3}}});
        assert_eq!(pod(Value::Null, json!({"phase": "Failed", "containerStatuses": [exited]}))[2], "ExitCode:3");
        let done = json!({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let status = json!({"phase": "Running", "containerStatuses": [done, running(true, 0)], "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(pod(Value::Null, status)[2], "Running");
    }

    #[test]
    fn init_containers_show_progress_until_they_are_done() {
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
        let first_done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let second = |state: Value| json!({"phase": "Pending", "initContainerStatuses": [first_done, {"name": "j", "state": state}]});
        assert_eq!(pod(spec.clone(), second(json!({"running": {}})))[2], "Init:1/2");
        assert_eq!(pod(spec.clone(), second(json!({"waiting": {"reason": "ErrImagePull"}})))[2], "Init:ErrImagePull");
        assert_eq!(pod(spec, second(json!({"terminated": {"exitCode": 1, "reason": "Error"}})))[2], "Init:Error");
    }

    #[test]
    fn sidecars_count_as_containers() {
        let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
        let sidecar = json!({"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}});
        let cells = pod(
            spec,
            json!({"phase": "Running", "initContainerStatuses": [sidecar], "containerStatuses": [running(true, 0)]}),
        );
        assert_eq!((cells[1].as_str(), cells[2].as_str()), ("2/2", "Running"));
        assert!(cells[3].starts_with('1'));
    }

    #[test]
    fn deletion_and_gates_are_shown() {
        let mut object = json!({"metadata": meta("p"), "spec": {}, "status": {"phase": "Running"}});
        object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:30Z");
        assert_eq!(row("", "v1", "pods", object.clone())[2], "Terminating");
        object["status"]["phase"] = json!("Succeeded");
        assert_eq!(row("", "v1", "pods", object)[2], "Succeeded");
        let gated = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]});
        assert_eq!(pod(Value::Null, gated)[2], "SchedulingGated");
        let gates = json!({"containers": [], "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]});
        assert_eq!(pod(gates, json!({"conditions": [{"type": "x", "status": "True"}]}))[8], "1/2");
    }
}
