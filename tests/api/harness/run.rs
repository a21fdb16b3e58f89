//! How a job's runs are recorded: which pod is its newest, whether its agent may start, how it ended. All that tests of
//! this tier know of it is here, and in `job` of the shared harness.

use k8s_openapi::api::core::v1::Pod;
use koco::api::{AgentJobStatus, OutcomeKind, RunnerState, names};

use super::{Job, hold::Asked, within};

/// A run of a job, as it is on record.
#[derive(Clone, Debug)]
pub struct Run {
    /// Counts the job's runs, from 1.
    pub number: i32,
    /// The pod's UID, once it is known.
    pub pod_uid: Option<String>,
    /// Whether the agent may start.
    pub granted: bool,
    /// How it ended.
    pub ended: Option<OutcomeKind>,
}

/// The newest run, as a job's status says.
pub fn newest(status: &AgentJobStatus) -> Option<Run> {
    let claim = status.claim.as_ref()?;
    Some(Run {
        number: claim.epoch,
        pod_uid: claim.pod_uid.clone(),
        granted: claim.permit.is_some(),
        ended: status.outcome.as_ref().filter(|o| o.epoch == claim.epoch).map(|o| o.kind),
    })
}

/// What the runner was told last: (state, seq).
pub fn command(status: &AgentJobStatus) -> Option<(koco::api::DesiredState, i64)> {
    status.control.as_ref()?.command.as_ref().map(|c| (c.state, c.seq))
}

/// What the runner has confirmed last: (state, seq).
pub fn confirmed(status: &AgentJobStatus) -> Option<(RunnerState, i64)> {
    status.control.as_ref()?.confirmed.as_ref().map(|c| (c.state, c.seq))
}

/// Whether it is the write that lets a run's agent start.
pub fn grants(asked: &Asked) -> bool {
    asked.words() == "patch agentjobs/status" && asked.body.contains("/status/claim/permit")
}

/// Whether it is a gateway's write of how a run ended.
pub fn records_the_end(asked: &Asked) -> bool {
    asked.words() == "patch agentjobs/status" && asked.body.contains("/status/outcome")
}

/// Which run a pod is of.
pub fn number(pod: &Pod) -> i32 {
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(names::LABEL_EPOCH));
    label.and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl Job<'_> {
    /// Waits for the pod of the job's run of that number.
    pub async fn pod(&self, run: i32) -> Pod {
        within(super::DEADLINE, &format!("the pod of run {run} of {}", self.name), async || {
            let found = self.pods().await.into_iter().find(|p| number(p) == run);
            found.ok_or("no such pod")
        })
        .await
    }

    /// Waits until the newest run is so.
    pub async fn run_is(&self, what: &str, is: impl Fn(&Run) -> bool) -> Run {
        let status = self.until(what, |s| newest(s).is_some_and(|r| is(&r))).await;
        newest(&status).expect("a run")
    }
}
