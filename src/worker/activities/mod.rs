//! What the workflow has done for it: short activities that read and write the AgentJob and its pods. None waits for an
//! agent. Run by the worker only; their definitions are in [`super::calls`].
//!
//! A worker may be frozen anywhere in here and thaw when another has long done the same. So each write has a test on what
//! it replaces, only pods of lower epochs than a claim of ours are deleted, and pods are deleted by UID.

mod cleanup;
mod control_runner;
mod execute_agent;
mod start_runner;
mod trouble;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Client};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};

pub use trouble::Trouble;

use crate::{
    api::{AgentJob, JobRef},
    platform::{kubernetes::Runners, metrics::Metrics},
    pods::{PodView, Pods},
    protocol::workflow::{
        AgentResult, Cleanup, ControlRunner, ControlledRunner, ExecuteAgent, StartRunner, StartedRunner,
    },
    temporal::{Heartbeat, TaskToken, Temporal},
};

/// How often pods are looked at that are to end.
const POLL: Duration = Duration::from_millis(500);
/// How long a pod whose outcome is known may take to end by itself: deleting it earlier would take its logs. A sidecar that
/// holds it up once its agent has ended gets less than a kubelet that has not said so yet.
const LINGER: Duration = Duration::from_secs(10);
const SLOW_KUBELET: Duration = Duration::from_secs(60);

/// What the activities need.
#[derive(Clone)]
pub struct Activities {
    /// Kubernetes.
    pub client: Client,
    /// Temporal, to ask whether a task is still ours.
    pub temporal: Temporal,
    /// What runner pods need of the operator.
    pub runners: Runners,
    /// What is counted.
    pub metrics: Metrics,
}

#[activities]
impl Activities {
    /// See [`super::calls::Calls::start_runner`].
    #[activity(name = "start_runner")]
    pub async fn start_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: StartRunner,
    ) -> Result<StartedRunner, ActivityError> {
        let attempt = ctx.info().attempt;
        let job = input.job.clone();
        self.answer("start_runner", &job, attempt, start_runner::run(&self, &ctx, input).await)
    }

    /// See [`super::calls::Calls::execute_agent`].
    #[activity(name = "execute_agent")]
    pub async fn execute_agent(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ExecuteAgent,
    ) -> Result<AgentResult, ActivityError> {
        let attempt = ctx.info().attempt;
        let job = input.job.clone();
        match self.answer("execute_agent", &job, attempt, execute_agent::run(&self, &ctx, input).await)? {
            Some(result) => Ok(result),
            None => Err(ActivityError::WillCompleteAsync),
        }
    }

    /// See [`super::calls::Calls::control_runner`].
    #[activity(name = "control_runner")]
    pub async fn control_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ControlRunner,
    ) -> Result<ControlledRunner, ActivityError> {
        let attempt = ctx.info().attempt;
        let job = input.job.clone();
        self.answer("control_runner", &job, attempt, control_runner::run(&self, input).await)
    }

    /// See [`super::calls::Calls::cleanup`].
    #[activity(name = "cleanup")]
    pub async fn cleanup(self: Arc<Self>, ctx: ActivityContext, input: Cleanup) -> Result<(), ActivityError> {
        let attempt = ctx.info().attempt;
        let job = input.job.clone();
        self.answer("cleanup", &job, attempt, cleanup::run(&self, &ctx, input).await)
    }
}

impl Activities {
    fn jobs(&self, job: &JobRef) -> Api<AgentJob> {
        Api::namespaced(self.client.clone(), &job.namespace)
    }

    fn pods_in(&self, job: &JobRef) -> Pods {
        Pods::new(self.client.clone(), &job.namespace)
    }

    /// Whether Temporal still waits for this very task; [`Trouble::Superseded`] if not.
    async fn still_ours(&self, ctx: &ActivityContext) -> Result<(), Trouble> {
        let info = ctx.info();
        let workflow = info.workflow_id.as_deref().unwrap_or_default();
        let late = Trouble::Superseded("Temporal doesn't wait for this task any more");
        let Ok(token) = TaskToken::from_claim(&TaskToken::encode(&info.task_token), workflow) else { return Err(late) };
        match self.temporal.heartbeat(token).await? {
            Heartbeat::Alive => Ok(()),
            Heartbeat::Unknown => Err(late),
        }
    }

    fn answer<T>(
        &self,
        activity: &'static str,
        job: &JobRef,
        attempt: u32,
        ended: Result<T, Trouble>,
    ) -> Result<T, ActivityError> {
        ended.map_err(|trouble| {
            let (namespace, name) = (&job.namespace, &job.name);
            if trouble.is_expected() {
                tracing::debug!(activity, namespace, name, attempt, reason = trouble.reason(), "{trouble}");
            } else {
                tracing::warn!(activity, namespace, name, attempt, reason = trouble.reason(), "{trouble}");
            }
            trouble.into_error(attempt)
        })
    }
}

fn now() -> Time {
    Time(Timestamp::now())
}

/// Sleeps between two looks. Ends with [`Trouble::Interrupted`] when the worker stops, or nobody waits any more.
async fn pause(ctx: &ActivityContext) -> Result<(), Trouble> {
    tokio::select! {
        () = ctx.cancelled() => Err(Trouble::Interrupted),
        () = tokio::time::sleep(POLL) => Ok(()),
    }
}

/// Which of the pods that must end to delete now: all, but those whose outcome is known may end by themselves for a while.
fn to_delete<'a>(pods: &[&'a PodView], ending: Option<i32>, waited: Duration) -> Vec<&'a PodView> {
    let patience = |p: &PodView| if p.agent_ended() { LINGER } else { SLOW_KUBELET };
    let due = |p: &&&PodView| !p.deleting() && (ending != Some(p.epoch) || waited >= patience(p));
    pods.iter().filter(due).copied().collect()
}
