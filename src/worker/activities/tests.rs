//! The activities against a fake API server.

use serde_json::{Value, json};

use super::{
    fake::{self, Fake, JOBS, PODS},
    *,
};
use crate::api::DesiredState;

fn start(run: i32) -> StartRunner {
    let job = fake::job_ref();
    StartRunner { job, run, attempt: 1, resumed: false, desired: DesiredState::Running, generation: 0 }
}

fn execute(run: i32) -> ExecuteAgent {
    ExecuteAgent { job: fake::job_ref(), run, attempt: 1, desired: DesiredState::Running, generation: 2 }
}

async fn with_job(change: impl FnOnce(&mut Value)) -> (Fake, Activities) {
    let (fake, activities) = Fake::start().await;
    let mut job = fake::job();
    change(&mut job);
    fake.put(&format!("{JOBS}/j"), job);
    (fake, activities)
}

async fn started(a: &Activities, input: &StartRunner) -> Result<i32, ActivityFailure> {
    start_runner::run(a, &fake::task(1), input).await.map(|s| s.run)
}

fn pods(fake: &Fake) -> usize {
    fake.calls().iter().filter(|c| *c == "POST pods").count()
}

#[tokio::test]
async fn a_first_run_costs_three_calls_and_its_grant_two() {
    let (fake, a) = with_job(|_| {}).await;
    assert_eq!(started(&a, &start(1)).await.unwrap(), 1);
    assert_eq!(fake.calls(), ["GET agentjobs", "POST agentruns", "POST pods"]);
    let run = fake.run(1).unwrap();
    assert_eq!((run.number(), run.spec.grant.as_ref(), run.spec.command.as_ref()), (1, None, None));
    let pod = fake.get(&format!("{PODS}/{}", run.spec.identity.pod_name)).unwrap();
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], json!(run.uid()));

    assert_eq!(execute_agent::run(&a, &fake::task(1), &execute(1)).await.unwrap(), None);
    assert_eq!(fake.calls(), ["GET agentruns", "PUT agentruns"]);
    let run = fake.run(1).unwrap();
    let grant = run.spec.grant.clone().unwrap();
    assert_eq!((grant.binding, grant.run_id.as_deref(), grant.activity_attempt), (0, Some("run"), Some(1)));
    assert_eq!(run.command_generation(), 2, "the newest command comes with the grant");
    // The response was lost: the same try again writes nothing.
    assert_eq!(execute_agent::run(&a, &fake::task(1), &execute(1)).await.unwrap(), None);
    assert_eq!(fake.calls(), ["GET agentruns"]);
}

