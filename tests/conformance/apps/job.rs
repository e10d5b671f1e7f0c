//! Jobs: completion modes, failure and success policies, ownership, lifecycle.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, path_of};
use crate::{
    api::{Patch, core, name, uid},
    context::{Context, brief, eventually},
    operations::unique,
    pods::{condition, pod, shell, with},
};

crate::rows! { "apps";
    "Job" {
        "should adopt matching orphans and release non-matching pods" => adopt_and_release,
        "should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition" => ignored_eviction,
        "should allow to use the pod failure policy on exit code to fail the job early" => fails_early,
        "should create pods for an Indexed job with completion indexes and specified hostname" => indexed,
        "should delete a job" => delete,
        "should execute all indexes despite some failing when using backoffLimitPerIndex" => limit_per_index,
        "should manage the lifecycle of a job" => lifecycle,
        "should mark indexes as failed when the FailIndex action is matched in podFailurePolicy" => fail_index,
        "should run a job to completion when tasks sometimes fail and are locally restarted" => restarts,
        "should terminate job execution when the number of failed indexes exceeds maxFailedIndexes" => failed_indexes,
        "with successPolicy should succeeded when all indexes succeeded" => all_indexes_succeed,
        "with successPolicy succeededCount rule should succeeded even when some indexes remain pending" => |c| success(c, json!({"succeededCount": 1})),
        "with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending" => |c| success(c, json!({"succeededIndexes": "0"})),
    }
}

const SUCCEED: &str = "exit 0";
const RUN_ON: &str = "trap 'exit 0' TERM; sleep 100000 & wait";
const FAIL_ODD: &str = "exit $((JOB_COMPLETION_INDEX % 2))";

/// A job of pods that run a script once.
fn job(context: &Context, name: &str, script: &str, parallelism: u32, completions: u32) -> Value {
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [shell(context, script)]});
    json!({"metadata": {"name": name}, "spec": {"parallelism": parallelism, "completions": completions,
        "backoffLimit": 6, "template": {"spec": spec}}})
}

fn indexed_job(context: &Context, name: &str, script: &str, parallelism: u32, completions: u32) -> Value {
    with(job(context, name, script, parallelism, completions), json!({"spec": {"completionMode": "Indexed"}}))
}

/// A job on one node whose pods share the folder `/shared` of that node.
async fn on_one_node(context: &Context, job: Value) -> Result<Value> {
    let node = context.nodes().await?.swap_remove(0);
    let mut job = with(
        job,
        json!({"spec": {"template": {"spec": {"nodeName": name(&node),
        "volumes": [{"name": "shared", "hostPath": {"path": "/tmp"}}]}}}}),
    );
    job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "shared", "mountPath": "/shared"}]);
    Ok(job)
}

/// Removes what pods of such a job left on its node.
async fn sweep(context: &Context, namespace: &str, job: &Value, marker: &str) -> Result<()> {
    let spec = &job["spec"]["template"]["spec"];
    let mut broom = pod("sweep", &[shell(context, &format!("rm -f {marker}"))]);
    broom["spec"]["nodeName"] = spec["nodeName"].clone();
    broom["spec"]["volumes"] = spec["volumes"].clone();
    broom["spec"]["containers"][0]["volumeMounts"] = spec["containers"][0]["volumeMounts"].clone();
    context.output(namespace, &broom).await.map(drop)
}

async fn create(context: &Context, job: &Value) -> Result<(String, String, Value)> {
    let namespace = context.namespace().await?;
    let created = context.create(&path_of(&namespace, "jobs"), job).await?;
    let path = format!("{}/{}", path_of(&namespace, "jobs"), name(&created));
    Ok((namespace, path, created))
}

/// Waits until the job has a true condition of that type and reason.
async fn reaches(context: &Context, path: &str, kind: &str, reason: &str) -> Result<Value> {
    let has = |job: &Value| {
        let found = condition(job, kind);
        found["status"] == "True" && (reason.is_empty() || found["reason"] == reason)
    };
    context.until_within(path, &format!("is {kind} {reason}"), LIMIT, has).await
}

