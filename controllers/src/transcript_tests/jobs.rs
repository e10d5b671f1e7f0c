//! Jobs and cron jobs.

use serde_json::{Value, json};
use skiff_client::{Controller, ObjectRef};

use super::{anything, check, count, note, start};
use crate::{cronjob::CronJobController, job::JobController, simulation::Simulation};

/// Ends every running pod of the job's namespace; `fails` chooses those that fail.
fn end_pods(simulation: &mut Simulation, fails: impl Fn(&Value) -> bool) {
    for mut pod in simulation.values("pods", "d") {
        if pod["status"]["phase"] != "Running" || !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let (phase, code) = if fails(&pod) { ("Failed", 3) } else { ("Succeeded", 0) };
        pod["status"]["phase"] = phase.into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": code,
            "finishedAt": crate::write::time(simulation.now)}}}]);
        simulation.put(pod);
    }
}

fn condition_of(simulation: &Simulation, kind: &str) -> Option<Value> {
    let job = simulation.value("jobs.batch", "d", "work").unwrap();
    let conditions = job["status"]["conditions"].as_array()?.clone();
    conditions.into_iter().find(|condition| condition["type"] == kind && condition["status"] == "True")
}

#[test]
fn a_job_counts_every_end_once() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, |simulation| {
        assert!(count(simulation, |pod| pod["status"]["phase"] != "Succeeded") <= 2, "more than parallelism");
    });
    note(&mut simulation, "one of two fails");
    let mut first = true;
    let failing = simulation.values("pods", "d")[0]["metadata"]["name"].clone();
    while condition_of(&simulation, "Complete").is_none() {
        end_pods(&mut simulation, |pod| first && pod["metadata"]["name"] == failing);
        first = false;
        simulation.settle(&controllers, true, anything);
        simulation.pass(11);
        simulation.settle(&controllers, true, anything);
    }
    let status = simulation.value("jobs.batch", "d", "work").unwrap()["status"].clone();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(4), &json!(1)), "{status}");
    assert!(status["completionTime"].is_string() && condition_of(&simulation, "SuccessCriteriaMet").is_some());
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    for pod in simulation.values("pods", "d") {
        assert_eq!(pod["metadata"]["finalizers"], json!([]));
    }
    check("job", &simulation);
}

#[test]
fn a_job_gives_up_at_its_backoff_limit_and_waits_longer_each_time() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.edit("jobs.batch", "d", "work", |job| {
        job["spec"]["parallelism"] = 1.into();
        job["spec"]["backoffLimit"] = 2.into();
    });
    let mut pauses = Vec::new();
    while condition_of(&simulation, "Failed").is_none() {
        let mut pause = 0;
        while count(&simulation, |pod| pod["status"]["phase"] == "Running") == 0
            && condition_of(&simulation, "Failed").is_none()
        {
            simulation.settle(&controllers, true, anything);
            if count(&simulation, |pod| pod["status"]["phase"] == "Running") == 0 {
                simulation.pass(1);
                pause += 1;
            }
        }
        pauses.push(pause);
        end_pods(&mut simulation, |_| true);
    }
    assert_eq!(condition_of(&simulation, "Failed").unwrap()["reason"], "BackoffLimitExceeded");
    assert!(pauses[1] >= 9 && pauses[2] >= 19, "{pauses:?}");
}

#[test]
fn an_indexed_job_runs_every_index_and_fails_some_on_their_own() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.edit("jobs.batch", "d", "work", |job| {
        job["spec"]["completionMode"] = "Indexed".into();
        job["spec"]["backoffLimitPerIndex"] = 0.into();
        job["spec"]["backoffLimit"] = i32::MAX.into();
    });
    for _ in 0..6 {
        simulation.settle(&controllers, true, anything);
        let odd = |pod: &Value| {
            let index = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
            index.as_str().unwrap().parse::<i32>().unwrap() % 2 == 1
        };
        end_pods(&mut simulation, odd);
    }
    simulation.settle(&controllers, true, anything);
    let status = simulation.value("jobs.batch", "d", "work").unwrap()["status"].clone();
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")), "{status}");
    assert_eq!(condition_of(&simulation, "Failed").unwrap()["reason"], "FailedIndexes");
}

