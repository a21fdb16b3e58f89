//! A job of a test: requests to it, and the state of it, its pods and its agent.

use std::{sync::Arc, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use koco::api::{AgentJobStatus, AgentRun, Termination, conditions, names};
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    AgentJob, DesiredState, Phase, Test, Tick,
    agent_log::{starts, ticks},
    cluster::AGENT_IMAGE,
    temporal,
    wait::{DEADLINE, within},
};

/// The spec of a job whose agent is the test agent; a grace period short enough to wait for.
pub fn agent(entry_point: &str) -> Value {
    json!({
        "entryPoint": entry_point,
        "template": { "spec": {
            "terminationGracePeriodSeconds": 10,
            "containers": [{ "name": "agent", "image": AGENT_IMAGE, "command": ["/test-agent"] }],
        } },
    })
}

/// The whole object, from a spec.
pub fn manifest(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "kodosumi.io/v1alpha1", "kind": "AgentJob", "metadata": { "name": name }, "spec": spec })
}

/// Changes to a spec, which read well in a chain.
pub trait With {
    /// A JSON merge patch.
    fn with(self, patch: Value) -> Value;
    fn mode(self, mode: koco::api::ExecutionMode) -> Value;
    fn heartbeat(self, text: &str) -> Value;
    fn grace(self, seconds: i64) -> Value;
}

impl With for Value {
    fn with(mut self, patch: Value) -> Value {
        json_patch::merge(&mut self, &patch);
        self
    }
    fn mode(self, mode: koco::api::ExecutionMode) -> Value {
        self.with(json!({ "executionMode": mode.as_str() }))
    }
    fn heartbeat(self, text: &str) -> Value {
        self.with(json!({ "timeouts": { "heartbeat": text } }))
    }
    fn grace(self, seconds: i64) -> Value {
        self.with(json!({ "template": { "spec": { "terminationGracePeriodSeconds": seconds } } }))
    }
}

pub struct Job<'t> {
    pub test: &'t Test,
    pub name: String,
    pub uid: String,
    /// Where its Temporal server is.
    pub temporal: String,
}

impl<'t> Job<'t> {
    pub fn new(test: &'t Test, name: &str, uid: &str) -> Self {
        Self { test, name: name.into(), uid: uid.into(), temporal: test.cluster.temporal.clone() }
    }

    /// On a Temporal server of the test's own.
    pub fn on(mut self, address: &str) -> Self {
        self.temporal = address.into();
        self
    }

    // ---- requests

    pub async fn patch(&self, patch: Value) {
        let sent = self.test.jobs().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        sent.unwrap_or_else(|e| panic!("patch of {}: {e}", self.name));
    }

    pub async fn want(&self, state: DesiredState) {
        self.patch(json!({ "spec": { "desiredState": state } })).await;
    }

    pub async fn delete(&self, params: DeleteParams) {
        self.test.jobs().delete(&self.name, &params).await.expect("delete");
    }

    // ---- its status

    pub async fn get(&self) -> AgentJob {
        self.find().await.unwrap_or_else(|| panic!("job {} is gone", self.name))
    }

    /// `None` if it is gone, or another one has its name.
    pub async fn find(&self) -> Option<AgentJob> {
        let found = self.test.jobs().get_opt(&self.name).await.expect("get");
        found.filter(|job| job.metadata.uid.as_deref() == Some(&self.uid))
    }