/// Both conditions of an end, the announcing one first.
async fn fails(context: &Context, path: &str, reason: &str) -> Result<Value> {
    reaches(context, path, "FailureTarget", reason).await?;
    reaches(context, path, "Failed", reason).await
}

async fn completes(context: &Context, path: &str, reason: &str, completions: u32) -> Result<Value> {
    reaches(context, path, "SuccessCriteriaMet", reason).await?;
    let job = reaches(context, path, "Complete", reason).await?;
    ensure!(job["status"]["succeeded"] == completions, "{}", brief(&job));
    ensure!(job["status"]["completionTime"].is_string(), "no completionTime: {}", brief(&job));
    Ok(job)
}

async fn pods_of(context: &Context, namespace: &str, job: &str) -> Result<Vec<Value>> {
    let path = format!("{}?labelSelector=batch.kubernetes.io/job-name={job}", core(namespace, "pods"));
    context.list(&path).await
}

async fn running(context: &Context, namespace: &str, job: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} pods of {job} run"), LIMIT, || async {
        let mut pods = pods_of(context, namespace, job).await?;
        pods.retain(|pod| pod["status"]["phase"] == "Running");
        ensure!(pods.len() == count, "{} run", pods.len());
        Ok(pods)
    })
    .await
}

async fn indexed(context: Context) -> Result<()> {
    let (namespace, path, _) = create(&context, &indexed_job(&context, "indexed-job", SUCCEED, 2, 4)).await?;
    let job = completes(&context, &path, "CompletionsReached", 4).await?;
    ensure!(job["status"]["completedIndexes"] == "0-3", "{}", brief(&job));
    let mut indexes: Vec<String> = Vec::new();
    for pod in pods_of(&context, &namespace, "indexed-job").await? {
        let metadata = &pod["metadata"];
        let index = metadata["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap_or_default();
        ensure!(metadata["labels"]["batch.kubernetes.io/job-completion-index"] == index, "{metadata}");
        ensure!(pod["spec"]["hostname"] == format!("indexed-job-{index}"), "{}", pod["spec"]["hostname"]);
        ensure!(name(&pod).starts_with(&format!("indexed-job-{index}-")), "{}", name(&pod));
        indexes.push(index.to_owned());
    }
    indexes.sort();
    ensure!(indexes == ["0", "1", "2", "3"], "{indexes:?}");
    Ok(())
}

async fn limit_per_index(context: Context) -> Result<()> {
    let body = with(
        indexed_job(&context, "per-index", FAIL_ODD, 2, 4),
        json!({"spec": {"backoffLimit": null, "backoffLimitPerIndex": 1}}),
    );
    let (_, path, created) = create(&context, &body).await?;
    ensure!(created["spec"]["backoffLimit"] == i32::MAX, "backoffLimit is {}", created["spec"]["backoffLimit"]);
    let status = &fails(&context, &path, "FailedIndexes").await?["status"];
    ensure!(status["failedIndexes"] == "1,3" && status["completedIndexes"] == "0,2", "{status}");
    ensure!(status["failed"] == 4 && status["succeeded"] == 2, "{status}");
    Ok(())
}

async fn failed_indexes(context: Context) -> Result<()> {
    let body = with(
        indexed_job(&context, "max-failed", "exit 1", 1, 4),
        json!({"spec": {"backoffLimit": null, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}}),
    );
    let (_, path, _) = create(&context, &body).await?;
    let status = &fails(&context, &path, "MaxFailedIndexesExceeded").await?["status"];
    ensure!(status["failedIndexes"] == "0" && status["failed"] == 1, "{status}");
    Ok(())
}

async fn fail_index(context: Context) -> Result<()> {
    let rule = json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}});
    let body = with(
        indexed_job(&context, "fail-index", FAIL_ODD, 2, 2),
        json!({"spec": {"backoffLimit": null, "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [rule]}}}),
    );
    let (_, path, _) = create(&context, &body).await?;
    let status = &fails(&context, &path, "FailedIndexes").await?["status"];
    ensure!(status["failedIndexes"] == "1" && status["completedIndexes"] == "0", "{status}");
    ensure!(status["failed"] == 1 && status["succeeded"] == 1, "{status}");
    Ok(())
}

async fn fails_early(context: Context) -> Result<()> {
    let marker = format!("/shared/skiff-e2e-{}", unique());
    let script = format!("if [ -e {marker} ]; then exit 0; else touch {marker}; exit 1; fi");
    let rule = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}});
    let body = with(job(&context, "fail-job", &script, 2, 4), json!({"spec": {"podFailurePolicy": {"rules": [rule]}}}));
    let (namespace, path, job) = create(&context, &on_one_node(&context, body).await?).await?;
    let result = fails(&context, &path, "PodFailurePolicy").await;
    sweep(&context, &namespace, &job, &marker).await?;
    result.map(drop)
}

