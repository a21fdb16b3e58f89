//! The workflow's activities, which read and write AgentRuns and create pods. None waits for an agent or a pod: it
//! fails, and Temporal retries it, so that no job holds a slot that others need. Run by the worker only; their
//! definitions are in [`super::calls`].
//!
//! A worker may be suspended anywhere in here and go on after another has done the same work. So names of runs are
//! unique, each write names the resourceVersion that was read, nothing changes a closed run, and pods are deleted by
//! UID.

mod cleanup;
mod control_runner;
mod execute_agent;
mod failure;
mod installation;
mod local;
mod start_runner;
mod traced;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError, ActivityInfo};

pub use failure::ActivityFailure;
pub use installation::Installation;
pub use local::LocalSlots;

use crate::{
    api::{AgentJob, AgentRun, JobRef, names},
    platform::{
        clock,
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

/// Why an activity does nothing for a job in Direct mode.
const NO_WORKFLOW: &str = "the AgentJob is not run by a workflow";
/// How long one activity may take: an unresponsive server must not hold a slot.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The same for a local activity, which holds its workflow's task, and with it that workflow's signals.
pub const LOCAL_LIMIT: Duration = Duration::from_secs(4);

/// What the activities need.
#[derive(Clone)]
pub struct Activities {
    /// Kubernetes.
    pub client: Client,
    /// Temporal, to check whether a task is still current.
    pub temporal: Temporal,
    /// The settings of runner pods.
    pub pods: PodConfig,
    /// Metrics.
    pub metrics: Metrics,
    /// Whose workflows they may act for.
    pub installation: Installation,
    /// For local activities.
    pub local_slots: LocalSlots,
}

#[activities]
impl Activities {
    /// See [`super::calls::ActivityDefinitions::start_runner`].
    #[activity(name = "start_runner")]
    pub async fn start_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: StartRunner,
    ) -> Result<StartedRunner, ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        let work = async {
            let _slot = self.local_slots.take(&task)?;
            start_runner::run(&self, &task, &input).await
        };
        self.perform("start_runner", &task, &job, work.boxed()).await
    }

    /// See [`super::calls::ActivityDefinitions::execute_agent`].
    #[activity(name = "execute_agent")]
    pub async fn execute_agent(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ExecuteAgent,
    ) -> Result<AgentResult, ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        let ended =
            self.perform("execute_agent", &task, &job, execute_agent::run(&self, &task, &input).boxed()).await?;
        ended.ok_or(ActivityError::WillCompleteAsync)
    }

    /// See [`super::calls::ActivityDefinitions::control_runner`].
    #[activity(name = "control_runner")]
    pub async fn control_runner(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ControlRunner,
    ) -> Result<ControlledRunner, ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        self.perform("control_runner", &task, &job, control_runner::run(&self, &input).boxed()).await
    }

    /// See [`super::calls::ActivityDefinitions::cleanup`].
    #[activity(name = "cleanup")]
    pub async fn cleanup(self: Arc<Self>, ctx: ActivityContext, input: Cleanup) -> Result<(), ActivityError> {
        let (task, job) = (Task::of(ctx.info()), input.job.clone());
        self.perform("cleanup", &task, &job, cleanup::run(&self, &input).boxed()).await
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
    /// Its token.
    token: Vec<u8>,
    /// Whether it is a local activity, of which the server doesn't know.
    local: bool,
}

impl Task {
    fn of(info: &ActivityInfo) -> Self {
        Self {
            workflow_id: info.workflow_id.clone().unwrap_or_default(),
            run_id: info.workflow_run_id.clone().unwrap_or_default(),
            attempt: info.attempt,
            token: info.task_token.clone(),
            local: info.is_local,
        }
    }

    fn limit(&self) -> Duration {
        if self.local { LOCAL_LIMIT } else { LIMIT }
    }
}

impl Activities {
    /// Runs an activity, if its workflow is the job's own, with a time-out. Its work is on the heap, because a local one
    /// runs on the stack of its workflow task.
    async fn perform<T>(
        &self,
        activity: &'static str,
        task: &Task,
        job: &JobRef,
        work: BoxFuture<'_, Result<T, ActivityFailure>>,
    ) -> Result<T, ActivityError> {
        let checked = async {
            Box::pin(self.check(task, job)).await?;
            work.await
        };
        let limited = async {
            let limit = task.limit();
            let ended = tokio::time::timeout(limit, checked).await;
            let ended =
                ended.unwrap_or_else(|_| Err(ActivityFailure::Unavailable(format!("not done within {limit:?}"))));
            ended.inspect_err(|failure| {
                let (attempt, reason) = (task.attempt, failure.reason());
                if failure.is_expected() {
                    tracing::debug!(attempt, reason, "{failure}");
                } else {
                    tracing::warn!(attempt, reason, "{failure}");
                }
            })
        };
        let ended = traced::activity(activity, job, task.attempt, limited).await;
        ended.map_err(|failure| failure.into_error(task.attempt))
    }

    /// Clients of Temporal may start a workflow of this type with any input: only the one with the job's own workflow
    /// id may act for the job, and its names become parts of paths on the API server.
    async fn check(&self, task: &Task, job: &JobRef) -> Result<(), ActivityFailure> {
        let id = &task.workflow_id;
        if !names::is_workflow_of(id, &job.uid) {
            return Err(ActivityFailure::ForeignWorkflow(id.clone()));
        }
        if !names::is_object_name(&job.namespace) || !names::is_object_name(&job.name) {
            return Err(ActivityFailure::InvalidName);
        }
        if *id == names::workflow(self.installation.id().await?, &job.uid) {
            return Ok(());
        }
        Err(ActivityFailure::ForeignInstallation(id.clone()))
    }

    /// Reads the job from the API server.
    async fn read_job(&self, job: &JobRef) -> Result<AgentJob, ActivityFailure> {
        let jobs: Api<AgentJob> = Api::namespaced(self.client.clone(), &job.namespace);
        match store::read(&jobs, &job.name, &job.uid).await {
            Ok(found) => {
                traced::job(&found);
                Ok(found)
            }
            Err(StoreError::Gone { .. }) => Err(ActivityFailure::JobGone("the AgentJob is gone")),
            Err(e) => Err(e.into()),
        }
    }

    /// The job's run of a number, if there is one. Refuses that of a job that no workflow runs.
    async fn read_run(&self, job: &JobRef, number: i32) -> Result<Option<AgentRun>, ActivityFailure> {
        let run = self.runs_in(job).get(job, number).await?;
        if run.as_ref().is_some_and(|run| !run.is_temporal()) {
            return Err(ActivityFailure::JobGone(NO_WORKFLOW));
        }
        run.iter().for_each(traced::run);
        Ok(run)
    }

    fn runs_in(&self, job: &JobRef) -> Runs {
        Runs::new(self.client.clone(), &job.namespace)
    }

    fn pods_in(&self, job: &JobRef) -> Pods {
        Pods::new(self.client.clone(), &job.namespace)
    }

    /// Checks that this task is still current; [`ActivityFailure::Superseded`] if not.
    async fn still_ours(&self, task: &Task) -> Result<(), ActivityFailure> {
        if self.temporal.is_current(&task.token).await? {
            return Ok(());
        }
        Err(ActivityFailure::Superseded("Temporal doesn't wait for this task any more"))
    }
}

fn now() -> Time {
    Time(clock::now())
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
