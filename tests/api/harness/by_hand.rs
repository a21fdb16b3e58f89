//! What a person does past koco: objects made and changed by hand, and what koco then says about them.

use std::{sync::Arc, time::Duration};

use axum::http::{Request, header::CONTENT_TYPE};
use k8s_openapi::api::core::v1::{Event, Pod};
use koco::{
    api::{AgentRun, ErrorStatus, Phase, RunnerState, Termination, TerminationSource, TerminationType, names},
    protocol::runner::ControlMessage,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    DEADLINE, Job, Kubelet, Runner, Test,
    job::pod_name,
    runner::{Refused, succeeded},
    within,
};

/// Tells the gateway now and then that the runner's agent runs, as long as it is kept.
pub struct Heart(tokio::task::JoinHandle<()>);

impl Heart {
    pub fn of(runner: Runner) -> (Arc<Runner>, Self) {
        let runner = Arc::new(runner);
        let beats = runner.clone();
        let task = tokio::spawn(async move {
            loop {
                let _ = beats.heartbeat(RunnerState::Running, 0).await;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        (runner, Self(task))
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pod of the job's run of that number, up and running on a node that does nothing by itself, and its runner.
pub async fn in_hand(kubelet: &Kubelet, job: &Job<'_>, run: i32) -> (Pod, Runner) {
    let pod = job.pod(run).await;
    let name = pod_name(&pod);
    kubelet.schedule(&name).await;
    kubelet.run(&name).await;
    let runner = Runner::of(job.test, &pod).await;
    (pod, runner)
}

/// The same, with an agent that has started.
pub async fn started(kubelet: &Kubelet, job: &Job<'_>, run: i32) -> (Pod, Runner) {
    let (pod, runner) = in_hand(kubelet, job, run).await;
    runner.welcome().await;
    assert!(matches!(runner.messages().await.expect("a stream").grant().await, ControlMessage::Grant { .. }));
    runner.confirm(RunnerState::Running, 0, None).await.expect("204");
    job.phase(Phase::Running).await;
    (pod, runner)
}

/// Its agent ends with this result, and the job with it.
pub async fn succeeds(kubelet: &Kubelet, job: &Job<'_>, pod: &Pod, runner: &Runner, result: Value) {
    succeeds_with(kubelet, job, pod, runner, result, None).await;
}

/// The same, with so many events in all.
pub async fn succeeds_with(
    kubelet: &Kubelet,
    job: &Job<'_>,
    pod: &Pod,
    runner: &Runner,
    result: Value,
    events: Option<u64>,
) {
    runner.outcome_of(0, succeeded(result.clone()), events, None).await.expect("204");
    kubelet.end(&pod_name(pod), &super::kubelet::End::exit(0, None)).await;
    assert_eq!(job.phase(Phase::Succeeded).await.result, Some(result.into()));
}

/// A pod that koco has nothing to do with.
pub async fn bare_pod(test: &Test, name: &str, labels: Value) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "agent", "image": "localhost/busybox:none" }] },
    });
    create(test, &pod.to_string()).await;
}

/// Waits until the gateway has no use for this runner any more.
pub async fn dismissed(runner: &Runner) {
    within(DEADLINE, &format!("the runner in {} to be sent away", runner.pod), async || {
        match runner.heartbeat(RunnerState::Running, 0).await {
            // A tombstone is not its run.
            Err(Refused::Code(403 | 410, reason)) => Ok(reason),
            other => Err(other),
        }
    })
    .await;
}

/// Creates what the text says, as it is: our types, and what limits they have, are not asked.
pub async fn create(test: &Test, json: &str) {
    try_create(test, json).await.unwrap_or_else(|e| panic!("{e}"));
}

/// The same, where the API server may refuse it.
pub async fn try_create(test: &Test, json: &str) -> kube::Result<()> {
    #[derive(serde::Deserialize)]
    struct Head {
        kind: String,
    }
    let head: Head = serde_json::from_str(json).expect("an object");
    let request = Request::post(path(test, &head.kind)).header(CONTENT_TYPE, "application/json");
    let request = request.body(json.as_bytes().to_vec()).expect("a request");
    test.client.request_text(request).await.map(drop)
}

/// Writes into the status of an object, past our types.
pub async fn patch_status(test: &Test, kind: &str, name: &str, status: Value) {
    let body = json!({ "status": status }).to_string().into_bytes();
    let request = Request::patch(format!("{}/{name}/status", path(test, kind)));
    let request = request.header(CONTENT_TYPE, "application/merge-patch+json").body(body).expect("a request");
    test.client.request_text(request).await.unwrap_or_else(|e| panic!("the status of {kind} {name}: {e}"));
}

