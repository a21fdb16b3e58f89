//! The gateway's calls to Temporal: forwards heartbeats, signals workflows, and completes activities. All in the
//! background: no request of a runner waits for Temporal. Called by the requests.

mod completion;
mod heartbeats;
mod signals;

use std::time::Duration;

use backon::ExponentialBuilder;

pub use self::signals::PendingSignals;
use super::{Gateway, server::Refusal, sessions::Session};
use crate::{
    api::{AgentJob, AgentRun, names},
    protocol::workflow::{RunnerReady, SIGNAL_RUNNER_READY},
    temporal::Described,
};

/// The workflow whose activity waits for the end of a run. A workflow that is not its job's is ignored.
fn granted_workflow(run: &AgentRun) -> Option<&str> {
    let workflow = run.spec.grant.as_ref().filter(|_| run.is_temporal())?.workflow_id.as_deref()?;
    if names::is_workflow_of(workflow, &run.spec.identity.job_uid) {
        return Some(workflow);
    }
    tracing::error!(run = run.name(), workflow, "the grant names a workflow that is not the job's");
    None
}

/// A job's workflow, from the AgentJob's status.
#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    /// Known, and in this gateway's Temporal namespace.
    Workflow(String),
    /// Not known yet.
    NotYet,
    /// A foreign one: a NotFound from another Temporal namespace would prove nothing.
    Foreign,
}

fn recorded(job: &AgentJob, namespace: &str) -> Recorded {
    let workflow = job.status.as_ref().and_then(|s| s.workflow.as_ref()).filter(|w| !w.id.is_empty());
    match workflow {
        None => Recorded::NotYet,
        Some(workflow) if workflow.namespace == namespace && names::is_workflow_of(&workflow.id, job.uid()) => {
            Recorded::Workflow(workflow.id.clone())
        }
        Some(workflow) => {
            let (id, namespace) = (&workflow.id, &workflow.namespace);
            let job = &job.metadata.name;
            tracing::warn!(?job, id, namespace, "a workflow of another job, or of another Temporal namespace");
            Recorded::Foreign
        }
    }
}

impl Gateway {
    /// Remembers a job's workflow for its run.
    pub(super) fn note_workflow(&self, job: &AgentJob, session: &Session) {
        if self.temporal.is_configured()
            && job.status.as_ref().and_then(|s| s.workflow.as_ref()).is_some()
            && let Recorded::Workflow(id) = recorded(job, self.temporal.namespace())
        {
            *session.workflow.lock() = Some(id);
        }
    }

    /// The workflow of a run's job: by the grant, by the session, or by the job itself.
    async fn workflow(&self, run: &AgentRun, session: &Session) -> Result<Recorded, Refusal> {
        if run.spec.grant.is_some() {
            let granted = granted_workflow(run).map(str::to_string);
            return Ok(granted.map_or(Recorded::Foreign, Recorded::Workflow));
        }
        if let Some(known) = session.workflow.lock().clone() {
            return Ok(Recorded::Workflow(known));
        }
        let job = self.read_job(&run.job()).await?;
        self.note_workflow(&job, session);
        Ok(recorded(&job, self.temporal.namespace()))
    }

    /// Asks whether the workflow still runs. If it is closed, the runner is stopped; else it waits for its next binding.
    /// A workflow that isn't there proves nothing: it may be on another server. The controller decides on that.
    async fn find_closed(&self, workflow: &str, run: &AgentRun, session: &Session) {
        if !session.may_describe() {
            return;
        }
        match self.temporal.describe(workflow).await {
            Ok(Described { closed: Some(_), .. }) => {}
            Ok(_) => return self.remind(workflow, run, session).await,
            Err(error) => return tracing::debug!(%error, workflow, "is it closed?"),
        }
        let job = self.read_job(&run.job()).await;
        if job.is_ok_and(|job| recorded(&job, self.temporal.namespace()) == Recorded::Workflow(workflow.into())) {
            tracing::info!(workflow, run = run.name(), "the workflow is closed: stopping its runner");
            session.workflow_closed.send_replace(true);
        }
    }
}

impl Gateway {
    /// The workflow is open and no activity of the run is pending. If its server was restored to a point before the
    /// grant, it waits for its runner; in any other case it ignores this.
    async fn remind(&self, workflow: &str, run: &AgentRun, session: &Session) {
        if run.spec.grant.is_none() || !session.may_remind() {
            return;
        }
        let ready = RunnerReady { run: run.number() };
        if let Err(error) = self.temporal.signal(workflow, SIGNAL_RUNNER_READY, &ready).await {
            tracing::debug!(%error, workflow, "reminding a workflow of its runner");
        }
    }
}

/// Endless exponential back-off, up to 5 s.
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::WorkflowStatus,
        gateway::fixtures::{self, grant},
    };

    #[test]
    fn only_the_jobs_own_workflow_is_spoken_to() {
        let mut run = fixtures::temporal_run();
        assert_eq!(granted_workflow(&run), None);
        run.spec.grant = Some(grant(0));
        assert_eq!(granted_workflow(&run), Some("agentjob-c-u"));
        run.spec.grant.as_mut().unwrap().workflow_id = Some("payroll".into());
        assert_eq!(granted_workflow(&run), None);
        let mut direct = fixtures::run();
        direct.spec.grant = Some(grant(0));
        assert_eq!(granted_workflow(&direct), None, "Direct");
    }

    #[test]
    fn a_workflow_of_another_namespace_is_none_of_ours() {
        let mut job = fixtures::job();
        assert_eq!(recorded(&job, "default"), Recorded::NotYet);
        let workflow =
            WorkflowStatus { id: names::workflow("c", "u"), namespace: "default".into(), ..Default::default() };
        job.status.as_mut().unwrap().workflow = Some(workflow);
        assert_eq!(recorded(&job, "default"), Recorded::Workflow("agentjob-c-u".into()));
        assert_eq!(recorded(&job, "elsewhere"), Recorded::Foreign);
        job.status.as_mut().unwrap().workflow.as_mut().unwrap().id = "payroll".into();
        assert_eq!(recorded(&job, "default"), Recorded::Foreign);
    }
}
