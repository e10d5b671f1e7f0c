//! What a pod is promised: probes, restarts, order, ends, limits, identity.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skiff_tests::{Cluster, Kubectl, eventually, image::BUSYBOX};

const SOON: Duration = Duration::from_secs(30);

fn status(kubectl: &Kubectl, pod: &str) -> Result<Value> {
    Ok(kubectl.get(&["pod", pod])?["status"]["containerStatuses"][0].clone())
}

pub fn a_failing_liveness_probe_restarts_the_container(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("liveness", |_, kubectl| {
        let spec = format!(
            "containers:\n- name: c\n  image: {BUSYBOX}\n  command: [sh, -c, 'touch /tmp/alive; exec sleep infinity']\n  \
             livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, failureThreshold: 2}}\n"
        );
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_pod("p")?;
        kubectl.exec("p", "rm /tmp/alive")?;
        eventually("the container is restarted", SOON, || {
            let status = status(kubectl, "p")?;
            if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { bail!("{status}") }
        })?;
        kubectl.exec("p", "test -e /tmp/alive")?;
        let events = kubectl.run(&["get", "events"])?;
        ensure!(events.contains("Unhealthy") && events.contains("Liveness probe failed"), "{events}");
        Ok(())
    })
}

pub fn an_unready_pod_leaves_its_service(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("readiness", |_, kubectl| {
        let spec = format!(
            "containers:\n- name: c\n  image: {BUSYBOX}\n  command: [sh, -c, 'touch /tmp/ready; exec sleep infinity']\n  \
             readinessProbe: {{exec: {{command: [cat, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}\n"
        );
        kubectl.apply_pod("p", "app: p", &spec)?;
        kubectl.apply("apiVersion: v1\nkind: Service\nmetadata: {name: p}\nspec: {selector: {app: p}, ports: [{port: 80}]}\n")?;
        kubectl.wait_pod("p")?;
        let ready = |expected: bool| {
            eventually(&format!("the endpoint's readiness is {expected}"), SOON, || {
                let slices = kubectl.get(&["endpointslices", "-l", "kubernetes.io/service-name=p"])?;
                let found = slices["items"][0]["endpoints"][0]["conditions"]["ready"].clone();
                if found == expected { Ok(()) } else { bail!("{slices}") }
            })
        };
        ready(true)?;
        kubectl.exec("p", "rm /tmp/ready")?;
        ready(false)?;
        kubectl.exec("p", "touch /tmp/ready")?;
        ready(true)?;
        ensure!(status(kubectl, "p")?["restartCount"] == 0, "readiness restarts nothing");
        Ok(())
    })
}

pub fn a_crashing_container_backs_off_and_keeps_its_last_log(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("backoff", |_, kubectl| {
        let spec =
            format!("containers:\n- {{name: c, image: '{BUSYBOX}', command: [sh, -c, 'echo farewell; exit 3']}}\n");
        kubectl.apply_pod("p", "", &spec)?;
        eventually("it waits in CrashLoopBackOff", SOON, || {
            let status = status(kubectl, "p")?;
            let waiting = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            let last = &status["lastState"]["terminated"];
            if waiting && last["exitCode"] == 3 && last["reason"] == "Error" { Ok(()) } else { bail!("{status}") }
        })?;
        let log = kubectl.run(&["logs", "p", "--previous"])?;
        ensure!(log == "farewell\n", "{log}");
        Ok(())
    })
}

pub fn init_containers_run_in_order_before_the_others(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("init", |_, kubectl| {
        let step = |name: &str, script: &str| {
            format!("- name: {name}\n  image: {BUSYBOX}\n  command: [sh, -c, '{script}']\n  volumeMounts: [{{name: v, mountPath: /v}}]\n")
        };
        let spec = format!(
            "restartPolicy: Never\nvolumes: [{{name: v, emptyDir: {{}}}}]\ninitContainers:\n{}{}containers:\n{}",
            step("first", "sleep 1; echo first >> /v/order"),
            step("second", "echo second >> /v/order"),
            step("last", "echo last >> /v/order; cat /v/order")
        );
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_ended("p")?;
        let log = kubectl.run(&["logs", "p", "-c", "last"])?;
        ensure!(log == "first\nsecond\nlast\n", "{log}");
        Ok(())
    })
}

pub fn a_pod_ends_gracefully_after_its_pre_stop_hook(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("graceful", |_, kubectl| {
        let spec = format!(
            "terminationGracePeriodSeconds: 20\ncontainers:\n- name: c\n  image: {BUSYBOX}\n  \
             command: [sh, -c, 'trap \"echo terminated; sleep 1; echo bye; exit 0\" TERM; echo up; while :; do sleep 0.1; done']\n  \
             lifecycle: {{preStop: {{exec: {{command: [sh, -c, 'echo hook > /proc/1/fd/1']}}}}}}\n"
        );
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_pod("p")?;
        let follow = kubectl.start(&["logs", "-f", "p"])?;
        follow.wait_for("up")?;
        kubectl.run(&["delete", "pod", "p", "--timeout=15s"])?;
        follow.wait_for("bye")?;
        let output = follow.output();
        ensure!(output.contains("up\nhook\nterminated\nbye\n"), "{output}");
        Ok(())
    })
}

