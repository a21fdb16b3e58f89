//! What the workflow has done for it: short activities that read and write AgentRuns and create pods. None waits, for an agent
//! or for a pod: what isn't so yet is a failure that Temporal tries again, so that no job holds a slot that others need. Run by
//! the worker only; their definitions are in [`super::calls`].
//!
//! A worker may be frozen anywhere in here and thaw when another has long done the same. So runs are created under names that
//! exist only once, each write is bound to the version that was read, nothing changes a closed run, and pods are deleted by UID.

mod cleanup;
mod cluster;
mod control_runner;
mod execute_agent;
mod failure;
mod start_runner;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{Api, Client};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError, ActivityInfo};

pub use cluster::Cluster;
pub use failure::ActivityFailure;

use crate::{
    api::{AgentJob, JobRef, names},
    platform::{
        metrics::Metrics,
        store::{self, StoreError},
    },
    pods::{PodConfig, Pods},
    protocol::workflow::{
        AgentResult, Cleanup, ControlRunner, ControlledRunner, ExecuteAgent, StartRunner, StartedRunner,
    },
    runs::Runs,
    temporal::Temporal,
};

/// How long one activity may take: a server that doesn't answer must not hold a slot.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What the activities need.
#[derive(Clone)]
pub struct Activities {
    /// Kubernetes.
    pub client: Client,
    /// Temporal, to ask whether a task is still ours.
    pub temporal: Temporal,
    /// What runner pods need of the operator.
    pub pods: PodConfig,
    /// What is counted.
    pub metrics: Metrics,
    /// The cluster's id, which is part of every workflow's.
    pub cluster: Cluster,
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
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        self.perform("start_runner", &task, &job, start_runner::run(&self, &task, &input)).await
    }

    /// See [`super::calls::Calls::execute_agent`].
    #[activity(name = "execute_agent")]
    pub async fn execute_agent(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ExecuteAgent,
    ) -> Result<AgentResult, ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        let ended = self.perform("execute_agent", &task, &job, execute_agent::run(&self, &task, &input)).await?;
        ended.ok_or(ActivityError::WillCompleteAsync)
    }

    /// See [`super::calls::Calls::control_runner`].
    #[activity(name = "control_runner")]
    pub async fn control_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ControlRunner,
    ) -> Result<ControlledRunner, ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        self.perform("control_runner", &task, &job, control_runner::run(&self, &input)).await
    }

    /// See [`super::calls::Calls::cleanup`].
    #[activity(name = "cleanup")]
    pub async fn cleanup(self: Arc<Self>, ctx: ActivityContext, input: Cleanup) -> Result<(), ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        self.perform("cleanup", &task, &job, cleanup::run(&self, &input)).await
    }
}

/// The task that an activity was given.
struct Task {
    /// The workflow that waits for it.
    workflow_id: String,
    /// That workflow's execution.
    run_id: String,
    /// Its own attempt, from 1.
    attempt: u32,
    /// What Temporal knows it by.
    token: Vec<u8>,
}

impl Task {
    fn of(info: &ActivityInfo) -> Self {
        Self {
            workflow_id: info.workflow_id.clone().unwrap_or_default(),
            run_id: info.workflow_run_id.clone().unwrap_or_default(),
            attempt: info.attempt,
            token: info.task_token.clone(),
        }
    }
}

impl Activities {
    /// Does an activity's work for the job's own workflow, in bounded time.
    async fn perform<T>(
        &self,
        activity: &'static str,
        task: &Task,
        job: &JobRef,
        work: impl Future<Output = Result<T, ActivityFailure>>,
    ) -> Result<T, ActivityError> {
        let checked = async {
            self.check(task, job).await?;
            work.await
        };
        let ended = tokio::time::timeout(LIMIT, checked).await;
        let ended = ended.unwrap_or_else(|_| Err(ActivityFailure::Unavailable(format!("not done within {LIMIT:?}"))));
        ended.map_err(|failure| {
            let (namespace, name, attempt, reason) = (&job.namespace, &job.name, task.attempt, failure.reason());
            if failure.is_expected() {
                tracing::debug!(activity, namespace, name, attempt, reason, "{failure}");
            } else {
                tracing::warn!(activity, namespace, name, attempt, reason, "{failure}");
            }
            failure.into_error(attempt)
        })
    }

    /// Anybody who reaches Temporal may start a workflow of our type with any input: only the one whose id is the job's own
    /// has something done for it.
    async fn check(&self, task: &Task, job: &JobRef) -> Result<(), ActivityFailure> {
        if task.workflow_id == names::workflow(self.cluster.id().await?, &job.uid) {
            return Ok(());
        }
        Err(ActivityFailure::ForeignWorkflow(task.workflow_id.clone()))
    }

    /// The job as the API server has it now.
    async fn read_job(&self, job: &JobRef) -> Result<AgentJob, ActivityFailure> {
        let jobs: Api<AgentJob> = Api::namespaced(self.client.clone(), &job.namespace);
        match store::read(&jobs, &job.name, &job.uid).await {
            Ok(found) => Ok(found),
            Err(StoreError::Gone { .. }) => Err(ActivityFailure::JobGone("the AgentJob is gone")),
            Err(e) => Err(e.into()),
        }
    }

    fn runs_in(&self, job: &JobRef) -> Runs {
        Runs::new(self.client.clone(), &job.namespace)
    }

    fn pods_in(&self, job: &JobRef) -> Pods {
        Pods::new(self.client.clone(), &job.namespace)
    }

    /// Whether Temporal still waits for this very task; [`ActivityFailure::Superseded`] if not.
    async fn still_ours(&self, task: &Task) -> Result<(), ActivityFailure> {
        if self.temporal.is_current(&task.token).await? {
            return Ok(());
        }
        Err(ActivityFailure::Superseded("Temporal doesn't wait for this task any more"))
    }
}

fn now() -> Time {
    Time(Timestamp::now())
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