async fn ignored_eviction(context: Context) -> Result<()> {
    // Index 0 leaves a mark and runs on until it is evicted; the others fail until they see the mark.
    let marker = format!("/shared/skiff-e2e-{}", unique());
    let script = format!(
        "[ -e {marker} ] && exit 0; [ $JOB_COMPLETION_INDEX = 0 ] || exit 1; touch {marker}; {}",
        "trap 'exit 143' TERM; sleep 100000 & wait"
    );
    let rules = json!([
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]);
    let body = with(
        indexed_job(&context, "disrupted", &script, 2, 4),
        json!({"spec": {"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}}),
    );
    let (namespace, path, job) = create(&context, &on_one_node(&context, body).await?).await?;
    let result = evict_first(&context, &namespace, &path).await;
    sweep(&context, &namespace, &job, &marker).await?;
    result
}

async fn evict_first(context: &Context, namespace: &str, path: &str) -> Result<()> {
    let others_done = |job: &Value| job["status"]["succeeded"] == 3;
    context.until_within(path, "all but index 0 succeed", LIMIT, others_done).await?;
    let pods = running(context, namespace, "disrupted", 1).await?;
    let at = format!("{}/{}", core(namespace, "pods"), name(&pods[0]));
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name(&pods[0])}});
    context.create(&format!("{at}/eviction"), &eviction).await?;
    context.until_gone(&at).await?;
    let job = completes(context, path, "CompletionsReached", 4).await?;
    ensure!(job["status"]["failed"].as_i64().unwrap_or(0) == 0, "{}", brief(&job));
    Ok(())
}

async fn restarts(context: Context) -> Result<()> {
    let mut body = job(&context, "fail-once", "[ -e /data/x ] && exit 0; touch /data/x; exit 1", 2, 4);
    let spec = &mut body["spec"]["template"]["spec"];
    spec["restartPolicy"] = "OnFailure".into();
    spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let (_, path, _) = create(&context, &body).await?;
    completes(&context, &path, "CompletionsReached", 4).await.map(drop)
}

async fn all_indexes_succeed(context: Context) -> Result<()> {
    let rules = json!({"spec": {"successPolicy": {"rules": [{"succeededCount": 5}]}}});
    let (_, path, _) = create(&context, &with(indexed_job(&context, "all", SUCCEED, 2, 5), rules)).await?;
    let job = completes(&context, &path, "SuccessPolicy", 5).await?;
    ensure!(job["status"]["completedIndexes"] == "0-4", "{}", brief(&job));
    Ok(())
}