    pub async fn status(&self) -> AgentJobStatus {
        self.get().await.status.unwrap_or_default()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&AgentJobStatus) -> bool) -> AgentJobStatus {
        self.until_within(DEADLINE, what, holds).await
    }

    pub async fn until_within(
        &self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&AgentJobStatus) -> bool,
    ) -> AgentJobStatus {
        within(limit, &format!("{what} (job {})", self.name), async || {
            let status = self.status().await;
            if holds(&status) {
                return Ok(status);
            }
            Err((
                status.phase,
                status.attempt,
                status.error,
                status.conditions.into_iter().map(|c| (c.type_, c.reason)).collect::<Vec<_>>(),
            ))
        })
        .await
    }

    /// Waits for a phase; another final one fails immediately.
    pub async fn phase(&self, phase: Phase) -> AgentJobStatus {
        let over = |s: &AgentJobStatus| s.phase.is_some_and(Phase::is_terminal);
        let status = self.until(&format!("phase {phase:?}"), |s| s.phase == Some(phase) || over(s)).await;
        assert_eq!(status.phase, Some(phase), "job {}: {:?}", self.name, status.error);
        status
    }

    pub async fn gone(&self, limit: Duration) {
        let what = format!("job {} to be gone", self.name);
        within(limit, &what, async || self.find().await.map_or(Ok(()), |j| Err(j.metadata.finalizers))).await;
    }

    // ---- its runs

    /// By number.
    pub async fn runs(&self) -> Vec<AgentRun> {
        let ours = ListParams::default().labels(&format!("{}={}", names::LABEL_JOB_UID, self.uid));
        let mut runs = self.test.runs().list(&ours).await.expect("runs").items;
        runs.sort_by_key(AgentRun::number);
        runs
    }

    /// The newest.
    pub async fn run(&self) -> Option<AgentRun> {
        self.runs().await.pop()
    }

    /// How many runs there were so far.
    pub async fn run_number(&self) -> i32 {
        self.run().await.map_or(0, |run| run.number())
    }

    /// How the newest run ended, if it has.
    pub async fn termination(&self) -> Option<Termination> {
        self.run().await?.termination().cloned()
    }

    /// Waits until the newest run is so.
    pub async fn until_run(&self, what: &str, holds: impl Fn(&AgentRun) -> bool) -> AgentRun {
        within(DEADLINE, &format!("{what} (newest run of job {})", self.name), async || match self.run().await {
            Some(run) if holds(&run) => Ok(run),
            other => Err(other.map(|run| (run.spec, run.status))),
        })
        .await
    }

    /// Waits for the pod of the newest run to be there.
    pub async fn until_pod(&self) -> Pod {
        within(DEADLINE, &format!("a pod (job {})", self.name), async || {
            let run = self.run().await.ok_or("no run")?;
            let found = self.test.pods().get_opt(&run.spec.identity.pod_name).await.expect("get");
            found.ok_or("no pod")
        })
        .await
    }

    // ---- its pods

    pub async fn pods(&self) -> Vec<Pod> {
        let ours = ListParams::default().labels(&format!("{}={}", names::LABEL_JOB_UID, self.uid));
        let mut pods = self.test.pods().list(&ours).await.expect("pods").items;
        pods.sort_by_key(number);
        pods
    }

    /// The newest pod, once its agent has started.
    pub async fn running_pod(&self) -> Pod {
        let run = self.until_run("the agent to start", started).await;
        self.test.pods().get(&run.spec.identity.pod_name).await.expect("the pod")
    }

    /// Waits until no pod of the job has a container that runs.
    pub async fn nothing_runs(&self) {
        within(DEADLINE, "no pod of the job to run", async || {
            let running: Vec<String> = self.pods().await.iter().filter(|p| runs(p)).map(pod_name).collect();
            if running.is_empty() { Ok(()) } else { Err(running) }
        })
        .await;
    }

    pub async fn delete_pod(&self, name: &str, params: &DeleteParams) {
        self.test.pods().delete(name, params).await.expect("delete");
    }

    // ---- its agent

    /// What the agent of the newest pod has written so far.
    pub async fn log(&self) -> String {
        match self.run().await {
            Some(run) => self.log_of(&run.spec.identity.pod_name).await.unwrap_or_default(),
            None => String::new(),
        }
    }

    pub async fn log_of(&self, pod: &str) -> Option<String> {
        let params = LogParams { container: Some("agent".into()), ..LogParams::default() };
        self.test.pods().logs(pod, &params).await.ok()
    }

    pub async fn until_log<T>(&self, what: &str, look: impl Fn(&str) -> Option<T>) -> T {
        within(DEADLINE, &format!("{what} in the agent's log (job {})", self.name), async || {
            let log = self.log().await;
            look(&log).ok_or_else(|| log.lines().rev().take(3).map(str::to_string).collect::<Vec<_>>())
        })
        .await
    }

    /// Waits until the agent has counted on by `more`, and answers all its ticks.
    pub async fn counts_on(&self, more: u64) -> Vec<Tick> {
        let before = self.counted().await;
        self.counts_to(before + more).await
    }

    /// How far the agent has counted.
    pub async fn counted(&self) -> u64 {
        ticks(&self.log().await).last().map_or(0, |t| t.n)
    }

    /// Waits until the agent has counted that far, and answers all its ticks.
    pub async fn counts_to(&self, n: u64) -> Vec<Tick> {
        self.until_log("a counter that goes on", |log| {
            let all = ticks(log);
            all.last().is_some_and(|t| t.n >= n).then_some(all)
        })
        .await
    }

    /// Waits until the agent counts, and has started only once in its pod. It may have counted to its end by then.
    pub async fn counts(&self) -> Vec<Tick> {
        self.running_pod().await;
        let all = self
            .until_log("a counter", |log| {
                let all = ticks(log);
                (all.len() > 2).then_some(all)
            })
            .await;
        assert_eq!(starts(&self.log().await), 1, "agents that began in this pod");
        all
    }

    /// Reads a pod's log from now on, and keeps it when the pod is gone.
    pub fn follow(&self, pod: &str) -> Follow {
        let (pods, pod, lines) = (self.test.pods(), pod.to_string(), Arc::new(Mutex::new(String::new())));
        let kept = lines.clone();
        let task = tokio::spawn(async move {
            let params = LogParams { container: Some("agent".into()), follow: true, ..LogParams::default() };
            let Ok(stream) = pods.log_stream(&pod, &params).await else { return };
            let mut stream = std::pin::pin!(stream.lines());
            while let Ok(Some(line)) = stream.try_next().await {
                let mut kept = kept.lock().await;
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Follow { lines, task }
    }

    // ---- its workflow

    pub async fn workflow(&self) -> String {
        let status = self.until("a workflow", |s| s.workflow.as_ref().is_some_and(|w| !w.id.is_empty())).await;
        status.workflow.expect("a workflow").id
    }

    pub async fn history(&self) -> Vec<Value> {
        temporal::events(&self.temporal, &self.workflow().await)
    }

    /// Waits until the workflow is closed, and answers how.
    pub async fn closed(&self, id: &str) -> String {
        within(DEADLINE, "the workflow to be closed", async || {
            let state = temporal::state(&self.temporal, id);
            if state == "RUNNING" { Err(state) } else { Ok(state) }
        })
        .await
    }
}

/// What is written to a pod's log while it is followed.
pub struct Follow {
    lines: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Follow {
    /// Everything, once the container has ended.
    pub async fn all(self) -> String {
        let ended = tokio::time::timeout(DEADLINE, self.task).await;
        ended.expect("the log ends with its container").expect("no panic");
        self.lines.lock().await.clone()
    }
}

pub fn pod_name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

pub fn pod_uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// The number of the run that a pod is of.
fn number(pod: &Pod) -> i32 {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(names::LABEL_RUN_NUMBER));
    label.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Whether a container of a pod runs, or may yet.
pub fn runs(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    !matches!(phase, "Succeeded" | "Failed")
}

/// Whether a run's agent has started, or is about to: its runner is there and may.
pub fn started(run: &AgentRun) -> bool {
    run.may_have_started()
}

/// A condition's (status, reason, message).
pub fn condition(status: &AgentJobStatus, kind: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == kind);
    found.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone())).unwrap_or_default()
}

pub fn stalled(status: &AgentJobStatus) -> bool {
    conditions::stall(&status.conditions).is_some()
}

/// The agent's result.
pub fn result(status: &AgentJobStatus) -> Value {
    status.result.as_ref().expect("a result").read().expect("JSON")
}

/// The error's type.
pub fn error_type(status: &AgentJobStatus) -> &str {
    status.error.as_ref().map_or("", |e| e.kind.as_str())
}