#[test]
fn a_failure_policy_fails_the_job_at_once_or_looks_away() {
    for (action, ends) in [("FailJob", true), ("Ignore", false)] {
        let controllers: [&dyn Controller; 1] = [&JobController];
        let mut simulation = start("job");
        simulation.edit("jobs.batch", "d", "work", |job| {
            job["spec"]["backoffLimit"] = 0.into();
            job["spec"]["podFailurePolicy"] =
                json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]});
        });
        simulation.settle(&controllers, true, anything);
        end_pods(&mut simulation, |_| true);
        simulation.settle(&controllers, true, anything);
        let failed = condition_of(&simulation, "Failed");
        assert_eq!(failed.is_some(), ends, "{action}");
        if let Some(failed) = failed {
            assert_eq!(failed["reason"], "PodFailurePolicy");
            assert!(
                failed["message"]
                    .as_str()
                    .unwrap()
                    .contains("failed with exit code 3 matching FailJob rule at index 0")
            );
        }
    }
}

#[test]
fn a_suspended_job_ends_its_pods_and_starts_again() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, anything);
    simulation.edit("jobs.batch", "d", "work", |job| job["spec"]["suspend"] = true.into());
    simulation.settle(&controllers, true, anything);
    assert!(simulation.values("pods", "d").is_empty(), "{}", simulation.log.join("\n"));
    assert!(condition_of(&simulation, "Suspended").is_some());
    simulation.edit("jobs.batch", "d", "work", |job| job["spec"]["suspend"] = false.into());
    simulation.settle(&controllers, true, anything);
    assert_eq!(simulation.values("pods", "d").len(), 2);
    assert!(condition_of(&simulation, "Suspended").is_none());
}

#[test]
fn a_cron_job_starts_on_time_and_respects_its_policy() {
    let cron = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick, namespace: d}
spec:
  schedule: '*/1 * * * ?'
  concurrencyPolicy: Forbid
  jobTemplate:
    spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
";
    let controllers: [&dyn Controller; 1] = [&CronJobController::default()];
    let mut simulation = Simulation::new(cron);
    simulation.settle(&controllers, false, anything);
    assert!(simulation.values("jobs.batch", "d").is_empty());
    simulation.pass(60);
    simulation.settle(&controllers, false, anything);
    simulation.pass(60);
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("jobs.batch", "d").len(), 1, "the first still runs");
    simulation.edit("cronjobs.batch", "d", "tick", |cron| cron["spec"]["concurrencyPolicy"] = "Replace".into());
    simulation.settle(&controllers, false, anything);
    let jobs = simulation.values("jobs.batch", "d");
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["metadata"]["name"], "tick-29453762");
    let status = simulation.value("cronjobs.batch", "d", "tick").unwrap()["status"].clone();
    assert_eq!(status["lastScheduleTime"], "2026-01-01T00:02:00Z");
    assert_eq!(status["active"].as_array().unwrap().len(), 1);
}

#[test]
fn a_start_that_came_too_late_is_told_of_once() {
    let cron = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: hourly, namespace: d}
spec:
  schedule: '0 * * * *'
  startingDeadlineSeconds: 30
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
";
    let controllers: [&dyn Controller; 1] = [&CronJobController::default()];
    let mut simulation = Simulation::new(cron);
    let missed = |simulation: &Simulation| {
        let wanted = "MissSchedule Missed scheduled time to start a job: Thu, 01 Jan 2026 01:00:00 +0000";
        simulation.log.iter().filter(|line| line.contains(wanted)).count()
    };
    simulation.pass(1800);
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 0);
    simulation.pass(1800 + 31);
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 1, "{:?}", simulation.log);
    simulation.pass(60);
    simulation.edit("cronjobs.batch", "d", "hourly", |cron| cron["spec"]["suspend"] = false.into());
    simulation.settle(&controllers, false, anything);
    assert_eq!(missed(&simulation), 1, "it is no news any more");
    assert!(simulation.values("jobs.batch", "d").is_empty());
    simulation.pass(3600 - 31 - 60 + 10);
    simulation.settle(&controllers, false, anything);
    assert_eq!(simulation.values("jobs.batch", "d").len(), 1);
}

#[test]
fn a_job_whose_pods_cannot_be_replaced_still_lets_go_of_them() {
    let controllers: [&dyn Controller; 1] = [&JobController];
    let mut simulation = start("job");
    simulation.settle(&controllers, true, anything);
    simulation.refuse = Some(("pods", "the namespace is being terminated"));
    end_pods(&mut simulation, |_| false);
    for _ in 0..5 {
        simulation.step(&JobController, &ObjectRef::new("d", "work"));
    }
    assert_eq!(count(&simulation, |pod| pod["metadata"]["finalizers"] != json!([])), 0);
}