/// Index 0 succeeds and with it the job, although index 1 runs and the rest never started.
async fn success(context: Context, rule: Value) -> Result<()> {
    let script = format!("[ $JOB_COMPLETION_INDEX = 0 ] && exit 0; {RUN_ON}");
    let policy = json!({"spec": {"successPolicy": {"rules": [rule]}}});
    let (_, path, _) = create(&context, &with(indexed_job(&context, "some", &script, 2, 5), policy)).await?;
    let job = completes(&context, &path, "SuccessPolicy", 1).await?;
    let status = &job["status"];
    ensure!(status["completedIndexes"] == "0", "{status}");
    let none = |field: &str| status[field].as_i64().unwrap_or(0) == 0;
    ensure!(none("active") && none("terminating") && none("ready"), "{status}");
    Ok(())
}

async fn delete(context: Context) -> Result<()> {
    let (namespace, path, _) = create(&context, &job(&context, "foo", RUN_ON, 2, 4)).await?;
    running(&context, &namespace, "foo", 2).await?;
    context.delete_with(&path, json!({"propagationPolicy": "Background"})).await?;
    context.until_gone(&path).await?;
    eventually("its pods are gone", LIMIT, || async {
        let left = pods_of(&context, &namespace, "foo").await?.len();
        ensure!(left == 0, "{left} left");
        Ok(())
    })
    .await
}

async fn adopt_and_release(context: Context) -> Result<()> {
    let (namespace, _, job) = create(&context, &job(&context, "adopt", RUN_ON, 2, 4)).await?;
    let pods = running(&context, &namespace, "adopt", 2).await?;
    let path = format!("{}/{}", core(&namespace, "pods"), name(&pods[0]));
    context.modify(&path, |pod| pod["metadata"]["ownerReferences"] = json!([])).await?;
    let owned = |pod: &Value| {
        let owner = &pod["metadata"]["ownerReferences"][0];
        owner["uid"] == uid(&job) && owner["kind"] == "Job" && owner["name"] == "adopt" && owner["controller"] == true
    };
    context.until(&path, "is adopted again", owned).await?;
    context.modify(&path, |pod| pod["metadata"]["labels"] = json!({})).await?;
    let free = |pod: &Value| pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty);
    context.until(&path, "is released", free).await.map(drop)
}

async fn lifecycle(context: Context) -> Result<()> {
    let label = unique();
    let body = with(
        job(&context, "e2e", SUCCEED, 2, 4),
        json!({"metadata": {"labels": {"e2e-job-label": label}}, "spec": {"suspend": true}}),
    );
    let (namespace, path, _) = create(&context, &body).await?;
    let selected = format!("{}?labelSelector=e2e-job-label={label}", path_of(&namespace, "jobs"));
    let mut watch = context.watch(&selected).await?;
    let patch = json!({"metadata": {"labels": {"e2e": "patched"}}});
    let patched = context.patch(&path, Patch::Strategic, &patch).await?;
    ensure!(patched["metadata"]["labels"]["e2e"] == "patched", "{patched}");
    let is_patched = |event: &Value| event["object"]["metadata"]["labels"]["e2e"] == "patched";
    watch.until("the patch", LIMIT, is_patched).await?;
    reaches(&context, &path, "Suspended", "JobSuspended").await?;
    context
        .modify(&path, |job| {
            job["spec"]["suspend"] = false.into();
            job["metadata"]["annotations"]["updated"] = "true".into();
        })
        .await?;
    let is_updated = |event: &Value| event["object"]["metadata"]["annotations"]["updated"] == "true";
    watch.until("the update", LIMIT, is_updated).await?;
    let everywhere = format!("/apis/batch/v1/jobs?labelSelector=e2e-job-label={label}");
    ensure!(context.list(&everywhere).await?.len() == 1, "not one job in all namespaces");
    completes(&context, &path, "CompletionsReached", 4).await?;
    context.delete_with(&selected, json!({"propagationPolicy": "Background"})).await?;
    watch.until("the deletion", LIMIT, |event| event["type"] == "DELETED").await?;
    ensure!(context.list(&everywhere).await?.is_empty(), "the job is still listed");
    Ok(())
}
