//! Users, privileges, kernel settings.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    api::core,
    context::Context,
    pods::{pod, shell, with},
};

crate::rows! { "node";
    "Security Context When creating a container with runAsUser" {
        "should run the container with uid 65534" => |c| user(c, json!({"runAsUser": 65534}), Value::Null, "uid=65534"),
    }
    "Security Context" {
        "should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup" => |c| user(c, json!({"runAsUser": 1001, "runAsGroup": 2002}), Value::Null, "uid=1001 gid=2002"),
        "should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup" => |c| user(c, Value::Null, json!({"runAsUser": 1001, "runAsGroup": 2002}), "uid=1001 gid=2002"),
    }
    "Security Context When creating a pod with privileged" {
        "should run the container as unprivileged when false" => unprivileged,
    }
    "Security Context When creating a pod with readOnlyRootFilesystem" {
        "should run the container with writable rootfs when readOnlyRootFilesystem=false" => writable,
    }
    "Security Context when creating containers with AllowPrivilegeEscalation" {
        "should not allow privilege escalation when false" => no_escalation,
    }
    "Sysctls" {
        "should reject invalid sysctls" => invalid_sysctls,
        "should support sysctls" => sysctls,
    }
}

async fn user(context: Context, container: Value, whole: Value, wanted: &str) -> Result<()> {
    let namespace = context.namespace().await?;
    let container = with(shell(&context, "id"), json!({"securityContext": container}));
    let pod = with(pod("user", &[container]), json!({"spec": {"securityContext": whole}}));
    let output = context.output(&namespace, &pod).await?;
    let plain: String = output.split(['(', ')']).step_by(2).collect();
    ensure!(plain.contains(wanted), "{output}");
    Ok(())
}

async fn unprivileged(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let script = "ip link add dummy0 type dummy 2>&1 || true";
    let pod = pod("plain", &[with(shell(&context, script), json!({"securityContext": {"privileged": false}}))]);
    context.expect_output(&namespace, &pod, &["Operation not permitted"]).await
}

async fn writable(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let security = json!({"securityContext": {"readOnlyRootFilesystem": false}});
    context.output(&namespace, &pod("writes", &[with(shell(&context, "touch /checkfile"), security)])).await.map(drop)
}

async fn no_escalation(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let security = json!({"securityContext": {"allowPrivilegeEscalation": false, "runAsUser": 1000}});
    let script = "grep -E '^(NoNewPrivs|Uid)' /proc/self/status | tr '\\t' ' '";
    let pod = pod("same", &[with(shell(&context, script), security)]);
    context.expect_output(&namespace, &pod, &["NoNewPrivs: 1", "Uid: 1000 1000"]).await
}

async fn sysctls(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let security =
        json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}});
    let shows = pod("set", &[shell(&context, "cat /proc/sys/kernel/shm_rmid_forced")]);
    let output = context.output(&namespace, &with(shows, security)).await?;
    ensure!(output.trim() == "1", "{output}");
    Ok(())
}

async fn invalid_sysctls(context: Context) -> Result<()> {
    let namespace = context.namespace().await?;
    let names = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar.."];
    let settings: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "100000000"})).collect();
    let pod =
        with(pod("invalid", &[shell(&context, "true")]), json!({"spec": {"securityContext": {"sysctls": settings}}}));
    let answer = context.call("POST", &core(&namespace, "pods"), Some(&pod)).await?.expect(422)?;
    for (name, valid) in [("foo-", false), ("bar..", false), ("kernel.shmmax", true), ("safe-and-unsafe", true)] {
        let complains = answer.message().contains(&format!("Invalid value: \"{name}\""));
        ensure!(complains != valid, "{}", answer.message());
    }
    Ok(())
}
