//! In-place resize of pods with many or very small amounts.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    api::{Patch, core},
    context::{Context, LIMIT, eventually},
    pods::{condition, container, pod, shell, with},
};

crate::rows! { "node";
    "Pod InPlace Resize Container burstable pods - extended" {
        "6 containers - various operations performed (including adding limits and requests)" => six_containers,
        "resize with equivalents" => equivalents,
    }
}

/// Amounts as (cpu request, cpu limit, memory request, memory limit); empty is absent.
type Amounts = (&'static str, &'static str, &'static str, &'static str);

fn resources((cpu, cpu_limit, memory, memory_limit): Amounts) -> Value {
    let mut resources = json!({});
    for (list, name, amount) in [
        ("requests", "cpu", cpu),
        ("limits", "cpu", cpu_limit),
        ("requests", "memory", memory),
        ("limits", "memory", memory_limit),
    ] {
        if !amount.is_empty() {
            resources[list][name] = amount.into();
        }
    }
    resources
}

/// What a container finds in its own control group: (cpu weight or shares, cpu quota, memory limit).
const GROUP: &str = "cd /sys/fs/cgroup; if [ -e cpu.max ]; then cat cpu.weight; cut -d' ' -f1 cpu.max; cat memory.max; \
     else cat cpu/cpu.shares; cat cpu/cpu.cfs_quota_us; cat memory/memory.limit_in_bytes; fi";

fn milli(cpu: &str) -> Result<i64> {
    match cpu.strip_suffix('m') {
        Some(text) => Ok(text.parse()?),
        None => Ok(cpu.parse::<i64>()? * 1000),
    }
}

/// Whether a control group holds what the amounts ask for.
fn fits(found: &str, wanted: Amounts) -> Result<()> {
    let lines: Vec<&str> = found.split_whitespace().collect();
    let [cpu, quota, memory] = lines.as_slice() else { bail!("the control group tells {found:?}") };
    let (request, limit, _, memory_limit) = wanted;
    let request = if request.is_empty() { limit } else { request };
    let shares = if request.is_empty() { 2 } else { (milli(request)? * 1024 / 1000).max(2) };
    // Runtimes turn shares into weights by two formulas.
    let exponent = ((shares as f64).log2().powi(2) + 125.0 * (shares as f64).log2()) / 612.0 - 7.0 / 34.0;
    let weights = [shares, 1 + (shares - 2) * 9999 / 262_142, 10f64.powf(exponent).ceil() as i64];
    ensure!(weights.contains(&cpu.parse()?), "cpu weight {cpu}, wanted one of {weights:?}");
    let quota: i64 = if *quota == "max" { -1 } else { quota.parse()? };
    let wanted_quota = if limit.is_empty() { -1 } else { (milli(limit)? * 100).max(1000) };
    ensure!(quota == wanted_quota, "cpu quota {quota}, wanted {wanted_quota}");
    if !memory_limit.is_empty() {
        let mebibytes: i64 = memory_limit.strip_suffix("Mi").context("memory in Mi")?.parse()?;
        ensure!(*memory == (mebibytes << 20).to_string(), "memory limit {memory}, wanted {memory_limit}");
    }
    Ok(())
}

/// Resizes a pod of these containers, checks it, and resizes it back.
async fn resize(context: &Context, containers: &[(&str, Amounts, Amounts)]) -> Result<()> {
    let namespace = context.namespace().await?;
    let bodies: Vec<Value> = containers
        .iter()
        .map(|(name, from, _)| {
            let over = json!({"name": name, "resources": resources(*from)});
            with(shell(context, "trap 'exit 0' TERM; sleep 100000 & wait"), over)
        })
        .collect();
    context.start_pod(&namespace, &pod("sized", &bodies)).await?;
    let begin: Vec<(&str, Amounts)> = containers.iter().map(|(name, from, _)| (*name, *from)).collect();
    let end: Vec<(&str, Amounts)> = containers.iter().map(|(name, _, to)| (*name, *to)).collect();
    has(context, &namespace, &begin).await.context("as created")?;
    let patched: Vec<Value> = end.iter().map(|(name, to)| json!({"name": name, "resources": resources(*to)})).collect();
    let path = format!("{}/sized/resize", core(&namespace, "pods"));
    context.patch(&path, Patch::Strategic, &json!({"spec": {"containers": patched}})).await?;
    has(context, &namespace, &end).await.context("resized")?;
    // What was added cannot be taken away again; everything else goes back.
    let kept = |from: &'static str, to: &'static str| if from.is_empty() { to } else { from };
    let back: Vec<(&str, Amounts)> = containers
        .iter()
        .map(|(name, from, to)| {
            (*name, (kept(from.0, to.0), kept(from.1, to.1), kept(from.2, to.2), kept(from.3, to.3)))
        })
        .collect();
    let patched: Vec<Value> =
        back.iter().map(|(name, to)| json!({"name": name, "resources": resources(*to)})).collect();
    context.patch(&path, Patch::Strategic, &json!({"spec": {"containers": patched}})).await?;
    has(context, &namespace, &back).await.context("rolled back")
}

/// Specification, status and control groups hold these amounts, without a restart.
async fn has(context: &Context, namespace: &str, wanted: &[(&str, Amounts)]) -> Result<()> {
    let settled = |pod: &Value| {
        let done = condition(pod, "PodResizePending").is_null() && condition(pod, "PodResizeInProgress").is_null();
        let all = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
        done && wanted.iter().all(|(name, amounts)| {
            let (status, amounts) = (container(pod, name), resources(*amounts));
            let specified = all.iter().find(|container| container["name"] == *name);
            specified.is_some_and(|container| container["resources"] == amounts)
                && status["resources"] == amounts
                && status["restartCount"] == 0
        })
    };
    context.wait_pod(namespace, "sized", "has its size", settled).await?;
    for (name, amounts) in wanted {
        eventually(&format!("the control group of {name}"), LIMIT, || async {
            fits(&context.exec(namespace, "sized", name, GROUP).await?, *amounts)
        })
        .await?;
    }
    Ok(())
}

async fn six_containers(context: Context) -> Result<()> {
    let all: [(&str, Amounts, Amounts); 6] = [
        ("c1", ("10m", "20m", "20Mi", "40Mi"), ("15m", "25m", "25Mi", "45Mi")),
        ("c2", ("15m", "25m", "25Mi", "45Mi"), ("10m", "20m", "20Mi", "40Mi")),
        ("c3", ("10m", "", "20Mi", ""), ("10m", "20m", "20Mi", "40Mi")),
        ("c4", ("", "", "20Mi", "40Mi"), ("15m", "25m", "25Mi", "40Mi")),
        ("c5", ("10m", "20m", "", ""), ("10m", "25m", "20Mi", "40Mi")),
        ("c6", ("10m", "20m", "20Mi", "40Mi"), ("10m", "20m", "20Mi", "40Mi")),
    ];
    resize(&context, &all).await
}

/// Amounts below what a control group can hold are told as they are, although nothing changes there.
async fn equivalents(context: Context) -> Result<()> {
    resize(&context, &[("c1", ("2m", "10m", "", ""), ("1m", "5m", "", ""))]).await
}