pub fn resources_become_limits_of_the_kernel(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("limits", |cluster, kubectl| {
        let spec = format!(
            "nodeName: server\ncontainers:\n- name: c\n  image: {BUSYBOX}\n  command: [sleep, infinity]\n  \
             resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 250m, memory: 48Mi}}}}\n"
        );
        kubectl.apply_pod("p", "", &spec)?;
        let pod = kubectl.wait_pod("p")?;
        ensure!(pod["status"]["qosClass"] == "Burstable", "{}", pod["status"]);
        let id = status(kubectl, "p")?["containerID"].as_str().context("containerID")?.replace("containerd://", "");
        let script = format!(
            "cd /sys/fs/cgroup; if [ -e cgroup.controllers ]; then g=$(find . -type d -name '*{id}*' | head -1); \
             cat $g/memory.max; cut -d' ' -f1 $g/cpu.max; \
             else cat $(find memory -type d -name '*{id}*')/memory.limit_in_bytes $(find cpu/ -type d -name '*{id}*')/cpu.cfs_quota_us; fi"
        );
        let limits = cluster.server.shell(&script)?;
        ensure!(limits == "50331648\n25000\n", "{limits}");
        // Beyond the limit the kernel kills, and the status says so.
        let spec = format!(
            "restartPolicy: Never\ncontainers:\n- name: c\n  image: {BUSYBOX}\n  command: [sh, -c, 'tail -c 100m /dev/zero']\n  \
             resources: {{limits: {{memory: 16Mi}}}}\n"
        );
        kubectl.apply_pod("greedy", "", &spec)?;
        let pod = kubectl.wait_ended("greedy")?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        ensure!(ended["reason"] == "OOMKilled" && ended["exitCode"] == 137, "{ended}");
        Ok(())
    })
}

pub fn the_downward_api_tells_a_pod_about_itself(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("downward", |_, kubectl| {
        let spec = format!(
            r#"
nodeName: agent
containers:
- name: c
  image: {BUSYBOX}
  command: [sleep, infinity]
  resources: {{limits: {{memory: 64Mi}}}}
  env:
  - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
  - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
  - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
  - {{name: MEMORY, valueFrom: {{resourceFieldRef: {{resource: limits.memory}}}}}}
  - {{name: BOTH, value: $(POD)@$(NODE)}}
  volumeMounts: [{{name: info, mountPath: /info}}]
volumes:
- name: info
  downwardAPI:
    items:
    - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
"#
        );
        kubectl.apply_pod("p", "colour: blue", &spec)?;
        let address = kubectl.wait_pod("p")?["status"]["podIP"].as_str().context("podIP")?.to_owned();
        let told = kubectl.exec("p", "echo $POD $NODE $IP $MEMORY $BOTH; cat /info/labels")?;
        ensure!(told == format!("p agent {address} 67108864 p@agent\ncolour=\"blue\""), "{told}");
        kubectl.run(&["label", "pod", "p", "colour=green", "--overwrite"])?;
        eventually("the file follows", Duration::from_secs(90), || {
            let labels = kubectl.exec("p", "cat /info/labels")?;
            if labels == "colour=\"green\"" { Ok(()) } else { bail!(labels) }
        })
    })
}

pub fn a_security_context_sets_identity_and_rights(cluster: &mut Cluster) -> Result<()> {
    cluster.in_namespace("identity", |_, kubectl| {
        let spec = format!(
            r#"
securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, supplementalGroups: [3000]}}
containers:
- name: c
  image: {BUSYBOX}
  command: [sleep, infinity]
  securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
  volumeMounts: [{{name: v, mountPath: /v}}]
volumes: [{{name: v, emptyDir: {{}}}}]
"#
        );
        kubectl.apply_pod("p", "", &spec)?;
        kubectl.wait_pod("p")?;
        let id = kubectl.exec("p", "id -u; id -g; id -G; touch /v/mine && stat -c %g /v/mine; touch /denied 2>&1; grep -E 'CapEff|NoNewPrivs' /proc/1/status")?;
        for expected in ["1000\n1000\n1000 ", "2000", "3000", "Read-only file system", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
            ensure!(id.contains(expected), "{expected:?} is not in {id}");
        }
        let spec = format!(
            "securityContext: {{runAsNonRoot: true}}\ncontainers:\n- {{name: c, image: '{BUSYBOX}', command: [sleep, infinity]}}\n"
        );
        kubectl.apply_pod("root", "", &spec)?;
        eventually("root is refused", SOON, || {
            let status = status(kubectl, "root")?;
            let reason = &status["state"]["waiting"]["reason"];
            if reason == "CreateContainerConfigError" { Ok(()) } else { bail!("{status}") }
        })
    })
}