/// Where the test's objects of a kind are.
fn path(test: &Test, kind: &str) -> String {
    let (ns, plural) = (&test.namespace, kind.to_lowercase() + "s");
    match plural.as_str() {
        "agentjobs" | "agentruns" => format!("/apis/{}/namespaces/{ns}/{plural}", names::API_VERSION),
        _ => format!("/api/v1/namespaces/{ns}/{plural}"),
    }
}

/// The events about an object of that name, for this reason.
pub async fn events(test: &Test, name: &str, reason: &str) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(test.client.clone(), &test.namespace);
    let params = ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
    api.list(&params).await.expect("events").items
}

/// Waits for such an event.
pub async fn event(test: &Test, name: &str, reason: &str) -> Event {
    let what = format!("an event {reason} about {name}");
    within(DEADLINE, &what, async || events(test, name, reason).await.pop().ok_or("none")).await
}

/// The lines of the roles' logs in which all of these words are.
pub fn logged(test: &Test, words: &[&str]) -> Vec<String> {
    let log = std::fs::read_to_string(&test.log).expect("the log");
    log.lines().filter(|line| words.iter().all(|w| line.contains(w))).map(str::to_string).collect()
}

/// Changes something that means nothing, so that everybody who watches looks at the job again.
pub async fn touch(job: &Job<'_>, word: &str) {
    job.patch(json!({ "metadata": { "annotations": { "example.com/touched": word } } })).await;
}

/// A run of a job as koco would create it: under its name, owned by its job.
pub fn run_of(job: &Job<'_>, number: i32, attempt: i32) -> AgentRun {
    let mode = "Direct";
    serde_json::from_value(json!({
        "apiVersion": names::API_VERSION, "kind": "AgentRun",
        "metadata": {
            "name": names::run(&job.name, &job.uid, number), "namespace": job.test.namespace,
            "labels": {
                names::LABEL_JOB_UID: job.uid, names::LABEL_JOB_NAME: job.name,
                names::LABEL_RUN_NUMBER: number.to_string(),
            },
            "ownerReferences": [{
                "apiVersion": names::API_VERSION, "kind": "AgentJob", "name": job.name, "uid": job.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": { "identity": {
            "jobName": job.name, "jobUID": job.uid, "number": number, "attempt": attempt,
            "podName": names::pod(&job.name, &job.uid, number, "byhnd"), "executionMode": mode, "heartbeat": "30s",
        } },
    }))
    .expect("a run")
}

/// Creates a run by hand, closed if it has an end.
pub async fn create_run(api: &Api<AgentRun>, run: &AgentRun, end: Option<Termination>) -> AgentRun {
    let made = api.create(&PostParams::default(), run).await.expect("a run");
    let Some(end) = end else { return made };
    let patch = Patch::Merge(json!({ "status": { "termination": end } }));
    match api.patch_status(made.name(), &PatchParams::default(), &patch).await {
        // koco was first to close it, and a closed run does not change.
        Err(kube::Error::Api(refused)) if refused.code == 422 => {
            let closed = api.get(made.name()).await.expect("the run");
            assert!(closed.is_closed(), "{refused}");
            closed
        }
        other => other.expect("an end"),
    }
}

/// An end that a run may have on record.
pub fn end(kind: TerminationType) -> Termination {
    let time = "2026-01-01T00:00:00Z";
    let failed = (kind == TerminationType::Failed)
        .then(|| ErrorStatus { kind: "ByHand".into(), message: "somebody said so".into() });
    let result = (kind == TerminationType::Succeeded).then(|| json!("forged").into());
    let mut end: Termination = serde_json::from_value(json!({
        "type": kind, "source": TerminationSource::Runner, "time": time, "started": true,
    }))
    .expect("an end");
    (end.error, end.result) = (failed, result);
    end
}

/// A pod that somebody else makes, with koco's labels and this owner.
pub fn foreign_pod(job: &Job<'_>, name: &str, owner: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                names::LABEL_JOB_UID: job.uid, names::LABEL_JOB_NAME: job.name, names::LABEL_RUN_NUMBER: "1",
                names::LABEL_COMPONENT: names::RUNNER_COMPONENT,
            },
            // The garbage collector would take some of them away before anybody has seen them.
            "finalizers": ["example.com/stays"],
            "ownerReferences": [owner],
        },
        "spec": {
            "restartPolicy": "Never", "nodeSelector": { "example.com/no": "node" },
            "containers": [{ "name": "agent", "image": "localhost/busybox:none" }],
        },
    })
}