#[tokio::test]
async fn jobs_that_have_ended_or_are_to_end_get_no_run() {
    let changes: [fn(&mut Value); 6] = [
        |j| j["status"]["phase"] = json!("Succeeded"),
        |j| j["spec"]["desiredState"] = json!("Cancelled"),
        |j| j["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        |j| j["metadata"]["uid"] = json!("another job of this name"),
        |j| j["status"]["resolved"]["executionMode"] = json!("Direct"),
        |j| j["status"] = json!({}),
    ];
    for change in changes {
        let (fake, a) = with_job(change).await;
        let refused = started(&a, &start(1)).await.unwrap_err();
        assert!(matches!(refused, ActivityFailure::JobGone(_)) && !refused.is_retryable());
        assert_eq!(fake.calls(), ["GET agentjobs"]);
    }
}

#[tokio::test]
async fn a_workflow_that_is_not_the_jobs_own_gets_nothing() {
    let (fake, a) = with_job(|_| {}).await;
    let mine = Task { workflow_id: "mine".into(), ..fake::task(1) };
    let input = start(1);
    let work = start_runner::run(&a, &mine, &input).boxed();
    let ActivityError::Application(refused) = a.perform("start_runner", &mine, &input.job, work).await.unwrap_err()
    else {
        panic!("not refused")
    };
    assert!(refused.is_non_retryable());
    assert_eq!((refused.type_name(), fake.calls().len()), (Some("JobGone"), 0));
    let task = fake::task(1);
    a.perform("start_runner", &task, &input.job, start_runner::run(&a, &task, &input).boxed()).await.unwrap();
}

/// It would be this installation's worker, or another's, that ends the job.
#[tokio::test]
async fn a_workflow_of_another_installation_is_left_to_its_own_workers() {
    let (fake, a) = with_job(|_| {}).await;
    for other in ["d-koco", "c-koco-2"] {
        let foreign = Task { workflow_id: names::workflow(other, "u"), ..fake::task(1) };
        let refused = a.check(&foreign, &fake::job_ref()).await.unwrap_err();
        assert_eq!((refused.reason(), refused.is_retryable()), ("ForeignInstallation", true));
    }
    assert_eq!(fake.calls().len(), 0);
}

#[tokio::test]
async fn names_that_would_be_paths_are_asked_for_nothing() {
    let (fake, a) = with_job(|_| {}).await;
    for (namespace, name) in
        [("ns/agentjobs/j?", "j"), ("..", "j"), ("ns", "../../b/agentjobs/j"), ("", "j"), ("ns", "")]
    {
        let job = JobRef { namespace: namespace.into(), name: name.into(), ..fake::job_ref() };
        let refused = a.check(&fake::task(1), &job).await.unwrap_err();
        assert_eq!((refused.reason(), refused.is_retryable()), ("InvalidName", false), "{namespace} {name}");
    }
    assert_eq!(fake.calls().len(), 0);
}

/// Somebody has started a workflow under the id that the Direct job's would have.
#[tokio::test]
async fn no_activity_touches_a_job_that_no_workflow_runs() {
    let (fake, a) = with_job(|j| j["status"]["resolved"]["executionMode"] = json!("Direct")).await;
    fake.put_run(1, |r| r["spec"]["identity"]["executionMode"] = json!("Direct"));
    let (task, job) = (fake::task(1), fake::job_ref());
    let control = ControlRunner { job: job.clone(), desired: DesiredState::Cancelled, generation: 9, run: 1 };
    let cleanup = |run| Cleanup { job: job.clone(), run, grace_seconds: 0 };
    let refused = [
        start_runner::run(&a, &task, &start(1)).await.map(drop),
        start_runner::run(&a, &task, &start(2)).await.map(drop),
        execute_agent::run(&a, &task, &execute(1)).await.map(drop),
        control_runner::run(&a, &control).await.map(drop),
        cleanup::run(&a, &cleanup(1)).await,
        cleanup::run(&a, &cleanup(2)).await,
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        let refused = refused.expect_err(&format!("number {n}"));
        assert!(matches!(refused, ActivityFailure::JobGone(_)) && !refused.is_retryable(), "number {n}: {refused}");
    }
    assert!(fake.calls().iter().all(|c| c.starts_with("GET ")), "nothing is written");
}

#[tokio::test]
async fn a_job_that_is_over_gets_no_tombstone() {
    let (fake, a) = with_job(|j| j["status"]["phase"] = json!("Failed")).await;
    cleanup::run(&a, &Cleanup { job: fake::job_ref(), run: 7, grace_seconds: 0 }).await.unwrap();
    assert!(fake.run(7).is_none());
}

#[tokio::test]
async fn the_cluster_is_asked_for_its_id_when_it_is_needed() {
    let (fake, mut a) = with_job(|_| {}).await;
    a.installation = Installation::new(a.client.clone(), None, "koco".into());
    let task = Task { workflow_id: names::workflow("12345678-koco", "u"), ..fake::task(1) };
    assert!(a.check(&task, &fake::job_ref()).await.unwrap_err().is_retryable());
    let system = json!({ "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "kube-system", "uid": "12345678-abcd" } });
    fake.put("/api/v1/namespaces/kube-system", system);
    a.check(&task, &fake::job_ref()).await.unwrap();
    fake.calls();
    a.check(&task, &fake::job_ref()).await.unwrap();
    assert!(fake.calls().is_empty(), "asked once");
}

#[tokio::test]
async fn a_pod_that_still_runs_is_answered_for_and_not_waited_for() {
    let (fake, a) = with_job(|_| {}).await;
    fake.put_run(1, |r| r["status"]["termination"] = fake::closed("Koco"));
    fake.put(&format!("{PODS}/p-1"), fake::pod_json(1));
    for deleted in [true, false] {
        let waits = started(&a, &start(2)).await.unwrap_err();
        assert!(matches!(&waits, ActivityFailure::PodNotEnded(p) if p == "p-1"), "{waits}");
        let ActivityError::Application(told) = waits.into_error(1) else { panic!() };
        assert_eq!(told.next_retry_delay(), Some(Duration::from_millis(500)));
        assert!(!told.is_non_retryable());
        assert_eq!(fake.calls().contains(&"DELETE pods".to_string()), deleted, "only once");
        assert_eq!(fake.run(2), None);
    }
    let mut ended = fake::pod_json(1);
    ended["status"]["phase"] = json!("Failed");
    fake.put(&format!("{PODS}/p-1"), ended);
    assert_eq!(started(&a, &start(2)).await.unwrap(), 2);
    assert_eq!(fake.calls(), ["GET agentjobs", "GET agentruns", "GET pods", "POST agentruns", "POST pods"]);
}

#[tokio::test]
async fn a_pod_that_vanished_is_given_its_grace_period() {
    let (fake, a) = with_job(|j| j["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(20)).await;
    for (time, waits) in [(json!(now()), true), (json!("2026-01-01T00:00:00Z"), false)] {
        fake.put_run(1, |r| {
            r["status"]["termination"] = fake::closed("Kubelet");
            r["status"]["termination"]["podVanished"] = json!(true);
            r["status"]["termination"]["time"] = time;
        });
        assert_eq!(matches!(started(&a, &start(2)).await, Err(ActivityFailure::PodNotEnded(_))), waits);
        assert_eq!(fake.run(2).is_none(), waits);
    }
}

#[tokio::test]
async fn a_runner_that_said_how_it_ended_may_end_by_itself() {
    let (fake, a) = with_job(|_| {}).await;
    fake.put_run(1, |r| {
        r["status"]["termination"] = fake::closed("Runner");
        r["status"]["termination"]["time"] = json!(now());
    });
    fake.put(&format!("{PODS}/p-1"), fake::pod_json(1));
    assert!(matches!(started(&a, &start(2)).await, Err(ActivityFailure::PodNotEnded(_))));
    assert!(!fake.calls().contains(&"DELETE pods".to_string()), "its logs would go with it");
}

#[tokio::test]
async fn a_run_that_is_open_is_closed_before_the_next_is_created() {
    let (fake, a) = with_job(|_| {}).await;
    fake.put_run(1, |_| {});
    assert_eq!(started(&a, &start(2)).await.unwrap(), 2);
    let error = fake.run(1).unwrap().termination().unwrap().error.clone().unwrap();
    assert_eq!(error.kind, "Superseded");
}

#[tokio::test]
async fn the_pod_of_a_run_that_somebody_deleted_is_seen_to() {
    let (fake, a) = with_job(|j| {
        (j["status"]["runnerPod"], j["status"]["runnerPodUID"]) = (json!("p-1"), json!("pod-1"));
    })
    .await;
    fake.put(&format!("{PODS}/p-1"), fake::pod_json(1));
    assert!(matches!(started(&a, &start(2)).await, Err(ActivityFailure::PodNotEnded(_))));
    assert!(fake.calls().contains(&"DELETE pods".to_string()));
    let mut other = fake::pod_json(1);
    other["metadata"]["uid"] = json!("another pod of this name");
    fake.put(&format!("{PODS}/p-1"), other);
    assert_eq!(started(&a, &start(2)).await.unwrap(), 2);
    fake.calls();
    // On a retry the recorded pod may be its own and is kept.
    assert_eq!(started(&a, &start(2)).await.unwrap(), 2);
    assert!(!fake.calls().contains(&"DELETE pods".to_string()));
}

#[tokio::test]
async fn an_earlier_try_is_gone_on_with() {
    let (fake, a) = with_job(|_| {}).await;
    fake.refuse_pods(Some("no quota left"));
    assert!(matches!(started(&a, &start(1)).await, Err(ActivityFailure::PodRefused)));
    let refused = fake.run(1).unwrap();
    assert_eq!(refused.status.unwrap().create_error.as_deref(), Some("no quota left"));
    fake.refuse_pods(None);
    assert_eq!(started(&a, &start(1)).await.unwrap(), 1);
    let run = fake.run(1).unwrap();
    assert_eq!(run.status.unwrap().create_error, None);
    assert_eq!(run.spec.identity.pod_name, refused.spec.identity.pod_name);
    fake.calls();
    // The response was lost: the pod exists.
    assert_eq!(started(&a, &start(1)).await.unwrap(), 1);
    let writes: Vec<_> = fake.calls().into_iter().filter(|c| c.starts_with("PUT")).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(a.metrics.pods_created.get(), 1, "neither one that was refused nor one that was there");
}

#[tokio::test]
async fn a_worker_that_thaws_creates_nothing_under_a_name_that_exists() {
    let (fake, a) = with_job(|_| {}).await;
    // Granted by its own workflow, open or closed: nothing is created, and only current tasks call Temporal.
    fake.put_run(1, |r| r["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": "run" }));
    assert_eq!(started(&a, &start(1)).await.unwrap(), 1);
    fake.put_run(1, |r| r["status"]["termination"] = fake::closed("Runner"));
    assert_eq!(started(&a, &start(1)).await.unwrap(), 1);
    assert_eq!(pods(&fake), 0);
    // Another execution has gone on: Temporal is asked first.
    fake.put_run(1, |r| r["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": "the next" }));
    let before = fake.get(&fake::run_path(1));
    assert!(matches!(started(&a, &start(1)).await, Err(ActivityFailure::Unavailable(e)) if e.contains("Temporal")));
    assert_eq!(fake.get(&fake::run_path(1)), before);
    assert_eq!((pods(&fake), fake.run(2)), (0, None));
}

#[tokio::test]
async fn a_workflow_that_was_reset_begins_no_older_run() {
    // Run 1 was collected long ago; its name is free, and must not be used again.
    let (fake, a) = with_job(|j| j["status"]["activeRun"] = json!(5)).await;
    fake.put_run(5, |r| r["spec"]["grant"] = json!({ "time": now(), "binding": 0, "runID": "before the reset" }));
    assert!(started(&a, &start(1)).await.unwrap_err().is_retryable(), "there is no Temporal to ask");
    assert_eq!(started(&a, &StartRunner { attempt: 1, ..start(4) }).await.unwrap_err().reason(), "ApiServer");
    assert_eq!((pods(&fake), fake.run(1), fake.run(4)), (0, None, None));
    // One that waits for its grant is used.
    fake.put_run(5, |_| {});
    assert_eq!(started(&a, &start(1)).await.unwrap(), 5);
}

#[tokio::test]
async fn the_end_of_a_run_is_answered() {
    let (fake, a) = with_job(|_| {}).await;
    let execute_1 = execute(1);
    let gone = execute_agent::run(&a, &fake::task(1), &execute_1).await.unwrap_err();
    assert!(matches!(gone, ActivityFailure::AgentEnded { error, .. } if error.kind == "Disrupted"));
    let granted = || json!({ "time": now(), "binding": 0, "runID": "run", "activityAttempt": 1 });
    fake.put_run(1, |r| {
        r["spec"]["grant"] = granted();
        r["status"]["termination"] = fake::closed("Runner");
    });
    let failed = execute_agent::run(&a, &fake::task(1), &execute_1).await.unwrap_err();
    assert!(
        matches!(failed, ActivityFailure::AgentEnded { error, non_retryable: false } if error.kind == "AgentFailed")
    );
    fake.put_run(1, |r| {
        r["spec"]["grant"] = granted();
        r["status"]["termination"] = json!({ "type": "Succeeded", "source": "Runner", "started": true, "time": now(),
            "result": { "n": 1 } });
    });
    let done = execute_agent::run(&a, &fake::task(1), &execute_1).await.unwrap().unwrap();
    assert_eq!(done.result, Some(json!({ "n": 1 })));
    assert_eq!(fake.calls(), ["GET agentruns"; 3]);
    // Closed before its grant: no attempt is used up, and the pending time-out fails the job.
    for (kind, told, is_last) in [("Disrupted", "NotStarted", false), ("PendingTimeout", "PendingTimeout", true)] {
        fake.put_run(1, |r| {
            r["status"]["termination"] = fake::closed("Koco");
            r["status"]["termination"]["error"]["type"] = json!(kind);
        });
        let ended = execute_agent::run(&a, &fake::task(1), &execute_1).await.unwrap_err();
        assert!(
            matches!(ended, ActivityFailure::AgentEnded { error, non_retryable } if error.kind == told && non_retryable == is_last)
        );
    }
}

#[tokio::test]
async fn a_silent_runner_is_bound_anew_or_its_end_is_recorded() {
    let (fake, a) = with_job(|_| {}).await;
    let granted = |r: &mut Value| {
        let time = now();
        r["spec"]["grant"] = json!({ "time": time, "binding": 0, "runID": "run", "activityAttempt": 1 });
        r["status"] = json!({ "readyTime": time, "podUID": "pod-1" });
    };
    fake.put_run(1, granted);
    fake.put(&format!("{PODS}/p-1"), fake::pod_json(1));
    assert_eq!(execute_agent::run(&a, &fake::task(2), &execute(1)).await.unwrap(), None);
    assert_eq!(fake.calls(), ["GET agentruns", "GET pods", "GET agentruns", "PUT agentruns"]);
    let grant = fake.run(1).unwrap().spec.grant.unwrap();
    assert_eq!((grant.binding, grant.activity_attempt), (1, Some(2)));
    // A delayed try asks Temporal first.
    assert!(execute_agent::run(&a, &fake::task(1), &execute(1)).await.unwrap_err().is_retryable());
    assert_eq!(fake.run(1).unwrap().spec.grant.unwrap().binding, 1);

    let mut ended = fake::pod_json(1);
    ended["status"]["containerStatuses"][0]["state"] =
        json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    fake.put(&format!("{PODS}/p-1"), ended);
    let failed = execute_agent::run(&a, &fake::task(3), &execute(1)).await.unwrap_err();
    assert!(matches!(failed, ActivityFailure::AgentEnded { error, .. } if error.kind == "OOMKilled"));
    assert!(fake.run(1).unwrap().is_closed());
}

#[tokio::test]
async fn a_command_is_written_to_an_open_run_only() {
    let (fake, a) = with_job(|_| {}).await;
    let input = ControlRunner { job: fake::job_ref(), desired: DesiredState::Paused, generation: 3, run: 1 };
    assert_eq!(control_runner::run(&a, &input).await.unwrap().generation, 3, "its grant will carry it");
    fake.put_run(1, |_| {});
    assert_eq!(control_runner::run(&a, &input).await.unwrap().generation, 3);
    assert_eq!(fake.run(1).unwrap().command_generation(), 3);
    let older = ControlRunner { desired: DesiredState::Running, generation: 1, ..input.clone() };
    assert_eq!(control_runner::run(&a, &older).await.unwrap().generation, 4);
    fake.put_run(1, |r| r["status"]["termination"] = fake::closed("Runner"));
    assert_eq!(control_runner::run(&a, &input).await.unwrap().generation, 3);
    assert_eq!(fake.run(1).unwrap().command_generation(), 0);
}

#[tokio::test]
async fn cleanup_leaves_no_run_open() {
    let (fake, a) = with_job(|_| {}).await;
    let input = |run| Cleanup { job: fake::job_ref(), run, grace_seconds: 0 };
    cleanup::run(&a, &input(0)).await.unwrap();
    assert!(fake.calls().is_empty());
    fake.put_run(1, |r| r["status"]["termination"] = fake::closed("Runner"));
    cleanup::run(&a, &input(1)).await.unwrap();
    assert_eq!(fake.calls(), ["GET agentruns"]);
    fake.put_run(1, |_| {});
    cleanup::run(&a, &input(1)).await.unwrap();
    assert!(fake.run(1).unwrap().is_closed());
    cleanup::run(&a, &input(2)).await.unwrap();
    assert!(fake.run(2).unwrap().spec.identity.tombstone);
    fake.calls();
    // A late `start_runner` does not use it.
    assert_eq!(started(&a, &start(2)).await.unwrap(), 2);
    assert_eq!(pods(&fake), 0);
    fake.put(&format!("{JOBS}/j"), {
        let mut j = fake::job();
        j["metadata"]["uid"] = json!("another");
        j
    });
    cleanup::run(&a, &input(3)).await.unwrap();
    assert_eq!(fake.run(3), None);
}
